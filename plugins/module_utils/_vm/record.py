# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What is kept of a VM on its host: the document that was last made true. It is made so again after a reboot or a crash."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

from .._core import safe_open
from .._core.errors import Refusal
from .._core.step import Step
from .._host import part_file

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

_VERSION = 1
_MOST = 16 << 20


class Record(NamedTuple):
    """All that it takes to start a VM, and to plug in what it has. No secret is in it."""

    name: str
    user: str | None
    command_line: List[str]
    """How it is started the next time."""
    started: List[str]
    """How it was started the last time; empty where that is not known. The process itself can say what it likes."""
    document: Dict[str, Any]
    """What ``qemu_machine`` takes, the entries checked."""
    taps: List[Dict[str, Any]]
    images: List[str]
    """The images that were made for it: a known one that is missing is never made anew."""
    base: str | None
    """What its disk stands on, if the task says so."""
    start_timeout: int
    plug_timeout: int
    shutdown_timeout: int
    power: str
    code: str | None
    """The copy of the collection's code that starts it with the host, if something does."""
    incoming: bool
    """Whether it waits for a guest that comes from elsewhere."""
    on_host_shutdown: str = "shutdown"
    save_timeout: int = 300
    copied: List[str] = []
    """The images that were made for disks that come with it. Nothing else is in them while it waits."""

    def text(self) -> bytes:
        """Return it as it is written down."""
        return (json.dumps({"version": _VERSION, **self._asdict()}, indent=1, sort_keys=True) + "\n").encode()


_TYPES: Dict[str, Any] = {
    **dict.fromkeys(("start_timeout", "plug_timeout", "shutdown_timeout", "save_timeout"), int),
    **dict.fromkeys(("command_line", "started", "taps", "images", "copied"), list),
    **dict.fromkeys(("user", "code", "base"), (str, type(None))),
    "document": dict,
    "incoming": bool,
}


def read(path: str) -> Record | None:
    """Return what was kept, None: nothing was. Raise Refusal for what this version can't read, or somebody else has written."""
    try:
        with safe_open.regular(path) as file:
            _check_own(path, os.fstat(file.fileno()))
            text = file.read(_MOST)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refusal(f"{path}, which tells how it was started, can't be read: {exc.strerror}") from exc
    try:
        found = json.loads(text)
        if found.pop("version") != _VERSION:
            raise Refusal(f"{path} was written by another version of this collection: use that one, or remove the file")
        return _typed(Record(**found))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Refusal(
            f"{path}, which tells how it was started, is damaged ({exc}): remove it, and run this again"
        ) from exc


def _typed(record: Record) -> Record:
    """Return it, if its values are of the types that are written. Raise TypeError for one that is not."""
    for name, value in record._asdict().items():
        kind = _TYPES.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise TypeError(f"{name} is {value!r}")
        entry = dict if name == "taps" else str
        if isinstance(value, list) and not all(isinstance(one, entry) for one in value):
            raise TypeError(f"{name} is {value!r}")
    return record


def _check_own(path: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise Refusal(
            f"{path} tells how it is started, and others than who runs the task can write it (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}): look at it, and remove it"
        )


def write(path: str, text: bytes) -> None:
    """Keep a record's text, all or nothing. Raise TaskError."""
    part_file.write("directory", path, text, 0o600)


def write_step(path: str, record: Record) -> Step:
    """Return the step that keeps a record, and gives back what was there then. Results do not show it."""
    before: List[bytes] = []

    def keep(deadline: Deadline) -> None:
        with contextlib.suppress(FileNotFoundError), safe_open.regular(path) as file:
            before.append(file.read(_MOST))
        write(path, record.text())

    def put_back(deadline: Deadline) -> None:
        with contextlib.suppress(FileNotFoundError), safe_open.regular(path) as file:
            if file.read(_MOST) != record.text():
                return  # another task has started it meanwhile
        if before:
            write(path, before[0])
        else:
            part_file.remove(path)

    return Step(do=keep, hidden=True, undo=[Step(do=put_back, hidden=True)])
