# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Doing a plan's steps in order, or taking back those that were done."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import Plan
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step, Wait
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM

# Rolling back has time of its own, even when the task's own is up.
UNDO_SECONDS = 1.5
UNDO_AT_MOST = 10.0
_RETRY_SECONDS = 2.0
_RETRY_PAUSE = 0.05


def apply(plan: Plan, vm: VM) -> None:
    """Do every step, or take back those that were done and raise PlanFailed."""
    undo: List[Step] = []
    kept: List[str] = []
    # all of it before the first step, while what was read still holds
    undos = [_takes_back(step, vm, last=step is plan.steps[-1]) for step in plan.steps]
    for step, takes_back in zip(plan.steps, undos):
        try:
            perform(step, vm, vm.deadline)
        except (errors.QMPError, Refusal) as exc:
            if _may_have_run(exc) and not step.removes:
                undo[:0] = takes_back
            raise PlanFailed(step, exc, *_roll_back(undo, kept, vm)) from exc
        except BaseException:  # the task was told to stop
            _roll_back(undo if step.removes else [*takes_back, *undo], kept, vm)
            raise
        finally:
            vm.forget()
        undo[:0] = takes_back
        if not takes_back and not step.hidden:
            kept.append(_named(step))


def _takes_back(step: Step, vm: VM, last: bool) -> List[Step]:
    """The steps that will take this one back; of the last, which no other follows, none that much must be read for."""
    try:
        return list(step.remember(vm)) if step.remember and not last else list(step.undo)
    except (errors.QMPError, Refusal) as exc:
        raise PlanFailed(step, exc, [], []) from exc


def _may_have_run(exc: Exception) -> bool:
    """Whether QEMU may carry out, or have carried out, a command that it has not answered."""
    if isinstance(exc, errors.Disconnected):
        return exc.outcome_unknown
    return isinstance(exc, errors.CommandTimeout) and exc.phase == "reply"


def perform(step: Step, vm: VM, deadline: Deadline) -> None:
    """Send one step and see it through. Raises the session's errors, and Refusal from what it waits for."""
    patience = time.monotonic() + _RETRY_SECONDS
    mark = vm.session.event_count
    while True:
        try:
            _send(step, vm, deadline)
            break
        except errors.CommandError as exc:
            meaning = step.wait.already(exc) if step.wait else ""
            if meaning == "done":
                return
            if meaning == "pending":
                break
            if not (step.retry and step.retry(exc) and time.monotonic() < patience and not deadline.expired):
                raise
            time.sleep(_RETRY_PAUSE)
    if step.wait and not step.wait.asks_only:
        _see_through(step, step.wait, vm, deadline, mark)


def _send(step: Step, vm: VM, deadline: Deadline) -> None:
    opened: List[int] = []
    try:
        opened.extend(descriptor.open() for descriptor in step.fds)
        vm.session.execute(step.execute, step.arguments, deadline=deadline, fds=opened)
    finally:
        for fd in opened:
            os.close(fd)


def _see_through(step: Step, wait: Wait, vm: VM, deadline: Deadline, mark: int) -> None:
    """Wait for the event that ends the step, look at the VM now and then, and send it again where requests get lost."""
    again = time.monotonic() + wait.again_every
    while True:
        try:
            event = vm.session.wait_event(wait.heard, since=mark, timeout=wait.poll_every, deadline=deadline)
        except errors.CommandTimeout:
            vm.forget()
        else:
            return wait.judge(event)
        if deadline.expired:
            raise _overdue(wait, vm)
        try:
            if wait.reached(vm):
                return
            if wait.again_every and time.monotonic() >= again:
                again = time.monotonic() + wait.again_every
                _send(step, vm, deadline)
        except errors.CommandTimeout as exc:
            raise _overdue(wait, vm) from exc
        except errors.CommandError as exc:
            meaning = wait.already(exc)
            if meaning == "done":
                return
            if not meaning:
                raise


def _overdue(wait: Wait, vm: VM) -> Exception:
    deadline, vm.deadline = vm.deadline, Deadline(0.5)  # to say why: one short look
    try:
        return wait.overdue(vm)
    except errors.QMPError as exc:
        return exc
    finally:
        vm.deadline = deadline


def _roll_back(undo: Sequence[Step], kept: Sequence[str], vm: VM) -> tuple[List[Dict[str, Any]], List[str]]:
    """Take back, newest first: what was done, and the steps that could not be (``kept``: those that nothing takes back)."""
    left = vm.deadline.remaining() or 0.0
    vm.deadline = Deadline(max(UNDO_SECONDS, min(left, UNDO_AT_MOST)))
    done: List[Dict[str, Any]] = []
    stuck: List[str] = []
    if vm.session.closed and undo:
        try:
            vm.session = vm.reopen(UNDO_SECONDS / 2)
        except errors.QMPError as exc:
            if getattr(exc, "nobody", False):
                return [], []  # the VM is gone, and what was made with it
            return [], [*kept, *(f"{_named(step)} ({exc})" for step in undo if not step.hidden)]
    for step in undo:
        vm.forget()
        try:
            if step.there is not None and not step.there(vm):
                continue
            if not stuck or step.hidden:  # what stands on something stuck must stay: a netdev below its NIC, say
                perform(step, vm, vm.deadline)
        except errors.DeviceNotFound:
            continue
        except (errors.QMPError, Refusal) as exc:
            if not step.hidden:
                stuck.append(f"{_named(step)} ({exc})")
            continue
        if step.hidden:
            continue
        if stuck:
            stuck.append(_named(step))
        else:
            done.append(step.public())
    return done, [*kept, *stuck]


def _named(step: Step) -> str:
    name = step.arguments.get("id") or step.arguments.get("node-name") or ""
    return f"{step.execute} {name}".strip()
