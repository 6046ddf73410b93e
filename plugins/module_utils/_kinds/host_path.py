# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Paths that QEMU is told to make or to write to. It deletes, takes over or empties what is there, without a word.

So what is there is looked at first, as QEMU sees it, which can stand in another directory and have another root. Only
where QEMU runs on this host: of another's files nothing is known.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Tuple

from .._core.errors import Refusal
from .._qmp.address import UNIX_LONGEST
from .._qmp.connection import peer_process
from .blockdev_nodes import same_file

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

_FDSET = "/dev/fdset/"
_WHAT = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


def check_socket(
    vm: VM, option: str, path: str, owner: Thing, draft: Draft | None = None, leaves: bool = False
) -> None:
    """Raise Refusal unless QEMU can make a UNIX socket at ``path`` without harm: nothing is there, or a socket that is left over.

    ``owner``: kind and id of what shall have it, in the plan ``draft``. ``leaves``: a listener of this VM's own goes before.
    """
    seen = _claimed(vm, option, path, owner, draft)
    if seen is None:
        return
    if len(os.fsencode(path)) > UNIX_LONGEST:
        raise Refusal(f"{option}: {path} is longer than the {UNIX_LONGEST} bytes that a UNIX socket's path may have")
    if os.path.dirname(path) in vm.coming:
        return
    mode = _mode(option, path, seen)
    if mode is None:
        return
    if not stat.S_ISSOCK(mode):
        raise Refusal(
            f"{option}: {path} is there and is {_what(mode)}, which QEMU would delete to make its socket: give another path"
        )
    try:
        pid = _listener(seen)
    except OSError as exc:
        raise Refusal(
            f"{option}: {path} is a socket, and whether somebody listens there can't be told ({exc.strerror}): "
            "give another path, or remove it"
        ) from exc
    if pid is not None and pid != vm.ends and not (leaves and pid == vm.session.process):
        raise Refusal(
            f"{option}: {_process(pid)} listens at {path}, and QEMU would take the socket away from it: give another path"
        )


def check_output(
    vm: VM,
    option: str,
    path: str,
    owner: Thing,
    keeps: bool,
    cure: str,
    draft: Draft | None = None,
    follow: bool = True,
) -> None:
    """Raise Refusal for a file with something in it, which QEMU would empty, unless it ``keeps`` that; and for a disk.

    ``cure``: what else a user can do than to name another file. ``follow``: a symbolic link stands for what it leads to.
    """
    seen = _claimed(vm, option, path, owner, draft)
    seen = None if os.path.dirname(path) in vm.coming else seen
    mode = None if seen is None else _mode(option, path, seen, follow)
    if seen is None or mode is None or stat.S_ISCHR(mode):
        return
    if not stat.S_ISREG(mode):
        raise Refusal(f"{option}: {path} is there and is {_what(mode)}: give the path of a file")
    if not keeps and os.stat(seen).st_size:
        raise Refusal(f"{option}: {path} is there and has something in it, which QEMU would throw away: {cure}")


def check_stream(vm: VM, option: str, path: str) -> None:
    """Raise Refusal where data would be written into something that is neither a named pipe nor a terminal, or where nothing is."""
    seen = seen_by_qemu(vm, option, path)
    mode = None if seen is None else _mode(option, path, seen, follow=True)
    if seen is None:
        return
    if mode is None:
        raise Refusal(f"{option}: {path} does not exist")
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise Refusal(f"{option}: {path} is {_what(mode)}, not a named pipe or a device, and would be written over")


def exists(vm: VM, option: str, path: str) -> bool | None:
    """Tell whether QEMU finds something there; None where that can't be told."""
    seen = seen_by_qemu(vm, option, path)
    return None if seen is None else os.path.lexists(seen)


def is_seen(vm: VM, option: str, path: str) -> bool:
    """Tell whether what this process finds at a path is what QEMU finds there."""
    seen = seen_by_qemu(vm, option, path)
    return seen is not None and (seen == path or same_file(seen, path))


