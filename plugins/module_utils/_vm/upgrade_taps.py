# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The taps of two QEMUs that run beside each other. Only one can have a tap, so that the new one is given another of the same name.

The old one keeps what it has open, under another name, which tells whoever comes after a kill that there are two.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Iterator, List, cast

from .._engine.converge import converge
from .._host import program
from .tap import mark, taps

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline
    from .options import Place
    from .record import Record

_NET = "/sys/class/net"


def is_ours(place: Place, name: str) -> bool:
    """Tell whether a tap was made for the VM by this collection, which then can make another."""
    try:
        with open(f"{_NET}/{name}/ifalias", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n") == mark(place)
    except OSError:
        return False


def give_new(task: Task, place: Place, kept: Record, deadline: Deadline) -> None:
    """Put the taps aside, and make new ones of their names. Raise OperationFailed."""
    names = [str(written["name"]) for written in kept.taps]
    for name in names:
        if is_ours(place, name) and not _is_there(_aside(name)):
            _rename(name, _aside(name), deadline)
    converge(cast("VM", task.host()), taps(kept.taps, kept.user, place), recreate=False, check_mode=False)


def keep_old(kept: Record, deadline: Deadline) -> None:
    """Give the old taps their names back."""
    for name in _set_aside(kept):
        if _is_there(name):
            _ip(["delete", "dev", name], name, deadline)
        _rename(_aside(name), name, deadline)


def keep_new(kept: Record, deadline: Deadline) -> None:
    """Remove the old taps."""
    for name in _set_aside(kept):
        _ip(["delete", "dev", _aside(name)], name, deadline)


def _set_aside(kept: Record) -> Iterator[str]:
    names = [str(written["name"]) for written in kept.taps]
    yield from (name for name in names if _is_there(_aside(name)))


def _aside(name: str) -> str:
    return f"vq{hashlib.sha1(name.encode()).hexdigest()[:12]}"


def _is_there(name: str) -> bool:
    return os.path.isdir(f"{_NET}/{name}")


def _rename(name: str, other: str, deadline: Deadline) -> None:
    """Rename a tap, which must be down for that moment; it stays on its bridge."""
    _ip(["set", "dev", name, "down"], name, deadline)
    _ip(["set", "dev", name, "name", other], name, deadline)
    _ip(["set", "dev", other, "up"], name, deadline)


def _ip(words: List[str], name: str, deadline: Deadline) -> None:
    program.run(["ip", "link", *words], deadline, f"taps: {name}")
