# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""One virtual machine for as long as the source runs: connected, lost, looked for again, and what of it is told."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import time
from collections import deque
from typing import Any, Callable, Collection, Deque, Dict, List

from ansible_collections.vmm.qemu.plugins.module_utils._core.process import Process
from ansible_collections.vmm.qemu.plugins.module_utils._monitors import path_name
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event as QMPEvent
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import make_event

from ._events_connection import Connection, Message, connect
from ._events_text import harmless

Event = Dict[str, Any]

CONNECTED, GONE, UNREACHABLE = "connected", "gone", "unreachable"
OWN = (CONNECTED, GONE, UNREACHABLE)
"""The source's own events. QEMU's are in capitals, so that no virtual machine can send one of these."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
_STEADY = 10.0
"""Seconds after which a connection that is lost was not one of many in a row."""
_LOOKS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between looks whether the process of a lost connection ends."""
_ENDING = 10.0
"""Seconds that a process may take to end after it has closed its monitor."""
_HIGH, _LOW = 256, 32
"""Events of one machine that wait for the rules, above which no more is read of it, and from where on it is again."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_OVER = ("shutdown", "postmigrate")
"""States of a QEMU whose guest is not there any more."""
_RESERVE = 128
"""Open files that are left to the rest of the process."""
_STATUS = re.compile(r"[a-z-]{1,40}")


def machine_name(address: str) -> str:
    """Return what a machine is called, by the path of its monitor: never by what it says of itself."""
    return re.sub(r"[^\w.-]+", "_", path_name(address)).strip("_.-")[:200] or "vm"


class Last:
    """The QEMU that was there last: its process, and what is known of its end."""

    __slots__ = ("ended", "lost_at", "missed", "process")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ended = ""
        self.missed = False  # whether it was out of sight for a while
        self.lost_at = 0.0

    def end(self) -> Dict[str, Any]:
        """Return what is told when it is gone. Whether it has crashed is None where that can't be known."""
        reason = self.ended or ("unknown" if self.missed else "crash")
        return {"reason": reason, "crashed": None if reason == "unknown" else not self.ended}


