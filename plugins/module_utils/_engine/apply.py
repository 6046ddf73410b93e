# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Doing a plan's steps in order, or taking back those that were done."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, List, Sequence, Set, Tuple

from .._core.errors import OperationFailed, TaskError
from .._core.interrupt import heard, held
from .._core.plan import PlanFailed
from .._qmp import errors
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._core.plan import Plan
    from .._core.step import Step, Wait
    from .._core.vm import VM
    from .._qmp.events import Event

# Rolling back has time of its own, even when the task's own is up.
UNDO_SECONDS = 1.5
UNDO_AT_MOST = 10.0
_SHARE = 0.75  # of what is left of it, for one step that waits
_RETRY_SECONDS = 2.0
_RETRY_PAUSE = 0.05
_LOOK_SECONDS = 0.5


def apply(plan: Plan, vm: VM) -> None:
    """Do every step, or take back those that were done and raise PlanFailed."""
    with held():
        _apply(plan, vm)


def _apply(plan: Plan, vm: VM) -> None:
    undo: List[Step] = []
    kept: List[str] = []
    # all of it before the first step, while what was read still holds
    undos = [_takes_back(step, vm, last=step is plan.steps[-1]) for step in plan.steps]
    for place, (step, takes_back) in enumerate(zip(list(plan.steps), undos)):
        mark = None
        try:
            if step.condition is not None:
                plan.steps[place] = step = step.replace(hidden=not step.condition(vm))
                if step.hidden:
                    continue
            with heard():
                mark = _send_until_accepted(step, vm, vm.deadline)
                _wait_for_end(step, vm, vm.deadline, mark)
        except (errors.QMPError, TaskError) as exc:
            # QEMU may work on it, or have taken it: a balloon's target stays, whether the guest got there or not
            unknown = mark is not None or may_have_run(exc)
            if not (unknown and step.removes and _has_gone(step, vm)):
                if unknown and not step.removes:
                    _note_done(step, takes_back, undo, kept)
                raise PlanFailed(step, exc, *_roll_back(undo, kept, vm)) from exc
        except BaseException:  # the task was told to stop
            if not step.removes or _has_gone(step, vm):
                _note_done(step, takes_back, undo, kept)
            _roll_back(undo, kept, vm)
            raise
        finally:
            vm.forget()
        _note_done(step, takes_back, undo, kept)


def take_back(plan: Plan, vm: VM, cause: Exception) -> PlanFailed:
    """Take back a plan whose steps were all done, and return the error to raise: what came after them has failed."""
    undo: List[Step] = []
    kept: List[str] = []
    for step in plan.steps:
        _note_done(step, list(step.undo), undo, kept)
    return PlanFailed(plan.steps[-1], cause, *_roll_back(undo, kept, vm))


def _note_done(step: Step, takes_back: List[Step], undo: List[Step], kept: List[str]) -> None:
    """Put what takes a step back before what takes back the earlier ones, or note that nothing does."""
    undo[:0] = [back.replace(about=step.about, needs=step.needs, undoes=step) for back in takes_back]
    if not takes_back and not step.hidden:
        kept.append(step.title)


def _takes_back(step: Step, vm: VM, last: bool) -> List[Step]:
    """Return the steps that will take this one back; of the last, which no other follows, none that much must be read for."""
    try:
        return list(step.capture_undo(vm)) if step.capture_undo and not last else list(step.undo)
    except (errors.QMPError, TaskError) as exc:
        raise PlanFailed(step, exc, [], []) from exc


def may_have_run(exc: Exception) -> bool:
    """Tell whether QEMU may carry out, or have carried out, a command that it has not answered."""
    if isinstance(exc, errors.Disconnected):
        return exc.outcome_unknown
    return isinstance(exc, (errors.CommandTimeout, errors.Cancelled)) and exc.phase == "reply"


def _has_gone(step: Step, vm: VM) -> bool:
    """Tell whether what a step that was not seen through was to remove is gone. False where nothing tells."""
    deadline, vm.deadline = vm.deadline, Deadline(_LOOK_SECONDS)
    try:
        if step.still_needed is None or _reconnect(vm) is not None:
            return False
        gone = not _is_there(step, vm)
    except (errors.QMPError, TaskError):
        return False
    finally:
        vm.deadline = deadline
    if not gone and step.wait is None:  # QEMU answers in order: it has not taken it. A guest may still give it back
        vm.account.drop(step)
    return gone


