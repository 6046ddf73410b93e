# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Run state and power: from the state that is and the one that is wanted to the few commands between them.

Besides QEMU's own run states there is one more here: ``off``, when the process has gone.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Sequence

from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.interrupt import pause
from .._core.option import Option
from .._core.plan import Plan
from .._core.process import Process
from .._core.step import Step, Wait
from .._core.vm import NO_MACHINE
from .._engine.operation import Operation, Params, Run
from .._host.shutdown import Ended, Ignored, PoweredDown, wait_until_ended
from .._qmp import errors
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.events import Event

OFF = "off"
_ENDS = ("shutdown", "off")
# In these QEMU refuses to continue until the machine is reset.
_NEED_RESET = ("shutdown", "internal-error")
# Stopped for a moment by something that continues it by itself: a dump or snapshot, the end of a migration.
_PASSING = ("save-vm", "finish-migrate")
# An error of a disk stopped the guest. Continued, it tries again what had failed.
_FAILED = "io-error"
_LOOK = 0.02
_RETRY = 1.0


class Reached(Wait):
    """The end of ``cont`` and ``stop``: their event, or the state itself."""

    def __init__(self, running: bool) -> None:
        self.running = running

    def is_end(self, event: Event) -> bool:
        """Tell whether it is RESUME or STOP."""
        return event.name == ("RESUME" if self.running else "STOP")

    def is_done(self, vm: VM) -> bool:
        """Tell whether the guest runs, or doesn't."""
        return bool(vm.ask("query-status")["running"]) == self.running

    def timeout_error(self, vm: VM) -> Exception:
        """Return that QEMU took the command and did not do it."""
        wanted = "run" if self.running else "stop"
        return NotDoneInTime(f"the virtual machine did not {wanted} in time: its status is {vm.status}")


class WasReset(Wait):
    """The end of ``system_reset``. Started with ``-no-reboot``, QEMU ends instead."""

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the host's own RESET (firmware may cause more), or a SHUTDOWN in its place."""
        return event.name == "SHUTDOWN" or (event.name == "RESET" and not event.data.get("guest"))

    def raise_if_refused(self, event: Event) -> None:
        """Raise OperationFailed for a SHUTDOWN."""
        if event.name == "SHUTDOWN":
            raise OperationFailed(
                "the virtual machine ended instead of being reset: QEMU was started with -no-reboot, "
                "or something else ended it at the same time"
            )


class Power(Operation):
    """Bring a VM to a run state, or end it."""

    options = {
        "state": Option("str", choices=["running", "paused", "shutdown", "reset", "off"], required=True),
        "wait": Option("bool", default=True),
        "force_after": Option("float"),
        "force": Option("bool", default=False),
        "only_if_status": Option("list", elements="str"),
    }

    def check(self, params: Params) -> Params:
        """Refuse options that contradict each other."""
        after = params.get("force_after")
        if params["state"] != "shutdown" or after is None:
            return params
        if after < 0:
            raise Refusal(f"force_after: {after:.4g} s is less than nothing")
        if not params["wait"]:
            raise Refusal("force_after: without wait, nobody is there to turn the virtual machine off")
        if after >= params["timeout"]:
            raise Refusal(f"force_after: {after:.4g} s is never reached, since timeout is {params['timeout']:.4g} s")
        return params

    def read(self, vm: VM, params: Params) -> Dict[str, Any]:
        """Return ``query-status``."""
        try:
            current: Dict[str, Any] = vm.ask("query-status")
        except errors.Disconnected:
            if params["state"] in _ENDS:
                wait_until_ended(vm, Process(vm.session.process))
            raise
        return current

    def unreachable(self, task: Task, params: Params, error: errors.QMPError) -> Dict[str, Any]:
        """Return that a VM which is gone is off."""
        if isinstance(error, errors.ConnectError) and not error.nobody:
            raise error
        if params["state"] not in _ENDS:
            if isinstance(error, errors.Disconnected):
                raise error
            raise Refusal(f"state={params['state']} needs a virtual machine, and this one is gone: {error}") from error
        off = {"status": OFF}
        status = {"before": OFF, "after": OFF}
        return {
            "changed": False,
            "commands": [],
            "warnings": [],
            "status": status,
            "diff": {"before": off, "after": off},
        }

    def plan(self, current: Dict[str, Any], params: Params) -> Plan:
        """Return what leads from one run state to another. ``force`` allows what can lose something."""
        plan = decide(current, params)
        allowed = params["only_if_status"]
        if plan.changed and allowed is not None and current["status"] not in allowed:
            raise Refusal(
                f"the status is {current['status']}, and only_if_status is {', '.join(allowed)}: nothing was done"
            )
        plan.before = {"status": current["status"]}
        plan.after = {**plan.after, **({"reset": True} if params["state"] == "reset" else {})}
        return plan

    def follow(self, run: Run, current: Dict[str, Any], params: Params) -> End:
        """Send the steps, and see that the state is reached."""
        run.task.details["status"] = {"before": current["status"]}
        if params["state"] in _ENDS:
            return _end(run, params)
        for step in run.plan.later:
            run.send(step)
        if params["state"] == "running" and run.plan.later[-1].wait:
            _check_runs(run.vm, current["status"])
        return End(run.vm.status)

    def describe(self, current: Dict[str, Any], params: Params, plan: Plan, end: End | None) -> Dict[str, Any]:
        """Return ``status`` and ``forced``."""
        after = str(plan.after["status"]) if end is None else end.status
        status = {"before": current["status"], "after": after}
        return {"status": status, **({"forced": end.forced} if end and end.forced is not None else {})}


class End(NamedTuple):
    """What came of it."""

    status: str
    forced: bool | None = None
    """Whether a guest that was to shut down was turned off; None: it was not to."""


