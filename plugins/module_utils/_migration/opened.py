# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Whether an image's path still leads to the file that QEMU has open: a destination opens what is there now."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Dict, Iterable, List

from .._core.errors import Refusal
from .._operations.disk_snapshot_disks import Disk, all_disks

if TYPE_CHECKING:
    from .._core.vm import VM


def check(vm: VM) -> None:
    """Raise Refusal where an image of a writable disk has been replaced at its path: the guest would go on with another one."""
    for disk in all_disks(vm).values() if vm.local else ():
        others = [] if disk.layers[0].read_only else replaced(vm, disk)
        if others:
            raise Refusal(
                f"disk {disk.name}: {others[0]} is another file by now than QEMU has open, and the destination would open that: "
                "put back the one that was there, or copy the disk with the guest (copy_disks)"
            )


def replaced(vm: VM, disk: Disk) -> List[str]:
    """Return the images of a disk at whose paths are other files than QEMU has open; none where that can't be told."""
    there = vm.table("open files", lambda: _files(vm.session.process)) if vm.local else {}
    paths = [layer.path for layer in disk.layers if os.path.isfile(layer.path)]
    others = [path for path in paths if not _is_among(path, there.values())]
    # where none is there, whoever made the monitor's socket need not be QEMU, or it sees other directories than this process
    proven = len(others) < len(paths)
    return [path for path in others if proven or f"{os.path.realpath(path)} (deleted)" in there]


def _files(pid: int | None) -> Dict[str, os.stat_result]:
    """Return the files that a process has open, by the kernel's names for them; none where that can't be read."""
    found: Dict[str, os.stat_result] = {}
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                link = f"/proc/{pid}/fd/{number}"
                found[os.readlink(link)] = os.stat(link)
    return found


def _is_among(path: str, files: Iterable[os.stat_result]) -> bool:
    try:
        now = os.stat(path)
    except OSError:
        return False
    return any(os.path.samestat(now, one) for one in files)
