# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The source of a migration: from where it stands to the state that is wanted, without ever running a guest twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.coercion import with_underscores
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration.destination import (
    ALIKE,
    LACKS,
    ask,
    at,
    check_ready,
    has_guest,
    reached,
    recovering,
)
from ansible_collections.vmm.qemu.plugins.module_utils._migration.follow import (
    Move,
    begin,
    see_through,
    until_cancelled,
    until_paused,
)
from ansible_collections.vmm.qemu.plugins.module_utils._migration.retreat import Found, Trip, last_phase, look
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import (
    LEFT,
    RUNNING,
    UNKNOWN,
    capabilities,
    check_file,
    check_uri,
    joining,
    listens_at,
    settings,
    status,
    two_way,
)
from ansible_collections.vmm.qemu.plugins.module_utils._operations.blocked import check_blocked
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

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
_CONTINUE = {"state": "pre-switchover"}


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal, PlanFailed, ConnectError and its kin."""
    params = task.params
    _check(params)
    task.details["guest"] = UNKNOWN
    try:
        vm = task.connect()
    except errors.ConnectError as exc:
        if not exc.nobody or params["state"] != "migrated":
            raise
        return _gone(task, exc)
    trip = Trip(task, vm, look(vm))
    try:
        return _work(trip)
    finally:
        task.details.update(trip.told())


def _work(trip: Trip) -> Dict[str, Any]:
    task = trip.task
    move = decide(task, trip.vm, trip.found)
    trip.warnings += move.warnings
    trip.seen = move.seen
    if task.check_mode or not move.changed:
        return _result(trip, move, trip.found.migration)
    try:
        _begin(trip, move)
        end = {"cancelled": until_cancelled, "paused": until_paused}.get(task.params["state"], see_through)
        done = end(trip, move)
    except NotDoneInTime as exc:
        raise Refusal(f"QEMU has not answered within {task.params['timeout']:.4g} s") from exc
    return {**_result(trip, move, done), "commands": task.account.commands}


def _begin(trip: Trip, move: Move) -> None:
    for step in move.there if trip.task.params["state"] == "recovered" else ():
        with reached(trip.task) as other:
            trip.send(other, step)
    if not move.begin.steps:
        return
    before, trip.guest = trip.guest, UNKNOWN
    try:
        begin(trip.vm, move.begin)
    except PlanFailed as exc:
        if isinstance(exc.cause, errors.CommandError) or exc.step.execute != "migrate":
            trip.guest = before
        raise


def _check(params: Dict[str, Any]) -> None:
    """Raise Refusal for options that are wrong whatever the VM is like."""
    if params["state"] in ("migrated", "recovered"):
        if params["uri"] is None:
            raise Refusal(f"uri: state={params['state']} needs the address of the destination")
        check_uri(params["uri"])
    if params["source_after"] == "quit" and not params["wait"]:
        raise Refusal("source_after: without wait, nobody is there to prove that the destination runs")
    if params["source_after"] == "quit" and not two_way(params["uri"] or "") and params["destination_socket"] is None:
        raise Refusal(
            f"source_after: nothing can prove that the guest has arrived by {params['uri']}, which has no way back: give "
            "destination_socket, or end the source with qemu_power"
        )
    if params["postcopy_after"] is not None and not params["wait"]:
        raise Refusal("postcopy_after: without wait, nobody is there to switch to postcopy")
    destination = params["destination_socket"]
    if destination is not None and str(parse(destination)) == str(parse(params["socket"])):
        raise Refusal(f"destination_socket: {destination} is the virtual machine itself")


def decide(task: Task, vm: VM, found: Found) -> Move:
    """What leads to the wanted state. Queries only. Raises Refusal for what reading can tell will fail."""
    params = task.params
    state, quits = params["state"], [Step("quit")] if params["source_after"] == "quit" else []
    if state == "cancelled":
        return _cancelling(task, found)
    if state == "paused":
        return _pausing(found)
    if state == "recovered":
        return _recovering(task, found, quits)
    if found.status == "completed" and found.run_state == "postmigrate":
        named = params["destination_socket"] is not None
        return Move(
            Plan(), list(quits), bool(quits), warnings=() if named else (_elsewhere(params, "has left already"),)
        )
    if found.status == "postcopy-paused":
        raise Refusal(
            "the migration has lost its connection in postcopy, and the guest stands still: use state=recovered"
        )
    if found.status == "cancelling":
        raise Refusal(
            "an earlier migration was told to stop, and QEMU has not ended it yet, as while it still tries to connect: "
            "the guest is here; run the task again when that is over"
        )
    if found.status in RUNNING:
        steps, warnings = joining(vm, params)
        warnings.append(_elsewhere(params, "is on its way already"))
        later = [*_switch(capabilities(vm)), *quits]
        return Move(Plan(steps), later, True, warnings=tuple(warnings), seen=ask(task).waits)
    return _starting(task, vm, found, quits)


def _elsewhere(params: Dict[str, Any], what: str) -> str:
    return f"the guest {what}, and QEMU does not tell where to: it is taken for {params['uri']}"


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
    check_blocked(vm, "the virtual machine can't be migrated")
    if listens_at(found.migration, uri):
        raise Refusal(f"uri: {uri} is the virtual machine itself")
    check_file(vm, uri)
    steps = settings(vm, params, {"events": True, "return-path": two_way(uri)})
    sets = [entry for step in steps for entry in step.arguments.get("capabilities", [])]
    states = {**capabilities(vm), **{entry["capability"]: entry["state"] for entry in sets}}
    if params["destination_socket"] is not None:
        check_ready(task, vm, states)
    if quits and params["destination_socket"] is None and not states.get("return-path"):
        raise Refusal(
            "source_after: without the capability return-path or destination_socket nothing proves that the guest arrives"
        )
    later = [*_postcopy(params, states), *(_switch(states) if params["wait"] else []), *quits]
    begins = Step("migrate", {"uri": uri}, hint=_not_ended if found.status == "cancelled" else None)
    seen = params["destination_socket"] is not None
    return Move(Plan([*steps, begins]), later, True, warnings=_inherited(params, states), seen=seen)


def _inherited(params: Dict[str, Any], states: Dict[str, bool]) -> Tuple[str, ...]:
    """What is to be told of capabilities that are on, though not by this task, and that an unseen destination has to have."""
    named = {str(name).replace("_", "-") for name in params["capabilities"] or {}}
    kept = [name for name in ALIKE if states.get(name) and name not in named]
    if not kept or params["destination_socket"] is not None:
        return ()
    return (
        f"capabilities: {', '.join(kept)} is on from before, as after a migration that brought the guest here, and the "
        "destination needs it, too: name it, to have it on or off",
    )


def _not_ended(refusal: errors.CommandError) -> str:
    return "a migration that was cancelled while it tried to connect may not have ended yet: run the task again in two minutes"


def _switch(states: Dict[str, bool]) -> List[Step]:
    return [Step("migrate-continue", _CONTINUE)] if states.get("pause-before-switchover") else []


def _postcopy(params: Dict[str, Any], states: Dict[str, bool]) -> List[Step]:
    if params["postcopy_after"] is None:
        return []
    if not states.get("postcopy-ram"):
        raise Refusal("postcopy_after: needs the capability postcopy-ram on both sides")
    return [Step("migrate-start-postcopy")]


def _cancelling(task: Task, found: Found) -> Move:
    if found.status not in RUNNING:
        return Move(Plan(), [], False)
    if found.status.startswith("postcopy"):
        raise Refusal(
            f"the migration is in its phase {found.status} and can't be cancelled any more: part of the guest has left"
        )
    there = []
    if found.leaving or (found.status == "active" and task.params["destination_socket"] is not None):
        word = ask(task)
        if found.leaving and word.guest != LACKS:
            raise Refusal(f"the migration is not over, {last_phase(word, found)}")
        there = [at(task.params["destination_socket"], Step("stop"))] if word.waits else []
    return Move(Plan(), [Step("migrate_cancel")], True, there=tuple(there))


def _pausing(found: Found) -> Move:
    if found.status == "postcopy-paused":
        return Move(Plan(), [], False)
    if found.status != "postcopy-active":
        raise Refusal(f"state=paused is for a migration in postcopy, and this one is {found.status}")
    return Move(Plan([Step("migrate-pause")]), [], True)


def _recovering(task: Task, found: Found, quits: List[Step]) -> Move:
    if found.status == "postcopy-paused":
        resume = Step("migrate", {"uri": task.params["uri"], "resume": True})
        return Move(Plan([resume]), quits, True, there=tuple(recovering(task)))
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
    if not has_guest(state, there):
        raise Refusal(
            f"{exc}, and the destination has no guest of it: its migration is {status(there)}, its status {state}",
            guest=UNKNOWN,
        ) from exc
    migration, same = with_underscores(there), {"status": "off"}
    diff = {"before": same, "after": same}
    return {"changed": False, "commands": [], "migration": migration, "guest": LEFT, "warnings": [], "diff": diff}


def _result(trip: Trip, move: Move, end: Dict[str, Any]) -> Dict[str, Any]:
    """The diff has what is aimed at, so that check mode shows the same."""
    params = trip.task.params
    aims = {"migrated": "completed", "recovered": "completed", "cancelled": "cancelled", "paused": "postcopy-paused"}
    aim = aims[params["state"]] if params["wait"] else "active"
    before = {"migration": trip.found.status}
    changed = {"migration": aim, **({"status": "off"} if move.has("quit") else {})}
    return {
        **trip.told(),
        "changed": move.changed,
        "commands": move.commands,
        "migration": with_underscores(end),
        "diff": {"before": before, "after": changed if move.changed else before},
    }