def is_one_file(vm: VM, option: str, one: object, other: object) -> bool:
    """Tell whether two paths lead QEMU to one file, or to one device, as far as that can be seen."""
    if not all(isinstance(path, str) and path.startswith("/") for path in (one, other)):
        return False
    seen = [seen_by_qemu(vm, option, str(path)) for path in (one, other)]
    return None not in seen and same_file(*seen)


def _claimed(vm: VM, option: str, path: str, owner: Thing, draft: Draft | None) -> str | None:
    """Return the path as this process sees it, None: it can't. Raise Refusal where the same plan makes it for something else."""
    kind, ident = owner if draft is None else draft.makes.setdefault(os.path.normpath(path), owner)
    if (kind, ident) != owner:
        raise Refusal(f"{option}: {kind} {ident} shall have {path} too: give another path")
    return seen_by_qemu(vm, option, path)


def seen_by_qemu(vm: VM, option: str, path: str) -> str | None:
    """Return under which name this process finds what QEMU finds at ``path``; None: QEMU's files are not to be seen from here."""
    if not vm.local or path.startswith(_FDSET):
        return None
    if path.startswith("/"):
        return f"{vm.table('root', lambda: _root(vm))['path']}{path}"
    where = f"/proc/{vm.session.process}/cwd"
    if not os.path.isdir(where):
        raise Refusal(f"{option}: {path} is relative, and where QEMU stands can't be told: give an absolute path")
    return f"{where}/{path}"


def _root(vm: VM) -> Dict[str, str]:
    """Return where QEMU's root directory is for this process: nothing before it where it can't be seen."""
    path = f"/proc/{vm.session.process}/root"
    return {"path": path if os.path.isdir(f"{path}/") else ""}


def _mode(option: str, path: str, seen: str, follow: bool = False) -> int | None:
    """Return what is there; None: nothing. Raise Refusal where that can't be told, or where nothing can be made."""
    try:
        return (os.stat(seen) if follow else os.lstat(seen)).st_mode
    except FileNotFoundError:
        if follow and os.path.islink(seen):
            raise Refusal(f"{option}: {path} is a symbolic link that leads nowhere: remove it") from None
    except OSError as exc:
        raise Refusal(f"{option}: can't look at {path}: {exc.strerror}") from exc
    if not os.path.isdir(os.path.dirname(seen)):
        raise Refusal(f"{option}: there is no directory {os.path.dirname(path)} for {path}")
    return None


def ask(vm: VM, option: str, path: str, talk: Callable[[socket.socket], str]) -> Tuple[str, bool] | None:
    """Return what ``talk`` finds out as a client of a UNIX socket, and whether the monitor's own process has answered it.

    That process is QEMU, or a relay before its monitor. An empty text where nobody listens; None where it can't be seen.
    """
    seen = seen_by_qemu(vm, option, path)
    if seen is None:
        return None
    try:
        with _client(seen) as (client, code):
            return ("", False) if code else (talk(client), peer_process(client) == vm.session.process)
    except OSError:
        return "", False


def _listener(seen: str) -> int | None:
    """Return the process that listens at a socket, 0 where it can't be told which; None: nobody does. Raise OSError."""
    with _client(seen) as (client, code):
        if code in (errno.ECONNREFUSED, errno.ENOENT):
            return None
        if code in (errno.EAGAIN, errno.EPROTOTYPE):  # more clients than it takes; a socket of another type
            return 0
        if code:
            raise OSError(code, os.strerror(code))
        return peer_process(client) or 0


@contextmanager
def _client(seen: str) -> Iterator[Tuple[socket.socket, int]]:
    """Give a client of the socket at a path of any length, and what became of its connection, as ``connect_ex`` says it."""
    directory = os.open(os.path.dirname(seen) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            yield client, client.connect_ex(f"/proc/self/fd/{directory}/{os.path.basename(seen)}")
    finally:
        os.close(directory)


def _process(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return f"process {pid} ({comm.read().strip()})"
    except OSError:
        return "somebody"


def _what(mode: int) -> str:
    return _WHAT.get(stat.S_IFMT(mode), "something else")
