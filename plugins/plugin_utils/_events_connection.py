# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""One connection to a QMP monitor on an asyncio loop, for its events: one descriptor, no thread and no history."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Callable, Dict, Sequence, cast

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import Address
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.connection import no_greeting, open_socket, peer_process
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Limit
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.greeting import Version, read_greeting
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.wire import Reader, encode_command

Message = Dict[str, Any]

_LONGEST = 64 << 10
"""Bytes of a message: QEMU's events, and the answers to what is asked here, have some hundred."""
_MOST_UNASKED = 100
"""Answers that nobody waits for: QEMU gives those that came too late for the client before, a few."""
_RETRY_PAUSE = 0.05


class Connection(asyncio.Protocol):
    """A connection that is greeted and negotiated. ``lost`` is done when it is over, with the reason as its result."""

    __slots__ = (
        "_answer",
        "_reader",
        "_take",
        "_transport",
        "_unasked",
        "_wanted",
        "descriptor",
        "lost",
        "peer",
        "process",
        "version",
    )

    def __init__(self, peer: str, take: Callable[[Message], None]) -> None:
        """``take`` gets each event as QEMU sent it, one by one."""
        self.peer = peer
        self.version = Version(0, 0, 0)
        self.process: int | None = None
        self.descriptor = -1
        self.lost: asyncio.Future[errors.QMPError] = asyncio.get_running_loop().create_future()
        self._take = take
        self._reader = Reader(_LONGEST)
        self._wanted: str | None = None  # the id of the command that is to be answered; empty: the greeting
        self._answer: asyncio.Future[Message] | None = None
        self._unasked = 0
        self._transport: asyncio.Transport | None = None

    # -- what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self.process, self.descriptor = peer_process(sock), sock.fileno()

    def data_received(self, data: bytes) -> None:
        """Take in what came; what is not QMP ends the connection."""
        try:
            self._received(data)
        except Exception as exc:  # asyncio would log it, and close
            self.close(errors.ProtocolError(f"{self.peer}: {type(exc).__name__}: {exc}"))

    def _received(self, data: bytes) -> None:
        if self.lost.done():
            return
        self._reader.inbox.append(data)
        self._reader.parse()
        items = self._reader.items
        while items:
            item = items.popleft()
            if not isinstance(item, dict):
                self.close(item or errors.Disconnected("QEMU closed the connection"))
                return
            if "event" in item:
                self._take(item)
            elif self._answer is not None and not self._answer.done() and self._is_wanted(item):
                self._answer.set_result(item)
            else:
                self._unasked += 1
                if self._unasked > _MOST_UNASKED:
                    self.close(errors.ProtocolError(f"{self.peer}: it answers again and again what nobody has asked"))
                    return

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        why = f"the connection broke ({exc})" if exc else "QEMU closed the connection"
        self.close(errors.Disconnected(why))

    # -- what its user calls -----------------------------------------------------------------------------------

    def close(self, why: errors.QMPError) -> None:
        """End it, with a reason. Twice is fine."""
        if not self.lost.done():
            self.lost.set_result(why)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(why)
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more until ``resume``: the system and then QEMU keep what comes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    async def ask_all(self, commands: Sequence[str], seconds: float) -> Dict[str, Message]:
        """Return the answers to several, within that time for all. Raise QMPError."""

        try:
            async with asyncio.timeout(seconds):  # not wait_for, which until Python 3.12 can lose a cancellation
                return {command: await self.ask(command) for command in commands}
        except TimeoutError:
            raise errors.ConnectError(f"{self.peer}: greeted, but no answer within {seconds:.4g} s") from None

    async def ask(self, command: str) -> Message:
        """Return what a query without arguments is answered with. Raise QMPError."""
        # random, since QEMU gives a late answer to its next client
        ident = os.urandom(4).hex()
        cast(asyncio.Transport, self._transport).write(encode_command(command, None, ident))
        reply = await self._next(ident)
        if "error" in reply:
            raise errors.command_error(command, reply["error"])
        return reply["return"] if isinstance(reply["return"], dict) else {}

    async def greet(self) -> None:
        """Wait for the greeting, and answer it. Raise QMPError."""
        self.version = read_greeting((await self._next("")).get("QMP"), self.peer)[0]
        await self.ask("qmp_capabilities")

    async def why_silent(self, address: Address, limit: Limit) -> errors.ConnectError:
        """Return why there was no greeting in time. In a thread: it looks through all sockets of the host."""
        if self._transport is None:
            return errors.ConnectError(f"{address}: no connection within {limit.seconds:.4g} s")
        if self.version != (0, 0, 0):
            return errors.NegotiationError(
                f"{address}: greeted, but qmp_capabilities was not answered within {limit.seconds:.4g} s"
            )
        return await asyncio.to_thread(no_greeting, address, limit, self._transport.get_extra_info("socket"))

    async def _next(self, wanted: str) -> Message:
        if self.lost.done():
            raise self.lost.result()
        self._wanted = wanted
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    def _is_wanted(self, item: Message) -> bool:
        if not self._wanted:
            return "QMP" in item
        return ("return" in item or "error" in item) and item.get("id") == self._wanted


async def connect(address: Address, take: Callable[[Message], None], seconds: float) -> Connection:
    """Return a connection to a monitor that has greeted within that time; ``take`` gets its events.

    Raise QMPError: ConnectError, with ``nobody`` where nothing listens, MonitorBusy or ProtocolError. A connection that ends
    before its greeting, or a full backlog, is tried again: QEMU does so when another client comes or goes.
    """
    limit = Limit(seconds, None, seconds)
    while True:
        problem: errors.ConnectError | None = None
        try:
            return await _attempt(address, take, limit)
        except BlockingIOError:
            pass
        except errors.Disconnected as exc:
            problem = errors.ConnectError(f"{address}: no greeting within {seconds:.4g} s: {exc}")
        await asyncio.sleep(limit.remaining(_RETRY_PAUSE))
        if limit.expired:
            raise problem if problem else await asyncio.to_thread(no_greeting, address, limit, None)


async def _attempt(address: Address, take: Callable[[Message], None], limit: Limit) -> Connection:
    connection = Connection(str(address), take)
    try:
        async with asyncio.timeout(limit.remaining()):
            await _open(connection, address, limit)
        return connection
    except TimeoutError:
        why = await connection.why_silent(address, limit)
        connection.close(why)
        raise why from None
    except BaseException:
        connection.close(errors.Disconnected("it was never open"))
        raise


async def _open(connection: Connection, address: Address, limit: Limit) -> None:
    loop = asyncio.get_running_loop()
    if address.path is not None:
        sock = open_socket(address, None, limit)  # at once
        await loop.create_unix_connection(lambda: connection, sock=sock)
    else:
        try:
            transport, _protocol = await loop.create_connection(lambda: connection, address.host, address.port)
        except OSError as exc:
            raise _unreachable(address, exc) from None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    await connection.greet()


def _unreachable(address: Address, exc: OSError) -> errors.ConnectError:
    problem = errors.ConnectError(f"{address}: {exc.strerror or exc}")
    problem.nobody = isinstance(exc, ConnectionRefusedError)
    return problem
