# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""qemu_migrate: from where a migration stands to the state that is wanted, without ever running a guest twice."""
# Private to the collection: may change without notice.

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Dict, List

from .._core.coercion import with_underscores
from .._core.errors import NotDoneInTime, Refusal
from .._core.option import Option
from .._core.plan import Plan, PlanFailed
from .._core.step import Step
from .._engine.operation import Operation, Params, Run
from .._host.shutdown import Ended
from .._operations.blocked import check_blocked, check_jobs, working_jobs
from .._qmp import errors
from .._qmp.address import parse
from . import destination, follow, opened, settings
from .current import LACKS, LEFT, RUNNING, UNKNOWN, Current, has_guest, look, where_guest_is
from .retreat import BEFORE_SWITCH, CALLS_BACK, CUT, Trip, last_phase

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM


class Migrate(Operation):
    """Bring a migration, seen from its source, to a state."""

    options = {
        "uri": Option("str"),
        "state": Option("str", choices=["migrated", "cancelled", "paused", "recovered"], default="migrated"),
        "capabilities": Option("dict"),
        "parameters": Option("dict"),
        "wait": Option("bool", default=True),
        "on_timeout": Option("str", choices=["cancel", "leave"], default="cancel"),
        "source_after": Option("str", choices=["leave", "quit"], default="leave"),
        "destination_socket": Option("str"),
        "postcopy_after": Option("float"),
        "copy_disks": Option(
            "dict",
            options={
                **settings.COPY_DISKS,
                "chain": Option("str", choices=["flatten", "keep"], default="flatten"),
                "files": Option("dict"),
                "speed": Option("str"),
                "switch_timeout": Option("float", default=10.0),
            },
        ),
    }

    def check(self, params: Params) -> Params:
        """Refuse addresses that are not valid, and options that contradict each other."""
        if params["state"] in ("migrated", "recovered"):
            if params["uri"] is None:
                raise Refusal(f"uri: state={params['state']} needs the address of the destination")
            settings.check_uri(params["uri"])
        if params["source_after"] == "quit" and not params["wait"]:
            raise Refusal("source_after: without wait, nobody is there to prove that the destination runs")
        if (
            params["source_after"] == "quit"
            and not settings.two_way(params["uri"] or "")
            and params["destination_socket"] is None
        ):
            raise Refusal(
                f"source_after: nothing can prove that the guest has arrived by {params['uri']}, which has no way back: give "
                "destination_socket, or end the source with qemu_power"
            )
        if params["postcopy_after"] is not None and not params["wait"]:
            raise Refusal("postcopy_after: without wait, nobody is there to switch to postcopy")
        there = params["destination_socket"]
        if there is not None and str(parse(there)) == str(parse(params["socket"])):
            raise Refusal(f"destination_socket: {there} is the virtual machine itself")
        if params.get("copy_disks"):
            from .copies import check_params

            check_params(params)
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return where it stands, here and as far as it matters at the destination. The result says so even if the task fails."""
        vm.account.details["guest"] = UNKNOWN
        current = look(vm)
        vm.account.details["guest"] = where_guest_is(current)
        return _read_more(vm, current, params)

    def unreachable(self, task: Task, params: Params, error: errors.QMPError) -> Dict[str, Any]:
        """Return the result of a source that is gone, which is what was wanted if the guest runs at the destination."""
        task.details.setdefault("guest", UNKNOWN)
        if not isinstance(error, errors.ConnectError) or not error.nobody or params["state"] != "migrated":
            raise error
        if params["destination_socket"] is None:
            raise Refusal(
                f"{error}. Whether it was migrated before can't be told: give destination_socket to have the destination asked"
            ) from error
        with destination.reached(task, params["destination_socket"]) as other:
            there = look(other)
            arrived = has_guest(there.run_state, there.migration)
        if not arrived:
            raise Refusal(
                f"{error}, and the destination has no guest of it: its migration is {there.status}, its status {there.run_state}"
            ) from error
        migration, same = with_underscores(there.migration), {"status": "off"}
        diff = {"before": same, "after": same}
        return {"changed": False, "commands": [], "migration": migration, "guest": LEFT, "warnings": [], "diff": diff}

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what leads to the wanted state."""
        decide, _until, aim = _STATES[params["state"]]
        plan = decide(current, params)
        plan.on_failure = frozenset(CALLS_BACK)
        if current.copies or current.left:
            from .copies import CLEARS

            plan.on_failure |= frozenset(CLEARS)
        plan.before = plan.after = {"migration": current.status}
        if plan.changed:
            quits = any(step.execute == "quit" for step in plan.later)
            plan.after = {"migration": aim if params["wait"] else "active", **({"status": "off"} if quits else {})}
        return plan

    def begin(self, run: Run, current: Current, params: Params) -> None:
        """Do the first steps; where that fails, no migration of this task is under way."""
        details = run.task.details
        details["warnings"] = run.plan.warnings
        if run.plan.steps:
            details["guest"] = UNKNOWN
        try:
            run.begin()
        except PlanFailed as exc:
            refused = isinstance(exc.cause, errors.CommandError)
            if refused or exc.step.execute != "migrate":
                details["guest"] = where_guest_is(current)
            with suppress(errors.QMPError, NotDoneInTime):
                # QEMU 10.0 stays in setup when it refuses one. That of another task may be there, too: it is why this was refused
                begins = exc.step.execute == "migrate" and "in progress" not in str(exc.cause)
                if refused and begins and look(run.vm).status == "setup":
                    run.send(Step("migrate_cancel"))
            raise

    def follow(self, run: Run, current: Current, params: Params) -> Dict[str, Any]:
        """See it through, call it back or let it go on. Return what the result says of it."""
        trip = Trip(run, current)
        end = _STATES[params["state"]][1](trip)
        # a task that joins a migration need not have sent all that was planned
        return {"migration": with_underscores(end), "guest": trip.guest, "commands": run.vm.account.commands}

    def describe(self, current: Current, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return ``migration`` and ``guest``, and the ``commands`` that were sent."""
        return end or {"migration": with_underscores(current.migration), "guest": where_guest_is(current)}


def _read_more(vm: VM, current: Current, params: Params) -> Current:
    """Read what the state that is wanted needs besides. Raise Refusal where a migration can't be begun."""
    state, named = params["state"], params["destination_socket"] is not None
    if state == "cancelled" or params.get("copy_disks"):
        current = _read_copies(vm, current, params)
    if state == "cancelled" and (
        current.status == "pre-switchover" or (current.left and current.status in BEFORE_SWITCH)
    ):
        waits = settings.capabilities(vm).get("pause-before-switchover", False)
        return current._replace(cuts=waits and vm.has_command("yank"))
    if state == "cancelled" and (current.leaving or (current.status == "active" and named)):
        return current._replace(word=destination.ask(vm, params))
    if state == "recovered" and current.status == "postcopy-paused":
        return current._replace(there=destination.read_there(vm, params))
    if state == "migrated" and current.goes_on:
        return current._replace(
            settings=settings.read_settings(vm, params["parameters"]),
            jobs=working_jobs(vm) if current.status == "pre-switchover" else (),
            seen=destination.ask(vm, params).waits,
        )
    if state == "migrated" and current.can_begin:
        check_blocked(vm, "the virtual machine can't be migrated")
        settings.check_file(vm, params["uri"])
        if not params.get("copy_disks"):
            opened.check(vm)
        have, jobs = settings.read_settings(vm, params["parameters"]), working_jobs(vm)
        return current._replace(settings=have, jobs=jobs, there=destination.read_there(vm, params), seen=named)
    return current


def _read_copies(vm: VM, current: Current, params: Params) -> Current:
    """Read which disks go along, and what an earlier task has left of copies, where nothing of it is still needed."""
    from . import copies

    given = params.get("copy_disks")
    going = current.goes_on or current.leaving
    left = [] if given and going else copies.leftovers(vm)
    if not given or not (going or current.can_begin):
        return current._replace(left=left)
    if not going:
        copies.check_line(vm, given)
        copies.check_kept(vm, given)
    return current._replace(copies=copies.read(vm, given), left=left)


def _migrating(current: Current, params: Params) -> Plan:
    if current.status == "completed" and current.run_state == "postmigrate":
        named = params["destination_socket"] is not None
        later = [*current.left, *_quits(params)]
        return Plan(later=later, warnings=() if named else [_elsewhere(params, "has left already")])
    if current.status == "postcopy-paused":
        raise Refusal(
            "the migration has lost its connection in postcopy, and the guest stands still: use state=recovered"
        )
    if current.status == "cancelling":
        raise Refusal(
            "an earlier migration was told to stop, and QEMU has not ended it yet, as while it still tries to connect: "
            "the guest is here; run the task again when that is over"
        )
    if current.goes_on:
        _check_jobs(current, params, current.settings.capabilities)
        steps, warnings = settings.joining(current.settings, params)
        warnings.append(_elsewhere(params, "is on its way already"))
        if current.copies and not current.settings.capabilities.get("pause-before-switchover"):
            raise Refusal(
                "copy_disks: the migration that is under way does not wait for its disks (pause-before-switchover is off), so "
                "that the guest would be without what it has written: cancel it (state=cancelled)"
            )
        later = [*_switching(current, current.settings.capabilities), *_quits(params)]
        return Plan(steps, later, changed=True, warnings=warnings)
    return _starting(current, params)


def _quits(params: Params) -> List[Step]:
    return [Step("quit", wait=Ended())] if params["source_after"] == "quit" else []


def _elsewhere(params: Params, what: str) -> str:
    return f"the guest {what}, and QEMU does not tell where to: it is taken for {params['uri']}"


def _starting(current: Current, params: Params) -> Plan:
    uri, quits = params["uri"], _quits(params)
    if current.run_state == "inmigrate":
        raise Refusal("the virtual machine itself waits for an incoming migration: there is no guest to migrate yet")
    if current.run_state in ("finish-migrate", "postmigrate"):
        raise Refusal(
            "the guest has left in an earlier migration that is not known to have succeeded "
            f"({current.status}), so QEMU can't migrate it again: if it runs nowhere else, qemu_power with state=running and "
            "force=true continues it here"
        )
    if settings.listens_at(current.migration, uri):
        raise Refusal(f"uri: {uri} is the virtual machine itself")
    usual = {"events": True, "return-path": settings.two_way(uri)}
    usual.update({"pause-before-switchover": True} if current.copies else {})
    usual.update({"dirty-bitmaps": True} if any(copy.bitmaps for copy in current.copies) else {})
    steps = settings.setting_steps(current.settings, params, usual)
    sets = [entry for step in steps for entry in step.arguments.get("capabilities", [])]
    states = {**current.settings.capabilities, **{entry["capability"]: entry["state"] for entry in sets}}
    _check_jobs(current, params, states)
    destination.check_ready(current, params, states)
    if quits and params["destination_socket"] is None and not states.get("return-path"):
        raise Refusal(
            "source_after: without the capability return-path or destination_socket nothing proves that the guest arrives"
        )
    if current.copies and not states.get("pause-before-switchover"):
        raise Refusal("capabilities: copy_disks needs pause-before-switchover")
    later = [*_postcopy(params, states), *(_switching(current, states) if params["wait"] else []), *quits]
    begins = Step("migrate", {"uri": uri}, hint=_not_ended if current.status == "cancelled" else None)
    if current.copies:
        from . import copies

        begun = [step for number in (0, 1) for step in (copy.begin[number] for copy in current.copies)]
        steps += copies.carrying(current.copies, current.settings.parameters)
        warnings = [*_inherited(params, states), *copies.left_behind(current.copies)]
        return Plan([*current.left, *steps, *begun], [begins, *later], warnings=warnings)
    return Plan([*steps, begins], later, warnings=_inherited(params, states))


def _check_jobs(current: Current, params: Params, states: Dict[str, bool]) -> None:
    """Raise Refusal where the guest would leave while a job works on its disks, but for those that copy them there."""
    if not params["wait"] and states.get("pause-before-switchover"):
        return  # somebody ends them before the guest leaves
    jobs = current.jobs
    if current.copies:
        from .copies import PREFIX

        jobs = [job for job in jobs if not job.startswith(PREFIX)]
    check_jobs("the virtual machine can't be migrated", jobs)


def _inherited(params: Params, states: Dict[str, bool]) -> List[str]:
    """Return a warning of capabilities that are on, though not by this task, and that an unseen destination needs too."""
    named = {str(name).replace("_", "-") for name in params["capabilities"] or {}}
    kept = [name for name in destination.ALIKE if states.get(name) and name not in named]
    if not kept or params["destination_socket"] is not None:
        return []
    return [
        f"capabilities: {', '.join(kept)} is on from before, as after a migration that brought the guest here, and the "
        "destination needs it, too: name it, to have it on or off",
    ]


def _not_ended(refusal: errors.CommandError) -> str:
    return "a migration that was cancelled while it tried to connect may not have ended yet: run the task again in two minutes"


def _switch(states: Dict[str, bool]) -> List[Step]:
    return [Step("migrate-continue", {"state": "pre-switchover"})] if states.get("pause-before-switchover") else []


def _switching(current: Current, states: Dict[str, bool]) -> List[Step]:
    """Return the steps of the switchover, in which disks that go along are brought up to date, and what clears up after it."""
    ends = [copy.end for copy in current.copies]
    return [*ends, *_switch(states), *(step for copy in current.copies for step in copy.clear)]


def _postcopy(params: Params, states: Dict[str, bool]) -> List[Step]:
    if params["postcopy_after"] is None:
        return []
    if not states.get("postcopy-ram"):
        raise Refusal("postcopy_after: needs the capability postcopy-ram on both sides")
    return [Step("migrate-start-postcopy")]


def _cancelling(current: Current, params: Params) -> Plan:
    if current.status not in RUNNING:
        return Plan(later=current.left)
    if current.status.startswith("postcopy"):
        raise Refusal(
            f"the migration is in its phase {current.status} and can't be cancelled any more: part of the guest has left"
        )
    if current.leaving and current.word.guest != LACKS:
        raise Refusal(f"the migration is not over, {last_phase(current.word, current)}")
    there = [Step("stop", socket=params["destination_socket"])] if current.word.waits else []
    yanks = [step for step in current.left if current.cuts and step.execute == "yank"]
    rest = [step for step in current.left if step not in yanks]
    return Plan(later=[*there, *([CUT] if current.cuts else []), *yanks, Step("migrate_cancel"), *rest])


def _pausing(current: Current, params: Params) -> Plan:
    if current.status == "postcopy-paused":
        return Plan()
    if current.status != "postcopy-active":
        raise Refusal(f"state=paused is for a migration in postcopy, and this one is {current.status}")
    return Plan([Step("migrate-pause")])


def _recovering(current: Current, params: Params) -> Plan:
    uri, quits = params["uri"], _quits(params)
    if current.status == "postcopy-paused":
        lost = current.there is not None and current.there.status == "postcopy-paused"
        there = [Step("migrate-recover", {"uri": uri}, socket=params["destination_socket"])] if lost else []
        # later, and not all or nothing: a destination that listens again does so for good
        return Plan(later=[*there, Step("migrate", {"uri": uri, "resume": True}), *quits])
    if current.status in RUNNING or current.status == "completed":
        return Plan(later=quits, changed=current.status in RUNNING or bool(quits))
    raise Refusal(
        f"state=recovered is for a migration that was interrupted in postcopy, and this one is {current.status}"
    )


_STATES = {
    "migrated": (_migrating, follow.until_migrated, "completed"),
    "cancelled": (_cancelling, follow.until_cancelled, "cancelled"),
    "paused": (_pausing, follow.until_paused, "postcopy-paused"),
    "recovered": (_recovering, follow.until_recovered, "completed"),
}
"""How each state is planned and seen to, and what ``query-migrate`` calls it."""

MIGRATE = Migrate()
