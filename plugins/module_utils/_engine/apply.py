# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Doing a plan's steps in order, or taking back those that were done."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Set, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal, TaskError
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
    from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step, Wait
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event

# Rolling back has time of its own, even when the task's own is up.
UNDO_SECONDS = 1.5
UNDO_AT_MOST = 10.0
_SHARE = 0.75  # of what is left of it, for one step that waits
_RETRY_SECONDS = 2.0
_RETRY_PAUSE = 0.05
_LOOK_SECONDS = 0.5


def apply(plan: Plan, vm: VM) -> None:
    """Do every step, or take back those that were done and raise PlanFailed."""
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
            mark = _send_until_accepted(step, vm, vm.deadline)
            _wait_for_end(step, vm, vm.deadline, mark)
        except (errors.QMPError, TaskError) as exc:
            # QEMU may work on it, or have taken it: a balloon's target stays, whether the guest got there or not
            if not step.removes and (mark is not None or _may_have_run(exc)):
                _keep_account(step, takes_back, undo, kept)
            raise PlanFailed(step, exc, *_roll_back(undo, kept, vm)) from exc
        except BaseException:  # the task was told to stop
            if not step.removes:
                _keep_account(step, takes_back, undo, kept)
            _roll_back(undo, kept, vm)
            raise
        finally:
            vm.forget()
        _keep_account(step, takes_back, undo, kept)


def _keep_account(step: Step, takes_back: List[Step], undo: List[Step], kept: List[str]) -> None:
    """Put what takes a step back before what takes back the earlier ones, or note that nothing does."""
    undo[:0] = [back.replace(about=step.about, needs=step.needs, undoes=step) for back in takes_back]
    if not takes_back and not step.hidden:
        kept.append(_named(step))


def _takes_back(step: Step, vm: VM, last: bool) -> List[Step]:
    """Return the steps that will take this one back; of the last, which no other follows, none that much must be read for."""
    try:
        return list(step.capture_undo(vm)) if step.capture_undo and not last else list(step.undo)
    except (errors.QMPError, TaskError) as exc:
        raise PlanFailed(step, exc, [], []) from exc


def _may_have_run(exc: Exception) -> bool:
    """Tell whether QEMU may carry out, or have carried out, a command that it has not answered."""
    if isinstance(exc, errors.Disconnected):
        return exc.outcome_unknown
    return isinstance(exc, (errors.CommandTimeout, errors.Cancelled)) and exc.phase == "reply"


def execute_step(step: Step, vm: VM, deadline: Deadline) -> None:
    """Send one step and see it through. Raise the session's errors, and Refusal from what it waits for."""
    _wait_for_end(step, vm, deadline, _send_until_accepted(step, vm, deadline))


def _transact(step: Step, vm: VM, deadline: Deadline) -> None:
    """Perform a step that takes another one back: it counts with that one, and not by itself."""
    try:
        execute_step(step, vm, deadline)
    finally:
        vm.account.drop(step)


def _send_until_accepted(step: Step, vm: VM, deadline: Deadline) -> int | None:
    """Send one step. Return the number of the first event that may end it, None if there is nothing to wait for."""
    patience = time.monotonic() + _RETRY_SECONDS
    mark = vm.session.event_count
    while True:
        try:
            _enter(step, vm, deadline)
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


def _enter(step: Step, vm: VM, deadline: Deadline) -> None:
    """Send a step, which is in the account from before that until it is certain that QEMU has not taken it."""
    if not step.hidden:
        vm.account.add(step, step.public())
    try:
        _send(step, vm, deadline)
    except (errors.QMPError, TaskError) as exc:
        if not _may_have_run(exc):
            vm.account.drop(step)
        raise


def _is_there(step: Step, vm: VM) -> bool:
    """Tell whether there is anything for the step to do. True where nothing tells."""
    vm.forget()
    return step.still_needed is None or step.still_needed(vm)


