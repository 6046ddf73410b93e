# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Run state and power: from the state that is and the one that is wanted to the few commands between them.

Besides QEMU's own run states there is one more here: ``off``, when the process has gone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step, Wait
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import NO_MACHINE
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event

OFF = "off"
POWER = {
    "state": Option("str", choices=["running", "paused", "shutdown", "reset", "off"], required=True),
    "wait": Option("bool", default=True),
    "force_after": Option("float"),
    "force": Option("bool", default=False),
    "only_if_status": Option("list", elements="str"),
}
# In these QEMU refuses to continue until the machine is reset.
_NEED_RESET = ("shutdown", "internal-error")
# Stopped for a moment by something that continues it by itself: a dump or snapshot, the end of a migration.
_PASSING = ("save-vm", "finish-migrate")
# An error of a disk stopped the guest. Continued, it tries again what had failed.
_FAILED = "io-error"
_LOOK = 0.02
_GRACE = 2.0
_RETRY = 1.0


class Move(NamedTuple):
    """What is to be done: the plan, the run state it leads to, and what the user should know."""

    plan: Plan
    after: str
    warnings: List[str] = []


class Reached(Wait):
    """The end of ``cont`` and ``stop``: their event, or the state itself."""

    def __init__(self, running: bool) -> None:
        self.running = running

    def is_end(self, event: Event) -> bool:
        """RESUME or STOP."""
        return event.name == ("RESUME" if self.running else "STOP")

    def is_done(self, vm: VM) -> bool:
        """Whether the guest runs, or doesn't."""
        return bool(vm.ask("query-status")["running"]) == self.running

    def timeout_error(self, vm: VM) -> Exception:
        """QEMU took the command and did not do it."""
        wanted = "run" if self.running else "stop"
        return Refusal(f"the virtual machine did not {wanted} in time: its status is {vm.status}")


class WasReset(Wait):
    """The end of ``system_reset``. Started with ``-no-reboot``, QEMU ends instead."""

    def is_end(self, event: Event) -> bool:
        """The host's own RESET (firmware may cause more), or a SHUTDOWN in its place."""
        return event.name == "SHUTDOWN" or (event.name == "RESET" and not event.data.get("guest"))

    def raise_if_refused(self, event: Event) -> None:
        """Raise Refusal for a SHUTDOWN."""
        if event.name == "SHUTDOWN":
            raise Refusal(
                "the virtual machine ended instead of being reset: QEMU was started with -no-reboot, "
                "or something else ended it at the same time"
            )


class PoweredDown(Wait):
    """The end of ``system_powerdown``: SHUTDOWN, or the state ``shutdown``. A booting guest loses the request."""

    resend_every = 2.5

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long it is waited for, for the message."""
        self.seconds = seconds

    def is_end(self, event: Event) -> bool:
        """SHUTDOWN, whoever caused it."""
        return event.name == "SHUTDOWN"

    def is_done(self, vm: VM) -> bool:
        """A VM with ``-no-shutdown`` stays, in this state."""
        return vm.status == "shutdown"

    def timeout_error(self, vm: VM) -> Exception:
        """The guest did not answer."""
        return Ignored(
            f"the guest did not shut down within {self.seconds:.4g} s: it may ignore the power button, still be "
            f"booting, or run no system (the status is {vm.status}). Give it more with timeout, set force_after to "
            "turn it off after so many seconds, or ask for state=off"
        )


class Ignored(Refusal):
    """The guest did not answer the power button in the time it had."""


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal for what reading tells can't be done, ConnectError and its kin."""
    params, state = task.params, task.params["state"]
    ends = state in ("shutdown", "off")
    _check(params)
    process = Process(None)
    try:
        vm = task.connect()
        process = Process(vm.session.process)
        now = vm.ask("query-status")
    except errors.ConnectError as exc:
        if not exc.nobody:
            raise
        if not ends:
            raise Refusal(f"state={state} needs a virtual machine, and this one is gone: {exc}") from exc
        return _result(OFF, Move(Plan(), OFF), state, OFF)
    except errors.Disconnected:
        if not ends:
            raise
        return _result(OFF, Move(Plan(), OFF), state, wait_until_ended(vm, process))
    move = decide(now, params)
    _only_if(now["status"], move, params["only_if_status"])
    if task.check_mode or not move.plan.steps:
        return _result(now["status"], move, state, move.after)
    task.details["status"] = {"before": now["status"]}
    if ends:
        return _end(vm, process, now["status"], move, params)
    return _carry_out(vm, now["status"], move, state)


