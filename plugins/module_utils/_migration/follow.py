# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A guest that leaves: its migration begun, watched to the end, and judged; the end of its source.

The source's own ``completed`` proves nothing unless the destination could answer (``return-path``); the destination's
own word does. Only proof ends a source.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.coercion import with_underscores
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal, TaskError
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.process import Process
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply, execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.watch import watch
from ansible_collections.vmm.qemu.plugins.module_utils._migration.destination import HAS, arrived
from ansible_collections.vmm.qemu.plugins.module_utils._migration.retreat import (
    OVERTIME,
    Trip,
    call_back,
    ended,
    judge,
    look,
    over,
    set_back,
    within,
)
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import (
    HERE,
    LEFT,
    capabilities,
    progress,
    status,
)
from ansible_collections.vmm.qemu.plugins.module_utils._operations import power
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM


# A migration that was told to go on stays postcopy-paused until it is connected.
_RESUME_SECONDS = 5.0


class Move(NamedTuple):
    """What is to be done: the steps that begin it, those that follow in their time, and what the destination is told first."""

    begin: Plan
    later: List[Step]
    changed: bool
    there: Tuple[Step, ...] = ()
    warnings: Tuple[str, ...] = ()
    seen: bool = False
    """Whether the destination was seen to wait for a guest."""

    @property
    def commands(self) -> List[Dict[str, Any]]:
        """All of them, as the result shows them."""
        return [*(step.public() for step in (*self.there, *self.begin.steps, *self.later))]

    def has(self, command: str) -> bool:
        """Whether that command comes later."""
        return any(step.execute == command for step in self.later)


def begin(vm: VM, begin: Plan) -> None:
    """Raises PlanFailed, with no migration of this task under way."""
    try:
        apply(begin, vm)
    except PlanFailed as exc:
        with suppress(errors.QMPError):
            # QEMU 10.0 stays in setup when it refuses one. That of another task may be there, too: it is why this was refused
            refused = isinstance(exc.cause, errors.CommandError) and exc.step.execute == "migrate"
            if refused and "in progress" not in str(exc.cause) and look(vm).status == "setup":
                execute_step(Step("migrate_cancel"), vm, vm.deadline)
        raise


def see_through(trip: Trip, move: Move) -> Dict[str, Any]:
    """Wait for the end and judge it. Returns ``query-migrate``."""
    vm, params = trip.vm, trip.task.params
    if not params["wait"]:
        vm.forget()
        return dict(vm.ask("query-migrate"))
    steps = {step.execute: step for step in move.later}
    begun = time.monotonic()

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        trip.answered = time.monotonic()
        switch, postcopy = steps.get("migrate-continue"), steps.get("migrate-start-postcopy")
        if switch and status(now) == "pre-switchover":
            trip.send(vm, steps.pop("migrate-continue"))
        elif postcopy and status(now) == "active" and time.monotonic() - begun >= params["postcopy_after"]:
            trip.send(vm, steps.pop("migrate-start-postcopy"))
        resuming = move.begin.steps and status(now) == "postcopy-paused" and time.monotonic() - begun < _RESUME_SECONDS
        return now, over(vm, now) and not resuming, progress(now)

    try:
        end = watch(vm, one_look, trip.task.on_progress, "MIGRATION", "STOP", "RESUME")
    except NotDoneInTime as exc:
        return _overdue(trip, move, exc.found or {})
    if status(end) != "completed":
        raise _failed(trip, move, end)
    _prove(trip, end)
    if "quit" in steps:
        _quit(trip)
    return end


def _prove(trip: Trip, end: Dict[str, Any]) -> None:
    """Raise Refusal where it is not certain that the guest is at the destination. The source stays as it is then."""
    figures = {"migration": with_underscores(end)}
    if trip.task.params["destination_socket"] is not None:
        try:
            arrived(trip.task)
        except TaskError as exc:
            raise Refusal(
                f"the guest has left, but is not known to have arrived: {exc}. This virtual machine stays stopped (postmigrate) "
                "and keeps the guest: if it runs nowhere else, qemu_power with state=running and force=true continues it here",
                **figures,
            ) from exc
    elif trip.task.params["source_after"] == "quit" and not capabilities(trip.vm).get("return-path"):
        raise Refusal(
            "source_after: the virtual machine was not ended, since nothing proves that the guest has arrived: "
            "this migration has no return path; give destination_socket",
            **figures,
        )
    trip.guest = LEFT


