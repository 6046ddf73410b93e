# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Seeing long work through: look at it until it is over, and tell how far it is.

What QEMU does for minutes (a migration, a job, a dump) goes on without the task that began it. So nothing here stops
it when the task is stopped: the next run finds it and joins it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Tuple, TypeVar

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event

T = TypeVar("T")
LOOK_EVERY = 0.25
"""Seconds between two looks while no event says that there is something to see."""


class Progress(NamedTuple):
    """How far a piece of long work is."""

    what: str
    """In the user's words: ``migration``, ``backup b0``."""
    phase: str
    """QEMU's own word for where it stands: ``active``, ``ready``."""
    done: int = 0
    """Bytes, or whatever the work counts."""
    total: int = 0
    """0: not known yet."""
    rate: float = 0.0
    """Bytes a second, where QEMU tells it; 0: to be worked out from two looks."""
    downtime: int = -1
    """Milliseconds for which the guest will stand still, as expected by now; -1: not known."""

    @property
    def percent(self) -> float:
        """0.0 to 100.0."""
        return min(100.0, 100.0 * self.done / self.total) if self.total else 0.0


def watch(
    vm: VM,
    look: Callable[[], Tuple[T, bool, Progress]],
    tell: Callable[[Progress], None],
    *events: str,
    every: float = LOOK_EVERY,
) -> T:
    """Call ``look`` until it says that the work is over, at once when one of ``events`` comes, and return what it found.

    ``look()`` asks the VM, whose memory was cleared, and returns what it found, whether that is the end, and the
    progress. Raises Overdue at the VM's deadline, with what was found last; the session's errors; what ``look`` raises.
    """
    found = None
    while True:
        mark = vm.session.event_count
        vm.forget()
        try:
            found, over, progress = look()
        except errors.CommandTimeout as exc:
            if vm.deadline.expired:
                raise Overdue(found) from exc
            raise
        tell(progress)
        if over:
            return found
        if vm.deadline.expired:
            raise Overdue(found)
        with contextlib.suppress(errors.CommandTimeout):
            vm.session.wait_event(_named(events), timeout=every, deadline=vm.deadline, since=mark)


def _named(events: Tuple[str, ...]) -> Callable[[Event], bool]:
    return lambda event: event.name in events


class Overdue(Exception):
    """The deadline passed while the work went on. The caller says so in its own words."""

    def __init__(self, found: Any) -> None:
        super().__init__("not over in time")
        self.found = found
        """What the last look returned; None when there was no time for one."""
