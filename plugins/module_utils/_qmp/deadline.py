# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How long something may take: one `Deadline` can be shared by many calls, and cancelled from any thread, alone or with others."""
# Private to the collection: may change without notice.

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


HEARS_WITHIN = 1.0
"""Seconds of one wait in the main thread: Python hears a signal that comes just before a wait only after it."""


class Stop:
    """What ends all waits on the deadlines that share it."""

    __slots__ = ("called", "wakers")

    def __init__(self) -> None:
        self.called = False
        self.wakers: dict[object, Callable[[], None]] = {}

    def call(self) -> None:
        """End these waits with `Cancelled`, now and later. From any thread or a signal handler."""
        self.called = True
        for wake in list(self.wakers.values()):
            wake()


class Deadline:
    """A point in time, ``seconds`` from now (None: no limit, only `cancel` ends the wait)."""

    __slots__ = ("seconds", "end", "stop")

    def __init__(self, seconds: float | None = None, stop: Stop | None = None) -> None:
        """``stop``: one that others share, which are cancelled with this one."""
        self.seconds = seconds
        self.end = None if seconds is None else monotonic() + seconds
        self.stop = stop or Stop()

    def remaining(self) -> float | None:
        """Seconds left, never below 0, and 0 once it is cancelled; None if there is no limit."""
        if self.stop.called:
            return 0.0
        return None if self.end is None else max(0.0, self.end - monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up, or was cut short by `cancel`."""
        return self.stop.called or (self.end is not None and monotonic() >= self.end)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.stop.called

    def cancel(self) -> None:
        """End every wait on this deadline with `Cancelled`, now and later. From any thread or a signal handler."""
        self.stop.call()

    def attach(self, key: object, wake: Callable[[], None]) -> None:
        """Call ``wake`` (which takes no lock) on `cancel`, until ``detach(key)``."""
        self.stop.wakers[key] = wake

    def detach(self, key: object) -> None:
        """Forget ``key``; fine if it is not there."""
        self.stop.wakers.pop(key, None)


class Limit:
    """What one call waits for at most: the earlier of its own ``timeout`` (seconds) and a shared ``deadline``."""

    __slots__ = ("seconds", "end", "deadline")

    def __init__(self, timeout: float | None, deadline: Deadline | None, default: float) -> None:
        now = monotonic()
        ends = []
        if timeout is not None:
            ends.append(now + timeout)
        elif deadline is None:
            ends.append(now + default)
        if deadline is not None and deadline.end is not None:
            ends.append(deadline.end)
        self.end = min(ends) if ends else None
        self.seconds = max(0.0, self.end - now) if self.end is not None else 0.0
        self.deadline = deadline

    @property
    def cancelled(self) -> bool:
        """Whether the shared deadline was cancelled."""
        return self.deadline is not None and self.deadline.cancelled

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self.end is not None and monotonic() >= self.end

    def remaining(self, most: float = 3600.0) -> float:
        """Seconds left, between 0 and ``most`` (system calls do not take any number)."""
        return most if self.end is None else min(most, max(0.0, self.end - monotonic()))
