# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A guest that leaves: its migration begun, watched to the end, and judged; the end of its source.

The source's own ``completed`` proves nothing unless the destination could answer (``return-path``); the destination's
own word does. Only proof ends a source, and only a failure that the destination has told lets it go on.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils import _power
from ansible_collections.vmm.qemu.plugins.module_utils._converge.apply import apply, perform
from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._destination import arrived
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration import RUNNING, capabilities, progress, shape, status
from ansible_collections.vmm.qemu.plugins.module_utils._progress import Overdue, Progress, watch
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._jobs import Sender
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._module import Task


_CANCEL_SECONDS = 1.6
_LOOK = 0.05
# A migration that was told to go on stays postcopy-paused until it is connected.
_RESUME_SECONDS = 5.0


class Found(NamedTuple):
    """What was read: ``query-migrate``, the run state, and whether the guest ran."""

    migration: Dict[str, Any]
    run_state: str
    running: bool

    @property
    def status(self) -> str:
        """Where the migration stands."""
        return status(self.migration)


class Move(NamedTuple):
    """What is to be done: the steps that begin it, and those that follow in their time."""

    begin: Plan
    later: List[Step]
    changed: bool

    @property
    def commands(self) -> List[Dict[str, Any]]:
        """All of them, as the result shows them."""
        return [*self.begin.commands, *(step.public() for step in self.later)]


def look(vm: VM) -> Found:
    """Read where it stands."""
    vm.forget()
    now = vm.ask("query-status")
    return Found(vm.ask("query-migrate"), str(now["status"]), bool(now["running"]))


def begin(vm: VM, begin: Plan) -> None:
    """Raises PlanFailed, with no migration under way."""
    try:
        apply(begin, vm)
    except PlanFailed:
        with suppress(errors.QMPError):
            if look(vm).status == "setup":  # QEMU 10.0 stays there when it refuses one
                perform(Step("migrate_cancel"), vm, vm.deadline)
        raise


def see_through(task: Task, sender: Sender, found: Found, move: Move) -> Dict[str, Any]:
    """Wait for the end and judge it. Returns ``query-migrate``."""
    vm = sender.vm
    if not task.params["wait"]:
        vm.forget()
        return dict(vm.ask("query-migrate"))
    steps = {step.execute: step for step in move.later}
    begun = time.monotonic()

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        switch, postcopy = steps.get("migrate-continue"), steps.get("migrate-start-postcopy")
        if switch and status(now) == "pre-switchover":
            sender.send(steps.pop("migrate-continue"))
        elif postcopy and status(now) == "active" and time.monotonic() - begun >= task.params["postcopy_after"]:
            sender.send(steps.pop("migrate-start-postcopy"))
        resuming = move.begin.steps and status(now) == "postcopy-paused" and time.monotonic() - begun < _RESUME_SECONDS
        return now, _over(vm, now) and not resuming, progress(now)

    try:
        end = watch(vm, one_look, task.tell, "MIGRATION", "STOP", "RESUME")
    except Overdue as exc:
        raise _overdue(task, sender, exc.found or {}) from exc
    if status(end) != "completed":
        raise _failed(task, sender, found, end)
    _prove(task, vm, end)
    if "quit" in steps:
        _quit(sender)
    return end


def _over(vm: VM, now: Dict[str, Any]) -> bool:
    """Whether nothing goes on. A guest that left in part stays in finish-migrate; any other goes on from there."""
    return status(now) not in RUNNING and (status(now) == "postcopy-paused" or vm.status != "finish-migrate")


def _prove(task: Task, vm: VM, end: Dict[str, Any]) -> None:
    """Raise Refusal where it is not certain that the guest is at the destination. The source stays as it is then."""
    figures = {"migration": shape(end)}
    if task.params["destination_socket"] is not None:
        try:
            arrived(task)
        except Refusal as exc:
            raise Refusal(
                f"the guest has left, but is not known to have arrived: {exc}. This virtual machine stays stopped (postmigrate) "
                "and keeps the guest: if it runs nowhere else, qemu_power with state=running and force=true continues it here",
                **figures,
            ) from exc
    elif task.params["source_after"] == "quit" and not capabilities(vm).get("return-path"):
        raise Refusal(
            "source_after: the virtual machine was not ended, since nothing proves that the guest has arrived: "
            "this kind of uri has no return path; give destination_socket",
            **figures,
        )


