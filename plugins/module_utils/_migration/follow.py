# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A guest that leaves: its migration watched to the end, and judged; the end of its source.

The source's own ``completed`` proves nothing unless the destination could answer (``return-path``); the destination's
own word does. Only proof ends a source.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Dict, Tuple

from .._core.coercion import with_underscores
from .._core.errors import NotDoneInTime, OperationFailed, TaskError
from .._core.progress import Progress
from .current import HAS, HERE, LEFT, RUNNING, over, progress, status
from .destination import check_arrived, reached
from .retreat import OVERTIME, Back, Trip, call_back, ended, judge, set_back, within
from .settings import capabilities, hangs_up

if TYPE_CHECKING:
    from .._core.step import Step

# A migration that was told to go on stays postcopy-paused until it is connected.
_RESUME_SECONDS = 5.0


def until_recovered(trip: Trip) -> Dict[str, Any]:
    """Let an interrupted postcopy go on, at the destination first, and see it through. Return ``query-migrate``."""
    planned = _later(trip)
    if "migrate-recover" in planned:
        with reached(trip.vm, trip.run.task.params["destination_socket"]) as other:
            trip.run.send(planned["migrate-recover"], vm=other)
    if "migrate" in planned:
        trip.run.send(planned["migrate"])
    return until_migrated(trip)


def until_migrated(trip: Trip) -> Dict[str, Any]:
    """Wait for the end and judge it. Return ``query-migrate``."""
    if trip.current.copies or trip.current.left:
        from .copying import along

        return along(trip, _seen_through)
    return _seen_through(trip)


def _seen_through(trip: Trip) -> Dict[str, Any]:
    vm, params, planned = trip.vm, trip.run.task.params, _later(trip)
    if not params["wait"]:
        vm.forget()
        return dict(vm.ask("query-migrate"))
    begun = time.monotonic()
    if trip.current.copies:
        from . import copying

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        copied = trip.current.copies and "migrate-continue" in planned
        now = copying.asked(trip) if copied else vm.ask("query-migrate")
        trip.answered = time.monotonic()
        switch, postcopy = planned.get("migrate-continue"), planned.get("migrate-start-postcopy")
        if switch and status(now) == "pre-switchover":
            if copied:
                copying.switch(trip)
            trip.run.send(planned.pop("migrate-continue"))
        elif postcopy and status(now) == "active" and time.monotonic() - begun >= params["postcopy_after"]:
            trip.run.send(planned.pop("migrate-start-postcopy"))
        resumes = "migrate" in planned and time.monotonic() - begun < _RESUME_SECONDS
        return now, over(vm, now) and not (resumes and status(now) == "postcopy-paused"), progress(now)

    try:
        end = trip.run.watch(one_look, "MIGRATION", "STOP", "RESUME")
    except NotDoneInTime as exc:
        return _overdue(trip, exc.found or {})
    if status(end) != "completed":
        raise _failed(trip, end)
    _prove(trip, end)
    if trip.current.copies:
        copying.clear(trip)
    if "quit" in planned:
        trip.run.send(planned["quit"])
    return end


def _later(trip: Trip) -> Dict[str, Step]:
    return {step.execute: step for step in trip.run.plan.later}


def _prove(trip: Trip, end: Dict[str, Any]) -> None:
    """Raise OperationFailed where it is not certain that the guest is at the destination. The source stays as it is then."""
    figures = {"migration": with_underscores(end)}
    if trip.run.task.params["destination_socket"] is not None:
        try:
            check_arrived(trip.run)
        except TaskError as exc:
            raise OperationFailed(
                f"the guest has left, but is not known to have arrived: {exc}. This virtual machine stays stopped (postmigrate) "
                "and keeps the guest: if it runs nowhere else, qemu_power with state=running and force=true continues it here",
                **figures,
            ) from exc
    elif trip.run.task.params["source_after"] == "quit" and not capabilities(trip.vm).get("return-path"):
        raise OperationFailed(
            "source_after: the virtual machine was not ended, since nothing proves that the guest has arrived: "
            "this migration has no return path; give destination_socket",
            **figures,
        )
    trip.guest = LEFT


