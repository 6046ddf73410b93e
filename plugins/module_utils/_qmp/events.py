# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Events: what they are, how to ask for one, and the log that keeps them."""
# Private to the collection: may change without notice.

from __future__ import annotations

from collections import deque, namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Event(NamedTuple):
        """One event: ``name``, ``data`` (empty if it has none), ``timestamp``: seconds since 1970, None: no clock."""

        name: str
        data: dict[str, Any]
        timestamp: float | None
else:
    # The typing module alone costs more to import than the rest of this package.
    Event = namedtuple("Event", ("name", "data", "timestamp"))

HISTORY = 10_000


class EventFilter:
    """Matches events by name, and by any of their data: ``EventFilter("DEVICE_DELETED", device="d0")``.

    The name is positional-only, because data has members called ``name``. A member whose name is no Python word
    can be given as ``**{"node-name": "n0"}``. An event without a wanted member does not match (virtio devices
    send a first DEVICE_DELETED that has a path but no device: it is not the end of the device).
    """

    __slots__ = ("name", "data")

    def __init__(self, event: str, /, **data: Any) -> None:
        self.name = event
        self.data = data

    def __call__(self, event: Event) -> bool:
        """Tell whether ``event`` is one of those."""
        if event.name != self.name:
            return False
        have = event.data
        return all(key in have and _same(have[key], value) for key, value in self.data.items())

    def __repr__(self) -> str:
        data = "".join(f", {key}={value!r}" for key, value in self.data.items())
        return f"EventFilter({self.name!r}{data})"


def _same(have: Any, want: Any) -> bool:
    # JSON's true is not its 1, though Python's is.
    return bool(have == want) and isinstance(have, bool) == isinstance(want, bool)


def make_event(message: dict[str, Any]) -> Event:
    """Return the `Event` of a QMP message that has an ``event`` member.

    QEMU's time stamp is in seconds and microseconds, both -1 when the host's clock could not be read.
    """
    data = message.get("data")
    stamp = message.get("timestamp")
    when = None
    if isinstance(stamp, dict):
        seconds: Any = stamp.get("seconds")
        micros: Any = stamp.get("microseconds", 0)
        if _is_number(seconds) and seconds >= 0:
            when = seconds + (micros / 1e6 if _is_number(micros) and micros >= 0 else 0)
    return Event(str(message["event"]), data if isinstance(data, dict) else {}, when)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class EventLog:
    """The last `HISTORY` events, each with its number since connect. The caller holds the session's lock."""

    __slots__ = ("_entries",)

    def __init__(self, history: int = HISTORY) -> None:
        self._entries: deque[tuple[int, Event]] = deque(maxlen=history)

    @property
    def count(self) -> int:
        """How many events came since connect, forgotten ones too."""
        return self._entries[-1][0] + 1 if self._entries else 0

    def add(self, event: Event) -> None:
        """Add ``event``, unless it is the very object added last (a signal may have cut its delivery short)."""
        entries = self._entries
        if not entries or entries[-1][1] is not event:
            entries.append((self.count, event))

    def since(self, number: int) -> list[Event]:
        """Return the events from ``number`` on that are still kept, oldest first."""
        entries = self._entries
        if not entries or number > entries[-1][0]:
            return []
        skip = max(0, number - entries[0][0])
        return [event for index, event in list(entries)[skip:]]
