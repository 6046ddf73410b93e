# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The guest's agent, which speaks QMP's JSON without its greeting, behind a character device of the VM."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import json
import os

from . import errors
from .address import parse
from .connection import open_socket, pause
from .deadline import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from .address import Address
    from .deadline import Deadline

# QEMU accepts for the agent whether or not one runs, and a request made too early may be lost.
_ASK_EVERY = 1.0
_PAUSE = 0.05
_LOOK = 0.25
# No JSON holds this byte. It resets the agent's parser from what a client before may have left in it, and goes before its answer.
_RESET = b"\xff"
_SYNC = "guest-sync-delimited"
# Of an answer: what a guest may cost the host's memory.
_LONGEST = 64 << 20


def wait_for_agent(address: str, deadline: Deadline) -> None:
    """Return when the agent behind ``address`` answers. Raise what `Agent` raises."""
    Agent(address, deadline).close()


def tell(address: str, command: str, deadline: Deadline) -> None:
    """Write a command for an agent that is busy, who comes to it later, and wait for no answer. Raise what `Agent` raises."""
    with _open(parse(address), Limit(None, deadline, 60.0)) as agent:
        _send(agent, _RESET + json.dumps({"execute": command}).encode() + b"\n", _PAUSE)


class Agent:
    """A client of the agent, which answers to whoever is there what anybody has asked.

    So each command goes out behind a token of its own, and all that comes before that is dropped: answers to other clients, and
    to a command that this one has given up.
    """

    def __init__(self, address: str, deadline: Deadline) -> None:
        """Connect, and return when the agent behind ``address`` answers.

        Raise `errors.CommandTimeout` at the deadline: no agent runs in the guest yet, or another client holds its socket; and
        `errors.ConnectError` if nobody has come to listen there by then, or at once for an address that is not valid.
        """
        limit = Limit(None, deadline, 60.0)
        self._unread = b""
        self._socket = _open(parse(address), limit)
        try:
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

        It is written at once and whole, so that an agent which answers too late still carries it out. Raise
        `errors.CommandError`, `errors.CommandTimeout`, `errors.ProtocolError`, `errors.Disconnected`, `errors.Cancelled`.
        """
        limit, token = Limit(None, deadline, 60.0), _new_token()
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        _send(self._socket, _question(token) + json.dumps(request).encode() + b"\n", max(limit.remaining(), _PAUSE))
        reply: dict[str, Any] = {}
        while reply.get("return") != token:
            reply = self._reply(limit, command)
        reply = self._reply(limit, command)
        if "error" in reply:
            raise errors.command_error(command, reply["error"])
        if "return" not in reply:
            raise errors.ProtocolError(f"{command}: the agent has answered with what is not a reply")
        return reply["return"]

    def _meet(self, limit: Limit) -> None:
        tokens = []
        while not limit.expired:
            tokens.append(_new_token())
            _send(self._socket, _question(tokens[-1]), min(_ASK_EVERY, limit.remaining()))
            again = Limit(min(_ASK_EVERY, limit.remaining()), limit.deadline, 0.0)
            with contextlib.suppress(errors.CommandTimeout):
                while self._reply(again).get("return") not in tokens:
                    pass
                return
        raise errors.CommandTimeout(_SYNC, "reply", limit.seconds)

    def _reply(self, limit: Limit, command: str = _SYNC) -> dict[str, Any]:
        """Return the next reply, empty for a line that is not one. Raise as ``execute`` does."""
        while b"\n" not in self._unread:
            if limit.cancelled:
                raise errors.Cancelled(command, "reply")
            if limit.expired:
                raise errors.CommandTimeout(command, "reply", limit.seconds)
            self._socket.settimeout(max(limit.remaining(_LOOK), 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except OSError as exc:
                if _later(exc):
                    continue
                raise _broken(exc) from None
            if not data:
                raise errors.Disconnected("the agent's socket was closed: the VM has ended, or another client came")
            self._unread += data
            if len(self._unread) > _LONGEST:
                raise errors.ProtocolError(f"the agent has sent more than {_LONGEST} bytes without an end")
        line, self._unread = self._unread.split(b"\n", 1)
        try:
            reply = json.loads(line.rpartition(_RESET)[2].decode())
        except (ValueError, RecursionError):
            return {}
        return reply if isinstance(reply, dict) else {}


def _new_token() -> int:
    return int.from_bytes(os.urandom(4), "big")


def _question(token: int) -> bytes:
    return _RESET + b'{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n' % token


def _open(where: Address, limit: Limit) -> socket.socket:
    """Return a connected socket. Try again until the time is up where nobody listens yet, or others stand in line."""
    while True:
        try:
            return open_socket(where, None, limit)
        except BlockingIOError:
            pause(limit, where, _PAUSE)
        except errors.ConnectError as exc:
            if not exc.nobody or limit.expired:
                raise
            pause(limit, where, _PAUSE)
            continue
        if limit.expired:
            raise errors.CommandTimeout(_SYNC, "queue", limit.seconds)


def _send(sock: socket.socket, data: bytes, seconds: float) -> None:
    """Write a request, or let it be where nobody reads the last ones. Raise `errors.Disconnected`."""
    sock.settimeout(max(seconds, 0.001))
    try:
        sock.sendall(data)
    except OSError as exc:
        if not _later(exc):
            raise _broken(exc) from None


def _later(exc: OSError) -> bool:
    # Python 3.8 has a class of its own for a time-out
    return isinstance(exc, (BlockingIOError, TimeoutError)) or "timed out" in str(exc)


def _broken(exc: OSError) -> errors.Disconnected:
    return errors.Disconnected(f"the agent's socket broke: {exc}")
