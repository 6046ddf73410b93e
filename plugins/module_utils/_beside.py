# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A file that is written under a name beside its own and gets its own when it is whole, all or nothing."""

from __future__ import annotations

import contextlib
import os
import stat

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal

# Always the same, so that the next run finds what a killed one left behind.
_SUFFIX = ".part"


def check_absolute(option: str, path: str) -> None:
    """Raise Refusal for a path that depends on where somebody stands, or that names no file."""
    if not path.startswith("/"):
        raise Refusal(f"{option}: {path!r} is no absolute path")
    if path.endswith("/") or os.path.basename(path) in (".", ".."):
        raise Refusal(f"{option}: {path} names a directory, and a file is wanted")
    if "\0" in path:
        raise Refusal(f"{option}: {path!r} has a null byte")


def part_of(path: str) -> str:
    """The name under which ``path`` is written until it is whole."""
    return path + _SUFFIX


def existing(option: str, path: str) -> os.stat_result | None:
    """What is at ``path``; None: nothing. Raises Refusal for what is no regular file, or can't be looked at."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise Refusal(f"{option}: {path} is a symbolic link that leads nowhere") from None
        return None
    except OSError as exc:
        raise Refusal(f"{option}: can't look at {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode):
        raise Refusal(f"{option}: {path} is there and is no regular file")
    return found


def leftover(option: str, path: str) -> os.stat_result | None:
    """What is at the name beside ``path``; None: nothing. Raises Refusal for what no earlier run can have left."""
    part = part_of(path)
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


def remove(path: str) -> None:
    """Remove a file, if it is there. Raises Refusal where that is not allowed."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as exc:
        raise Refusal(f"can't remove {path}: {exc.strerror}") from exc


def place(option: str, path: str, *, replace: bool) -> None:
    """Give what was written beside ``path`` its name. Raises Refusal, with the file left where it is, if that fails.

    Without ``replace`` a file that has come to be meanwhile is kept.
    """
    part = part_of(path)
    try:
        if not replace and os.path.lexists(path):
            raise FileExistsError
        if replace or not _linked(part, path):
            os.rename(part, path)
    except FileExistsError:
        raise Refusal(f"{option}: {path} has come to be meanwhile and is kept; the new file is {part}") from None
    except FileNotFoundError as exc:
        raise Refusal(
            f"{option}: {part} should have been written, and is not there. Does QEMU see other directories than the task?"
        ) from exc
    except OSError as exc:
        raise Refusal(f"{option}: can't rename {part} to {path}: {exc.strerror}") from exc


def _linked(part: str, path: str) -> bool:
    """A rename that never overwrites; False where the file system has no links, or the kernel protects the file's."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    os.unlink(part)
    return True
