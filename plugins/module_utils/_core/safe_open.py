# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Opening files where others can write, too: no link of a stranger is followed, and nothing but a file is read.

Tasks often run as root, in directories that belong to a virtual machine's user. Linux only (``/proc``, ``O_PATH``).
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import contextmanager
from typing import IO, Iterator, Tuple

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_LINKS = 40


def regular(path: str, *, links: bool = False, devices: bool = False, directory: int | None = None) -> IO[bytes]:
    """Return a regular file, to be read; never blocks. Raise OSError, and for anything else one that says what it is.

    ``links``: whether the path may be a symbolic link; ``devices``: whether a block device is as good. ``directory``: an open one
    that it is in, the path being its name there.
    """
    try:
        fd = os.open(path, _READ | (0 if links else os.O_NOFOLLOW), dir_fd=directory)
    except OSError as exc:
        if exc.errno == errno.ELOOP and (directory is not None or os.path.islink(path)):
            exc.strerror = "it is a symbolic link"
        if exc.errno == errno.ENXIO:
            exc.strerror = "it is not a regular file"
        raise
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind) and not (devices and stat.S_ISBLK(kind)):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return open(fd, "rb")


@contextmanager
def reached(path: str) -> Iterator[int]:
    """Yield what an absolute path leads to, as a descriptor for looking at it (``O_PATH``). Raise OSError.

    Symbolic links count only if root made them, or the user that runs the task: who made another one can change where it
    leads at any time.
    """
    fd = _walk(path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def parent(path: str) -> Iterator[Tuple[int, str]]:
    """Yield the directory that an absolute path is in, as ``reached`` has it, and the name in it. Raise OSError."""
    with reached(os.path.dirname(path)) as directory:
        yield directory, os.path.basename(path)


@contextmanager
def inside(directory: str, path: str) -> Iterator[Tuple[int, str]]:
    """Yield the directory that a path is in, which goes on from ``directory``, and the name in it. Raise OSError.

    What is in there is not trusted: no symbolic link counts, whoever made it.
    """
    at = _walk(directory)
    *names, last = path.split("/")
    try:
        for name in names:
            inner = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        yield at, last
    finally:
        os.close(at)


def by_number(fd: int) -> str:
    """Return a path that leads to what the descriptor has open, whatever has become of its name."""
    return f"/proc/self/fd/{fd}"


def _walk(path: str) -> int:
    names = path.split("/")[::-1]
    at = os.open("/", _LOOK)
    links = 0
    try:
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            found = os.open(name, _LOOK, dir_fd=at)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                os.close(at)
                at = found
                continue
            try:
                target = _target(found, name, path)
            finally:
                os.close(found)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            names += target.split("/")[::-1]
            if target.startswith("/"):
                os.close(at)
                at = os.open("/", _LOOK)
    except BaseException:
        os.close(at)
        raise
    return at


def _target(link: int, name: str, path: str) -> str:
    """Return where an open symbolic link leads. Raise OSError for one that a stranger made."""
    whose = os.fstat(link).st_uid
    if whose not in (0, os.geteuid()):
        raise OSError(
            errno.ELOOP, f"{name} in it is a symbolic link that belongs to {_user(whose)}, and is not followed", path
        )
    return os.readlink("", dir_fd=link)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
