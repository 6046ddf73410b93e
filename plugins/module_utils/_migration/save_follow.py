# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Saving a guest and loading it, step by step: what is done when, and what is left when something fails.

A file that QEMU may still write to is left where it is: the next task joins it. All else that failed leaves nothing.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Tuple, cast

from .._core.errors import NotDoneInTime, OperationFailed, Refusal, TaskError
from .._core.process import Process
from .._core.step import Step
from .._host import part_file, saved_file
from .._operations.power import Reached
from .._qmp import errors
from .._qmp.deadline import Deadline
from .current import RUNNING, over, progress, status
from .save_current import BY_NAME, images

if TYPE_CHECKING:
    from .._core.progress import Progress
    from .._core.vm import VM
    from .._engine.operation import Params, Run
    from .._host.saved_file import Header
    from .save_current import Current

_RESERVE = 3.0
"""Seconds of a task that are kept for calling back what is not over in time."""
_LOOK = 0.05


class _LeftAlone(Exception):
    """It is not known to be over: what was begun is left alone. Its cause is what the task fails with."""


def follow_save(run: Run, current: Current, params: Params) -> Dict[str, Any]:
    """Write the guest to the file, give that its name, and end QEMU. Return ``size`` and ``duration``."""
    begun, path = time.monotonic(), params["path"]
    *steps, end = run.plan.later
    if steps:
        left: List[BaseException] = []
        with _file(path, new=len(steps) > 1) as file:
            current.handed.file = file
            try:
                _write(run, current, path, steps)
            except _LeftAlone as exc:
                left.append(exc.__cause__ or exc)
        if left:
            raise left[0]
    try:
        _check_stands(run)
    except OperationFailed:
        part_file.remove(path)
        _set_back(run, current, cast("Header", current.handed.header or current.whole))
        raise
    run.send(end)
    header = saved_file.read(path)
    return {"size": header.size if header else None, "duration": _since(begun)}


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 3)


@contextlib.contextmanager
def _file(path: str, new: bool) -> Iterator[int]:
    """Yield the file that is written: a new one, or that of an earlier task. It is removed if that fails."""
    if new:
        with part_file.new_part("path", path, 0o600) as file:
            yield file
        return
    part = part_file.part_path(path)
    with saved_file.opened(part) as file:
        try:
            yield file
        except BaseException:
            part_file.remove(part)
            raise


def _write(run: Run, current: Current, path: str, steps: List[Step]) -> None:
    """Have QEMU write all, and place it. Raise TaskError and CommandError where nothing is written any more, else _LeftAlone."""
    *begins, place = steps
    header = current.header
    try:
        if begins:
            header = header._replace(undo=_undo(run, current))
            saved_file.note(current.handed.file, header)
            _begin(run, current, header, begins)
        _until_written(run, current, header, path)
        _place(run, current, header, path, place)
    except (Refusal, OperationFailed, errors.CommandError):
        raise
    except BaseException as exc:
        raise _LeftAlone from exc


def _check_stands(run: Run) -> None:
    """Raise OperationFailed where somebody has let the guest go on: what was saved is its past."""
    run.vm.forget()
    if run.vm.status != "postmigrate":
        raise OperationFailed(
            f"the guest was saved, and somebody has let it go on meanwhile (its status is {run.vm.status}): the file is its past, "
            "and is removed"
        )


def _undo(run: Run, current: Current) -> List[Dict[str, Any]]:
    """Return the commands that set QEMU back to before it was saved, also where an earlier task has begun that."""
    if current.part is not None and current.part.writer == current.me:
        return current.part.undo
    return [back.public() for step in reversed(run.plan.steps) for back in step.undo]


def _begin(run: Run, current: Current, header: Header, steps: List[Step]) -> None:
    try:
        for step in steps:
            run.send(step)
    except (Refusal, errors.CommandError):
        _set_back(run, current, header)
        raise


