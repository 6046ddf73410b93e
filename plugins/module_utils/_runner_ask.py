# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Asks a process that waits on the managed host (``_runner_process.py``) to run the task. A pack begins with this."""
# Private to the collection: may change without notice. Each task pays for what is imported here.

from __future__ import annotations

import _socket
import binascii
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_LOST = 137
"""The exit status where the process that waited has gone in the middle of the task."""
_PATIENCE = 1.0
"""Seconds within which a process that waits has to say that it takes the task. From then on it may begin, and is waited for."""
_LONGEST = 1 << 20
"""Bytes of a task that a process that waits is asked for: a long one would use up its patience."""
_INHERITED = tuple(
    b"Umask Uid Gid Groups SigBlk SigIgn Cap NoNewPrivs Seccomp THP_enabled Cpus_allowed_list Mems_allowed_list".split()
)
_READ_ONCE = tuple(b"GLIBC_ LANG= LC_ LD_ LOCPATH= MALLOC_ OPENSSL_ PATH= SSL_ TZ= TZDIR=".split())
"""Variables that a program reads when it starts, and no later."""


def ask(folder: int, pack: str, module: str, mark: str, task: bytes, new: bool) -> str:
    """Let a process that waits run the task, and end as it does. Return where none does: nothing of the task is begun then.

    ``folder``: the descriptor of the packs' directory. ``new``: whether the pack has just been made, so that none can wait.
    What is returned is the path of the socket where one may wait, "" where none may.
    """
    told = context(posix.getpid()) if len(task) <= _LONGEST else b""
    if not told:
        return ""
    name = f"/proc/self/fd/{folder}/.{binascii.crc32(told[:36]):x}-{binascii.crc32(told):x}-{pack}"
    if not new:
        _ask(name, module, mark, task)
    return name


def context(process: int) -> bytes:
    """Return what a process has of the one that began it, besides its environment, its directory and its open files.

    Not all can be told from here: it lacks the I/O priority, the timer slack, the memory policy and the session keyring.
    Processes that have the same may do each other's work. It begins with the boot's id: other hosts may share the directory.
    Empty where that can't be told.
    """
    proc = f"/proc/{process}/"
    try:
        told = [_read("/proc/sys/kernel/random/boot_id")]
        for name in ("limits", "cgroup", "personality", "cmdline"):
            told.append(_read(proc + name))
        told[-1] = told[-1].split(b"\0")[0]  # by which name Python was called
        inherited = [line for line in _read(proc + "status").splitlines() if line.startswith(_INHERITED)]
        if not inherited[0].startswith(b"Umask"):
            return b""  # before Linux 4.7
        told += inherited
        told += [item for item in _read(proc + "environ").split(b"\0") if item.startswith(_READ_ONCE)]
        links = ["exe"] + ["ns/" + name for name in sorted(posix.listdir(proc + "ns"))]
        told += [posix.readlink((proc + name).encode()) for name in links]
        root, priority = posix.stat(proc + "root"), posix.sched_getparam(process).sched_priority
        others = (root.st_dev, root.st_ino, posix.getpriority(0, process), posix.sched_getscheduler(process), priority)
        told.append(repr(others).encode())
    except (OSError, AttributeError):
        return b""
    for name in ("loginuid", "sessionid", "oom_score_adj", "coredump_filter", "attr/current"):
        try:
            told.append(_read(proc + name))
        except OSError:
            told.append(b"")  # this kernel has none
    return b"\0".join(told)


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _ask(name: str, module: str, mark: str, task: bytes) -> None:
    environment = b"\0".join(key + b"=" + value for key, value in posix.environ.items() if key)
    request = b"\n".join([mark.encode(), task.rstrip(b"\n"), environment])
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    client.settimeout(_PATIENCE)
    try:
        client.connect(name)
        client.sendall(len(module).to_bytes(8, "big") + module.encode())
        number = client.recv(8)  # of the process that has come into being for this task
        if len(number) != 8:
            raise OSError("it has ended, or is not for processes like this one")
        rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in (1, 2, _open_here()))
        # it begins when it has all of it
        client.sendmsg([len(request).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        client.sendall(request)
        client.settimeout(None)
        begins = client.recv(1)
    except OSError:
        begins = b""
    if begins:
        try:
            _end_with(client, int.from_bytes(number, "big"))
        finally:
            posix._exit(_LOST)  # whatever fails here, the task has begun
    client.close()


def _open_here() -> int:
    """Return a descriptor of the working directory, or of where a task goes that can't be there."""
    try:
        return posix.open(".", posix.O_PATH)
    except OSError:
        import os  # it is somebody else's home, of whom this user has become another

        try:
            return os.open(os.path.expanduser("~"), os.O_PATH)
        except OSError:
            return os.open("/", os.O_PATH)


def _end_with(client: _socket.socket, process: int) -> NoReturn:
    """Wait for a process that runs the task, and end as it does. It gets the signals that this one gets."""
    import _signal  # type: ignore[import-not-found]  # of signal, what needs no enumerations

    def pass_on(signal: int, _frame: Any) -> None:
        try:
            posix.kill(process, signal)
        except OSError:
            pass  # it has ended

    for signal in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        if _signal.getsignal(signal) != _signal.SIG_IGN:
            _signal.signal(signal, pass_on)
    try:
        status = client.recv(1)
    except OSError:
        status = b""
    posix._exit(status[0] if status else _LOST)
