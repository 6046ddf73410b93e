# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The guest's agent, which speaks QMP's JSON without its greeting, behind a character device of the VM."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os

from . import errors
from .address import parse
from .connection import open_socket, pause, peer_user
from .deadline import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Mapping

    from .address import Address
    from .deadline import Deadline

# QEMU accepts for the agent whether or not one runs, and a request made too early may be lost.
_ASK_EVERY = 1.0
# An agent that has answered one question answers those behind it as well.
_CATCH_UP = 5.0
_PAUSE = 0.05
_LOOK = 0.25
# No JSON holds this byte. It resets the agent's parser from what a client before may have left in it, and goes before its answer.
_RESET = b"\xff"
_SYNC = "guest-sync-delimited"
# Of an answer: what a guest may cost the host's memory.
_LONGEST = 64 << 20
# Values of JSON take twenty times their text, and minutes at that length. What is long and is an answer has few.
_MOST_VALUES = 1_000_000


class NoAnswer(errors.CommandTimeout):
    """Nothing but questions whether there is an agent was sent, and none was answered."""

    def __init__(self, address: str, seconds: float, phase: str = "reply") -> None:
        super().__init__(_SYNC, phase, seconds)
        self.args = (
            f"no guest agent answered {_SYNC} at {address} within {seconds:.4g} s: none runs in the guest yet, or other "
            "clients hold its socket",
        )


def wait_for_agent(address: str, deadline: Deadline) -> None:
    """Return when the agent behind ``address`` answers. Raise what `Agent` raises."""
    Agent(address, deadline).close()


def tell(address: str, command: str, deadline: Deadline) -> None:
    """Write a command for an agent that is busy, who comes to it later, and wait for no answer. Raise what `Agent` raises."""
    with _open(parse(address), None, Limit(None, deadline, 60.0)) as agent:
        _send(agent, _RESET + json.dumps({"execute": command}).encode() + b"\n", Limit(_PAUSE, deadline, 0.0))