def execute_step(step: Step, vm: VM, deadline: Deadline) -> None:
    """Send one step and see it through. Raise the session's errors, and Refusal from what it waits for."""
    with heard():
        _wait_for_end(step, vm, deadline, _send_until_accepted(step, vm, deadline))


def _undo_step(step: Step, vm: VM, deadline: Deadline) -> None:
    """Perform a step that takes another one back: it counts with that one, and not by itself.

    A signal that comes now acts when all is taken back.
    """
    try:
        _wait_for_end(step, vm, deadline, _send_until_accepted(step, vm, deadline))
    finally:
        vm.account.drop(step)


def _send_until_accepted(step: Step, vm: VM, deadline: Deadline) -> int | None:
    """Send one step. Return the number of the first event that may end it, None if there is nothing to wait for."""
    patience = time.monotonic() + _RETRY_SECONDS
    mark = 0 if step.do else vm.session.event_count
    if step.wait:
        step.wait.begin(vm)
    while True:
        try:
            _send_on_account(step, vm, deadline)
            return mark
        except errors.Disconnected:
            if not (step.wait and step.wait.loses_connection):
                raise
            return mark
        except errors.CommandError as exc:
            meaning = step.wait.classify(exc) if step.wait else ""
            if meaning == "pending":
                return mark
            passes = step.retry is not None and step.retry(exc)
            if meaning == "done" or (step.removes and not passes and not _is_there(step, vm)):
                return None
            if not passes or time.monotonic() > patience or deadline.expired:
                raise
            time.sleep(_RETRY_PAUSE)


def _send_on_account(step: Step, vm: VM, deadline: Deadline) -> None:
    """Send a step, which is in the account from before that until it is certain that QEMU has not taken it."""
    vm.account.add(step, *step.commands)
    try:
        _send(step, vm, deadline)
    except (errors.QMPError, TaskError) as exc:
        if not may_have_run(exc):
            vm.account.drop(step)
        raise


def _is_there(step: Step, vm: VM) -> bool:
    """Tell whether there is anything for the step to do. True where nothing tells."""
    vm.forget()
    return step.still_needed is None or step.still_needed(vm)


def _send(step: Step, vm: VM, deadline: Deadline) -> None:
    if step.do:
        if deadline.cancelled:
            raise errors.Cancelled(step.title, "queue")
        step.do(deadline)
        return
    opened: List[int] = []
    try:
        opened.extend(descriptor.open() for descriptor in step.fds)
        vm.session.execute(step.execute, step.arguments, deadline=deadline, fds=opened, oob=step.oob)
    finally:
        for fd in opened:
            os.close(fd)


def _wait_for_end(step: Step, vm: VM, deadline: Deadline, mark: int | None) -> None:
    """Wait for the event that ends the step, look at the VM now and then, and send it again where requests get lost."""
    wait = step.wait
    if mark is None or wait is None or wait.no_wait:
        return
    if wait.seconds is not None:
        deadline = Deadline(min(wait.seconds, deadline.remaining() or 0.0), deadline.stop)
    again = time.monotonic() + wait.resend_every
    while True:
        event = _next_event(wait, vm, mark, deadline)
        if event is not None:
            _raise_if_refused(step, wait, event, vm)
            return
        resend = wait.resend_every > 0 and time.monotonic() >= again
        again += wait.resend_every if resend else 0.0
        try:
            if deadline.expired:
                return _time_is_up(step, wait, vm)
            if _is_over(step, wait, vm, deadline, resend):
                return
        except errors.CommandTimeout:
            return _time_is_up(step, wait, vm)


def _is_over(step: Step, wait: Wait, vm: VM, deadline: Deadline, resend: bool) -> bool:
    """Tell whether a look at the VM shows the step's end. ``resend``: send the command once more where it does not."""
    try:
        if wait.is_done(vm):
            return True
        if resend:
            _send(step, vm, deadline)
    except errors.Disconnected:
        if not wait.loses_connection:
            raise
    except errors.CommandError as exc:
        meaning = wait.classify(exc)
        if not meaning:
            raise
        return meaning == "done"
    return False


