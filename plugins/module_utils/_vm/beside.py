# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Two QEMUs of one VM side by side, each with a directory for what it makes.

Both have the same command line, and so the same paths below ``run``. The one whose turn it is to open or to delete something there
has its directory under that name, and meanwhile the other one's has another:

    run, run.new    the old one answers at the usual paths; the new one is in run.new
    run.old, run    the new one answers at the usual paths

Each is a rename, so that whoever comes after a kill can tell from the names alone which is which.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import stat
from typing import Iterator, List

from .._core.errors import OperationFailed, Refusal
from .._host import command_line, directory, process
from .options import Place


class Beside:
    """The directories of both."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.run = place.run
        self.old = f"{place.run}.old"
        self.new = f"{place.run}.new"
        self.listens_at = f"{place.sockets if place.user else place.run}/migration".replace(place.run, self.new, 1)
        """Where the new one, which by then runs as its user, listens for the guest."""

    @property
    def is_begun(self) -> bool:
        """Whether an upgrade was begun, and not finished or taken back."""
        return os.path.lexists(self.old) or os.path.lexists(self.new)

    def prepare(self) -> None:
        """Make the new one's directory: as the old one's, with the same seed and console log. Raise OperationFailed."""
        _copy_access(self.run, self.new)
        for entry in os.scandir(self.run):
            if entry.is_dir(follow_symlinks=False):
                _copy_access(entry.path, f"{self.new}/{entry.name}")
            # two names of one file: what is written to the log by either stays
            elif entry.is_file(follow_symlinks=False) and entry.path not in (self.place.pidfile, self.place.log):
                os.link(entry.path, f"{self.new}/{entry.name}")

    def turn_to_new(self) -> None:
        """Give the usual paths to the new one."""
        os.rename(self.run, self.old)
        os.rename(self.new, self.run)

    def turn_to_old(self) -> None:
        """Give the usual paths to the old one. An earlier turn that was broken off is completed."""
        if os.path.lexists(self.old):
            if os.path.lexists(self.run):
                os.rename(self.run, self.new)
            os.rename(self.old, self.run)

    def keep_new(self) -> None:
        """Give the usual paths to the new one for good: the old one has ended."""
        self.turn_to_old()
        if os.path.lexists(self.new):
            self.turn_to_new()
        directory.remove(self.old, whole=True)

    def keep_old(self) -> None:
        """Give the usual paths to the old one for good: the new one has ended."""
        self.turn_to_old()
        directory.remove(self.new, whole=True)

    @property
    def is_apart(self) -> bool:
        """Whether a QEMU of the VM runs that does not answer at the usual paths."""
        usual = process.read_pidfile(self.place.pidfile) if os.path.lexists(self.place.socket) else None
        return any(pid != usual for pid in self.processes())

    def processes(self) -> List[int]:
        """Return all QEMUs of the VM, also those that are about to start or to end."""
        return [pid for pid in _pids() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        line = process.command_line(pid)
        return command_line.guest_name(line) == self.place.name and self.place.pidfile in line


def check_whole(place: Place, ends: bool = False, check_mode: bool = False) -> bool:
    """Raise Refusal for a VM of which an upgrade has not come to its end. Tell whether only directories are left of one.

    ``ends``: it is to end, which one can whose only QEMU is at the usual paths. ``check_mode``: what is left can't be removed,
    and is not what a start would find.
    """
    beside = Beside(place)
    if not beside.is_begun:
        return False
    if beside.is_apart if ends else check_mode or beside.processes():
        raise Refusal(
            f"{place.name}: an upgrade of its QEMU was begun and has not come to its end: run it again (qemu_vm with upgrade, "
            "or the role vmm.qemu.upgrade), which finishes it or takes it back"
        )
    return True


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        with contextlib.suppress(ValueError):
            yield int(name)


def _copy_access(path: str, other: str) -> None:
    found = os.lstat(path)
    if not directory.make(other, directory.Access(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))):
        raise OperationFailed(f"upgrade: {other} is there: remove it")
