# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks that are copied while their guest migrates: seen to be ready, ended when the guest stands still, or given up.

The guest must not go over before every mirror has ended well, and a mirror may end only while the guest stands still: so only the
task that has ended them itself lets the migration go on. Whatever else is found then, the guest stays here.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

from .._core.errors import NotDoneInTime, OperationFailed, TaskError
from .._core.progress import Progress
from .._operations import jobs
from .._qmp import errors
from . import copies
from .current import HERE, RUNNING, look, status
from .retreat import BEFORE_SWITCH, OVERTIME, Back, Trip, call_back, cut_disks, may_have_gone, set_back, within

if TYPE_CHECKING:
    from .._core.step import Step
    from .._engine.operation import Run
    from .copies import Copy

_LOOK = 0.05
_CLEAR_SECONDS = 5.0


class CopyFailed(OperationFailed):
    """A disk is not at the destination as the guest has it here."""


def begin(trip: Trip) -> None:
    """Wait until all disks are there, then begin the migration where that is planned. Raise CopyFailed."""
    found: List[Copy] = trip.current.copies
    steps = [step for step in trip.run.plan.later if step.execute == "migrate"]
    if not steps:
        return

    def one_look() -> Tuple[None, bool, Progress]:
        have = jobs.jobs(trip.vm)
        check(found, have)
        done, total = (sum(have[copy.ident][f"{part}-progress"] for copy in found) for part in ("current", "total"))
        ready = all(have[copy.ident]["status"] in jobs.READY for copy in found)
        return None, ready, Progress("disks", "ready" if ready else "running", done, total)

    try:
        trip.run.watch(one_look, "JOB_STATUS_CHANGE")
        trip.run.send(steps[0])
    except NotDoneInTime as exc:
        seconds = trip.run.task.params["timeout"]
        raise CopyFailed(f"the disks are not at the destination after {seconds:.4g} s: give it more timeout") from exc
    except errors.CommandError as exc:
        raise CopyFailed(f"{exc}", error={"class": exc.error_class, "desc": exc.desc}) from exc


def check(found: List[Copy], have: Dict[str, jobs.Job]) -> None:
    """Raise CopyFailed where a mirror does not go on."""
    for copy in found:
        job = have.get(copy.ident)
        if job is None:
            raise CopyFailed(f"disk {copy.disk} is not being copied any more: somebody has ended that")
        if jobs.has_concluded(job):
            why = job.get("error", "the copy was ended before, and the guest may have written since")
            raise CopyFailed(f"disk {copy.disk}: {why}", error={"class": "GenericError", "desc": why})


def switch(trip: Trip) -> None:
    """Bring the targets up to date and end the mirrors, now that the guest stands still. Raise CopyFailed."""
    found: List[Copy] = trip.current.copies
    seconds = min(trip.run.task.params[copies.OPTION]["switch_timeout"], trip.vm.deadline.remaining() or 0.0)

    def one_look() -> Tuple[Dict[str, jobs.Job], bool, Progress]:
        have = jobs.jobs(trip.vm)
        over = all(jobs.has_concluded(have.get(copy.ident)) for copy in found)
        return have, over or any(copy.ident not in have for copy in found), Progress("disks", "switchover")

    with within(trip, seconds):
        try:
            have = jobs.jobs(trip.vm)
            check(found, have)
            for copy in found:
                state = have[copy.ident]["status"]
                if state not in jobs.READY:
                    raise CopyFailed(f"disk {copy.disk} can't be brought up to date: its copy is {state}")
                trip.run.send(copy.end)
            have = trip.run.watch(one_look, "JOB_STATUS_CHANGE", every=_LOOK)
        except (NotDoneInTime, errors.CommandTimeout) as exc:
            raise CopyFailed(
                f"the disks could not be brought up to date within {seconds:.3g} s, for which the guest stood still "
                f"({copies.OPTION}.switch_timeout)"
            ) from exc
    for copy in found:
        job = have.get(copy.ident, {"error": "somebody has dismissed its copy"})
        if "error" in job:
            raise CopyFailed(f"disk {copy.disk}: {job['error']}", error={"class": "GenericError", "desc": job["error"]})