def _quit(sender: Sender) -> None:
    process = _power.Process(sender.vm.session.process)
    with suppress(errors.Disconnected):
        sender.send(Step("quit"))
    _power.gone(sender.vm, process)


def _failed(task: Task, sender: Sender, found: Found, end: Dict[str, Any]) -> Refusal:
    """Why it failed, after making sure that a guest that ran goes on here."""
    vm = sender.vm
    state = look(vm).run_state
    told = status(end) == "failed" and capabilities(vm).get("return-path")
    if state == "postmigrate" and found.running and told:  # the destination itself has said that it can't
        sender.send(Step("cont"))
        state = look(vm).run_state
    figures = {"migration": shape(end)}
    if status(end) == "postcopy-paused":
        return Refusal(
            "the migration has lost its connection in postcopy; the guest stands still, half here and half there. When the "
            "network is back: state=recovered",
            **figures,
        )
    if status(end) == "cancelled":
        return Refusal(f"the migration was cancelled by somebody else; the status here is {state}", **figures)
    reason = end.get("error-desc") or "QEMU does not say why here; the destination's standard error or log does"
    return Refusal(
        f"the migration to {task.params['uri']} failed: {reason}. The guest is still here, its status is {state}",
        error={"class": "GenericError", "desc": end.get("error-desc", "")},
        **figures,
    )


def _overdue(task: Task, sender: Sender, last: Dict[str, Any]) -> Exception:
    """The deadline has passed: cancel, if that is wanted and can still be done."""
    vm = sender.vm
    seconds, now = task.params["timeout"], progress(last)
    rate = f", {now.rate / (1 << 20):.1f} MiB/s" if now.rate else ""
    far = f"the migration is not over after {seconds:.4g} s ({status(last)}, {now.percent:.0f} %{rate})"
    figures = {"migration": shape(last)}
    vm.deadline = Deadline(_CANCEL_SECONDS)
    if task.params["on_timeout"] == "leave":
        return Refusal(f"{far} and goes on: run the task again to join it, with more timeout", **figures)
    if status(last) == "device" or status(last).startswith("postcopy"):
        return Refusal(f"{far}. It can't be cancelled any more and goes on: run the task again to join it", **figures)
    try:
        sender.send(Step("migrate_cancel"))
        end = _ended(task, vm)
        state = look(vm).run_state
    except Overdue:
        return Refusal(f"{far}, and QEMU has not ended it yet, though told to: run the task again", **figures)
    except errors.QMPError as exc:
        return Refusal(f"{far}, and cancelling it failed: {exc}", **figures)
    if status(end) == "completed":
        return Refusal(f"{far}, but it was by the time it was cancelled: run the task again", migration=shape(end))
    return Refusal(
        f"{far} and was cancelled; the guest is still here, its status is {state}. Give it more timeout, more max-bandwidth or "
        "downtime-limit (parameters), or the capability auto-converge",
        **figures,
    )


def _ended(task: Task, vm: VM) -> Dict[str, Any]:
    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        return now, _over(vm, now), progress(now)

    return watch(vm, one_look, task.tell, "MIGRATION", every=_LOOK)


def until_cancelled(task: Task, sender: Sender, found: Found, move: Move) -> Dict[str, Any]:
    try:
        end = _ended(task, sender.vm)
    except Overdue as exc:
        raise Refusal(
            "the migration was told to stop and has not: run the task again", migration=shape(exc.found or {})
        ) from exc
    if status(end) == "completed":
        raise Refusal("the migration had completed before it could be cancelled", migration=shape(end))
    return end


def until_paused(task: Task, sender: Sender, found: Found, move: Move) -> Dict[str, Any]:
    try:
        end = _ended(task, sender.vm)
    except Overdue as exc:
        raise Refusal("the migration was told to pause and has not", migration=shape(exc.found or {})) from exc
    if status(end) != "postcopy-paused":
        raise Refusal(f"the migration is {status(end)}, and was so before it could be paused", migration=shape(end))
    return end
