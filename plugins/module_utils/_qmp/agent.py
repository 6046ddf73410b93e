# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The guest's agent, which speaks QMP's JSON without its greeting, behind a character device of the VM."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os

from . import errors
from .address import parse
from .connection import open_socket, pause
from .deadline import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from .address import Address
    from .deadline import Deadline

# QEMU accepts for the agent whether or not one runs, and a request made too early may be lost.
_ASK_EVERY = 1.0
_PAUSE = 0.05


def wait_for_agent(address: str, deadline: Deadline) -> None:
    """Return when the agent behind ``address`` answers.

    Raise `errors.CommandTimeout` at the deadline: no agent runs in the guest yet, or another client holds its socket; and
    `errors.ConnectError` if nobody has come to listen there by then, or at once for an address that is not valid.
    """
    limit = Limit(None, deadline, 60.0)
    with _open(parse(address), limit) as sock:
        while True:
            token = int.from_bytes(os.urandom(4), "big")
            # The byte 0xFF, which no JSON holds, resets the agent's parser from what a client before may have left in it.
            question = b'\xff{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n' % token
            _send(sock, question, min(_ASK_EVERY, limit.remaining()))
            if _answered(sock, b'"return": %d' % token, min(_ASK_EVERY, limit.remaining())):
                return
            if limit.expired:
                raise errors.CommandTimeout("guest-sync-delimited", "reply", limit.seconds)


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
            raise errors.CommandTimeout("guest-sync-delimited", "queue", limit.seconds)


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


def _answered(sock: socket.socket, token: bytes, seconds: float) -> bool:
    """Tell whether the token comes back within so many seconds. Raise `errors.Disconnected` when the other end leaves."""
    until = Limit(seconds, None, seconds)
    seen = b""
    while not until.expired:
        sock.settimeout(max(until.remaining(), 0.001))
        try:
            data = sock.recv(1 << 12)
        except OSError as exc:
            if _later(exc):
                return False
            raise _broken(exc) from None
        if not data:
            raise errors.Disconnected("the agent's socket was closed: the VM has ended, or another client came")
        seen += data
        if token in seen or token.replace(b" ", b"") in seen:
            return True
    return False


def _broken(exc: OSError) -> errors.Disconnected:
    return errors.Disconnected(f"the agent's socket broke: {exc}")