class Machine:
    """The virtual machine behind a monitor's address, and its events that wait for the rules."""

    __slots__ = (
        "_connection",
        "_early",
        "_last",
        "_paused",
        "_pending",
        "_ready",
        "_seconds",
        "_told",
        "_wanted",
        "address",
        "name",
    )

    def __init__(self, address: str, wanted: Collection[str], seconds: float, ready: Callable[[Machine], None]) -> None:
        """``wanted``: the events that count, empty: all. ``seconds``: what a monitor has to answer in.

        ``ready`` is called with the machine when there is something to ``take`` again.
        """
        self.address = address
        self.name = machine_name(address)
        self._wanted = wanted
        self._seconds = seconds
        self._ready = ready
        self._pending: Deque[Event] = deque()
        self._early: List[QMPEvent] | None = None  # what came before the state is told
        self._told = ""
        self._last: Last | None = None
        self._connection: Connection | None = None
        self._paused = False

    # -- its life ----------------------------------------------------------------------------------------------

    async def watch(self, stays: bool) -> None:
        """Connect again and again, until cancelled. ``stays``: also where the socket's file is gone."""
        pause = _FIRST_PAUSE
        while True:
            begun = time.monotonic()
            try:
                await self._follow()
                pause = _FIRST_PAUSE if self._last is None or time.monotonic() - begun > _STEADY else pause
            except errors.ConnectError as exc:
                self._not_there(str(exc), exc.nobody, stays)
                if exc.nobody and self._last is None and not stays and not os.path.lexists(self.address):
                    return
            except errors.QMPError as exc:
                self._unreachable(str(exc))
            except Exception as exc:  # one machine is no reason to lose the others
                self._unreachable(f"{type(exc).__name__}: {exc}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow(self) -> None:
        """Connect, tell the state, and then what comes, until the connection is over. Raise QMPError where it is not QMP."""
        self._early = []
        self._connection = connection = await connect(parse(self.address), self._take, self._seconds)
        try:
            _check_room(connection.descriptor)
            process = Process(connection.process)
            self._found(process)
            self._last = Last(process)  # from here on nothing of it is missed
            state = await connection.ask_all(("query-status", "query-name"), self._seconds)
            status = str(state["query-status"].get("status"))
            if not _STATUS.fullmatch(status):
                raise errors.ProtocolError(f"{self.address}: query-status was not answered with a run state")
            self._connected(connection, status, state["query-name"].get("name"))
            why = await connection.lost
        except errors.Disconnected as exc:
            why = exc
        finally:
            self._connection, self._early, self._paused = None, None, False
            connection.close(errors.Disconnected("the source has left"))
        if not isinstance(why, errors.Disconnected):
            raise why
        await self._ending()

    async def _ending(self) -> None:
        """Tell that it is gone, if its process ends now: closing its monitor comes before that."""
        last = self._last
        if last is None:
            return
        last.lost_at = time.monotonic()
        for pause in _LOOKS if last.process.pid else ():
            await asyncio.sleep(pause)
            if not last.process.alive:
                self._gone(last)
                return

    def _found(self, process: Process) -> None:
        """Tell of the QEMU that was there before, if this is another one."""
        last = self._last
        if last is None:
            return
        both_known = last.process.pid and process.pid
        if process.identity != last.process.identity if both_known else last.ended:
            self._gone(last)

    def _connected(self, connection: Connection, status: str, name: Any) -> None:
        if self._last is not None and status in _OVER:
            self._last.ended = status
        version = ".".join(map(str, connection.version))
        self._tell(CONNECTED, {"status": status, "version": version, "name": name if isinstance(name, str) else None})
        early, self._early = self._early or [], None
        for event in early:
            self._put(*event)

    def _not_there(self, why: str, nobody: bool, stays: bool) -> None:
        """Tell of a QEMU that is gone, once its process is, or that nothing has ever answered."""
        last = self._last
        if not nobody:
            self._unreachable(why)
        elif last is None:
            if not self._told and (stays or os.path.lexists(self.address)):
                self._unreachable(why)
        elif not last.process.alive:
            self._gone(last)
        elif time.monotonic() - last.lost_at > _ENDING:
            self._unreachable(f"process {last.process.pid} runs without its monitor: {why}")

    def _gone(self, last: Last) -> None:
        self._last = None
        self._tell(GONE, last.end())

    def _unreachable(self, why: str) -> None:
        """Tell that it is out of sight, once."""
        if self._last is not None:
            self._last.missed = True
        if self._told != UNREACHABLE:
            self._tell(UNREACHABLE, {"reason": why})

    # -- its events --------------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        """Take an event of QEMU's."""
        event = make_event(message)
        if self._last is not None and event.name in ("SHUTDOWN", "RESUME"):
            reason = str(event.data.get("reason") or "end")
            self._last.ended = reason if event.name == "SHUTDOWN" else ""
        if not _NAME.fullmatch(event.name):
            return
        if self._early is None:
            self._put(*event)
        elif len(self._early) < _HIGH:
            self._early.append(event)

    def _tell(self, name: str, data: Dict[str, Any]) -> None:
        """Give an event of the source's own to the rules."""
        self._told = name
        self._put(name, data, time.time())

    def _put(self, name: str, data: Dict[str, Any], timestamp: float | None) -> None:
        if self._wanted and name not in self._wanted:
            return
        event = {"vm": self.name, "socket": self.address, "event": name, "data": data, "timestamp": timestamp}
        self._pending.append(harmless(event))
        if len(self._pending) == 1:
            self._ready(self)
        if len(self._pending) > _HIGH and self._connection is not None and not self._paused:
            self._paused = True
            self._connection.pause()

    def take(self) -> Event:
        """Return the oldest event, and have more read if there was no room for it. ``ready`` is called if there are others."""
        event = self._pending.popleft()
        if self._pending:
            self._ready(self)
        if self._paused and len(self._pending) <= _LOW and self._connection is not None:
            self._paused = False
            self._connection.resume()
        return event


def _check_room(descriptor: int) -> None:
    """Raise ConnectError where so many files are open that playbooks could not be started any more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptor >= most - _RESERVE:
        raise errors.ConnectError(
            f"this process may have {most} files open, and all but {_RESERVE} are: raise the limit (ulimit -n, LimitNOFILE)"
        )