def decide(now: Dict[str, Any], params: Params) -> Plan:
    """Return what leads from ``now`` (as ``query-status`` has it) to ``params["state"]``.

    Raise Refusal for what needs ``force``, or can't be done at all.
    """
    state, status, wait = params["state"], now["status"], params["wait"]
    if status == NO_MACHINE and state != "off":
        raise Refusal(f"state={state}: a qemu-storage-daemon has no guest: state=off ends it")
    if state in ("running", "paused", "reset") and status in _PASSING:
        raise Refusal(
            f"the status is {status}: a dump, a snapshot or a migration has stopped the virtual machine for a moment "
            "and decides how it goes on; run the task again when that is over"
        )
    if state == "running":
        return _to(status) if now["running"] else _run(status, params["force"], wait)
    if state == "paused":
        step = Step("stop", wait=Reached(False) if wait else None)
        return _to("paused", step) if now["running"] else _to(status)
    if state == "reset":
        _keep_source(status, params["force"], "a reset would let it run again")
        after = "running" if now["running"] else "prelaunch"
        return _to(after, Step("system_reset", wait=WasReset() if wait else None))
    if state == "off":
        return _to(OFF, Step("quit", wait=Ended() if wait else None))
    return _to(status) if status == "shutdown" else _shut_down(now, params)


def _to(status: str, *steps: Step, warnings: Sequence[str] = ()) -> Plan:
    return Plan(later=steps, after={"status": status}, warnings=warnings)


def _run(status: str, force: bool, wait: bool) -> Plan:
    """Return what leads to ``running`` from a state in which the guest does not run."""
    cont = Step("cont", wait=Reached(True) if wait else None, undo=[Step("stop")])
    reset = Step("system_reset", wait=WasReset())
    if status == "inmigrate":
        raise Refusal(
            "the virtual machine waits for its incoming migration and can't run before that is over; "
            "it then runs by itself, unless it was started with -S or its source was paused"
        )
    if status == "suspended":
        return _to("running", Step("system_wakeup", wait=Reached(True) if wait else None))
    _keep_source(status, force, "continuing it would run it twice")
    if status in _NEED_RESET:
        if not force:
            raise Refusal(f"the status is {status}: it runs only after a reset; set force=true for a reset first")
        return _to("running", reset, cont)
    warnings = []
    if status == "guest-panicked":
        warnings.append("the guest's system has panicked; state=reset would start it anew")
    return _to("running", cont, warnings=warnings)


def _keep_source(status: str, force: bool, why: str) -> None:
    if status == "postmigrate" and not force:
        raise Refusal(
            f"the virtual machine has been migrated away (postmigrate) and may run at its destination: {why}; "
            "set force=true if you are sure that it does not"
        )


def _shut_down(now: Dict[str, Any], params: Params) -> Plan:
    seconds = params["timeout"] if params["force_after"] is None else params["force_after"]
    press = Step("system_powerdown", wait=PoweredDown(seconds) if params["wait"] else None)
    if params["force_after"] is not None:
        return _to("shutdown", press, Step("quit", wait=Ended()))
    if params["wait"] and not now["running"] and now["status"] != "suspended":
        raise Refusal(
            f"the status is {now['status']}, and only a running guest can shut itself down: make it run first, "
            "set force_after to turn it off after so many seconds, or ask for state=off"
        )
    return _to("shutdown", press)


def _check_runs(vm: VM, before: str) -> None:
    """Raise OperationFailed for a guest that stopped again at once, as one does whose disk is still full."""
    since = time.monotonic()
    while vm.ask("query-status")["running"]:
        if before != _FAILED or time.monotonic() - since > _RETRY or vm.deadline.expired:
            return
        time.sleep(_LOOK)
        vm.forget()
    failed = [drive for drive in vm.ask("query-block") if drive.get("io-status", "ok") != "ok"]
    disks = ", ".join(f"{drive.get('qdev') or drive['device']} ({drive['io-status']})" for drive in failed)
    raise OperationFailed(
        f"the virtual machine was let run and stopped again at once: its status is {vm.status}"
        + (f", because of an I/O error of {disks}: mend that first" if disks else "")
    )


def _end(run: Run, params: Params) -> End:
    """Do the steps that end a VM. A connection that breaks on the way is what was wanted."""
    vm, wait = run.vm, params["wait"]
    process = Process(vm.session.process)
    try:
        last = _ask_to_end(run, params["force_after"])
        quits = last.execute == "quit"
        after = _glance(vm) if not wait else OFF if quits else _settle(vm)
    except errors.Disconnected:
        after = OFF
        if wait:
            wait_until_ended(vm, process)
    return End(after, len(vm.account.commands) > 1)


def _ask_to_end(run: Run, patience: float | None) -> Step:
    """Send the plan's first step, and its second when the first was not answered after ``patience`` seconds.

    Return the one that was sent last. Raise Ignored where there is no second step.
    """
    first, *forced = run.plan.later
    if not forced:
        run.send(first)
        return first
    try:
        run.send(first, Deadline(max(patience or 0, 0.1), run.vm.deadline.stop))
        return first
    except (Ignored, errors.CommandTimeout):
        run.send(forced[0])
        return forced[0]


def _glance(vm: VM) -> str:
    vm.forget()
    return vm.status


def _settle(vm: VM) -> str:
    """Return the state ``shutdown``, once a QEMU with ``-no-shutdown`` is in it.

    Raise Disconnected when QEMU goes instead, and NotDoneInTime at the deadline.
    """
    while _glance(vm) != "shutdown":
        pause(_LOOK)
        if vm.deadline.expired:
            raise NotDoneInTime(f"QEMU was told to end, and is still there: its status is {vm.status}")
    return "shutdown"


POWER = Power()
