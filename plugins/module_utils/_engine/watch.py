# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Seeing long work through: look at it until it is over, and tell how far it is.

What QEMU does for minutes (a migration, a job, a dump) goes on without the task that began it. So nothing here stops
it when the task is stopped: the next run finds it and joins it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Callable, Tuple, TypeVar

from .._core.errors import NotDoneInTime
from .._core.interrupt import heard
from .._core.progress import Progress
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.events import Event

T = TypeVar("T")
LOOK_EVERY = 0.25
"""Seconds between two looks while no event says that there is something to see."""


def watch(
    vm: VM,
    look: Callable[[], Tuple[T, bool, Progress]],
    on_progress: Callable[[Progress], None],
    *events: str,
    every: float = LOOK_EVERY,
) -> T:
    """Call ``look`` until it says that the work is over, at once when one of ``events`` comes, and return what it found.

    ``look()`` asks the VM, whose memory was cleared, and returns what it found, whether that is the end, and the
    progress. Raise NotDoneInTime at the VM's deadline, with what was found last; the session's errors; what ``look`` raises.
    """
    found = None
    with heard():
        while True:
            mark = vm.session.event_count
            vm.forget()
            try:
                found, over, progress = look()
            except errors.CommandTimeout as exc:
                if vm.deadline.expired:
                    raise NotDoneInTime(found=found) from exc
                raise
            on_progress(progress)
            if over:
                return found
            if vm.deadline.expired:
                raise NotDoneInTime(found=found)
            with contextlib.suppress(errors.CommandTimeout):
                vm.session.wait_event(_named(events), timeout=every, deadline=vm.deadline, since=mark)


def _named(events: Tuple[str, ...]) -> Callable[[Event], bool]:
    return lambda event: event.name in events
