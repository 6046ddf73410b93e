# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What systemd runs: a VM started from its record with all that it has, or stopped. The same code as a task's.

python3 -I DIRECTORY-OF-THE-CODE start|stop|reload VM-DIRECTORY
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, List, cast

from .._core import safe_open
from .._core.errors import Refusal, TaskError
from .._core.failure import failure, plan_failure
from .._core.interrupt import interruptible
from .._core.plan import NotReadBack, PlanFailed
from .._core.task import Task
from .._engine.apply import apply
from .._engine.converge import converge
from .._host import part_file
from .._host import process as host_process
from .._qmp import errors
from .._qmp.session import QMPSession
from . import record, saved, service
from .beside import Beside, check_whole
from .console import bound_log
from .options import Place
from .process import Process, check_not_moving, instance
from .tap import taps

if TYPE_CHECKING:
    from .._core.vm import VM


def main() -> None:
    """Run as a program. What fails is one sentence on stderr, which is the unit's journal."""
    try:
        verb, where = sys.argv[1:]
        act = {"start": start, "stop": stop, "reload": reload}[verb]
    except (ValueError, KeyError):
        raise SystemExit(f"usage: {sys.argv[0]} start|stop|reload DIRECTORY") from None
    with interruptible():
        raise SystemExit(run(act, os.path.normpath(where)))


def run(act: Any, where: str) -> str | None:
    """Return why it failed; None where it did not."""
    task: Task | None = None
    try:
        kept = record.read(Place(where, None).record)
        if kept is None:
            raise Refusal(f"{where}: there is no record of a virtual machine: run qemu_vm, or the role vmm.qemu.vm")
        seconds = (kept.start_timeout + kept.plug_timeout) * 2 + kept.shutdown_timeout * 2 + kept.save_timeout + 10
        task = Task({"timeout": float(seconds)}, False, QMPSession.connect, lambda progress: None)
        act(task, Place(where, kept.user), kept)
        return None
    except (PlanFailed, NotReadBack, TaskError, errors.QMPError) as exc:
        return f"{os.path.basename(where)}: {_sentence(exc, task)}"
    finally:
        if task is not None:
            task.close()


def _sentence(exc: Exception, task: Task | None) -> str:
    if isinstance(exc, PlanFailed):
        return str(plan_failure(exc, task)["msg"])
    return str(failure(exc.cause if isinstance(exc, NotReadBack) else exc, task)["msg"])


def start(task: Task, place: Place, kept: record.Record) -> None:
    """Make the taps, start QEMU, plug in all of the document, and let the guest run.

    Raise Refusal for a guest that may be elsewhere. Whatever fails after the start ends QEMU again, if its guest has not run.
    """
    begin = service.begin_file(place)
    only_process = os.path.exists(begin)
    part_file.remove(begin)  # it counts once: a task that was killed does not take it away
    if not only_process:
        _check_here(place, kept)
        if check_whole(place):
            _settle(task, place)
        converge(cast("VM", task.host()), taps(kept.taps, kept.user, place), recreate=False, check_mode=False)
    bound_log(place.console_log)
    if not only_process and saved.is_there(place) and _goes_on(task, place, kept):
        return
    process = _process(task, place, kept)
    saved.sweep(place)
    waits = only_process and saved.is_there(place)
    line = saved.line_of(place, kept, kept.command_line[0]) if waits else kept.command_line
    process.start(saved.waiting(line) if waits else line, kept.start_timeout)
    _note_started(process, place, line)
    if only_process:
        return
    try:
        process.plug(kept, kept.power)
    except (PlanFailed, NotReadBack, TaskError, errors.QMPError) as exc:
        if not _has_run(process, task):
            raise
        # a guest that has run is not ended: systemd would, if this failed
        process.go_on(kept.power)
        sys.stderr.write(f"{_sentence(exc, task)}\n")


def _process(task: Task, place: Place, kept: record.Record) -> Process:
    process = instance(task, place, None)
    process.images, process.base = kept.images, kept.base
    return process


def _note_started(process: Process, place: Place, line: List[str]) -> None:
    """Write down how it was started, if it was here."""
    kept = record.read(place.record) if process.started is not None else None
    if kept is not None and kept.started != line:
        record.write(place.record, kept._replace(started=line).text())


def _goes_on(task: Task, place: Place, kept: record.Record) -> bool:
    """Go on with the saved guest. Tell whether it does: if not, it never will, and nothing is left of its QEMU.

    Raise what has failed where a guest that is started anew would fail, too, and where its QEMU has the guest all the same: the
    next start tries again.
    """
    process = _process(task, place, kept)
    line = saved.line_of(place, kept, kept.command_line[0])
    process.start(saved.waiting(line), kept.start_timeout)
    _note_started(process, place, line)
    try:
        saved.prepare(process, kept)
    except (PlanFailed, NotReadBack, TaskError, errors.QMPError):
        _has_run(process, task)
        raise
    try:
        saved.load(task, place, process, kept.save_timeout)
    except (PlanFailed, NotReadBack, TaskError, errors.QMPError) as exc:
        why = _sentence(exc, task)
        if not saved.is_there(place):
            process.go_on(kept.power)  # it was loaded: to end it would lose it
            sys.stderr.write(f"{why}\n")
            return True
        if _has_run(process, task):
            raise
        sys.stderr.write(
            f"{why}. So the guest is started anew, as after a power failure, and what was saved is never loaded: it is kept in "
            f"{saved.set_aside(place)} until the next time\n"
        )
        return False
    return True


def _check_here(place: Place, kept: record.Record) -> None:
    """Raise Refusal for a VM whose guest may run somewhere else: it must not run twice."""
    if kept.incoming:
        raise Refusal("it was made to wait for a guest from another host: run the role vmm.qemu.vm once it has come")
    check_not_moving(place)


def _has_run(process: Process, task: Task) -> bool:
    """End what was started, if its guest has not run; tell whether it has."""
    try:
        process.end_unused(task.deadline)
    except (errors.QMPError, TaskError):
        return True
    return False


def _settle(task: Task, place: Place) -> None:
    """End what a killed task's upgrade has left: the QEMU without the guest, and the directories. Raise TaskError."""
    from .upgrade_pair import Pair

    Pair(task, place).settle()


def reload(task: Task, place: Place, kept: record.Record) -> None:
    """Start the QEMU to which a task's upgrade moves the guest, as part of the unit. Without such an order, do nothing."""
    order = service.beside_file(place)
    try:
        with safe_open.regular(order) as file:
            told = json.loads(file.read())
    except FileNotFoundError:
        return
    part_file.remove(order)
    host_process.launch(told["line"], told["mark"], task.deadline, lambda: "")


def stop(task: Task, place: Place, kept: record.Record) -> None:
    """Save the guest or shut it down, and end QEMU: one that does not answer in its time is ended all the same."""
    if Beside(place).is_begun:
        _settle(task, place)
    process = instance(task, place, None, state="stopped", shutdown_timeout=kept.shutdown_timeout)
    running = process.look()
    if kept.on_host_shutdown == "save" and saved.can_be_saved(running):
        try:
            saved.save(task, place, process, kept.save_timeout)
        except (PlanFailed, NotReadBack, TaskError, errors.QMPError) as exc:
            sys.stderr.write(f"{place.name}: its guest is not saved, and is shut down: {_sentence(exc, task)}\n")
        running = process.look()
    if running is not None and running.status not in ("running", "suspended"):
        process.patience = 0.0  # the host goes down: a guest that is paused can't be asked
    plan = process.plan(running, [])
    if plan.steps:
        apply(plan, process.vm or cast("VM", task.host()))
