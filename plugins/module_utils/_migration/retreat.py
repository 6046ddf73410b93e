# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A guest that is to stay after all: its migration called back or failed, and what is known of where the guest is.

In its last phase QEMU has sent all of the guest and waits for the destination's word. What ends the migration then makes
QEMU run the guest here, be it at the destination or not. So in that phase nothing is cancelled unless the destination itself
says that it lacks the guest. Before it, the phase may begin between the look and the cancel: so the destination is told to run
nothing first, or where it is not named the guest is stopped for that moment, and would arrive stopped. Whatever has ended, it
is looked at whether that phase had begun: a guest that ran was stopped for it, and QEMU tells so in an event.
A migration that waits before it (``pause-before-switchover``) has sent too little until it is told to go on. Where it waits, its
line is cut before it is cancelled: QEMU itself lets it go on for a moment then, and tells so.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Dict, Iterator, NamedTuple

from .._core.errors import NotDoneInTime, TaskError
from .._core.progress import Progress
from .._core.step import Step
from .._qmp import errors
from .._qmp.deadline import Deadline
from .current import HAS, HERE, LACKS, LEFT, RUNNING, UNKNOWN, Answer, Current, look, over, progress, status
from .destination import go_on, keep_stopped
from .settings import capabilities, set_by

if TYPE_CHECKING:
    from .._engine.operation import Run

BEFORE_SWITCH = ("setup", "active", "wait-unplug", "pre-switchover")
"""Under way, and not in the last phase where that has a name of its own (``device``)."""
CUT = Step("yank", {"instances": [{"type": "migration"}]}, oob=True)
"""Cuts the line of a migration, past a main loop that does not answer."""
CALLS_BACK = ("stop", "cont", "migrate_cancel", "yank")
"""The commands that may be sent, here or to the destination, when a migration is called back or has failed."""
OVERTIME = 1.6
"""Seconds for calling a migration back once the task's own time is up."""
_GLANCE = 0.3
_ASK = 0.4
_YANK = 0.6
_SET_BACK = 0.5
# One that was not answered for so long is not merely slow.
_MUTE = 5.0
_LOOK = 0.05
_UNASKED = Answer(UNKNOWN)
_END = "end this QEMU (qemu_power with state=off)"


class Trip:
    """What a task knows of the guest whose migration it follows."""

    def __init__(self, run: Run, current: Current) -> None:
        self.run = run
        self.vm = run.vm
        self.current = current
        self.answered = time.monotonic()
        """When QEMU answered last."""
        self.stop: Step | None = None
        """What has stopped the guest for the moment of cancelling."""
        self.cut = False
        """Whether the line was cut before the last phase, so that nothing can have gone over."""

    @property
    def guest(self) -> str:
        """Where the guest is: ``HERE`` and ``LEFT`` only where that is certain. The result of a task that fails has it too."""
        return str(self.run.task.details["guest"])

    @guest.setter
    def guest(self, where: str) -> None:
        self.run.task.details["guest"] = where

    def warn_of_settings(self) -> None:
        """Warn of the settings that this task has made and that can't be set back by now."""
        names = [name for step in self.run.plan.steps for name in sorted(set_by(step))]
        if names:
            self.run.plan.warnings.append(
                f"the migration goes on, and what was set for it stays set: {', '.join(names)}"
            )


class Back(NamedTuple):
    """What came of calling a migration back."""

    over: bool
    migration: Dict[str, Any]
    why: str
    """Where the guest is, or why the migration goes on."""
    how: str = "cancelled"
    word: Answer = _UNASKED


@contextmanager
def within(trip: Trip, seconds: float) -> Iterator[None]:
    """Give what is in here so many seconds, whatever is left of the task's own."""
    task, vm = trip.run.task, trip.vm
    before = task.deadline, vm.deadline
    task.deadline = vm.deadline = Deadline(seconds)
    try:
        yield
    finally:
        task.deadline, vm.deadline = before


