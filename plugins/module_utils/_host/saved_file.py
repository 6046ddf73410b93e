# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A saved guest's file: what is noted at its beginning, before QEMU's own stream, and the names that it goes through.

    PATH.part ──► PATH ──► PATH.loaded ──► gone
    written       whole    its guest may have run

Only a file called PATH is ever given to a QEMU, so that no guest is put back to a time before its disks'.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from typing import Any, Dict, Iterator, List, NamedTuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from . import part_file

LENGTH = 1 << 16
"""Bytes from the file's beginning to QEMU's stream."""
_MAGIC = b"vmm.qemu saved guest 1\n"
_TAIL = 16 << 20
_DESCRIPTION = b"\x06"  # QEMU_VM_VMDESCRIPTION: its length in 4 bytes, and JSON to the end of the stream
_LOADED = ".loaded"


class Header(NamedTuple):
    """What is noted of a saved guest."""

    name: str
    uuid: str
    machine: str
    """The machine's type, with its version."""
    memory: int
    """Bytes of memory, without what was plugged in."""
    running: bool
    """Whether the guest ran, and shall when it is loaded."""
    channels: int
    """In how many channels its memory is mapped to the file; 0: it is one stream."""
    writer: str
    """The QEMU that wrote it (``Process.identity``)."""
    undo: List[Dict[str, Any]] = []
    """The commands that set that QEMU back, if it goes on."""
    size: int = 0
    """Bytes of the whole file; 0 as long as it is not whole."""
    disks: Dict[str, List[int]] = {}
    """The images that the guest writes to, as they were left: see ``image_state``."""
    unseen: List[str] = []
    """The disks of which nobody here can tell whether they change."""
    loader: str = ""
    """The QEMU that was given it last."""

    @property
    def guest(self) -> Dict[str, Any]:
        """What the virtual machine that loads it must have in common with the one that wrote it."""
        return {"name": self.name, "uuid": self.uuid, "machine": self.machine, "memory": self.memory}


def loaded_path(path: str) -> str:
    """Return the name of a file whose guest may have run since."""
    return path + _LOADED


def names(path: str) -> List[str]:
    """Return all names that a file goes through."""
    return [part_file.part_path(path), path, loaded_path(path)]


def image_state(path: str) -> List[int] | None:
    """Return what changes when an image is written to, or replaced: inode, bytes, and time; None where that can't be told."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None


def check_place(path: str) -> None:
    """Raise Refusal for a directory in which another user could put something else in the file's place."""
    part_file.check_itself("path", path)
    part_file.check_directory("path", path)
    where = os.path.dirname(path)
    found = os.stat(where)
    if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        raise Refusal(
            f"path: others than the user that runs the task can rename and remove what is in {where} (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}): put a guest's memory in a directory of that user's own"
        )


def read(path: str) -> Header | None:
    """Return what is noted in a file; None: there is none. Raise Refusal for what is not a saved guest of this user's.

    Blank is what a task has left under the name for a new file that was killed when it had just made it.
    """
    if not os.path.lexists(path):
        return None
    with opened(path) as file:
        begins = os.pread(file, LENGTH, 0)
    if not begins.strip(b"\0") and path.endswith(part_file.part_path("")):
        return None
    return _header(path, begins)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Yield a saved guest's file, open to be read and written to. Raise Refusal for what is not one of this user's."""
    part_file.check_itself("path", path)
    try:
        with safe_open.parent(path) as (directory, name):
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as exc:
        raise Refusal(f"path: {path} can't be opened: {exc.strerror}") from exc
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Refusal(f"path: {path} is there and is not a regular file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o077 or found.st_nlink > 1:
            raise Refusal(
                f"path: {path} is not a file that this module has left there: others than the user that runs the task may have "
                f"written it (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}, {found.st_nlink} names)"
            )
        yield file
    finally:
        os.close(file)


def _header(path: str, begins: bytes) -> Header:
    if begins.startswith(_MAGIC):
        with contextlib.suppress(ValueError, TypeError):
            return Header(**json.loads(begins[len(_MAGIC) :].rstrip(b"\0")))
    raise Refusal(f"path: {path} is there and is not a saved guest: it is kept; remove it, or give another path")


def claim(path: str, file: int) -> None:
    """Keep others from loading an open file. Raise Refusal where one does, or has."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.lstat(path)):
            return
    raise Refusal(f"path: another task loads {path} right now, or has done so")


def note(file: int, header: Header) -> None:
    """Write down what is noted of a guest, for good. Raise OperationFailed."""
    text = _MAGIC + json.dumps(header._asdict(), sort_keys=True).encode()
    if len(text) > LENGTH:
        raise OperationFailed(f"the guest has too many disks to be noted in {LENGTH} bytes")
    try:
        os.pwrite(file, text.ljust(LENGTH, b"\0"), 0)
        os.fsync(file)
    except OSError as exc:
        raise OperationFailed(f"the file can't be written: {exc.strerror}") from exc


def finish(path: str, file: int, header: Header) -> None:
    """Give a file that has all of a guest its name, for good. Raise TaskError."""
    note(file, header._replace(size=os.fstat(file).st_size))
    part_file.move_into_place("path", path, replace=False, kept=False)
    try:
        _sync_directory(path)
    except OSError as exc:
        part_file.remove(path)
        raise OperationFailed(f"{os.path.dirname(path)} can't be written: {exc.strerror}") from exc


def consume(path: str) -> None:
    """Take a file its name, so that it is never loaded again. Raise OperationFailed."""
    try:
        os.rename(path, loaded_path(path))
        _sync_directory(path)
    except OSError as exc:
        raise OperationFailed(
            f"{path} can't be renamed, and its guest does not run before it is: {exc.strerror}"
        ) from exc


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def has_end(path: str) -> bool:
    """Tell whether a stream is there to its end, which is a description of all that is in it."""
    with opened(path) as file:
        size = os.fstat(file).st_size
        tail = os.pread(file, min(_TAIL, max(size - LENGTH, 0)), max(LENGTH, size - _TAIL))
    at = len(tail)
    for _number in range(5):  # the length can have such a byte, too; the JSON has none
        at = tail.rfind(_DESCRIPTION, 0, at)
        if at < 0:
            return False
        if int.from_bytes(tail[at + 1 : at + 5], "big") == len(tail) - at - 5:
            return True
    return False


def takes_direct_io(path: str) -> bool:
    """Tell whether what is written there can go past the host's cache. Leaves nothing behind."""
    try:
        os.close(os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True