def _send(step: Step, vm: VM, deadline: Deadline) -> None:
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
    again = time.monotonic() + wait.resend_every
    while True:
        try:
            event = vm.session.wait_event(wait.is_end, since=mark, timeout=wait.poll_every, deadline=deadline)
        except errors.CommandTimeout:
            vm.forget()
        else:
            _raise_if_refused(step, wait, event, vm)
            return
        if deadline.expired:
            raise _timeout_error(step, wait, vm)
        try:
            if wait.is_done(vm):
                return
            if wait.resend_every and time.monotonic() >= again:
                again = time.monotonic() + wait.resend_every
                _send(step, vm, deadline)
        except errors.CommandTimeout as exc:
            raise _timeout_error(step, wait, vm) from exc
        except errors.CommandError as exc:
            meaning = wait.classify(exc)
            if meaning == "done":
                return
            if not meaning:
                raise


def _raise_if_refused(step: Step, wait: Wait, event: Event, vm: VM) -> None:
    try:
        wait.raise_if_refused(event)
    except TaskError:
        if step.removes:  # the guest has kept it: all is as it was
            vm.account.drop(step)
        raise


def _timeout_error(step: Step, wait: Wait, vm: VM) -> Exception:
    """Return the error that says why the step's end has not come, after one short look, in which QEMU may not answer at all."""
    deadline, vm.deadline = vm.deadline, Deadline(_LOOK_SECONDS)
    try:
        try:
            vm.ask("query-status")
        except errors.CommandTimeout:
            vm.know({"status": "stuck (QEMU does not answer)", "running": False}, "query-status")
        return wait.timeout_error(vm)
    except errors.CommandTimeout:
        return Refusal(f"{step.execute} was sent, but QEMU does not answer any more: what came of it is not known")
    except errors.QMPError as exc:
        return exc
    finally:
        vm.deadline = deadline


def _roll_back(undo: Sequence[Step], kept: Sequence[str], vm: VM) -> tuple[List[Dict[str, Any]], List[str]]:
    """Take back what was done, newest first. Return the commands sent, and what is left (``kept``: what nothing takes back)."""
    left = (vm.deadline.end or 0.0) - time.monotonic()  # below 0 where saying why has taken its time
    vm.deadline = Deadline(max(min(left, UNDO_AT_MOST), UNDO_SECONDS + min(left, 0.0)))
    done: List[Dict[str, Any]] = []
    stuck: List[str] = []
    if vm.session.closed and undo:
        try:
            vm.session = vm.reopen(UNDO_SECONDS / 2)
        except errors.QMPError as exc:
            return [], [*kept, *(f"{_named(step)} ({exc})" for step in undo if not step.hidden)]
    needed: Set[Tuple[str, str]] = set()
    standing: Set[int] = set()  # by id(): the steps whose undo failed
    whole = vm.deadline
    for step in undo:
        # a guest that gives one thing back late, or never, leaves time for the others
        vm.deadline = Deadline((whole.remaining() or 0.0) * _SHARE) if step.wait else whole
        try:
            if not _is_there(step, vm):
                continue
            if step.removes and step.about in needed:  # what a stuck thing stands on must stay: a NIC's netdev, say
                needed |= step.needs
                standing.add(id(step.undoes))
                stuck.append(_named(step))
                continue
            _transact(step, vm, vm.deadline)
        except (errors.QMPError, TaskError) as exc:
            if isinstance(exc, errors.DeviceNotFound) and not step.execute.endswith(("_add", "-add")):
                continue  # what should go, or be set back, is not there; else it lacks what it stood on
            needed |= step.needs
            standing.add(id(step.undoes))
            if not step.hidden:
                stuck.append(f"{_named(step)} ({exc})")
            continue
        if not step.hidden:
            done.append(step.public())
    _strike_out(undo, standing, vm)
    return done, [*kept, *stuck]


def _strike_out(undo: Sequence[Step], standing: Set[int], vm: VM) -> None:
    """Strike out of the account what was taken back; ``standing``: the ``id()`` of each step that was not."""
    for step in undo:
        if step.undoes is not None and id(step.undoes) not in standing:
            vm.account.drop(step.undoes)


def _named(step: Step) -> str:
    name = step.arguments.get("id") or step.arguments.get("node-name") or ""
    return f"{step.execute} {name}".strip()