def ended(trip: Trip) -> Dict[str, Any]:
    """Return ``query-migrate`` once it is over. Raise NotDoneInTime."""
    vm = trip.vm

    def one_look() -> tuple[Dict[str, Any], bool, Progress]:
        now = vm.ask("query-migrate")
        trip.answered = time.monotonic()
        return now, over(vm, now), progress(now)

    return trip.run.watch(one_look, "MIGRATION", every=_LOOK)


def call_back(trip: Trip) -> Back:
    """End a migration here as far as it is certain that no guest runs twice then."""
    try:
        return _called_back(trip)
    finally:
        _go_on(trip)


def _called_back(trip: Trip) -> Back:
    hung_up = bool(trip.current.copies) and not may_have_gone(trip) and _hang_up(trip)
    now, word = _glance(trip), _UNASKED
    last = now.migration if now else {}
    if now and now.status.startswith("postcopy"):
        return Back(False, last, "and can't be cancelled any more: part of the guest has left")
    if now and now.status in BEFORE_SWITCH and not may_have_gone(trip) and _waits_first(trip):
        if not hung_up and (now.run_state == "finish-migrate" or trip.current.left):
            hung_up, now = _hang_up(trip), look(trip.vm)
        trip.cut = hung_up and now.status in BEFORE_SWITCH
        if now.status != "device":
            return _ended_here(trip, now, word)
    if (
        now is None
        or now.leaving
        or (now.status == "active" and trip.run.task.params["destination_socket"] is not None)
    ):
        with within(trip, _ASK):
            word = keep_stopped(trip.run, trip.current.running, trip.current.seen)
    if now is None or now.leaving:
        if word.guest == HAS:
            trip.guest = LEFT
        if word.guest == HAS or (word.guest != LACKS and not (now is None and _may_yank(trip))):
            return Back(False, last, last_phase(word, now), word=word)
    elif word.guest != LACKS and now.status == "active" and now.running:
        now, word = _stopped_first(trip), Answer(LACKS)
        if now is not None and now.leaving:  # since the look
            return _called_back(trip)
        if now is None and not _may_yank(trip):
            return Back(False, last, last_phase(_UNASKED, now))
    return _ended_here(trip, now, word)


def _ended_here(trip: Trip, now: Current | None, word: Answer) -> Back:
    end = _cancelled(trip, now) if now else None
    how = "cancelled"
    if end is None and (now is None or _glance(trip) is None):
        how = "cut off (yank), since QEMU did not answer, as when the network has fallen silent"
        end = _yanked(trip)
    _go_on(trip)
    if end is None:
        last = now.migration if now else {}
        return Back(False, last, "and QEMU has not ended it yet, though told to: run the task again", word=word)
    if status(end) == "completed":
        return Back(True, end, _arrived_still(trip, word))
    return Back(True, end, judge(trip, end, word, ours=True), how, word)


def _hang_up(trip: Trip) -> bool:
    """Cut the lines before the last phase: nothing goes over then whoever lets it go on, and none that is silent blocks QEMU.

    That of the guest first. QEMU before 8.2 that can't stop the guest, since a disk's line was cut, lets the migration fail and
    does not hang up: the thread that hears the destination stays, and crashes QEMU when that one hangs up after another migration.
    """
    try:
        trip.run.send(CUT)
        return True
    except (NotDoneInTime, errors.CommandError, errors.InvalidCommand):  # there is none any more; QEMU 5.2 has no yank
        return False
    finally:
        cut_disks(trip)


def _stopped_first(trip: Trip) -> Current | None:
    """Stop the guest, so that it arrives stopped should the last phase begin before the migration is cancelled.

    None where QEMU does not answer any more.
    """
    trip.stop = Step("stop")
    with within(trip, max(_YANK, (trip.vm.deadline.remaining() or 0.0) / 4)):
        try:
            trip.run.send(trip.stop)
            return look(trip.vm)
        except (NotDoneInTime, errors.CommandTimeout):
            return None


