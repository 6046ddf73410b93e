# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What queries tell of a migration, here and at its destination: where it stands, and where the guest is."""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Sequence

from .._core.progress import Progress
from .settings import Settings

if TYPE_CHECKING:
    from .._core.vm import VM

RUNNING = frozenset(
    "setup active cancelling pre-switchover device wait-unplug colo "
    "postcopy-active postcopy-recover postcopy-recover-setup".split()
)
"""Under way, by ``query-migrate``."""
HERE, LEFT, UNKNOWN = "here", "left", "unknown"
"""Where the guest is, as results say it."""
HAS, LACKS = "has", "lacks"
_ENDING, _LOOK = 2.0, 0.05


class Answer(NamedTuple):
    """What the destination says of the guest."""

    guest: str
    """``HAS``, ``LACKS`` (for good, unless it waits) or ``UNKNOWN``.

    Any virtual machine can be named. One that has a guest has this one only if the task has seen it wait before, and one that waits
    lacks this one only if something has begun to come to it. One that is gone has none if it was seen to wait.
    """
    why: str = ""
    """Why it is not known."""
    waits: bool = False
    """It is there, and waits for the guest."""


class Current(NamedTuple):
    """What was read: ``query-migrate``, the run state, whether the guest ran; and what else the state that is wanted needs."""

    migration: Dict[str, Any]
    run_state: str
    running: bool
    settings: Settings = Settings()
    there: Any = None
    """The destination's own ``Current``, where the task names it and it matters."""
    word: Answer = Answer(UNKNOWN)
    seen: bool = False
    """Whether this task has seen the destination wait for a guest."""
    jobs: Sequence[str] = ()
    """The block jobs that work on its disks (``working_jobs``)."""
    copies: Any = ()
    """The disks that go along (``copies.Copy``)."""
    left: Sequence[Any] = ()
    """The steps that do away with what an earlier task has left of such copies."""
    cuts: bool = False
    """Whether its line is to be cut before it is cancelled."""

    @property
    def status(self) -> str:
        """Where the migration stands."""
        return status(self.migration)

    @property
    def leaving(self) -> bool:
        """Whether all of the guest may have been sent."""
        return leaving(self.status, self.run_state)

    @property
    def goes_on(self) -> bool:
        """Whether a migration is under way that another task can join."""
        return self.status in RUNNING and self.status != "cancelling"

    @property
    def can_begin(self) -> bool:
        """Whether a guest is here, and no migration of it is under way."""
        over = self.status not in RUNNING and self.status != "postcopy-paused"
        return over and self.run_state not in ("inmigrate", "finish-migrate", "postmigrate")


def look(vm: VM) -> Current:
    """Read where it stands. When a migration ends, QEMU leaves finish-migrate a moment later: that is waited for."""
    patience = time.monotonic() + _ENDING
    while True:
        vm.forget()
        now, found = vm.ask("query-status"), vm.ask("query-migrate")
        if status(found) in RUNNING or over(vm, found) or vm.deadline.expired or time.monotonic() > patience:
            return Current(found, str(now["status"]), bool(now["running"]))
        time.sleep(_LOOK)


def status(migration: Dict[str, Any]) -> str:
    """Return where a migration stands, by ``query-migrate``; ``none`` where there was none yet."""
    return str(migration.get("status", "none"))


def leaving(state: str, run_state: str) -> bool:
    """Tell whether all of the guest may have been sent, so that it may run at the destination: QEMU waits for its word only.

    QEMU 10.0 calls that ``device``; before, a migration stays ``active``, and the run state alone tells.
    """
    return state == "device" or (run_state == "finish-migrate" and state in ("active", "cancelling", "wait-unplug"))


def has_guest(run_state: str, migration: Dict[str, Any]) -> bool:
    """Tell whether a run state and ``query-migrate`` are those of a VM that a guest has come to, and is still with.

    One that has sent its guest away tells how long that took; its run state need not show it, after a reset.
    """
    arrived = status(migration) == "completed" and "total-time" not in migration
    return arrived and run_state not in ("inmigrate", "postmigrate")


def where_guest_is(current: Current) -> str:
    """Return where the guest is by what was read alone: a migration that failed earlier leaves that open."""
    never_left = current.status == "none" and current.run_state not in ("inmigrate", "postmigrate")
    if never_left or has_guest(current.run_state, current.migration):
        return HERE
    return LEFT if current.status == "completed" and current.run_state == "postmigrate" else UNKNOWN


def over(vm: VM, migration: Dict[str, Any]) -> bool:
    """Tell whether nothing goes on. A guest that left in part stays in finish-migrate; any other goes on from there."""
    return status(migration) not in RUNNING and (
        status(migration) == "postcopy-paused" or vm.status != "finish-migrate"
    )


def progress(migration: Dict[str, Any]) -> Progress:
    """Return how far it is."""
    ram = migration.get("ram", {})
    total = ram.get("total", 0)
    rate = ram.get("mbps", 0.0) * 1e6 / 8
    left = total - ram.get("remaining", total)
    return Progress("migration", status(migration), left, total, rate, int(migration.get("expected-downtime", -1)))
