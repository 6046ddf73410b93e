# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A file that is written under a name beside its own and gets its own when it is whole, all or nothing."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from typing import Callable, Iterator

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._qmp import errors

# Always the same, so that the next run finds what a killed one left behind.
_SUFFIX = ".part"
# Who writes it has a lock on a byte of it that QEMU, which locks some before, leaves alone. Of the open file (OFD), so
# that it ends with the last process that writes; on Linux only, and Python has the name from 3.9 on.
_SET_LOCK = 37
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1000, 1, 0)
_TRIES = 10


def check_absolute(option: str, path: str) -> None:
    """Raise Refusal for a path that depends on where somebody stands, or that names no file."""
    if not path.startswith("/"):
        raise Refusal(f"{option}: {path!r} is not an absolute path")
    if path.endswith("/") or os.path.basename(path) in (".", ".."):
        raise Refusal(f"{option}: {path} names a directory, and a file is wanted")
    if "\0" in path:
        raise Refusal(f"{option}: {path!r} has a null byte")


def part_path(path: str) -> str:
    """Return the name under which ``path`` is written until it is whole."""
    return path + _SUFFIX


def existing(option: str, path: str) -> os.stat_result | None:
    """Return what is at ``path``; None: nothing. Raise Refusal for what is not a regular file, or can't be looked at."""
    try:
        with safe_open.reached(path) as file:
            found = os.fstat(file)
    except FileNotFoundError:
        if os.path.islink(path):
            raise Refusal(f"{option}: {path} is a symbolic link that leads nowhere") from None
        return None
    except OSError as exc:
        raise Refusal(f"{option}: can't look at {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode):
        raise Refusal(f"{option}: {path} is there and is not a regular file")
    return found


def check_itself(option: str, path: str) -> None:
    """Raise Refusal for a symbolic link, which is not replaced, resized or removed in place of what it leads to."""
    if os.path.islink(path):
        raise Refusal(f"{option}: {path} is a symbolic link to {os.path.realpath(path)}: name the file itself")


def check_leftover(option: str, path: str) -> os.stat_result | None:
    """Return what is under the name beside ``path``; None: nothing. Raise Refusal for what no earlier run can have left."""
    part = part_path(path)
    if os.path.islink(part):
        raise Refusal(f"{option}: {part}, under which it would be written first, is a symbolic link: remove it")
    return existing(option, part)


def check_directory(option: str, path: str) -> None:
    """Raise Refusal where no file can be made."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise Refusal(f"{option}: there is no directory {directory} for {path}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refusal(f"{option}: the directory {directory} is not writable for the user that runs the task")


def room(directory: str) -> int:
    """Return how many bytes can be written to new files in a directory."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def remove(path: str) -> None:
    """Remove a file, if it is there. Raise Refusal where that is not allowed."""
    try:
        with contextlib.suppress(FileNotFoundError), safe_open.parent(path) as (directory, name):
            os.unlink(name, dir_fd=directory)
    except OSError as exc:
        raise Refusal(f"can't remove {path}: {exc.strerror}") from exc


class NewFile:
    """A file that is made whole or not at all, and removed again only as long as it is the one that was made."""

    def __init__(self, path: str, mode: int, replace: bool = False) -> None:
        """``mode``: until somebody gives it another. ``replace``: what has its name already is replaced."""
        self._path = path
        self._mode = mode
        self._replace = replace
        self._made: os.stat_result | None = None

    def make(self, fill: Callable[[int], None]) -> None:
        """Make it: ``fill`` writes to the open file. Raise TaskError, with nothing left behind."""
        with new_part("path", self._path, self._mode) as file:
            fill(file)
            move_into_place("path", self._path, replace=self._replace, kept=False)
            self._made = os.fstat(file)

    def remove(self) -> None:
        """Remove it, if it is there. Raise Refusal where that is not allowed."""
        with contextlib.suppress(FileNotFoundError):
            if self._made is not None and os.path.samestat(self._made, os.lstat(self._path)):
                remove(self._path)


def write(option: str, path: str, content: bytes, mode: int) -> None:
    """Write a file whole or not at all, in the place of what is there. Raise TaskError, begun with ``option``."""

    def fill(file: int) -> None:
        with open(file, "wb", closefd=False) as target:
            target.write(content)

    try:
        NewFile(path, mode, replace=True).make(fill)
    except OSError as exc:
        raise OperationFailed(f"{option}: {path} can't be written: {exc.strerror}") from exc


@contextlib.contextmanager
def new_part(option: str, path: str, mode: int) -> Iterator[int]:
    """Yield a new and empty file beside ``path``, to be written by its descriptor and then placed; removed if that fails.

    Raise Refusal where it can't be made, and while another task makes one for the same path.
    """
    part = part_path(path)
    try:
        with safe_open.parent(part) as (directory, name):
            file = _claim(option, path, directory, name, mode)
    except OSError as exc:
        raise Refusal(f"{option}: {part} can't be made: {exc.strerror}") from exc
    try:
        yield file
    except BaseException:
        remove(part)
        raise
    finally:
        os.close(file)


@contextlib.contextmanager
def written_by_qemu(path: str, local: bool) -> Iterator[None]:
    """Clear the name beside ``path`` for a command that has QEMU write there, and again where QEMU refuses the command.

    ``local``: QEMU runs on this host; else nothing is done.
    """
    part = part_path(path)
    if local:
        remove(part)
    try:
        yield
    except errors.CommandError:
        if local:
            remove(part)  # QEMU opens it before it looks at the rest
        raise


def _claim(option: str, path: str, directory: int, name: str, mode: int) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _try in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(PermissionError):  # whose directory it is may remove what can't be opened
                left = os.open(name, flags, dir_fd=directory)
                try:
                    if not _locked(left):
                        break
                finally:
                    os.close(left)
            os.unlink(name, dir_fd=directory)
        with contextlib.suppress(FileExistsError):
            file = os.open(name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
            if _locked(file) and _has_name(file, directory, name):
                return file
            os.close(file)
    raise Refusal(
        f"{option}: another task is making {path} right now, under the name {part_path(path)}; run this one again when "
        "that is done"
    )


def _locked(file: int) -> bool:
    """Lock it; False where another has. A file system without locks has nothing to say."""
    try:
        fcntl.fcntl(file, _SET_LOCK, _LOCK)
    except OSError as exc:
        return exc.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _has_name(file: int, directory: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def move_into_place(option: str, path: str, *, replace: bool, kept: bool = True) -> None:
    """Give what was written beside ``path`` its name. Raise Refusal, with the file left where it is, if that fails.

    Without ``replace`` a file that has come to be meanwhile is kept. ``kept``: whether the new one is, too.
    """
    part = part_path(path)
    try:
        with safe_open.parent(path) as (directory, name):
            if not replace and _is_there(directory, name):
                raise FileExistsError
            if replace or not _linked(directory, part_path(name), name):
                os.rename(part_path(name), name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        where = f"; the new file is {part}" if kept else ""
        raise Refusal(f"{option}: {path} has come to be meanwhile and is kept{where}") from None
    except FileNotFoundError as exc:
        raise Refusal(
            f"{option}: {part} should have been written, and is not there. Does QEMU see other directories than the task?"
        ) from exc
    except OSError as exc:
        raise Refusal(f"{option}: can't rename {part} to {path}: {exc.strerror}") from exc


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _linked(directory: int, part: str, name: str) -> bool:
    """Rename without ever overwriting. Return False where the file system has no links, or the kernel protects the file's."""
    try:
        os.link(part, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        return False
    os.unlink(part, dir_fd=directory)
    return True