def _go_on(trip: Trip) -> None:
    """Let a guest go on that was stopped for the moment of cancelling."""
    vm, stop, trip.stop = trip.vm, trip.stop, None
    if stop is None:
        return
    with within(trip, max(_YANK, vm.deadline.remaining() or 0.0)):
        try:
            if look(vm).run_state != "paused":
                return
            cont = Step("cont")
            trip.run.send(cont)
        except (NotDoneInTime, errors.QMPError) as exc:
            trip.run.plan.warnings.append(
                f"the guest was stopped for the cancelling, and could not be continued ({exc}): use qemu_power"
            )
            return
    for step in (stop, cont):
        vm.account.drop(step)


def _arrived_still(trip: Trip, word: Answer) -> str:
    """Return what there is to do about a guest that has arrived just when it was to be called back."""
    if word.guest != LACKS:
        return ""
    if word.waits and go_on(trip.run):
        return ""
    return "It stands still there, since the migration was to be cancelled: qemu_power with state=running continues it there"


def _glance(trip: Trip) -> Current | None:
    """Return a short look; None where QEMU does not answer."""
    left = trip.vm.deadline.remaining() or 0.0
    with within(trip, max(_GLANCE, min(left / 4, _MUTE))):
        try:
            return look(trip.vm)
        except errors.CommandTimeout:
            return None


def _may_yank(trip: Trip) -> bool:
    """Tell whether to cut off a migration of a QEMU that does not answer, with no word from the destination.

    Before its last phase nothing can be lost by it. In that phase QEMU has been mute so long because it can't send what is left;
    it would do the same to itself once the network has timed out, and nobody would look after the guest then.
    """
    return not _stopped(trip) or time.monotonic() - trip.answered >= _MUTE


def _cancelled(trip: Trip, now: Current) -> Dict[str, Any] | None:
    if now.status not in RUNNING:
        return now.migration
    try:
        trip.run.send(Step("migrate_cancel"))
        return ended(trip)
    except NotDoneInTime:
        return None


def _yanked(trip: Trip) -> Dict[str, Any] | None:
    try:
        with within(trip, max(_YANK, trip.vm.deadline.remaining() or 0.0)):
            trip.run.send(CUT)
        # QEMU lets the guest go on here once it has ended this, so that is not left to itself on a busy host
        with within(trip, max(_MUTE, trip.vm.deadline.remaining() or 0.0)):
            return ended(trip)
    except (NotDoneInTime, errors.CommandError, errors.InvalidCommand):  # QEMU 5.2 has no yank
        return None


def judge(trip: Trip, end: Dict[str, Any], word: Answer = _UNASKED, ours: bool = False) -> str:
    """Return where the guest is after a migration that has not completed, with no second one running as far as that can be seen to.

    ``word``: the destination's, where it was asked. ``ours``: this task has ended it, and answers for what runs.
    """
    vm = trip.vm
    with within(trip, max(_YANK, vm.deadline.remaining() or 0.0)):
        now = look(vm)
        stopped = False
        if not _sent_all(trip, now):
            word = Answer(LACKS)
        elif word.guest == UNKNOWN:
            stopped = ours and now.running
            if stopped:
                _stop(trip)
            word = keep_stopped(trip.run, trip.current.running, trip.current.seen)
        if word.guest == HAS and now.running and not stopped:
            _stop(trip)
        if word.guest == LACKS and stopped:
            trip.run.send(Step("cont"))
        return _verdict(trip, word, look(vm).run_state, stopped)


def _stop(trip: Trip) -> None:
    """Stop the guest of a migration that is over. A line to its disk that has fallen silent would keep QEMU from that."""
    cut_disks(trip)
    trip.run.send(Step("stop"))


def cut_disks(trip: Trip) -> None:
    """Cut the lines to the disks that go along, or that an earlier task has left."""
    left = [step for step in trip.current.left if step.execute == "yank"]
    for step in (*(copy.cut for copy in trip.current.copies), *left):
        with suppress(TaskError, errors.QMPError):
            trip.run.send(step)