def _failed(trip: Trip, end: Dict[str, Any]) -> OperationFailed:
    """Return why it failed, after making sure as far as can be that the guest runs once."""
    figures = {"migration": with_underscores(end)}
    if status(end) == "postcopy-paused":
        return OperationFailed(
            "the migration has lost its connection in postcopy; the guest stands still, half here and half there. When the "
            "network is back: state=recovered",
            **figures,
        )
    where = judge(trip, end)
    set_back(trip)
    if status(end) == "cancelled":
        return OperationFailed(f"the migration was cancelled by somebody else. {where}", **figures)
    reason, more = end.get("error-desc"), ""
    if not reason:
        reason = "QEMU does not say why here; the destination's standard error or log does"
        if trip.guest == HERE and not hangs_up(trip.current.settings):
            more = (
                ". End the destination before you migrate again: a QEMU before 8.2 may not have hung up, and crashes if that one "
                "ends later"
            )
    return OperationFailed(
        f"the migration to {trip.run.task.params['uri']} failed: {reason}. {where}{more}",
        error={"class": "GenericError", "desc": end.get("error-desc", "")},
        **figures,
    )


def _overdue(trip: Trip, last: Dict[str, Any]) -> Dict[str, Any]:
    """Cancel, if that is wanted and can still be done, since the deadline has passed.

    Raise NotDoneInTime or OperationFailed, unless a source is ended whose guest has proved to be at the destination.
    """
    params, now, quits = trip.run.task.params, progress(last), _later(trip).get("quit")
    rate = f", {now.rate / (1 << 20):.1f} MiB/s" if now.rate else ""
    far = f"the migration is not over after {params['timeout']:.4g} s ({status(last)}, {now.percent:.0f} %{rate})"
    figures = {"migration": with_underscores(last)}
    if params["on_timeout"] == "leave":
        trip.warn_of_settings()
        raise NotDoneInTime(f"{far} and goes on: run the task again to join it, with more timeout", **figures)
    if status(last).startswith("postcopy"):
        trip.warn_of_settings()
        raise NotDoneInTime(
            f"{far}. It can't be cancelled any more and goes on: run the task again to join it", **figures
        )
    with within(trip, OVERTIME):
        back = call_back(trip)
        if back.word.guest == HAS and quits and not back.over:
            trip.guest = LEFT
            trip.run.send(quits)
            return dict(last)
    if not back.over:
        trip.warn_of_settings()
        raise NotDoneInTime(f"{far}, {back.why}", **figures)
    if status(back.migration) == "completed":
        trip.guest = LEFT
        raise OperationFailed(
            f"{far}, but it was by the time it was cancelled: run the task again. {back.why}".rstrip(". "),
            migration=with_underscores(back.migration),
        )
    set_back(trip)
    advice = "Give it more timeout, more max-bandwidth or downtime-limit (parameters), or the capability auto-converge"
    raise OperationFailed(
        f"{far} and was {back.how}. {back.why}{f'. {advice}' if trip.guest == HERE else ''}", **figures
    )


def until_cancelled(trip: Trip) -> Dict[str, Any]:
    """End it here. Return ``query-migrate``."""
    under_way = trip.current.status in RUNNING
    back = call_back(trip) if under_way else Back(True, trip.current.migration, "")
    if trip.current.left and back.over:
        from .copying import send_all

        send_all(trip.run, [step for step in trip.current.left if step.execute != "yank" or not trip.cut])
    if not under_way:
        return back.migration
    figures = {"migration": with_underscores(back.migration)}
    if not back.over:
        raise OperationFailed(f"the migration is not over, {back.why}", **figures)
    if status(back.migration) == "completed":
        trip.guest = LEFT
        raise OperationFailed(
            f"the migration had completed before it could be cancelled. {back.why}".rstrip(". "), **figures
        )
    if trip.guest != HERE:
        raise OperationFailed(f"the migration was {back.how}. {back.why}", **figures)
    return back.migration


def until_paused(trip: Trip) -> Dict[str, Any]:
    """Wait until postcopy stands still. Return ``query-migrate``."""
    try:
        end = ended(trip)
    except NotDoneInTime as exc:
        raise NotDoneInTime(
            "the migration was told to pause and has not", migration=with_underscores(exc.found or {})
        ) from exc
    if status(end) != "postcopy-paused":
        raise OperationFailed(
            f"the migration is {status(end)}, and was so before it could be paused", migration=with_underscores(end)
        )
    return end
