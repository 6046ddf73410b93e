# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a host is sent with each task, as text on stdin: it finds the collection's code that is kept there, and runs the task.

After this text there come: a line ``MARK PACK IDLE MODULE LENGTH REMOTE_TMP``; the text of ``_runner_pack.py``, which has that
``LENGTH``; the task, a line of JSON; and the bundle of which a pack is made, where the controller was told that there is none.

Where a process waits that an earlier task has left, that one runs the task: see ``_runner_process.py``. Else this process does, and
leaves one that waits ``IDLE`` seconds for further tasks, or none if that is 0.

A pack is used only where it and its directory are this user's and nobody else has any rights there.
"""
# Private to the collection: may change without notice. Python 3.6 can read it, so that an old one can say what it is.
# Each task pays for what is imported here.

import _socket
import binascii
import gc
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

_LOST = 137
"""The exit status where the process that waited has gone in the middle of the task."""
_PATIENCE = 1.0
"""Seconds within which a process that waits has to answer."""
_LONGEST = 1 << 20
"""Bytes of a task that a process that waits is asked for: a long one would use up its patience."""
_INHERITED = tuple(
    b"Umask Uid Gid Groups SigBlk SigIgn Cap NoNewPrivs Seccomp THP_enabled Cpus_allowed_list Mems_allowed_list".split()
)
_READ_ONCE = (b"GLIBC_", b"LANG=", b"LC_", b"LD_", b"MALLOC_", b"OPENSSL_", b"PATH=", b"SSL_", b"TZ=")
"""Variables that a program reads when it starts, and no later."""
_PLACE = "ansible_collections.vmm.qemu.plugins.module_utils."


class Odd(Exception):
    """Why the task can't be run this way, though perhaps as a module. Nothing of it was begun."""


def directory(remote_tmp: str) -> str:
    """Return where packs are kept: in this user's own home, which HOME need not be after a change of user."""
    path = os.path.expanduser(os.path.expandvars(remote_tmp))
    if remote_tmp.startswith("~/") and os.stat(os.path.expanduser("~")).st_uid != os.geteuid():
        import pwd

        path = pwd.getpwuid(os.geteuid()).pw_dir + remote_tmp[1:]
    return os.path.join(path, f"vmm.qemu-{os.geteuid()}")