def _check(params: Dict[str, Any]) -> None:
    """Raise Refusal for options that contradict each other whatever the VM is like."""
    after = params.get("force_after")
    if params["state"] != "shutdown" or after is None:
        return
    if after < 0:
        raise Refusal(f"force_after: {after:.4g} s is less than nothing")
    if not params["wait"]:
        raise Refusal("force_after: without wait, nobody is there to turn the virtual machine off")
    if after >= params["timeout"]:
        raise Refusal(f"force_after: {after:.4g} s is never reached, since timeout is {params['timeout']:.4g} s")


def _only_if(status: str, move: Move, allowed: List[str] | None) -> None:
    """Raise Refusal where the task shall do nothing in this run state. Nothing is asked between it and the command."""
    if move.plan.steps and allowed is not None and status not in allowed:
        raise Refusal(f"the status is {status}, and only_if_status is {', '.join(allowed)}: nothing was done")


def decide(now: Dict[str, Any], params: Dict[str, Any]) -> Move:
    """What leads from ``now`` (as ``query-status`` has it) to ``params["state"]``.

    Pure: the same in check mode. Raises Refusal for what needs ``force``, or can't be done at all.
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
        return Move(Plan(), status) if now["running"] else _run(status, params["force"], wait)
    if state == "paused":
        step = Step("stop", wait=Reached(False) if wait else None)
        return Move(Plan([step]), "paused") if now["running"] else Move(Plan(), status)
    if state == "reset":
        _keep_source(status, params["force"], "a reset would let it run again")
        after = "running" if now["running"] else "prelaunch"
        return Move(Plan([Step("system_reset", wait=WasReset() if wait else None)]), after)
    if state == "off":
        return Move(Plan([Step("quit")]), OFF)
    return Move(Plan(), status) if status == "shutdown" else _shut_down(now, params)


def _run(status: str, force: bool, wait: bool) -> Move:
    """To ``running`` from a state in which the guest does not run."""
    cont = Step("cont", wait=Reached(True) if wait else None, undo=[Step("stop")])
    reset = Step("system_reset", wait=WasReset())
    if status == "inmigrate":
        raise Refusal(
            "the virtual machine waits for its incoming migration and can't run before that is over; "
            "it then runs by itself, unless it was started with -S or its source was paused"
        )
    if status == "suspended":
        return Move(Plan([Step("system_wakeup", wait=Reached(True) if wait else None)]), "running")
    _keep_source(status, force, "continuing it would run it twice")
    if status in _NEED_RESET:
        if not force:
            raise Refusal(f"the status is {status}: it runs only after a reset; set force=true for a reset first")
        return Move(Plan([reset, cont]), "running")
    warnings = []
    if status == "guest-panicked":
        warnings.append("the guest's system has panicked; state=reset would start it anew")
    return Move(Plan([cont]), "running", warnings)


def _keep_source(status: str, force: bool, why: str) -> None:
    if status == "postmigrate" and not force:
        raise Refusal(
            f"the virtual machine has been migrated away (postmigrate) and may run at its destination: {why}; "
            "set force=true if you are sure that it does not"
        )


def _shut_down(now: Dict[str, Any], params: Dict[str, Any]) -> Move:
    seconds = params["timeout"] if params["force_after"] is None else params["force_after"]
    press = Step("system_powerdown", wait=PoweredDown(seconds) if params["wait"] else None)
    if params["force_after"] is not None:
        return Move(Plan([press, Step("quit")]), "shutdown")
    if params["wait"] and not now["running"] and now["status"] != "suspended":
        raise Refusal(
            f"the status is {now['status']}, and only a running guest can shut itself down: make it run first, "
            "set force_after to turn it off after so many seconds, or ask for state=off"
        )
    return Move(Plan([press]), "shutdown")


def _carry_out(vm: VM, before: str, move: Move, state: str) -> Dict[str, Any]:
    """Do the steps of a VM that lives on."""
    for step in move.plan.steps:
        vm.forget()
        execute_step(step, vm, vm.deadline)
    vm.forget()
    if state == "running" and move.plan.steps[-1].wait:
        _check_runs(vm, before)
    return _result(before, move, state, vm.status)


def _check_runs(vm: VM, before: str) -> None:
    """Raise Refusal for a guest that stopped again at once, as one does whose disk is still full."""
    since = time.monotonic()
    while vm.ask("query-status")["running"]:
        if before != _FAILED or time.monotonic() - since > _RETRY or vm.deadline.expired:
            return
        time.sleep(_LOOK)
        vm.forget()
    failed = [drive for drive in vm.ask("query-block") if drive.get("io-status", "ok") != "ok"]
    disks = ", ".join(f"{drive.get('qdev') or drive['device']} ({drive['io-status']})" for drive in failed)
    raise Refusal(
        f"the virtual machine was let run and stopped again at once: its status is {vm.status}"
        + (f", because of an I/O error of {disks}: mend that first" if disks else "")
    )


def _end(vm: VM, process: Process, before: str, move: Move, params: Dict[str, Any]) -> Dict[str, Any]:
    """Do the steps that end a VM. A connection that breaks on the way is what was wanted."""
    wait = params["wait"]
    try:
        last = _ask_to_end(vm, move.plan, params["force_after"])
        after = _settle(vm, last.execute == "quit") if wait else _glance(vm)
    except errors.Disconnected:
        after = wait_until_ended(vm, process) if wait else OFF
    result = _result(before, move, params["state"], after)
    return {**result, "forced": len(vm.account.commands) > 1}


def _ask_to_end(vm: VM, plan: Plan, patience: float | None) -> Step:
    """Send the plan's first step, and its second when the first was not answered after ``patience`` seconds.

    Returns the one that was sent last. Raises Ignored where there is no second step, and the session's errors.
    """
    first, *forced = plan.steps
    deadline = vm.deadline
    try:
        execute_step(first, vm, Deadline(max(patience or 0, 0.1)) if forced else deadline)
        return first
    except (Ignored, errors.CommandTimeout):
        if not forced:
            raise
        vm.deadline = deadline
        execute_step(forced[0], vm, deadline)
        return forced[0]


def _glance(vm: VM) -> str:
    vm.forget()
    return vm.status


def _settle(vm: VM, quits: bool) -> str:
    """Wait for what follows when QEMU has begun to shut down: its end, or with ``-no-shutdown`` the state ``shutdown``.

    Raises Disconnected when QEMU goes, which after a ``quit`` is the only end, and Refusal at the deadline.
    """
    status = _glance(vm)
    while quits or status != "shutdown":
        time.sleep(_LOOK)
        if vm.deadline.expired:
            raise Refusal(f"QEMU was told to end, and is still there: its status is {status}")
        status = _glance(vm)
    return status


def wait_until_ended(vm: VM, process: Process) -> str:
    """Wait until nothing is left of a QEMU that closed its monitor. Raises Refusal at the deadline."""
    since = time.monotonic()
    told = any(event.name == "SHUTDOWN" for event in vm.session.events)
    while process.alive or process.pid is None:
        late = time.monotonic() - since > _GRACE
        # A listener that was handed over bears the id of who made it, and that one lives on.
        if (late or process.pid is None) and _nobody(vm):
            return OFF
        if late and told and not vm.local:
            return OFF  # behind a tunnel somebody always listens
        if vm.deadline.expired:
            what = "its monitor still answers" if process.pid is None else f"its process {process.pid} is still there"
            raise Refusal(f"QEMU has ended the connection, but {what}")
        time.sleep(_LOOK)
    return OFF


def _nobody(vm: VM) -> bool:
    """Whether nobody listens at the monitor's address any more."""
    try:
        vm.reopen(0.5).close()
    except errors.ConnectError as exc:
        return exc.nobody
    return False


class Process:
    """A process of this host, told from a later one that has its number."""

    def __init__(self, pid: int | None) -> None:
        """``pid``: None where it is not known. The number of a process that can't be looked at is worth nothing."""
        self.pid = pid
        self._birth = self._stat()[1]
        if not self._birth:
            self.pid = None

    @property
    def alive(self) -> bool:
        """Whether it is there and not just waiting to be buried.

        Its first thread may be dead while others still close its files.
        """
        state, birth, threads = self._stat()
        return birth != "" and birth == self._birth and (state not in "ZX" or threads > 1)

    def _stat(self) -> tuple[str, str, int]:
        """State letter, start time (clock ticks since boot), number of threads; empty when there is no such process."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return "", "", 0
        return fields[0], fields[19], int(fields[17])


def _result(before: str, move: Move, state: str, after: str) -> Dict[str, Any]:
    """``after``: the state in the end; the diff has the one aimed at, so that check mode shows the same."""
    changed = bool(move.plan.steps)
    aim = {"status": move.after, **({"reset": True} if state == "reset" else {})}
    return {
        "changed": changed,
        "commands": move.plan.commands,
        "status": {"before": before, "after": after},
        "diff": {"before": {"status": before}, "after": aim},
        "warnings": move.warnings,
    }
