# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The pipeline of what goes on in QEMU for a while: power, jobs, dumps, migrations.

    check ──► read ──► plan (pure) ──► begin, or undo ──► follow: send, wait, judge ──► describe

As with kinds, an operation decides and this file acts: check mode ends after the plan, and ``follow`` can send no step
that is not in it. So ``commands`` and ``changed`` are the same in check mode and in the real run.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple, TypeVar

from .._core.errors import NotDoneInTime
from .._core.interrupt import held
from .._core.plan import Plan
from .._qmp import errors
from .watch import LOOK_EVERY, watch

if TYPE_CHECKING:
    from .._core.option import Option
    from .._core.progress import Progress
    from .._core.step import Step
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline

T = TypeVar("T")
Params = Dict[str, Any]


class Operation:
    """What a module does where it does not bring a thing to a state. Subclasses fill in the phases, in this order."""

    options: Dict[str, Option] = {}

    def check(self, params: Params) -> Params:
        """Return the parameters in their types. Raise Refusal for what is wrong whatever the VM is like."""
        return params

    def read(self, vm: VM, params: Params) -> Any:
        """Return what is there, as one value that ``plan`` decides by. Send queries only. Raise Refusal."""
        raise NotImplementedError

    def plan(self, current: Any, params: Params) -> Plan:
        """Return what leads from ``current`` to what was asked for. Pure. Raise Refusal for what can't be done."""
        raise NotImplementedError

    def begin(self, run: Run, current: Any, params: Params) -> None:
        """Do the plan's ``steps``, all or nothing. Raise PlanFailed."""
        run.begin()

    def follow(self, run: Run, current: Any, params: Params) -> Any:
        """Send the plan's ``later`` steps, wait for the end, and return what ``describe`` needs of it.

        Raise OperationFailed or NotDoneInTime.
        """
        for step in run.plan.later:
            run.send(step)

    def describe(self, current: Any, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return the operation's own keys of the result, and ``changed`` and ``diff`` where only the end tells them.

        ``end``: what ``follow`` returned; None in check mode, and where nothing was to be done.
        """
        return {}

    def unreachable(self, task: Task, params: Params, error: errors.QMPError) -> Dict[str, Any]:
        """Return the result where nobody answers at the VM's monitor, if that is what was wanted; else raise ``error``."""
        raise error


class Run:
    """A plan under way."""

    def __init__(self, task: Task, vm: VM, plan: Plan) -> None:
        self.task = task
        self.vm = vm
        self.plan = plan

    def begin(self) -> None:
        """Do the plan's first steps, all or nothing. Raise PlanFailed."""
        if self.plan.steps:
            from .apply import apply

            apply(self.plan, self.vm)

    def send(self, step: Step, deadline: Deadline | None = None, vm: VM | None = None) -> None:
        """Send one of the plan's steps but for the first ones, or one that takes back a first one, and wait for its end.

        ``vm``: another one than the task's own. Raise CommandError when QEMU refuses, NotDoneInTime when it has not answered at
        the task's deadline.
        """
        plan, to = self.plan, vm or self.vm
        planned = [*plan.clears, *plan.later, *(back for first in plan.steps for back in first.undo)]
        if not any(step is one for one in planned) and step.execute not in plan.on_failure:
            raise AssertionError(f"{step.execute} is not in the plan")
        from .apply import execute_step

        try:
            execute_step(step, to, deadline or to.deadline)
        except errors.CommandTimeout as exc:
            if exc.phase != "reply" or deadline is not None:
                raise
            raise NotDoneInTime(str(exc)) from exc
        finally:
            to.forget()

    def watch(self, look: Callable[[], Tuple[T, bool, Progress]], *events: str, every: float = LOOK_EVERY) -> T:
        """Call ``look`` until it says that the work is over; see ``watch``. Progress is shown to the user."""
        return watch(self.vm, look, self.task.on_progress, *events, every=every)


def run_operation(operation: Operation, task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError, PlanFailed and the session's errors."""
    params = operation.check(task.params)
    try:
        vm = task.connect()
        current = operation.read(vm, params)
    except (errors.ConnectError, errors.Disconnected) as exc:
        return operation.unreachable(task, params, exc)
    plan = operation.plan(current, params)
    end = None
    if not task.check_mode and (plan.changed or plan.follows):
        run = Run(task, vm, plan)
        with held():
            operation.begin(run, current, params)
            end = operation.follow(run, current, params)
    return {
        "changed": plan.changed,
        "commands": plan.commands,
        "diff": {"before": plan.before, "after": plan.after},
        "warnings": plan.warnings,
        **operation.describe(current, params, plan, end),
    }