def _verdict(trip: Trip, word: Answer, state: str, stopped: bool) -> str:
    trip.guest = {HAS: LEFT, LACKS: HERE, UNKNOWN: UNKNOWN}[word.guest]
    if word.guest == HAS:
        return f"The destination has the guest, so it was stopped here: {_END}"
    if word.guest == LACKS:
        unless = (
            ", unless the earlier migration, which failed, has taken it away" if trip.current.status == "failed" else ""
        )
        return f"The guest is still here, its status is {state}{unless}"
    here = "It was stopped here for that" if stopped else f"Here its status is {state}"
    force = " and force=true" if state == "postmigrate" else ""
    other = f"end that one, and let it go on here (qemu_power with state=running{force})"
    if state == "running":
        other = "end that one. It goes on here"
    return (
        f"All of the guest may have been sent, so that it may run at the destination ({word.why}). {here}. Look there: where it "
        f"runs, {_END}; where it does not, {other}"
    )


def last_phase(word: Answer, now: Current | None) -> str:
    """Return why a migration in its last phase goes on, and what to do."""
    if word.guest == HAS:
        return (
            "and can't be cancelled: the destination has the guest. This QEMU waits for its word, and would run the guest a second "
            f"time if the connection broke: {_END}"
        )
    phase = f"in this last phase ({now.run_state})" if now else "QEMU does not answer, and in the last phase"
    return (
        f"and can't be cancelled: {phase} the guest may run at the destination already ({word.why}). Look there: where it runs, "
        f"{_END}; where the status is inmigrate, end that one; where it is gone, qemu_command with migrate_cancel stops it here"
    )


def _stopped(trip: Trip) -> bool:
    """Tell whether the guest was stopped for the last phase, by what QEMU has told of itself."""
    return trip.current.leaving or _in_device(trip) or any(event.name == "STOP" for event in trip.vm.session.events)


def _in_device(trip: Trip) -> bool:
    events = trip.vm.session.events
    return any(event.name == "MIGRATION" and event.data.get("status") == "device" for event in events)


def _waits_first(trip: Trip) -> bool:
    """Tell whether a migration waits before its last phase until it is told to go on, as each does with which disks go along."""
    return bool(trip.current.copies) or bool(capabilities(trip.vm).get("pause-before-switchover"))


def may_have_gone(trip: Trip) -> bool:
    """Tell whether a migration that waits before its last phase was told to go on, so that all of the guest may have been sent."""
    if trip.cut:
        return False
    told = any(sent["execute"] == "migrate-continue" for sent in trip.vm.account.commands)
    return told or trip.current.status in ("device", "cancelling") or _in_device(trip)


def _sent_all(trip: Trip, now: Current) -> bool:
    """Tell whether all of the guest may have been sent, of a migration that is over."""
    if _waits_first(trip):
        return may_have_gone(trip)
    return _stopped(trip) or (not trip.current.running and now.run_state == "postmigrate")


def set_back(trip: Trip) -> None:
    """Set back what was set for a migration that is over, so that the next one finds what this one did."""
    vm = trip.vm
    if vm.session.closed:
        return
    stays, rolled_back = [], []
    with within(trip, _SET_BACK):
        for step in reversed(trip.run.plan.steps):
            names = set_by(step)
            for back in step.undo:
                try:
                    trip.run.send(back)
                except (TaskError, errors.QMPError):
                    continue
                names -= set_by(back)
                rolled_back.append(back.public())
                vm.account.drop(back)
            if not names and step.undo:
                vm.account.drop(step)
            stays += sorted(names)
    if rolled_back:
        trip.run.task.details.setdefault("rolled_back", []).extend(rolled_back)
    if stays:
        trip.run.plan.warnings.append(f"what was set for the migration could not be set back: {', '.join(stays)}")
