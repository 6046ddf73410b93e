# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The source of a migration: from where it stands to the state that is wanted, without ever running a guest twice.

The source's own ``completed`` proves nothing unless the destination could answer (``return-path``); the destination's
own word does. Only proof ends a source, and only a failure that the destination has told lets it go on.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils import _power
from ansible_collections.vmm.qemu.plugins.module_utils._converge.apply import apply, perform
from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._destination import arrived, check_ready, let_recover, reached
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Option
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration import (
    RUNNING,
    capabilities,
    check_uri,
    listens_at,
    progress,
    settings,
    shape,
    status,
    two_way,
)
from ansible_collections.vmm.qemu.plugins.module_utils._progress import Overdue, Progress, after, watch
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._module import Task

MIGRATE = {
    "uri": Option("str"),
    "state": Option("str", choices=["migrated", "cancelled", "paused", "recovered"], default="migrated"),
    "capabilities": Option("dict"),
    "parameters": Option("dict"),
    "wait": Option("bool", default=True),
    "on_timeout": Option("str", choices=["cancel", "leave"], default="cancel"),
    "source_after": Option("str", choices=["leave", "quit"], default="leave"),
    "destination_socket": Option("str"),
    "postcopy_after": Option("float"),
}
_CANCEL_SECONDS = 1.6
_LOOK = 0.05
_CONTINUE = {"state": "pre-switchover"}


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


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal, PlanFailed, ConnectError and its kin."""
    params = task.params
    _check(params)
    try:
        vm = task.connect()
    except errors.ConnectError as exc:
        if not exc.nobody or params["state"] != "migrated":
            raise
        return _gone(task, exc)
    found = look(vm)
    move = decide(task, vm, found)
    if task.check_mode or not move.changed:
        return _result(task, found, move, found.migration)
    if move.begin.steps:
        if params["state"] == "recovered":
            let_recover(task)
        apply(move.begin, vm)
    with after(move.commands):
        end = {"cancelled": _until_cancelled, "paused": _until_paused}.get(params["state"], _see_through)
        return _result(task, found, move, end(task, vm, found, move))


def _check(params: Dict[str, Any]) -> None:
    """Raise Refusal for options that are wrong whatever the VM is like."""
    if params["state"] in ("migrated", "recovered"):
        if params["uri"] is None:
            raise Refusal(f"uri: state={params['state']} needs the address of the destination")
        check_uri(params["uri"])
    if params["source_after"] == "quit" and not params["wait"]:
        raise Refusal("source_after: without wait, nobody is there to prove that the destination runs")
    destination = params["destination_socket"]
    if destination is not None and str(parse(destination)) == str(parse(params["socket"])):
        raise Refusal(f"destination_socket: {destination} is the virtual machine itself")


def look(vm: VM) -> Found:
    """Read where it stands."""
    vm.forget()
    now = vm.ask("query-status")
    return Found(vm.ask("query-migrate"), str(now["status"]), bool(now["running"]))


def decide(task: Task, vm: VM, found: Found) -> Move:
    """What leads to the wanted state. Queries only. Raises Refusal for what reading can tell will fail."""
    params = task.params
    state, quits = params["state"], [Step("quit")] if params["source_after"] == "quit" else []
    if state == "cancelled":
        return _cancelling(found)
    if state == "paused":
        return _pausing(found)
    if state == "recovered":
        return _recovering(found, params, quits)
    if found.status == "completed" and found.run_state == "postmigrate":
        return Move(Plan(), list(quits), bool(quits))
    if found.status == "postcopy-paused":
        raise Refusal(
            "the migration has lost its connection in postcopy, and the guest stands still: use state=recovered"
        )
    if found.status in RUNNING:
        return Move(Plan(), [*_switch(capabilities(vm)), *quits], True)
    return _starting(task, vm, found, quits)


def _starting(task: Task, vm: VM, found: Found, quits: List[Step]) -> Move:
    params, uri = task.params, task.params["uri"]
    if found.run_state == "inmigrate":
        raise Refusal("the virtual machine itself waits for an incoming migration: there is no guest to migrate yet")
    if found.run_state == "postmigrate":
        raise Refusal(
            "the guest has left in an earlier migration that is not known to have succeeded "
            f"({found.status}), so QEMU can't migrate it again: if it runs nowhere else, qemu_power with state=running and "
            "force=true continues it here"
        )
    reasons = found.migration.get("blocked-reasons", [])
    if reasons:
        raise Refusal(f"the virtual machine can't be migrated: {'; '.join(reasons)}")
    if listens_at(found.migration, uri):
        raise Refusal(f"uri: {uri} is the virtual machine itself")
    steps = settings(vm, params, {"events": True, "return-path": two_way(uri)})
    asked = {name.replace("_", "-"): value for name, value in (params["capabilities"] or {}).items()}
    states = {**capabilities(vm), **{name: True for name, value in asked.items() if value}}
    if params["destination_socket"] is not None:
        check_ready(task, vm, states)
    later = [*_postcopy(params, states), *(_switch(states) if params["wait"] else []), *quits]
    return Move(Plan([*steps, Step("migrate", {"uri": uri})]), later, True)


def _switch(states: Dict[str, bool]) -> List[Step]:
    return [Step("migrate-continue", _CONTINUE)] if states.get("pause-before-switchover") else []


def _postcopy(params: Dict[str, Any], states: Dict[str, bool]) -> List[Step]:
    if params["postcopy_after"] is None:
        return []
    if not states.get("postcopy-ram"):
        raise Refusal("postcopy_after: needs the capability postcopy-ram on both sides")
    return [Step("migrate-start-postcopy")]


def _cancelling(found: Found) -> Move:
    if found.status not in RUNNING:
        return Move(Plan(), [], False)
    if found.status == "device" or found.status.startswith("postcopy"):
        raise Refusal(
            f"the migration is in its phase {found.status} and can't be cancelled any more: part of the guest has left"
        )
    return Move(Plan([Step("migrate_cancel")]), [], True)


def _pausing(found: Found) -> Move:
    if found.status == "postcopy-paused":
        return Move(Plan(), [], False)
    if found.status != "postcopy-active":
        raise Refusal(f"state=paused is for a migration in postcopy, and this one is {found.status}")
    return Move(Plan([Step("migrate-pause")]), [], True)


def _recovering(found: Found, params: Dict[str, Any], quits: List[Step]) -> Move:
    if found.status == "postcopy-paused":
        return Move(Plan([Step("migrate", {"uri": params["uri"], "resume": True})]), quits, True)
    if found.status in RUNNING or found.status == "completed":
        return Move(Plan(), list(quits), found.status in RUNNING or bool(quits))
    raise Refusal(
        f"state=recovered is for a migration that was interrupted in postcopy, and this one is {found.status}"
    )


def _gone(task: Task, exc: errors.ConnectError) -> Dict[str, Any]:
    """A source that is gone is what was wanted, if the guest runs at the destination."""
    if task.params["destination_socket"] is None:
        raise Refusal(
            f"{exc}. Whether it was migrated before can't be told: give destination_socket to have the destination asked"
        ) from exc
    with reached(task) as other:
        state, there = other.status, other.ask("query-migrate")
    if status(there) != "completed" or state in ("inmigrate", "postmigrate"):
        raise Refusal(
            f"{exc}, and the destination has no guest of it: its migration is {status(there)}, its status {state}"
        ) from exc
    migration, same = shape(there), {"status": "off"}
    return {"changed": False, "commands": [], "migration": migration, "diff": {"before": same, "after": same}}


# -- seeing it through ----------------------------------------------------------


def _see_through(task: Task, vm: VM, found: Found, move: Move) -> Dict[str, Any]:
    """Wait for the end and judge it. Returns ``query-migrate``."""
    if not task.params["wait"]:
        vm.forget()
        return dict(vm.ask("query-migrate"))
    steps = {step.execute: step for step in move.later}
    begun = time.monotonic()

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        switch, postcopy = steps.get("migrate-continue"), steps.get("migrate-start-postcopy")
        if switch and status(now) == "pre-switchover":
            perform(steps.pop("migrate-continue"), vm, vm.deadline)
        elif postcopy and status(now) == "active" and time.monotonic() - begun >= task.params["postcopy_after"]:
            perform(steps.pop("migrate-start-postcopy"), vm, vm.deadline)
        return now, status(now) not in RUNNING and vm.status != "finish-migrate", progress(now)

    try:
        end = watch(vm, one_look, task.tell, "MIGRATION", "STOP", "RESUME")
    except Overdue as exc:
        raise _overdue(task, vm, exc.found or {}) from exc
    if status(end) != "completed":
        raise _failed(task, vm, found, end)
    _prove(task, vm, end)
    if "quit" in steps:
        _quit(vm)
    return end


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


def _quit(vm: VM) -> None:
    process = _power.Process(vm.session.process)
    with suppress(errors.Disconnected):
        perform(Step("quit"), vm, vm.deadline)
    _power.gone(vm, process)


def _failed(task: Task, vm: VM, found: Found, end: Dict[str, Any]) -> Refusal:
    """Why it failed, after making sure that a guest that ran goes on here."""
    state = look(vm).run_state
    told = status(end) == "failed" and capabilities(vm).get("return-path")
    if state == "postmigrate" and found.running and told:  # the destination itself has said that it can't
        perform(Step("cont"), vm, vm.deadline)
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


def _overdue(task: Task, vm: VM, last: Dict[str, Any]) -> Exception:
    """The deadline has passed: cancel, if that is wanted and can still be done."""
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
        perform(Step("migrate_cancel"), vm, vm.deadline)
        _wait_cancelled(task, vm)
        state = look(vm).run_state
    except (errors.QMPError, Overdue) as exc:
        return Refusal(f"{far}, and cancelling it failed: {exc}", **figures)
    return Refusal(
        f"{far} and was cancelled; the guest is still here, its status is {state}. Give it more timeout, more max-bandwidth or "
        "downtime-limit (parameters), or the capability auto-converge",
        **figures,
    )


def _wait_cancelled(task: Task, vm: VM) -> Dict[str, Any]:
    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        return now, status(now) not in RUNNING, progress(now)

    return watch(vm, one_look, task.tell, "MIGRATION", every=_LOOK)


def _until_cancelled(task: Task, vm: VM, found: Found, move: Move) -> Dict[str, Any]:
    try:
        end = _wait_cancelled(task, vm)
    except Overdue as exc:
        raise Refusal(
            "the migration was told to stop and has not: run the task again", migration=shape(exc.found or {})
        ) from exc
    if status(end) == "completed":
        raise Refusal("the migration had completed before it could be cancelled", migration=shape(end))
    return end


def _until_paused(task: Task, vm: VM, found: Found, move: Move) -> Dict[str, Any]:
    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        return now, status(now) not in RUNNING, progress(now)

    try:
        end = watch(vm, one_look, task.tell, "MIGRATION")
    except Overdue as exc:
        raise Refusal("the migration was told to pause and has not", migration=shape(exc.found or {})) from exc
    return end


def _result(task: Task, found: Found, move: Move, end: Dict[str, Any]) -> Dict[str, Any]:
    """The diff has what is aimed at, so that check mode shows the same."""
    params = task.params
    aims = {"migrated": "completed", "recovered": "completed", "cancelled": "cancelled", "paused": "postcopy-paused"}
    aim = aims[params["state"]] if params["wait"] else "active"
    before = {"migration": found.status}
    changed = {"migration": aim, **({"status": "off"} if any(step.execute == "quit" for step in move.later) else {})}
    return {
        "changed": move.changed,
        "commands": move.commands,
        "migration": shape(end),
        "diff": {"before": before, "after": changed if move.changed else before},
    }
