# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Who listens at a socket, why a monitor there does not answer, and who holds it: best effort, silent on any failure.

Linux only. For a UNIX socket the kernel's socket diagnostics (NETLINK_SOCK_DIAG) give the peers of the sockets that
QEMU accepted; for TCP, ``/proc/net/tcp`` has both ends if the client is on this host. ``/proc`` tells whose they are.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .address import Address

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x1 | 0x300
_DONE, _ERROR = 3, 2
_ESTABLISHED = 1
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER = 1, 2, 4
_NAME, _VFS, _PEER = 0, 1, 2
# linux/net.h, of the flags in /proc/net/unix
_ACCEPTS = 0x10000


def find_holder(address: Address, sock: socket.socket | None) -> tuple[tuple[int, str] | None, bool | None]:
    """Return who is served at ``address`` other than ``sock``, and whether ``sock`` is.

    The first is (process id, process name), None: unknown. The second is None where the system does not tell, and False
    where the connection still waits to be accepted: QEMU's character devices accept one at a time.
    """
    holder, taken = None, None
    try:
        own = os.fstat(sock.fileno()).st_ino if sock is not None else 0
        inodes = _unix_clients(address) if address.path is not None else _tcp_clients(sock)
        if address.path is not None and sock is not None:
            taken = own in inodes
        inodes.discard(own)
        holder = _owner(inodes)
    except (OSError, ValueError, IndexError, struct.error, AttributeError):
        pass
    return holder, taken


def find_deaf(address: Address) -> str | None:
    """Return a sentence on who still listens at a UNIX socket whose file is gone; None: nobody, or unknown."""
    if address.path is None or address.path.startswith("@") or os.path.lexists(address.path):
        return None
    try:
        inodes = _listeners(address.path)
        owner = _owner(inodes)
    except (OSError, ValueError, IndexError):
        return None
    if not inodes or (owner is not None and not _sees_our_files(owner[0])):  # another container has the same path
        return None
    who = f"process {owner[0]} ({owner[1]})" if owner else "a process"
    return f"{address}: the socket's file was deleted, but {who} still listens by that name, and can't be reached"


def is_heard(path: str) -> bool:
    """Tell whether somebody listens at a UNIX socket, without a connection. Its file is there a moment earlier.

    Another network namespace has a table of its own, and some systems have none: there a file counts that is a second old.
    """
    try:
        if time.time() - os.stat(path).st_mtime > 1.0:
            return True
        return bool(_listeners(path))
    except (OSError, ValueError, IndexError):
        return False


def _listeners(path: str) -> set[int]:
    """Return the inodes of the sockets that listen by this name, whether its file is there or not."""
    path, inodes = os.path.abspath(path), set()
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
        for line in table.readlines()[1:]:
            fields = line.rstrip("\n").split(None, 7)
            if len(fields) > 7 and os.path.normpath(fields[7]) == path and int(fields[3], 16) & _ACCEPTS:
                inodes.add(int(fields[6]))
    return inodes


def _sees_our_files(pid: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    except OSError:
        return True


def _unix_clients(address: Address) -> set[int]:
    """Return the inodes of the sockets whose connection to ``address`` was accepted."""
    name = address.sun_path
    abstract = name.startswith(b"\0")
    inode = 0 if abstract else os.stat(name).st_ino & 0xFFFFFFFF
    clients = set()
    for state, number, attributes in _unix_sockets():
        # A connection that waits in the backlog has no inode yet on QEMU's side.
        if state != _ESTABLISHED or not number or _PEER not in attributes:
            continue
        if abstract:
            matches = attributes.get(_NAME) == name
        else:
            matches = _VFS in attributes and struct.unpack_from("=I", attributes[_VFS])[0] == inode
        if matches:
            clients.add(struct.unpack_from("=I", attributes[_PEER])[0])
    return clients


def _unix_sockets() -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """(state, inode, attributes) of each UNIX socket of this network namespace."""
    show = _SHOW_NAME | _SHOW_VFS | _SHOW_PEER
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED, 0, show, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        netlink.send(header + request)
        while True:
            data = netlink.recv(1 << 20)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (_DONE, _ERROR) or length < 16:
                    return
                _family, _type, state, _pad, number = struct.unpack_from("=BBBBI", data, 16)
                yield state, number, dict(_attributes(data[32:length]))
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[(length + 3) & ~3 :]


def _tcp_clients(sock: socket.socket | None) -> set[int]:
    """Return the inodes of the sockets connected to where ``sock`` is connected to, as far as they are on this host."""
    if sock is None:
        return set()
    port = sock.getpeername()[1]
    packed = socket.inet_pton(sock.family, sock.getpeername()[0].partition("%")[0])
    wanted = f"{_proc_hex(packed)}:{port:04X}"
    clients = set()
    with open("/proc/net/tcp6" if sock.family == socket.AF_INET6 else "/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[2] == wanted and fields[3] == "01":
                clients.add(int(fields[9]))
    return clients


def _proc_hex(packed: bytes) -> str:
    """Return an address as /proc/net/tcp writes it: 32-bit words in the host's byte order."""
    words = struct.unpack(f">{len(packed) // 4}I", packed)
    return "".join(f"{int.from_bytes(struct.pack('=I', word), 'big'):08X}" for word in words)


def _owner(inodes: set[int]) -> tuple[int, str] | None:
    """Return the first process that has one of the sockets open."""
    wanted = {f"socket:[{inode}]" for inode in inodes if inode}
    if not wanted:
        return None
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _has_open(f"/proc/{entry}/fd", wanted):
            with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as comm:
                return int(entry), comm.read().strip()
    return None


def _has_open(directory: str, wanted: set[str]) -> bool:
    try:
        for name in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{name}") in wanted:
                    return True
            except OSError:
                continue  # closed meanwhile
    except OSError:
        pass  # gone, or another user's
    return False
