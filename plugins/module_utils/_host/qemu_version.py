# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which QEMU runs, and which one its path gives now: after an upgrade of the package they are two."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from . import child, process

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline
    from .._qmp.session import QMPSession

_DELETED = " (deleted)"
_SAID = re.compile(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)\s*(?:\((.*)\))?")


class Build(NamedTuple):
    """A QEMU: its version, and what its packager calls it."""

    version: tuple[int, ...]
    package: str

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return f"{number} ({self.package})" if self.package else number


class Program(NamedTuple):
    """The program that a process runs: its path, and whether that is another file by now, or none."""

    path: str
    deleted: bool


def greeted(session: QMPSession) -> Build:
    """Return what a QEMU says of itself."""
    return Build(tuple(session.version[:3]), str(session.version.package).strip())


def installed(binary: str, deadline: Deadline) -> Build | None:
    """Return what a program says that it is; None where it does not say it."""
    try:
        done = child.run([binary, "--version"], deadline, env=process.environment())
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _SAID.match(done.stdout.decode(errors="replace"))
    return Build(tuple(map(int, found.group(1, 2, 3))), found.group(4) or "") if found else None


def program_of(pid: int | None) -> Program | None:
    """Return the program of a process; None where it can't be told."""
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/{pid}/exe")
        deleted = path.endswith(_DELETED)
        return Program(path[: -len(_DELETED)] if deleted else path, deleted)
    return None


def may_run(path: str) -> bool:
    """Tell whether nobody but root, and who runs the task, can have put another program there: a process may be anybody's."""
    while True:
        try:
            found = os.stat(path)
        except OSError:
            return False
        sticky = found.st_mode & stat.S_ISVTX and stat.S_ISDIR(found.st_mode)
        if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not sticky):
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)
