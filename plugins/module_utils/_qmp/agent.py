# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The guest's agent, which speaks QMP's JSON without its greeting, behind a character device of the VM."""

from __future__ import annotations

import os

from . import errors
from .address import open_socket, parse
from .deadline import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from .deadline import Deadline

# QEMU accepts for the agent whether or not one runs, and a request made too early may be lost.
_ASK_EVERY = 1.0


def wait_for_agent(address: str, deadline: Deadline) -> None:
    """Return when the agent behind ``address`` answers.

    Raises `errors.ConnectError` for an address nobody listens on, and `errors.CommandTimeout` at the deadline: no agent
    runs in the guest yet, or another client holds its socket.
    """
    limit = Limit(None, deadline, 60.0)
    with open_socket(parse(address), None, limit) as sock:
        while True:
            token = int.from_bytes(os.urandom(4), "big")
            # The byte 0xFF, which no JSON holds, resets the agent's parser from what a client before may have left in it.
            question = b'\xff{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n' % token
            if not _asked(sock, question, limit.remaining()):
                raise errors.CommandTimeout("guest-sync-delimited", "write", limit.seconds)
            if _answered(sock, b'"return": %d' % token, min(_ASK_EVERY, limit.remaining())):
                return
            if limit.expired:
                raise errors.CommandTimeout("guest-sync-delimited", "reply", limit.seconds)


def _asked(sock: socket.socket, question: bytes, seconds: float) -> bool:
    """Whether the question went out in time: the socket is full of those before when no agent has read one for long."""
    sock.settimeout(max(seconds, 0.001))
    try:
        sock.sendall(question)
    except OSError as exc:
        if _timed_out(exc):
            return False
        raise _broken(exc) from None
    return True


def _answered(sock: socket.socket, token: bytes, seconds: float) -> bool:
    """Whether the token comes back within so many seconds. Raises `errors.Disconnected` when the other end leaves."""
    until = Limit(seconds, None, seconds)
    seen = b""
    while not until.expired:
        sock.settimeout(max(until.remaining(), 0.001))
        try:
            data = sock.recv(1 << 12)
        except OSError as exc:
            if _timed_out(exc):
                return False
            raise _broken(exc) from None
        if not data:
            raise errors.Disconnected("the agent's socket was closed: the VM has ended, or another client came")
        seen += data
        if token in seen or token.replace(b" ", b"") in seen:
            return True
    return False


def _timed_out(exc: OSError) -> bool:
    return isinstance(exc, TimeoutError) or "timed out" in str(exc)  # Python 3.8 has a class of its own for it


def _broken(exc: OSError) -> errors.Disconnected:
    return errors.Disconnected(f"the agent's socket broke: {exc}")
