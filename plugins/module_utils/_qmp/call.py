# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""One thing that a thread waits for in a session."""
# Private to the collection: may change without notice.

from __future__ import annotations

from _thread import allocate_lock  # the threading module is slow to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .events import Event

QUEUE, WRITE, REPLY, EVENT, DROPPED = "queue", "write", "reply", "event", "dropped"


class Call:
    """One command, from the queue to its reply and event; or a wait for something else (``name`` is None)."""

    __slots__ = (
        "name",
        "frame",
        "id",
        "oob",
        "fds",
        "sent",
        "wants",
        "cursor",
        "state",
        "reply",
        "event",
        "refused",
        "done",
        "park",
    )

    def __init__(self, name: str | None, wants: Callable[[Event], Any] | None = None) -> None:
        self.name = name
        self.frame = b""
        self.id = ""
        self.oob = False
        self.fds: tuple[int, ...] = ()
        self.sent: list[int] = []
        self.wants = wants
        self.cursor: int | None = None  # number of the first event that `wants` has not looked at
        self.state = QUEUE if name else EVENT
        self.reply: dict[str, Any] | None = None
        self.event: Event | None = None
        self.refused: Exception | None = None
        self.done: Callable[[], bool] | None = None
        self.park = allocate_lock()
        self.park.acquire()

    @property
    def finished(self) -> bool:
        """Whether everything it waits for is there."""
        if self.done is not None:
            return self.done()
        if self.name is not None and (self.reply is None or "error" in self.reply):
            return self.reply is not None
        return self.wants is None or self.event is not None

    def look(self, fresh: list[Event], end: int) -> None:
        """Take the first of ``fresh`` that is wanted; ``end`` is the number after the last one."""
        for number, event in enumerate(fresh, end - len(fresh)):
            if self.wants is not None and self.wants(event):
                self.cursor = number + 1
                self.event = event
                return
        self.cursor = end

    def unpark(self) -> None:
        """End `park`, now or the next time. Takes no lock: a signal handler may call it."""
        try:
            self.park.release()
        except RuntimeError:
            pass
