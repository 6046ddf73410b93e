# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Connecting to a monitor's address: UNIX, TCP and TLS."""
# Private to the collection: may change without notice.

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from time import sleep

from . import errors
from .address import UNIX_LONGEST, Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from .deadline import Limit


def open_socket(address: Address, tls: Mapping[str, Any] | None, limit: Limit) -> socket.socket:
    """Return a connected socket. The caller closes it.

    Raise `errors.ConnectError`; BlockingIOError where the backlog of a UNIX socket is full (QEMU's holds one), to be
    tried again, and so is `errors.Disconnected`, a connection that was reset while it was made; `errors.Cancelled`.
    """
    if address.path is not None:
        if tls:
            raise errors.ConnectError(f"{address}: TLS is for TCP addresses; a UNIX socket needs none")
        return _open_unix(address)
    sock = _open_tcp(address, limit)
    if not tls:
        return sock
    try:
        return _start_tls(sock, address, tls, limit)
    except BaseException:
        sock.close()
        raise


def _open_unix(address: Address) -> socket.socket:
    directory = -1
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        name = address.sun_path
        if len(name) > UNIX_LONGEST and not name.startswith(b"\0"):
            # The kernel's limit is on the text; through the directory's descriptor the text is short.
            parent, base = os.path.split(name)
            directory = os.open(parent or b".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
            name = b"/proc/self/fd/%d/%s" % (directory, base)
        sock.connect(name)
    except BlockingIOError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise _unreachable(address, error) from None
    except BaseException:
        sock.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return sock


def _unreachable(address: Address, error: OSError) -> errors.ConnectError:
    hints = {
        errno.ENOENT: "; is the virtual machine running?",
        errno.ECONNREFUSED: "; nothing listens there, is the virtual machine running?",
        errno.EACCES: "; the user of this task may not open it (become?)",
        errno.ENOTSOCK: "; this file is not a socket",
    }
    code = error.errno or 0
    if code == errno.ECONNREFUSED and address.is_file():
        code = errno.ENOTSOCK  # Linux does not tell the two apart
    if code == errno.ENOENT:
        from .holder import find_deaf  # seldom needed

        deaf = find_deaf(address)
        if deaf is not None:
            return errors.ConnectError(deaf)  # not "nobody"
    problem = errors.ConnectError(f"{address}: {error.strerror or error}{hints.get(code, '')}")
    problem.nobody = code in (errno.ENOENT, errno.ECONNREFUSED)
    return problem


def _open_tcp(address: Address, limit: Limit) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise errors.ConnectError(f"{address}: the host name can't be resolved: {error}") from None
    problem: errors.ConnectError | None = None
    for family, kind, proto, _name, where in found:
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            code = sock.connect_ex(where)
            if code == errno.EINPROGRESS:
                wait_for(sock, select.POLLOUT, limit, address)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code in (errno.ECONNRESET, errno.ECONNABORTED):
                raise errors.Disconnected(f"the connection broke ({os.strerror(code)})")
            if not code:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            problem = _unreachable(address, OSError(code, os.strerror(code)))
        except errors.ConnectError as error:
            problem = error
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise problem or errors.ConnectError(f"{address}: the host has no address")


def _start_tls(sock: socket.socket, address: Address, tls: Mapping[str, Any], limit: Limit) -> socket.socket:
    import ssl

    unknown = set(tls) - {"ca_path", "cert_path", "key_path", "server_name"}
    if unknown:
        raise errors.ConnectError(f"{address}: unknown TLS options: {', '.join(sorted(map(str, unknown)))}")
    try:
        context = ssl.create_default_context(cafile=tls.get("ca_path"))
        # Python 3.13 began to refuse authorities without a key usage extension, as a plain "openssl req -x509" makes
        # them. QEMU takes them, so that a newer Python must not cut off a monitor. The chain is checked all the same.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if tls.get("cert_path"):
            context.load_cert_chain(tls["cert_path"], tls.get("key_path"))
        secure = context.wrap_socket(
            sock, server_hostname=tls.get("server_name") or address.host, do_handshake_on_connect=False
        )
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                wait_for(secure, select.POLLIN, limit, address, busy=True)
            except ssl.SSLWantWriteError:
                wait_for(secure, select.POLLOUT, limit, address)
    except (OSError, ValueError) as error:
        raise errors.ConnectError(f"{address}: TLS: {getattr(error, 'strerror', None) or error}") from None


def wait_for(sock: socket.socket, what: int, limit: Limit, address: Address, busy: bool = False) -> None:
    """Wait until ``sock`` is ready for ``what``, in slices, so that a cancelled deadline is seen soon.

    Raise `errors.Cancelled`, `errors.ConnectError` (`errors.MonitorBusy` if ``busy``) when the time is up.
    """
    poll = select.poll()
    poll.register(sock, what)
    while not poll.poll(int(limit.remaining(0.05) * 1000) + 1):
        pause(limit, address, 0)
        if limit.expired:
            text = f"{address}: no connection within {limit.seconds:.4g} s"
            if busy:
                raise errors.MonitorBusy(text + ": connected, but the TLS handshake gets no answer: " + BUSY + SILENT)
            raise errors.ConnectError(text)


def peer_process(sock: socket.socket) -> int | None:
    """Return the process that listened at the other end of a UNIX socket; None where the system does not tell."""
    return (_peer(sock) or (0, 0))[0] or None  # a process of another pid namespace is 0


def peer_user(sock: socket.socket) -> int | None:
    """Return the user id of who listened at the other end of a UNIX socket; None where the system does not tell."""
    peer = _peer(sock)
    return peer[1] if peer else None


def _peer(sock: socket.socket) -> tuple[int, int] | None:
    try:
        if sock.family != socket.AF_UNIX:
            return None
        # struct ucred: pid, uid, gid
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except (OSError, AttributeError):
        return None
    return int.from_bytes(told[:4], sys.byteorder), int.from_bytes(told[4:8], sys.byteorder)


def pause(limit: Limit, address: Address, seconds: float) -> None:
    """Sleep, within ``limit``. Raise `errors.Cancelled`."""
    if limit.cancelled:
        raise errors.Cancelled(f"connect to {address}", "queue")
    if seconds:
        sleep(limit.remaining(seconds))


def no_greeting(where: Address | str, limit: Limit, sock: socket.socket | None) -> errors.MonitorBusy:
    """Return what to raise when the monitor at ``where`` took the connection ``sock``, and said nothing within ``limit``."""
    from .holder import find_holder

    holder, taken = find_holder(where, sock) if not isinstance(where, str) else (None, None)
    if holder:
        why = f"{BUSY}: process {holder[0]} ({holder[1]}){_CURE}"
    elif taken:
        why = f"{_NO_MONITOR}, or one behind a relay, where another client is attached to it"
    elif taken is None:
        why = f"{BUSY}{SILENT}, or {_NO_MONITOR}{_CURE}"
    else:
        why = f"{BUSY}{SILENT}{_CURE}"
    return errors.MonitorBusy(
        f"{where}: connected, but no greeting within {limit.seconds:.4g} s: {why}", holder, taken and not holder
    )


BUSY = "another client is attached to this monitor (QEMU serves one at a time)"
SILENT = ", or QEMU does not answer"  # the two look alike where nothing tells who the client is
_NO_MONITOR = "this is not a QMP monitor (but a serial port's or the guest agent's socket, say)"
_CURE = "; end that client, or give the VM a second monitor"
