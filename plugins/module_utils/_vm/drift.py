# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How a VM that runs differs from what was last made true of it, by the record of that. It is asked queries, and no more."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Tuple, cast

from .._core import safe_open
from .._core.coercion import without_password
from .._core.errors import Refusal
from .._engine.comparison import Comparison
from .._host import command_line
from .._host.process import other_binary
from .._machine.differences import Difference, differences
from .._qmp.address import parse
from . import record
from .beside import check_whole
from .options import Place
from .process import instance
from .result import events_plan
from .tap import taps

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM

_MONITOR = re.compile(r"(/.+)/run/(?:qmp|events)")


def look(task: Task, vm: VM) -> Dict[str, Any]:
    """Return ``{differences, restart_required, arguments, reason}``; nothing of a VM of which there is no record.

    ``restart_required`` is None where that is not known. ``reason``: why something can't be told, else empty. Whatever there is
    in the place of a record, nothing is raised.
    """
    found: Dict[str, Any] = {
        "differences": [],
        "restart_required": None,
        "arguments": {"before": [], "after": []},
        "reason": "",
    }
    writes, vm.session.read_only = vm.session.read_only, True
    try:
        kept = _kept(task, vm)
        if kept is None:
            return {}
        _look(task, vm, *kept, found)
    except Exception as exc:  # what somebody has written there, or a QEMU that says what it likes
        name = "" if str(exc) else type(exc).__name__
        found["reason"] = "; ".join(filter(None, [found["reason"], str(exc) or name]))
    finally:
        vm.session.read_only = writes
    shown: Dict[str, Any] = _without_passwords(found)
    return shown


def _kept(task: Task, vm: VM) -> Tuple[Place, record.Record] | None:
    """Return the record of the VM at the task's monitor, and where it is. Raise Refusal, OSError."""
    path = parse(task.params["socket"]).path
    if not vm.local or path is None or path.startswith("@"):
        raise Refusal("its monitor has no path here, beside which there could be its record")
    with safe_open.reached(os.path.abspath(path)) as socket:
        there = _MONITOR.fullmatch(os.readlink(safe_open.by_number(socket)))
    if there is None:
        return None
    place = Place(there[1], None)
    kept = record.read(place.record)
    if kept is None:
        return None
    if kept.name != place.name:
        raise Refusal(f"{place.record} is the record of {kept.name}")
    return Place(there[1], kept.user), kept


def _look(task: Task, vm: VM, place: Place, kept: record.Record, found: Dict[str, Any]) -> None:
    """Put into ``found`` what can be told. Raise what keeps the rest from it."""
    check_whole(place, check_mode=True)
    process = instance(task, place, None, vm)
    running = process.look()
    if running is not None:
        differs = process.differs(running, kept.command_line)
        found["restart_required"] = None if process.warnings else differs
        if differs:
            found["arguments"] = _arguments(kept.command_line, running.command_line, running.pid)
    found["differences"] = _host(task, place, kept)
    document = {**kept.document, "power": None if kept.incoming else kept.power}
    if document["power"] != "running":
        document["balloon"] = None  # only a guest that runs can follow
    others, untold = differences(vm, document)
    found["differences"] += others
    found["reason"] = "; ".join([*process.warnings, *untold])
    if running is not None:
        found["differences"] += events_plan(process.events_steps(running), place.events)


def _arguments(wanted: List[str], running: List[str], pid: int | None) -> Dict[str, List[str]]:
    """Return what only the command line has that runs, and what only the one has by which it would be started."""
    after, before = command_line.unlike(wanted, running)
    other = other_binary(pid, wanted[0]) if pid is not None else None
    return {"before": [*([other] if other else []), *before], "after": [*([wanted[0]] if other else []), *after]}


def _host(task: Task, place: Place, kept: record.Record) -> List[Difference]:
    """Return the taps that are gone, or elsewhere, and the images that were made for it and are not there."""
    host = cast("VM", task.host())  # no tap speaks to a monitor
    found: List[Difference] = []
    for item in taps(kept.taps, kept.user, place):
        item.kind.check(item.want)
        comparison = Comparison(item, host)
        changes = {change.key: {"before": change.before, "after": change.after} for change in comparison.changes}
        if comparison.is_added or changes:
            action = "add" if comparison.is_added else "change"
            found.append({"action": action, "kind": "tap", "id": comparison.name[1], "changes": changes})
    missing = [path for path in kept.images if not os.path.lexists(path)]
    return found + [{"action": "add", "kind": "image", "id": path, "changes": {}} for path in missing]


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_passwords(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_passwords(item) for item in value]
    return without_password(value) if isinstance(value, str) else value