def _until_written(run: Run, current: Current, header: Header, path: str) -> None:
    """Wait until QEMU has written all. Raise OperationFailed where it has not, and the guest goes on."""
    vm = run.vm
    process, whole = Process(vm.session.process), vm.deadline
    left = whole.remaining() or 0.0
    vm.deadline = Deadline(max(left - _RESERVE, left / 2), whole.stop)
    try:
        end, late = run.watch(lambda: _look(vm), "STOP", every=_LOOK), False
    except NotDoneInTime:
        vm.deadline = whole
        end, late = _call_back(run), True
    except errors.Disconnected as exc:
        if process.pid is None or process.alive:
            raise
        raise OperationFailed(f"QEMU has ended while it saved its guest, which is lost with it: {exc}") from exc
    finally:
        vm.deadline = whole
    if status(end) == "completed":
        return
    _set_back(run, current, header)
    why = f"it was not over after {whole.seconds:.4g} s" if late else end.get("error-desc") or status(end)
    raise OperationFailed(f"the guest was not saved to {path}, and goes on (its status is {vm.status}): {why}")


def _look(vm: VM) -> Tuple[Dict[str, Any], bool, Progress]:
    now = vm.ask("query-migrate")
    return now, over(vm, now), progress(now)


def _call_back(run: Run) -> Dict[str, Any]:
    """Cancel it, and return ``query-migrate`` when that is over: it may be complete by then. Raise NotDoneInTime."""
    run.send(Step("migrate_cancel"))
    return run.watch(lambda: _look(run.vm), every=_LOOK)


def _set_back(run: Run, current: Current, header: Header) -> None:
    """Take back what was set for it, and the descriptors. What can't be is of no harm."""
    run.vm.forget()
    backs = [Step(undo["execute"], undo["arguments"]) for undo in header.undo]
    given = [step.execute for step in run.plan.later]
    numbers = [*current.sets, *([current.fdset] if "add-fd" in given else [])]
    backs += [Step("remove-fd", {"fdset-id": number}, hidden=True) for number in numbers]
    backs += [Step("closefd", {"fdname": BY_NAME}, hidden=True)] if "getfd" in given else []
    for back in backs:
        with contextlib.suppress(errors.QMPError, TaskError):
            run.send(back)


def _place(run: Run, current: Current, header: Header, path: str, place: Step) -> None:
    """Note how the disks are, and give the file its name. Where that fails, the file goes, and then the guest goes on."""
    vm = run.vm
    try:
        vm.forget()
        disks, unseen = images(vm)
        _check_stands(run)
        current.handed.header = header._replace(disks=disks, unseen=unseen)
        run.send(place)
    except (Refusal, OperationFailed, errors.CommandError):
        part_file.remove(part_file.part_path(path))
        _set_back(run, current, header)
        if header.running and vm.status == "postmigrate":
            run.send(Step("cont", wait=Reached(True)))
        raise
    for name in unseen:
        run.plan.warnings.append(f"{name}: whether it changes before the guest is loaded can't be told")


def follow_load(run: Run, current: Current, params: Params) -> Dict[str, Any]:
    """Load the guest, take the file its name, and let it run. Return ``size`` and ``duration``."""
    begun, path = time.monotonic(), params["path"]
    header = current.whole or current.loaded
    later = list(run.plan.later)
    begins = [number for number, step in enumerate(later) if step.execute == "migrate-incoming"]
    with contextlib.ExitStack() as stack:
        if begins:
            current.handed.file = stack.enter_context(saved_file.opened(path))
            saved_file.claim(path, current.handed.file)
            for step in later[: begins[0] + 1]:
                run.send(step)
            del later[: begins[0] + 1]
        if current.now.run_state == "inmigrate":
            _arrive(run, path, params["timeout"])
        for step in later:
            run.send(step)
    return {"size": header.size if header else None, "duration": _since(begun)}


def _arrive(run: Run, path: str, seconds: float) -> None:
    """Wait until the guest is here, and does not run yet. Raise OperationFailed where it can't be loaded."""
    vm = run.vm

    def look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        return now, status(now) not in (*RUNNING, "none") and vm.status != "inmigrate", progress(now)

    try:
        end = run.watch(look, "MIGRATION", every=_LOOK)
    except errors.Disconnected as exc:
        raise OperationFailed(
            f"the guest can't be loaded from {path}, which is kept: QEMU has ended, and the reason is on its standard error or in "
            f"its log ({exc})"
        ) from exc
    except NotDoneInTime as exc:
        raise NotDoneInTime(
            f"the guest is not loaded from {path} after {seconds:.4g} s, and QEMU goes on: run the task again to see it through"
        ) from exc
    if status(end) != "completed":
        raise OperationFailed(
            f"the guest can't be loaded from {path}, which is kept: {end.get('error-desc') or status(end)}"
        )