def along(trip: Trip, see_through: Callable[[Trip], Dict[str, Any]]) -> Dict[str, Any]:
    """See a migration through whose disks go along. Return ``query-migrate``."""
    send_all(trip.run, trip.current.left if not trip.current.copies else [])
    try:
        begin(trip)
        return see_through(trip)
    except CopyFailed as exc:
        raise call_off(trip, exc) from None
    except (TaskError, errors.QMPError):
        if not may_have_gone(trip):
            give_up(trip)
        raise
    except BaseException:  # the task was told to stop, and the guest would stand still with nobody to end the copies
        if not may_have_gone(trip):
            call_off(trip, CopyFailed("the task was told to stop"))
        raise


def asked(trip: Trip) -> Dict[str, Any]:
    """Return ``query-migrate`` before the switchover. Raise CopyFailed for a mirror that has failed, and where QEMU is mute."""
    left = trip.vm.deadline.remaining() or 0.0
    seconds = trip.run.task.params[copies.OPTION]["switch_timeout"]
    with within(trip, min(seconds, left)):
        try:
            now = dict(trip.vm.ask("query-migrate"))
            if status(now) in BEFORE_SWITCH:
                check(trip.current.copies, jobs.jobs(trip.vm))
            return now
        except errors.CommandTimeout as exc:
            if seconds >= left:
                raise
            raise CopyFailed("QEMU does not answer, as when the network has fallen silent") from exc


def call_off(trip: Trip, exc: CopyFailed) -> OperationFailed:
    """Keep the guest here. Return what to tell of it."""
    with within(trip, max(OVERTIME, trip.vm.deadline.remaining() or 0.0)):
        if trip.current.goes_on or any(sent["execute"] == "migrate" for sent in trip.vm.account.commands):
            back = call_back(trip)
        else:
            cut_disks(trip)  # one that has fallen silent would keep QEMU from answering
            now = look(trip.vm)  # what an earlier migration has come to is of no account
            trip.guest = HERE
            back = Back(True, now.migration, f"The guest is still here, its status is {now.run_state}")
        give_up(trip)
    if not back.over:
        trip.warn_of_settings()
        return OperationFailed(f"{exc}, {back.why}", **exc.details)
    set_back(trip)
    return OperationFailed(f"{exc}. {back.why}", **exc.details)


def clear(trip: Trip) -> None:
    """Do away with what is left of the copies of a guest that has left."""
    for copy in trip.current.copies:
        for step in copy.clear:
            try:
                trip.run.send(step)
            except (TaskError, errors.QMPError) as exc:
                trip.run.plan.warnings.append(f"{step.title} failed ({exc}): the next run does that")
                break


def give_up(trip: Trip) -> None:
    """Do away with all that is there of the copies, whatever state they are in, once the migration is over."""
    vm, found = trip.vm, trip.current.copies
    steps = [step for copy in found for step in copies.clearing(copy.ident)]
    with within(trip, _CLEAR_SECONDS):
        try:
            stuck = status(vm.ask("query-migrate")) in RUNNING
            if not stuck:
                trip.run.task.details.setdefault("rolled_back", []).extend(send_all(trip.run, steps))
                stuck = bool(copies.leftovers(vm))
        except (TaskError, errors.QMPError):
            stuck = True
    for step in (*steps, *(copy.cut for copy in found)):
        vm.account.drop(step)
    if stuck:
        names = ", ".join(copy.ident for copy in found)
        trip.run.plan.warnings.append(f"what copied the disks could not be removed ({names}): the next run does that")
        return
    for copy in found:
        for step in (*copy.begin, copy.end):
            vm.account.drop(step)


def send_all(run: Run, steps: Sequence[Step]) -> List[Dict[str, Any]]:
    """Send each step that is needed, and go on where QEMU refuses one. Return those that it took."""
    done = []
    for step in steps:
        try:
            run.vm.forget()
            if step.execute == "yank" or step.still_needed is None or step.still_needed(run.vm):
                run.send(step)
                done.append(step.public())
        except (TaskError, errors.QMPError):
            continue
    return done