def _quit(trip: Trip) -> None:
    process = Process(trip.vm.session.process)
    with suppress(errors.Disconnected):
        trip.send(trip.vm, Step("quit"))
    power.wait_until_ended(trip.vm, process)


def _failed(trip: Trip, move: Move, end: Dict[str, Any]) -> Refusal:
    """Why it failed, after making sure as far as can be that the guest runs once."""
    figures = {"migration": with_underscores(end)}
    if status(end) == "postcopy-paused":
        return Refusal(
            "the migration has lost its connection in postcopy; the guest stands still, half here and half there. When the "
            "network is back: state=recovered",
            **figures,
        )
    where = judge(trip, end)
    set_back(trip, move.begin)
    if status(end) == "cancelled":
        return Refusal(f"the migration was cancelled by somebody else. {where}", **figures)
    reason = end.get("error-desc") or "QEMU does not say why here; the destination's standard error or log does"
    return Refusal(
        f"the migration to {trip.task.params['uri']} failed: {reason}. {where}",
        error={"class": "GenericError", "desc": end.get("error-desc", "")},
        **figures,
    )


def _overdue(trip: Trip, move: Move, last: Dict[str, Any]) -> Dict[str, Any]:
    """The deadline has passed: cancel, if that is wanted and can still be done. Raises Refusal, unless a source is ended
    whose guest has proved to be at the destination."""
    task, now = trip.task, progress(last)
    rate = f", {now.rate / (1 << 20):.1f} MiB/s" if now.rate else ""
    far = f"the migration is not over after {task.params['timeout']:.4g} s ({status(last)}, {now.percent:.0f} %{rate})"
    figures = {"migration": with_underscores(last)}
    if task.params["on_timeout"] == "leave":
        trip.stays_set(move.begin)
        raise Refusal(f"{far} and goes on: run the task again to join it, with more timeout", **figures)
    if status(last).startswith("postcopy"):
        trip.stays_set(move.begin)
        raise Refusal(f"{far}. It can't be cancelled any more and goes on: run the task again to join it", **figures)
    with within(trip, OVERTIME):
        back = call_back(trip)
        if back.word.guest == HAS and move.has("quit") and not back.over:
            trip.guest = LEFT
            _quit(trip)
            return dict(last)
    if not back.over:
        trip.stays_set(move.begin)
        raise Refusal(f"{far}, {back.why}", **figures)
    if status(back.migration) == "completed":
        trip.guest = LEFT
        raise Refusal(
            f"{far}, but it was by the time it was cancelled: run the task again. {back.why}".rstrip(". "),
            migration=with_underscores(back.migration),
        )
    set_back(trip, move.begin)
    advice = "Give it more timeout, more max-bandwidth or downtime-limit (parameters), or the capability auto-converge"
    raise Refusal(f"{far} and was {back.how}. {back.why}{f'. {advice}' if trip.guest == HERE else ''}", **figures)


def until_cancelled(trip: Trip, move: Move) -> Dict[str, Any]:
    """End it here. Returns ``query-migrate``."""
    back = call_back(trip)
    figures = {"migration": with_underscores(back.migration)}
    if not back.over:
        raise Refusal(f"the migration is not over, {back.why}", **figures)
    if status(back.migration) == "completed":
        trip.guest = LEFT
        raise Refusal(f"the migration had completed before it could be cancelled. {back.why}".rstrip(". "), **figures)
    if trip.guest != HERE:
        raise Refusal(f"the migration was {back.how}. {back.why}", **figures)
    return back.migration


def until_paused(trip: Trip, move: Move) -> Dict[str, Any]:
    """Wait until postcopy stands still. Returns ``query-migrate``."""
    try:
        end = ended(trip)
    except NotDoneInTime as exc:
        raise Refusal(
            "the migration was told to pause and has not", migration=with_underscores(exc.found or {})
        ) from exc
    if status(end) != "postcopy-paused":
        raise Refusal(
            f"the migration is {status(end)}, and was so before it could be paused", migration=with_underscores(end)
        )
    return end