def open_own(path: str, flags: int, is_type: "Callable[[int], bool]", dir_fd: "Any" = None) -> int:
    """Return a descriptor of a file or directory. Raise Odd where it is not this user's alone, and OSError."""
    descriptor = os.open(path, flags | os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    found = os.fstat(descriptor)
    if not is_type(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise Odd(f"{path} is somebody else's, or others have rights there")
    return descriptor


def context(process: int) -> bytes:
    """Return what a process has of the one that began it, besides its environment, its directory and its open files.

    Processes that have the same may do each other's work. It begins with the boot's id: other hosts may share the directory.
    Empty where that can't be told.
    """
    proc = f"/proc/{process}/"
    try:
        told = [read("/proc/sys/kernel/random/boot_id")]
        for name in ("limits", "cgroup", "personality", "cmdline"):
            told.append(read(proc + name))
        told[-1] = told[-1].split(b"\0")[0]  # by which name Python was called
        inherited = [line for line in read(proc + "status").splitlines() if line.startswith(_INHERITED)]
        if not inherited[0].startswith(b"Umask"):
            return b""  # before Linux 4.7
        told += inherited
        told += [item for item in read(proc + "environ").split(b"\0") if item.startswith(_READ_ONCE)]
        links = ["exe"] + ["ns/" + name for name in sorted(os.listdir(proc + "ns"))]
        told += [os.fsencode(os.readlink(proc + name)) for name in links]
        root, priority = os.stat(proc + "root"), os.sched_getparam(process).sched_priority
        others = (root.st_dev, root.st_ino, os.getpriority(0, process), os.sched_getscheduler(process), priority)
        told.append(repr(others).encode())
    except (OSError, AttributeError):
        return b""
    for name in ("loginuid", "sessionid", "oom_score_adj", "coredump_filter", "attr/current"):
        try:
            told.append(read(proc + name))
        except OSError:
            told.append(b"")  # this kernel has none
    return b"\0".join(told)


def read(path: str) -> bytes:
    """Return what is in a file. Raise OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def ask_waiting(name: str, module: str, mark: str, task: bytes) -> None:
    """Let a process that waits run the task, and end as it does. Return where none does: nothing of the task is begun then.

    ``name``: that of its socket.
    """
    environment = b"\0".join(key + b"=" + value for key, value in os.environb.items() if key)
    request = b"\n".join([mark.encode(), task.rstrip(b"\n"), environment])
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    client.settimeout(_PATIENCE)
    try:
        client.connect(name)
        client.sendall(len(module).to_bytes(8, "big") + module.encode())
        number = client.recv(8)  # of the process that has come into being for this task
        if len(number) != 8:
            raise OSError("it has ended, or is not for processes like this one")
        rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in (1, 2, open_here()))
        # it begins when it has all of it
        client.sendmsg([len(request).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        client.sendall(request)
        client.settimeout(None)
        begins = client.recv(1)
    except OSError:
        begins = b""
    if begins:
        end_with(client, int.from_bytes(number, "big"))
    client.close()


def open_here() -> int:
    """Return a descriptor of the working directory, or of where a task goes that can't be there."""
    for place in (".", os.path.expanduser("~")):
        try:
            return os.open(place, os.O_PATH)
        except OSError:
            pass  # somebody else's home, of whom this user has become another
    return os.open("/", os.O_PATH)


def end_with(client: "_socket.socket", process: int) -> "NoReturn":
    """Wait for a process that runs the task, and end as it does. It gets the signals that this one gets."""
    import _signal  # type: ignore[import-not-found]  # of signal, what needs no enumerations

    def pass_on(signal: int, _frame: "Any") -> None:
        try:
            os.kill(process, signal)
        except OSError:
            pass  # it has ended

    for signal in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        if _signal.getsignal(signal) != _signal.SIG_IGN:
            _signal.signal(signal, pass_on)
    try:
        status = client.recv(1)
    except OSError:
        status = b""
    os._exit(status[0] if status else _LOST)


def find(path: str, name: str, code: bytes, bundle: bytes, ask: "Callable[[int], None]") -> "Any":
    """Return the pack of that name, made of the bundle if there is one, or None where there is none.

    Where there is a directory, a process that waits is asked first, at the socket that is in there. Raise Odd and OSError.
    """
    packs = {}  # type: Any
    if bundle:
        exec(code, packs)
        packs["make"](path, name, bundle, lambda: open_own(path, os.O_DIRECTORY, stat.S_ISDIR))
    try:
        folder = open_own(path, os.O_DIRECTORY, stat.S_ISDIR)
        descriptor = open_own(name, 0, stat.S_ISREG, folder)
        ask(folder)
        exec(code, packs)
        return packs["load"](descriptor)
    except FileNotFoundError:
        return None


def say(mark: str, word: str, value: "Any" = None) -> "NoReturn":
    """Say why nothing is begun, and end."""
    import json

    sys.stdout.write(f"\n{mark} {word} {json.dumps(value)}\n")
    sys.stdout.flush()
    os._exit(0)


def main() -> "NoReturn":
    """Say one of: absent, old or odd (and why), begun and then the result. The controller knows them by the mark."""
    stdin = sys.stdin.buffer
    mark, pack_name, idle, module, length, remote_tmp = stdin.readline().decode()[:-1].split(" ", 5)
    code, task, bundle = stdin.read(int(length)), stdin.readline(), stdin.read()
    if not task.endswith(b"\n"):
        raise EOFError("the request was cut off")
    if sys.hexversion < 0x3080000:
        version = sys.version.split()[0]
        needed = f"vmm.qemu needs Python 3.8 or later on the managed host, and {sys.executable} there is {version}"
        say(mark, "old", needed)
    gc.disable()  # nothing that is imported is garbage
    name = f"{pack_name}.{sys.implementation.cache_tag}-{sys.hexversion:x}"
    told = context(os.getpid()) if idle != "0" and len(task) <= _LONGEST else b""
    waiting = ""

    def ask(folder: int) -> None:
        nonlocal waiting
        waiting = f"/proc/self/fd/{folder}/.{binascii.crc32(told[:36]):x}-{binascii.crc32(told):x}-{name}"
        if told and not bundle:
            ask_waiting(waiting, module, mark, task)

    try:
        pack = find(directory(remote_tmp), name, code, bundle, ask)
        if pack is not None:
            sys.meta_path.insert(0, pack)
            process = __import__(_PLACE + "_runner_process", fromlist=["run"])
            process.imported(module)
    except Exception as exc:
        say(mark, "odd", f"{type(exc).__name__}: {exc}")
    if pack is None:
        say(mark, "absent")
    if told:
        process.wait(waiting, context, int(idle), pack.descriptor)
    os._exit(process.run(mark, task))


if __name__ == "__main__":
    main()
