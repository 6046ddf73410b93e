# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM's guest while its host is down: saved beside its record, and gone on with. ``qemu_save`` does both."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from .._core.errors import Refusal, TaskError
from .._core.plan import NotReadBack, PlanFailed
from .._core.step import Step
from .._engine.operation import run_operation
from .._host import command_line, part_file, saved_file
from .._host.shutdown import NOT_BEGUN
from .._qmp import errors
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._core.task import Task
    from .._provision.instance import Running
    from .options import Place
    from .process import Process
    from .record import Record

_KEPT = ".old"
_ARRIVES = ("inmigrate", "paused")


def is_there(place: Place) -> bool:
    """Tell whether its guest is saved."""
    return os.path.lexists(place.saved)


def is_wanted(
    place: Place, running: Running | None, params: Dict[str, Any], line: List[str], kept: Record | None
) -> bool:
    """Tell whether a VM is to go on with a saved guest. Raise Refusal where it can't, or QEMU has not ended.

    ``line``: the command line that is wanted. ``kept``: the record.
    """
    if not is_there(place):
        return False
    if running is not None and running.status == "postmigrate":
        raise Refusal(
            f"{place.name}: its guest is saved in {place.saved}, and its QEMU was not ended: end it (state=stopped), and run this "
            "again"
        )
    if running is not None and running.status not in _ARRIVES:
        return False
    _check(place, params, line, kept)
    return True


def power_left(place: Place, power: str | None) -> str | None:
    """Return the run state that is left to bring about when the guest is loaded: one that ran runs then. Raise Refusal."""
    header = saved_file.read(place.saved)
    return None if header is not None and header.running == (power == "running") else power


def _check(place: Place, params: Dict[str, Any], line: List[str], kept: Record | None) -> None:
    """Raise Refusal where what is saved can't go on as what is wanted."""
    discard = f"or discard what is saved (qemu_save with path={place.saved} and state=absent)"
    if params["incoming"]:
        raise Refusal(
            f"incoming: the guest of {place.name} is saved in {place.saved} here, so that none comes from elsewhere: start that "
            f"one, {discard}"
        )
    if kept is None or not command_line.same(line[1:], kept.command_line):
        raise Refusal(
            f"{place.name}: its guest is saved in {place.saved}, and goes on only with the options that it had: start it with them "
            f"and change them then, {discard}"
        )


def line_of(place: Place, kept: Record, binary: str) -> List[str]:
    """Return how a saved guest was started, with a program: its memory fits no other machine.

    Options that were given since wait for a restart, and an alias of a machine type (q35) may mean another one to this program.
    """
    line = kept.started or kept.command_line
    with contextlib.suppress(Refusal):  # loading it tells
        header = saved_file.read(place.saved)
        kind = header.machine.rpartition("-machine")[0] if header is not None else ""
        line = command_line.with_machine_type(line, kind) if kind else line
    return [binary, *line[1:]]


def is_line_of(line: List[str], guest: List[str]) -> bool:
    """Tell whether a command line is that of a guest (``line_of``), but for its machine type."""
    return command_line.same(command_line.with_machine_type(line, "")[1:], command_line.with_machine_type(guest, ""))


def waiting(line: List[str]) -> List[str]:
    """Return the command line for a guest that is loaded."""
    return [line[0], *command_line.without_beginning(line[1:-1]), "-incoming", "defer", line[-1]]


def left_files(place: Place) -> List[str]:
    """Return the files of saved guests that are there."""
    return [path for path in (*saved_file.names(place.saved), place.saved + _KEPT) if os.path.lexists(path)]


def sweep(place: Place) -> None:
    """Remove what saving and loading have left of a VM that is gone. What is whole stays."""
    for path in saved_file.names(place.saved):
        if path != place.saved:
            part_file.remove(path)


def set_aside(place: Place) -> str:
    """Keep a guest that can't go on under a name by which none ever will. Return that."""
    os.rename(place.saved, place.saved + _KEPT)
    return place.saved + _KEPT


def load_step(place: Place, load: Callable[[Deadline], None]) -> Step:
    """Return the step that goes on with a guest. Nothing takes that back: it has run then."""

    def do(deadline: Deadline) -> None:
        try:
            load(deadline)
        except (PlanFailed, NotReadBack) as exc:
            raise exc.cause from exc

    undo = [Step(do=lambda deadline: None, hidden=True)]
    return Step(do=do, command_lines=[{"path": place.saved, "action": "load"}], undo=undo)


def save(task: Task, place: Place, process: Process, seconds: float) -> None:
    """Save the guest and end QEMU. Raise TaskError, PlanFailed and the session's errors, where the guest goes on."""
    _run(task, place, process, "saved", seconds)


def prepare(process: Process, kept: Record) -> Dict[str, Any]:
    """Plug in what the guest had, where its process waits. Return what plugging returns. Raise PlanFailed."""
    here = process.look()
    return process.plug(kept, None) if here is not None and here.status == "inmigrate" else {}


def load(task: Task, place: Place, process: Process, seconds: float) -> None:
    """Go on with the guest. Raise TaskError, PlanFailed and the session's errors.

    A process that has ended, as it does then, is not there any more.
    """
    try:
        _run(task, place, process, "running", seconds)
    except BaseException:
        with contextlib.suppress(errors.QMPError, TaskError):
            if process.look() is None:
                process.started = None
        raise
    process.connected().forget()


def _run(task: Task, place: Place, process: Process, state: str, seconds: float) -> None:
    from .._migration.save import SAVE

    vm = process.connected()
    left = min(seconds, task.deadline.remaining() or 0.0)
    params = {"path": place.saved, "state": state, "parallel": None, "socket": place.socket, "timeout": left}
    before, vm.deadline = vm.deadline, Deadline(left, task.deadline.stop)
    try:
        run_operation(SAVE, task.part(params, vm=vm))
    finally:
        vm.deadline = before


def joined(loaded: Dict[str, Any], machine: Dict[str, Any]) -> Dict[str, Any]:
    """Return one result of what was plugged in before a guest was loaded, and of what was changed after that."""
    if not loaded.get("commands"):
        return machine
    return {**loaded, "commands": loaded["commands"] + machine["commands"], "vm": machine["vm"]}


def can_be_saved(running: Running | None) -> bool:
    """Tell whether a guest is there that has begun to run."""
    return running is not None and running.status not in (*NOT_BEGUN, "shutdown")
