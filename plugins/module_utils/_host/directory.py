# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Directories of the host that a VM is made of, made and given away without following a link."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from typing import Iterator, NamedTuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Access(NamedTuple):
    """Whose a directory is, and what others may do in it."""

    uid: int
    gid: int
    mode: int

    @property
    def state(self) -> dict[str, str]:
        """Return it as tasks show it."""
        return {"owner": str(self.uid), "group": str(self.gid), "mode": f"{self.mode:04o}"}


def of_user(user: str | None, mode: int) -> Access:
    """Return the access of a user alone; None: of whoever runs the task. Raise Refusal for one that is not there."""
    if user is None:
        return Access(os.geteuid(), os.getegid(), mode)
    found = account(user)
    return Access(found.pw_uid, found.pw_gid, mode)


def passed_by(user: str | None) -> Access:
    """Return the access of whoever runs the task, to what ``user`` may pass and not write to. Raise Refusal."""
    if user is None:
        return Access(os.geteuid(), os.getegid(), 0o700)
    return Access(os.geteuid(), account(user).pw_gid, 0o710)


def account(user: str) -> pwd.struct_passwd:
    """Return what the host knows of a user. Raise Refusal for one that is not there."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise Refusal(f"user: there is no user {user} on the managed host") from None


def look(path: str) -> Access | None:
    """Return whose a directory is; None: nothing is there. Raise Refusal for anything else, a symbolic link say."""
    try:
        with safe_open.parent(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refusal(f"directory: can't look at {path}: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"
        raise Refusal(
            f"directory: {path} is there and is {what}: all in it would be the virtual machine's. Name the directory itself"
        )
    return Access(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def make(path: str, access: Access) -> bool:
    """Make a directory, or give one that has come to be meanwhile this access. Tell whether it was made. Raise OperationFailed."""
    try:
        with safe_open.parent(path) as (directory, name):
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
                made = True
    except OSError as exc:
        raise OperationFailed(f"directory: {path} can't be made: {exc.strerror}") from exc
    give(path, access)
    return made


def give(path: str, access: Access) -> None:
    """Give a directory this access. Raise OperationFailed."""
    try:
        with _opened(path) as file:
            found = os.fstat(file)
            if (found.st_uid, found.st_gid) != (access.uid, access.gid):
                os.chown(file, access.uid, access.gid)
            os.chmod(file, access.mode)
    except OSError as exc:
        raise OperationFailed(f"directory: {path} can't be given the mode {access.mode:04o}: {exc.strerror}") from exc


def remove(path: str, whole: bool) -> None:
    """Remove a directory; unless ``whole``, only if nothing is in it. Raise OperationFailed."""
    try:
        with safe_open.parent(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise OperationFailed(f"directory: {path} is not a directory any more, and is left")
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=directory)
                return
            if whole:
                shutil.rmtree(f"{safe_open.by_number(directory)}/{name}")
    except FileNotFoundError:
        return
    except OSError as exc:
        raise OperationFailed(f"directory: {path} can't be removed: {exc.strerror}") from exc


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    with safe_open.parent(path) as (directory, name):
        file = os.open(name, _OPEN, dir_fd=directory)
    try:
        yield file
    finally:
        os.close(file)
