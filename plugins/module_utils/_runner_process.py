# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A process on the managed host: it runs the controller's task, and leaves one behind that waits for further tasks.

That one has imported what they need, which is most of what a task costs. It runs none itself: for each there is a fork of it, with
the environment, the directory and the outputs of the process that Ansible has begun (``_runner_ask.py``), which ends as the task
does. The fork for the next task is made ahead. It serves those alone that have come into being just as it has: see ``context()``
there. Its socket is in the directory of the packs, which is this user's alone.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import array
import fcntl
import gc
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Dict

from ._runner import imported, prepare

_PATIENCE = 5.0
"""Seconds within which the process that asks has to say what it wants."""
_LOOK = 5.0
"""Seconds after which one that waits looks whether another one has come in its place."""
_MOST = 8
"""How many may wait for one user. Where each task has a context of its own, none of them is of use."""
_DAY = 86400


def run(mark: str, task: bytes) -> int:
    """Run a task, say what came of it on stdout after the controller's mark, and return the exit status."""

    def say(word: str, value: Any = None) -> None:
        sys.stdout.write(f"\n{mark} {word} {json.dumps(value)}\n")
        sys.stdout.flush()

    try:
        ready: Callable[[], Dict[str, Any]] = prepare(json.loads(task.decode()))
    except Exception as exc:
        say("odd", f"{type(exc).__name__}: {exc}")
        return 0
    gc.enable()
    say("begun")
    try:
        say("result", ready())
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 130  # above 127, as a signal would: never what a shell or sudo ends with that did not begin it
    return 0


def wait(name: str, context: Callable[[int], bytes], seconds: int, pack: int) -> None:
    """Leave a process behind that waits for tasks at the socket of that name, till none has come for so many seconds.

    ``context``: that of ``_runner_ask.py``. ``pack``: the descriptor from which modules are imported.
    """
    try:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
    except OSError:
        return  # this task goes on all the same
    try:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            _close_all_but(pack, int(name.split("/")[-2]))  # the name is /proc/self/fd/N/...
            _serve(name, context, seconds)
    finally:
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    """Close what this process shares with the one that began it, or the connection would wait for both."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor <= 2:
            os.dup2(nowhere, descriptor)
        elif descriptor not in kept:
            with suppress(OSError):
                os.close(descriptor)


def _serve(name: str, context: Callable[[int], bytes], seconds: int) -> None:
    if _waiting(name) >= _MOST:
        return
    part = f"{name}.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(part)
        listener.listen(64)
        mine = os.stat(part)
        os.rename(part, name)  # in the place of one that has ended, or does not answer
        gc.freeze()
        end, fork = time.monotonic() + seconds, None
        while time.monotonic() < end and _is(name, mine):
            try:
                fork = fork or _fork(listener, context)
            except OSError:
                break
            fork.settimeout(max(0.01, min(_LOOK, end - time.monotonic())))
            with suppress(socket.timeout):
                told = fork.recv(1 << 10)
                if not told:
                    break  # it has ended before it got a task, and another one may do so, too
                fork.close()
                fork, end = None, time.monotonic() + seconds
                with suppress(Exception):
                    imported(told[1:].decode())  # for those to come
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        if _is(name, mine):
            os.unlink(name)


def _waiting(name: str) -> int:
    """Return how many wait in the directory already, and remove the sockets of those that have gone."""
    count = 0
    place, mine = os.path.split(name)
    for other in os.listdir(place):
        path = os.path.join(place, other)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            found = os.lstat(path)
            if other == mine or not stat.S_ISSOCK(found.st_mode):
                continue
            client.setblocking(False)
            try:
                client.connect(path)
                count += 1
            except BlockingIOError:
                count += 1  # so many ask it that it can't take one more
            except ConnectionRefusedError:
                # one of another boot may be another host's
                if other.split("-")[0] == mine.split("-")[0] or time.time() - found.st_mtime > _DAY:
                    os.unlink(path)
    return count


def _is(name: str, mine: os.stat_result) -> bool:
    """Tell whether the socket of that name is this process's: another one may have come in its place."""
    try:
        return os.path.samestat(mine, os.stat(name))
    except OSError:
        return False


def _fork(listener: socket.socket, context: Callable[[int], bytes]) -> socket.socket:
    """Have a fork of this process wait for a task, and return the socket by which it says that it has one, and of which module.

    It ends when that socket is closed before.
    """
    mine, its = socket.socketpair()
    if os.fork():
        its.close()
        return mine
    try:
        mine.close()
        context(os.getpid())  # so that what this changes in memory is this fork's own before somebody waits for it
        while its not in select.select([listener, its], [], [])[0]:
            client = listener.accept()[0]
            module = _wanted(client, context)
            if module is not None:
                listener.close()
                its.sendall(b"+" + module.encode())
                its.close()
                _run_for(client)
            client.close()
    finally:
        os._exit(1)


def _wanted(client: socket.socket, context: Callable[[int], bytes]) -> str | None:
    """Return the module that a process needs, which is imported then, or None where it does not get its task run."""
    client.settimeout(_PATIENCE)
    try:
        # the kernel says who asks. Of this process, too, something may have been changed since it began
        process = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        told = context(process)
        if not told or told != context(os.getpid()):
            return None
        module = _exactly(client, int.from_bytes(_exactly(client, 8), "big")).decode()
        imported(module)
    except Exception:
        return None  # it asks no longer, or finds out by itself
    return module


def _run_for(client: socket.socket) -> None:
    """Run a task in the place of the process that asks, and end with this one. It gets the number of this process first."""
    client.sendall(os.getpid().to_bytes(8, "big"))
    descriptors = array.array("i")
    length, rights, _flags, _address = client.recvmsg(8, 64)
    for _level, _type, data in rights:
        descriptors.frombytes(data)
    out, err, directory = descriptors
    mark, task, environment = _exactly(client, int.from_bytes(length, "big")).split(b"\n", 2)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.fchdir(directory)
    for descriptor in descriptors:
        os.close(descriptor)
    wanted = dict(item.split(b"=", 1) for item in environment.split(b"\0") if item)
    for key in os.environb.keys() - wanted.keys() - {b""}:
        del os.environb[key]
    for key, value in wanted.items() - os.environb.items():  # most are the same
        os.environb[key] = value
    client.settimeout(None)
    _end_without(client)
    client.sendall(b"b")  # from here on it may have been begun
    status = run(mark.decode(), task)
    client.setblocking(True)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    client.sendall(bytes([status]))
    os._exit(status)


def _end_without(client: socket.socket) -> None:
    """Have this process terminated when the one that asked is killed, as that would have ended its task."""

    def look(_number: int, _frame: Any) -> None:
        with suppress(BlockingIOError):
            if not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETFL, fcntl.fcntl(client, fcntl.F_GETFL) | os.O_ASYNC)


def _exactly(client: socket.socket, count: int) -> bytes:
    """Return so many bytes. Raise EOFError where there are fewer."""
    data = bytearray()
    while len(data) < count:
        more = client.recv(min(count - len(data), 1 << 16))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