class Agent:
    """A client of the agent, which answers to whoever is there what anybody has asked.

    So nothing is sent before a token of its own has come back, and all that comes before that is dropped: answers to other
    clients, and to a command that this one has given up.
    """

    def __init__(
        self,
        where: str | socket.socket,
        deadline: Deadline,
        tls: Mapping[str, Any] | None = None,
        name: str = "",
        patience: float | None = None,
        user: int | None = None,
    ) -> None:
        """Connect to an address, or take a connected socket, called ``name``; return when the agent behind it answers.

        ``patience``: the seconds that any later answer may take, where no deadline is earlier. ``user``: the user id that whoever
        listens there has to be of; a monitor in other hands can name any socket of its host.

        Raise `NoAnswer` at the deadline: no agent runs in the guest yet, or another client holds its socket; and
        `errors.ConnectError` if nobody has come to listen there by then, or at once for an address that is not valid.
        """
        limit = Limit(None, deadline, 60.0)
        self.name = where if isinstance(where, str) else name
        self._patience = patience
        self._unread = bytearray()
        self._synced = False
        self._socket = _open(parse(where), tls, limit) if isinstance(where, str) else where
        try:
            if user is not None and peer_user(self._socket) != user:
                raise errors.ConnectError(
                    f"{self.name}: who listens there is not of the user {user}, as the monitor is"
                )
            self._meet(limit)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def execute(self, command: str, deadline: Deadline, **arguments: Any) -> Any:
        """Return what the agent returns for a command. The names of arguments get hyphens for their underscores.

        It is written at once and whole, so that an agent which answers too late still carries it out. Raise `NoAnswer` where it
        was not sent; `errors.CommandError`, `errors.CommandTimeout`, `errors.ProtocolError`, `errors.Disconnected`,
        `errors.Cancelled`.
        """
        limit = Limit(self._patience, deadline, 60.0)
        if not self._synced:
            self._meet(limit)
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._synced = False  # until it is answered
        if not _send(self._socket, json.dumps(request).encode() + b"\n", limit):
            raise errors.CommandTimeout(command, "write", limit.seconds)
        reply = self._reply(limit, command)
        if "error" in reply:  # of some there are two
            raise errors.command_error(command, reply["error"])
        if "return" not in reply:
            raise errors.ProtocolError(f"{command}: the agent has answered with what is not a reply")
        self._synced = True
        return reply["return"]

    def explain(self, exc: errors.CommandError, deadline: Deadline) -> str:
        """Return what the agent said against a command, and for one that the guest does not allow, where it is allowed."""
        if not isinstance(exc, errors.CommandNotFound):
            return str(exc)
        try:
            listed = [entry["name"] for entry in self.execute("guest-info", deadline)["supported_commands"]]
        except (errors.QMPError, TypeError, KeyError):
            listed = [exc.command]
        if exc.command not in listed:
            return f"the guest's agent has no {exc.command}: it is too old for that, or of another system ({exc.desc})"
        return (
            f"the guest does not allow {exc.command} ({exc.desc}): see allow-rpcs and block-rpcs (before QEMU 9.0 blacklist) in "
            "its /etc/qemu/qemu-ga.conf, or /etc/sysconfig/qemu-ga on RHEL"
        )

    def _meet(self, limit: Limit) -> None:
        """Return when the agent has answered the last question that was put to it. Raise NoAnswer at the limit."""
        tokens: list[int] = []
        while not limit.expired:
            token = int.from_bytes(os.urandom(4), "big")
            again = Limit(min(_ASK_EVERY, limit.remaining()), limit.deadline, 0.0)
            if _send(self._socket, _question(token), again):
                tokens.append(token)
            try:
                while not self._synced:
                    found = self._reply(again).get("return")
                    self._synced = found in tokens[-1:]
                    if found in tokens:
                        again = Limit(min(_CATCH_UP, limit.remaining()), limit.deadline, 0.0)
                return
            except errors.CommandTimeout:
                continue
        raise NoAnswer(self.name, limit.seconds)

    def _reply(self, limit: Limit, command: str = _SYNC) -> dict[str, Any]:
        """Return the next reply, empty for a line that is not one. Raise as ``execute`` does."""
        seen = 0
        while True:
            end = self._unread.find(b"\n", seen)
            if end >= 0:
                break
            seen = len(self._unread)
            self._receive(limit, command)
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        if line.count(b",") >= _MOST_VALUES:
            return {}
        try:
            reply = json.loads(line.rpartition(_RESET)[2].decode())
        except (ValueError, RecursionError):
            return {}
        if isinstance(reply, dict) and "QMP" in reply:
            raise errors.ConnectError(f"{self.name}: this is a QMP monitor, not the socket of a guest's agent")
        return reply if isinstance(reply, dict) else {}

    def _receive(self, limit: Limit, command: str) -> None:
        """Take what has come, or return after a moment."""
        if limit.cancelled:
            raise errors.Cancelled(command, "reply")
        if limit.expired:
            raise errors.CommandTimeout(command, "reply", limit.seconds)
        self._socket.settimeout(max(limit.remaining(_LOOK), 0.001))
        asked = () if command == _SYNC else (command, True)
        try:
            data = self._socket.recv(1 << 18)
        except OSError as exc:
            if _later(exc):
                return
            raise errors.Disconnected(f"the agent's socket broke: {exc}", *asked) from None
        if not data:
            raise errors.Disconnected("the agent's socket was closed: the VM has ended, or another client came", *asked)
        self._unread += data
        if len(self._unread) > _LONGEST:
            raise errors.ProtocolError(f"the agent has sent more than {_LONGEST} bytes without an end")


def _question(token: int) -> bytes:
    return _RESET + b'{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n' % token


def _open(where: Address, tls: Mapping[str, Any] | None, limit: Limit) -> socket.socket:
    """Return a connected socket. Try again until the time is up where nobody listens yet, or others stand in line."""
    while True:
        try:
            return open_socket(where, tls, limit)
        except BlockingIOError:
            pause(limit, where, _PAUSE)
        except errors.ConnectError as exc:
            if not exc.nobody or limit.expired:
                raise
            pause(limit, where, _PAUSE)
            continue
        if limit.expired:
            raise NoAnswer(str(where), limit.seconds, "queue")


def _send(sock: socket.socket, data: bytes, limit: Limit) -> bool:
    """Write a request, and tell whether all of it was written, or nobody reads the last ones. Raise `errors.Disconnected`."""
    rest = memoryview(data)
    while rest:
        sock.settimeout(max(limit.remaining(_LOOK), 0.001))
        try:
            rest = rest[sock.send(rest) :]
        except OSError as exc:
            if not _later(exc):
                raise errors.Disconnected(f"the agent's socket broke: {exc}") from None
            if limit.expired or limit.cancelled:
                break
    return not rest


def _later(exc: OSError) -> bool:
    # Python 3.8 has a class of its own for a time-out
    return isinstance(exc, (BlockingIOError, TimeoutError)) or "timed out" in str(exc)
