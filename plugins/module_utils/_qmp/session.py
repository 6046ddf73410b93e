# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A QMP session: connect, greeting, negotiation, commands, events, close.

    with QMPSession.connect("unix:/run/vm.qmp", timeout=10.0) as session:
        session.execute("device_del", {"id": "d0"}, wait_for=EventFilter("DEVICE_DELETED", device="d0"))

Any thread may use it. QEMU works on one command at a time; the session keeps that order (first come, first served).
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from time import monotonic

from . import errors
from .address import parse
from .call import Call
from .connection import no_greeting, open_socket, pause, peer_process, peer_user
from .deadline import Limit
from .greeting import Version, read_greeting
from .pump import Pump
from .queries import is_query
from .wire import Transport, check_fds, encode_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Mapping, Sequence

    from .address import Address
    from .deadline import Deadline
    from .events import Event

CONNECT_TIMEOUT = 10.0
EXECUTE_TIMEOUT = 60.0
MAX_REPLY = 64 << 20
GRACE = 2.0
RETRY_PAUSE = 0.01
GREETING_PAUSE = 1.0  # a free monitor greets within it


class Listener:
    """Reads the events of a session in order, each once, at its own pace. Several do not disturb each other."""

    def __init__(self, session: QMPSession, filter: Callable[[Event], Any] | None, since: int) -> None:
        self._session = session
        self._filter = filter or (lambda event: True)
        self._since = since

    def pending(self) -> list[Event]:
        """Return the matching events that came since the last call, without waiting."""
        events, self._since = self._session._events_from(self._since)
        return [event for event in events if self._filter(event)]

    def next(self, timeout: float | None = None, deadline: Deadline | None = None) -> Event:
        """Return the next matching event; waits for it. Errors as for `QMPSession.wait_event`."""
        event, self._since = self._session._wait_event(self._filter, timeout, deadline, self._since)
        return event