def _next_event(wait: Wait, vm: VM, mark: int, deadline: Deadline) -> Event | None:
    """Return the event that ends a step; None if it does not come within a moment."""
    try:
        return vm.session.wait_event(wait.is_end, since=mark, timeout=wait.poll_every, deadline=deadline)
    except errors.CommandTimeout:
        pass
    except errors.Disconnected:
        if not wait.loses_connection:
            raise
        time.sleep(wait.poll_every)
    vm.forget()
    return None


def _raise_if_refused(step: Step, wait: Wait, event: Event, vm: VM) -> None:
    try:
        wait.raise_if_refused(event)
    except TaskError:
        if step.removes:  # the guest has kept it: all is as it was
            vm.account.drop(step)
        raise


def _time_is_up(step: Step, wait: Wait, vm: VM) -> None:
    """Raise why the step's end has not come, after one short look, in which QEMU may not answer at all."""
    if wait.optional:
        return
    deadline, vm.deadline = vm.deadline, Deadline(_LOOK_SECONDS)
    try:
        try:
            if not vm.session.closed:
                vm.ask("query-status")
        except errors.CommandTimeout:
            vm.know({"status": "stuck (QEMU does not answer)", "running": False}, "query-status")
        error = wait.timeout_error(vm)
    except errors.CommandTimeout:
        error = OperationFailed(
            f"{step.execute} was sent, but QEMU does not answer any more: what came of it is not known"
        )
    finally:
        vm.deadline = deadline
    raise error


def _roll_back(undo: Sequence[Step], kept: Sequence[str], vm: VM) -> tuple[List[Any], List[str]]:
    """Take back what was done, newest first. Return what that took, and what is left (``kept``: what nothing takes back)."""
    if vm.goes_with_failure():
        return [], []
    left = (vm.deadline.end or 0.0) - time.monotonic()  # below 0 where saying why has taken its time
    vm.deadline = Deadline(max(min(left, UNDO_AT_MOST), UNDO_SECONDS + min(left, 0.0)))
    done: List[Any] = []
    stuck: List[str] = []
    lost = _reconnect(vm) if any(step.do is None for step in undo) else None
    needed: Set[Tuple[str, str]] = set()
    standing: Set[int] = set()  # by id(): the steps whose undo failed
    whole = vm.deadline
    for step in undo:
        # a guest that gives one thing back late, or never, leaves time for the others
        vm.deadline = Deadline((whole.remaining() or 0.0) * _SHARE) if step.wait else whole
        try:
            if lost is not None and step.do is None:
                raise lost
            if not _is_there(step, vm):
                continue
            if step.removes and step.about in needed:  # what a stuck thing stands on must stay: a NIC's netdev, say
                needed |= step.needs
                standing.add(id(step.undoes))
                stuck.append(step.title)
                continue
            _undo_step(step, vm, vm.deadline)
        except (errors.QMPError, TaskError) as exc:
            if isinstance(exc, errors.DeviceNotFound) and not step.execute.endswith(("_add", "-add")):
                continue  # what should go, or be set back, is not there; else it lacks what it stood on
            needed |= step.needs
            standing.add(id(step.undoes))
            if not step.hidden:
                stuck.append(f"{step.title} ({exc})")
            continue
        done += step.commands
    _strike_from_account(undo, standing, vm)
    return done, [*kept, *stuck]


def _reconnect(vm: VM) -> errors.QMPError | None:
    """Connect once more where the connection was lost. Return the error where that fails."""
    try:
        if vm.session.closed:
            vm.session = vm.reopen(UNDO_SECONDS / 2)
    except errors.QMPError as exc:
        return exc
    return None


def _strike_from_account(undo: Sequence[Step], standing: Set[int], vm: VM) -> None:
    """Strike out of the account what was taken back; ``standing``: the ``id()`` of each step that was not."""
    for step in undo:
        if step.undoes is not None and id(step.undoes) not in standing:
            vm.account.drop(step.undoes)