class QMPSession:
    """One client of one QMP monitor. Made by `connect` or `from_socket`."""

    default_timeout = EXECUTE_TIMEOUT

    def __init__(self, sock: socket.socket, peer: str, read_only: bool, max_reply: int) -> None:
        self.peer = peer
        self.read_only = read_only
        self.version = Version(0, 0, 0)
        self.capabilities: list[str] = []
        self.oob = False
        self._owns = True
        self._sock = sock
        self._pump = Pump(Transport(sock), max_reply)

    # -- opening -----------------------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        address: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        tls: Mapping[str, Any] | None = None,
        read_only: bool = False,
        max_reply: int = MAX_REPLY,
        oob: bool = True,
    ) -> QMPSession:
        """Connect to the monitor at ``address``; greeted and negotiated within one limit (10 s if none is given).

        ``address``: ``/path``, ``unix:/path``, ``unix:@abstract``, ``HOST:PORT``, ``tcp:HOST:PORT``, ``[v6]:PORT``.
        ``timeout`` in seconds and ``deadline``: the earlier counts. ``tls``: ``ca_path``, ``cert_path``, ``key_path``,
        ``server_name``. ``max_reply``: bytes of the longest message taken. ``oob``: enable it where QEMU offers it.
        A connection that ends before its greeting, or a full backlog, is tried again every 10 ms: QEMU does so when
        another client comes or goes at the same time.

        Raise `errors.ConnectError`, `errors.MonitorBusy`, `errors.NegotiationError`, `errors.Cancelled`.
        """
        where = parse(address)
        limit = Limit(timeout, deadline, CONNECT_TIMEOUT)
        problem = None
        while True:
            pause(limit, where, 0)
            begun = monotonic()
            try:
                return cls._attempt(where, tls, read_only, max_reply, limit, oob)
            except errors.MonitorBusy as error:
                # a monitor that closed every connection before is not busy because the last one had no time left
                hasty = not error.holder and monotonic() - begun < GREETING_PAUSE
                raise (problem if problem and hasty else error) from None
            except BlockingIOError:
                problem = None
            except errors.Disconnected as error:
                problem = errors.ConnectError(f"{where}: no greeting within {limit.seconds:.4g} s: {error}")
            pause(limit, where, RETRY_PAUSE)
            if limit.expired or (tls and problem):
                raise problem or no_greeting(where, limit, None)

    @classmethod
    def _attempt(
        cls, where: Address, tls: Mapping[str, Any] | None, read_only: bool, max_reply: int, limit: Limit, oob: bool
    ) -> QMPSession:
        """Return one connection; its socket is closed when that fails."""
        sock = open_socket(where, tls, limit)
        try:
            return cls._from_connected_socket(sock, str(where), read_only, max_reply, limit, oob, where)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def from_socket(
        cls,
        sock: socket.socket,
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        read_only: bool = False,
        max_reply: int = MAX_REPLY,
        oob: bool = True,
    ) -> QMPSession:
        """Return a session over ``sock``, a connected stream socket. It owns the socket from its success on, not before.

        Arguments and errors as for `connect`; an end of the stream before the greeting is an `errors.ConnectError`.
        """
        limit = Limit(timeout, deadline, CONNECT_TIMEOUT)
        before = sock.gettimeout()
        try:
            return cls._from_connected_socket(sock, "the given socket", read_only, max_reply, limit, oob, None)
        except BaseException as error:
            sock.settimeout(before)
            if isinstance(error, errors.Disconnected):
                raise errors.ConnectError(f"no greeting: {error}") from None
            raise

    @classmethod
    def _from_connected_socket(
        cls,
        sock: socket.socket,
        peer: str,
        read_only: bool,
        max_reply: int,
        limit: Limit,
        oob: bool,
        address: Address | None,
    ) -> QMPSession:
        """Return a greeted and negotiated session. On failure ``sock`` is the caller's to close."""
        session = cls(sock, peer, read_only, max_reply)
        try:
            session._open(limit, oob, address)
        except BaseException:
            session._owns = False
            session._pump.fail(errors.Disconnected("the session was never open"))
            raise
        return session

    def _open(self, limit: Limit, oob: bool, address: Address | None) -> None:
        """Greeting and negotiation. Raise `errors.Disconnected` if the stream ends before the greeting."""
        pump = self._pump
        greet = Call(None)
        greet.done = lambda: pump.greeting is not None
        try:
            pump.run(greet, limit)
        except errors.CommandTimeout:
            if pump.messages_before_greeting or pump.log.count:
                seen = f"{pump.messages_before_greeting + pump.log.count} messages, but no greeting, within {limit.seconds:.4g} s"
                raise errors.NegotiationError(f"{self.peer}: {seen}; is this a QMP monitor?") from None
            raise no_greeting(address or self.peer, limit, self._sock) from None
        except errors.ProtocolError as error:
            raise errors.NegotiationError(f"{self.peer}: {error}") from None
        self.version, self.capabilities = read_greeting((pump.greeting or {}).get("QMP"), self.peer)
        enable = {"enable": ["oob"]} if oob and "oob" in self.capabilities else None
        try:
            self._run("qmp_capabilities", enable, limit)
        except errors.CommandTimeout:
            raise errors.NegotiationError(
                f"{self.peer}: greeted, but qmp_capabilities was not answered within {limit.seconds:.4g} s"
            ) from None
        except (errors.CommandError, errors.ProtocolError, errors.Disconnected) as error:
            raise errors.NegotiationError(f"{self.peer}: negotiation failed: {error}") from None
        self.oob = enable is not None

    # -- commands ----------------------------------------------------------------------------------------------

    def execute(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        fds: Sequence[int] = (),
        wait_for: Callable[[Event], Any] | None = None,
        oob: bool = False,
    ) -> Any:
        """Run the command ``name``: the ``return`` of its reply (any JSON value).

        ``timeout`` in seconds and ``deadline``: the earlier counts; without both, `default_timeout`. ``fds``: numbers
        of open descriptors that go along (UNIX sockets); they stay open here. ``wait_for``: an `EventFilter`, or a
        function of an event; the call returns when both the reply and a matching event came, in either order, where
        only events that arrive after the command is written count. ``oob``: out of band, overtaking queued commands.

        Raise `errors.CommandError` and its subclasses, `errors.CommandTimeout`, `errors.Cancelled`,
        `errors.Disconnected`, `errors.ProtocolError`; and with nothing written `errors.InvalidCommand`,
        `errors.ReadOnly`.
        """
        if self.read_only and not is_query(name, arguments):
            raise errors.ReadOnly(name)
        if oob and not self.oob:
            raise errors.InvalidCommand(f"{name}: out-of-band execution is not enabled on this monitor")
        return self._run(name, arguments, Limit(timeout, deadline, self.default_timeout), fds, wait_for, oob)

    def _run(
        self,
        name: str,
        arguments: dict[str, Any] | None,
        limit: Limit,
        fds: Sequence[int] = (),
        wait_for: Callable[[Event], Any] | None = None,
        oob: bool = False,
    ) -> Any:
        pump = self._pump
        pump.check_fork()
        call = Call(name, wait_for)
        call.oob = oob
        with pump.lock:
            call.id = pump.next_id()
        call.frame = encode_command(name, arguments, call.id, oob)
        if fds:
            call.fds = check_fds(name, fds, pump.transport)
        pump.run(call, limit)
        reply = call.reply or {}
        if "error" in reply:
            raise errors.command_error(name, reply["error"])
        return reply["return"]

    # -- events ------------------------------------------------------------------------------------------------

    def wait_event(
        self,
        filter: Callable[[Event], Any] | None = None,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        *,
        since: int | None = None,
    ) -> Event:
        """Return the first event that ``filter`` (an `EventFilter` or a function of an event; None: any) takes.

        Events count from this call on; with ``since``, a number from `event_count`, from there on. Commands of other
        threads run meanwhile. Raise `errors.CommandTimeout` (phase ``event``), `errors.Cancelled`,
        `errors.Disconnected`.
        """
        return self._wait_event(filter or (lambda event: True), timeout, deadline, since)[0]

    def _wait_event(
        self, filter: Callable[[Event], Any], timeout: float | None, deadline: Deadline | None, since: int | None
    ) -> tuple[Event, int]:
        """Return the event, and the number of the one after it."""
        self._pump.check_fork()
        call = Call(None, filter)
        self._pump.run(call, Limit(timeout, deadline, self.default_timeout), since)
        if call.event is None or call.cursor is None:
            raise errors.Disconnected("the session was closed")
        return call.event, call.cursor

    @property
    def events(self) -> list[Event]:
        """All events since connect, oldest first (the last 10,000)."""
        return self.events_since(0)

    @property
    def event_count(self) -> int:
        """How many events came since connect. A number for `events_since` and `wait_event`."""
        pump = self._pump
        pump.check_fork()
        with pump.lock:
            self._catch_up()
            return pump.log.count

    def events_since(self, number: int) -> list[Event]:
        """Return the events from ``number`` (an earlier `event_count`) on, oldest first."""
        return self._events_from(number)[0]

    def _events_from(self, number: int) -> tuple[list[Event], int]:
        """Return the events from ``number`` on, and the number of the next one to come."""
        pump = self._pump
        pump.check_fork()
        with pump.lock:
            self._catch_up()
            return pump.log.since(number), pump.log.count

    def listen(self, filter: Callable[[Event], Any] | None = None) -> Listener:
        """Return a `Listener` for the events that ``filter`` takes (None: all), from now on."""
        return Listener(self, filter, self.event_count)

    def _catch_up(self) -> None:
        if self._pump.failure is None and not self._pump.closing:
            self._pump.advance(read=True)

    @property
    def process(self) -> int | None:
        """The process id of the other end of a UNIX socket; None for TCP, and where the system does not tell."""
        return peer_process(self._sock)

    @property
    def user(self) -> int | None:
        """The user id of the other end of a UNIX socket; None for TCP, and where the system does not tell."""
        return peer_user(self._sock)

    # -- closing -----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the session is over: closed here, or by QEMU."""
        pump = self._pump
        pump.check_fork()
        with pump.lock:
            self._catch_up()
            return pump.failure is not None or pump.closing

    def close(self, grace: float = GRACE) -> None:
        """End the session. Twice is fine.

        A command that is under way gets up to ``grace`` seconds to be answered, since QEMU would give its reply to the
        next client of the monitor. Every other waiter gets `errors.Disconnected` at once.
        """
        pump = self._pump
        pump.check_fork()
        with pump.lock:
            first = not pump.closing
            pump.closing = True
            if first:
                pump.rouse_all()
        try:
            if first and pump.busy and pump.failure is None:
                drain = Call(None)
                drain.done = lambda: not pump.busy
                try:
                    pump.run(drain, Limit(grace, None, GRACE))
                except errors.QMPError:
                    pass
        finally:
            with pump.lock:
                pump.fail(errors.Disconnected("the session was closed"))
            if self._owns:
                self._sock.close()

    def __enter__(self) -> QMPSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            if self._owns:
                self.close()
        except Exception:  # nobody is left to tell
            pass

    def __repr__(self) -> str:
        state = "closed" if self._pump.failure is not None else "open"
        return f"<QMPSession {self.peer}, QEMU {'.'.join(map(str, self.version[:3]))}, {state}>"
