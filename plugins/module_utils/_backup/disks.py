# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What is backed up: disks, and the bitmaps that say what has changed on them since a backup."""
# Private to the collection: may change without notice.

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from .._core.errors import Refusal
from .._kinds.bitmap import why_not_kept
from .._kinds.blockdev_active import check_active, check_staying
from .._kinds.blockdev_graph import children
from .._kinds.blockdev_nodes import nodes
from .._operations.disk_snapshot_disks import Disk, Layer, all_disks, check_label, named

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params

_PREFIX = "vmm-backup-"


class Source(NamedTuple):
    """A disk, and what it is copied from: the image that the guest writes to."""

    disk: Disk
    bitmaps: Dict[str, Dict[str, Any]]
    """The bitmaps of the chain, by name, as QEMU tells of them."""
    persistent: bool
    """Whether the image can keep a bitmap."""
    under: str
    """What the device has, without a filter that a killed run has left over it."""
    encrypted: bool = False
    used: int = 0
    """Bytes that the images of the disk take."""

    @property
    def name(self) -> str:
        """The disk's name, and that of the directory with its images."""
        return self.disk.name

    @property
    def top(self) -> Layer:
        """The image that the guest writes to."""
        return self.disk.layers[0]

    @property
    def node(self) -> str:
        """Its node."""
        return self.top.node


def sources(vm: VM, params: Params) -> List[Source]:
    """Return the disks that are meant. Raise Refusal for one that can't be."""
    known = all_disks(vm)
    found = [disk for disk in known.values() if not disk.layers[0].read_only]
    if params["disks"] is not None:
        found = named(known, "disks", params["disks"])
    left_out = named(known, "exclude", params["exclude"] or [])
    found = [disk for disk in found if disk not in left_out]
    if not found:
        raise Refusal(
            "disks: there is no disk to back up: the virtual machine has none that is writable and not excluded"
        )
    for disk in found:
        check_label(disk)
        if disk.layers[0].read_only:
            raise Refusal(f"disks: {disk.name} is read-only: copy its image {disk.layers[0].source} once")
        check_active(vm, f"disks: a backup of {disk.name}", disk.layers[0].node)
    return [_source(vm, disk, params["name"]) for disk in found]


def check_jobs(vm: VM, found: Sequence[Source], name: str) -> None:
    """Raise Refusal where a job works on a disk, but for one of a killed run, and while the guest is on its way."""
    check_staying(vm, "disks: a backup", "the jobs of a backup would make that fail")
    for source in found:
        others = [job for job in source.disk.jobs if job != job_id(name, source.name)]
        if others:
            raise Refusal(f"disks: block job {others[0]} works on {source.name}: let it end first")


def check_same(vm: VM, found: Sequence[Source]) -> None:
    """Raise Refusal where the guest does not write to these images any more: an overlay is over one, or it was migrated away."""
    vm.forget()
    known = all_disks(vm)
    for source in found:
        check_active(vm, f"disks: a backup of {source.name}", source.node)
        if source.name not in known or known[source.name].layers[0].node != source.node:
            raise moved(source.name, source.node)


def moved(disk: str, node: str) -> Refusal:
    """Return the error for a disk that another tool has put on something else since it was looked at."""
    return Refusal(f"disks: {disk} was on {node}, and is not any more: run the task again")


def _source(vm: VM, disk: Disk, name: str) -> Source:
    node = nodes(vm)[disk.layers[0].node]
    used = sum(nodes(vm)[layer.node]["image"].get("actual-size", 0) for layer in disk.layers)
    kept = not why_not_kept(node)
    return Source(disk, bitmaps(vm, disk, name), kept, under(vm, disk, name), bool(node.get("encrypted")), used)


def under(vm: VM, disk: Disk, name: str) -> str:
    """Return the top node of what a device has, without a filter that was put over it for a backup of this name."""
    return children(vm, disk.top)["file"] if disk.top == node_name(name, disk.name, "filter") else disk.top


# -- names -------------------------------------------------------------------------------------------------------------


def bitmap_name(name: str, number: int, directory: str) -> str:
    """Return the name of the bitmap that begins with a backup.

    No other one is ever called so, be it of a copy of the chain or of a chain that was here before: a listed backup alters the
    time of its directory, and with it the name of the next one's bitmap.
    """
    found = directory
    while not os.path.isdir(found):
        found = os.path.dirname(found)
    stat = os.stat(found)
    once = f"{directory}\0{stat.st_dev}\0{stat.st_ino}\0{stat.st_mtime_ns}"
    return f"{_PREFIX}{name}-{number}-{hashlib.sha256(os.fsencode(once)).hexdigest()[:12]}"


def bitmaps(vm: VM, disk: Disk, name: str) -> Dict[str, Dict[str, Any]]:
    """Return the bitmaps on a disk's image that backups of this name have made. One that a killed run's job uses is not busy."""
    ours = re.compile(rf"{_PREFIX}{re.escape(name)}-[0-9]+-[0-9a-f]{{12}}\Z")
    ends = {"busy": False} if job_id(name, disk.name) in disk.jobs else {}
    listed = nodes(vm)[disk.layers[0].node].get("dirty-bitmaps", [])
    return {told["name"]: {**told, **ends} for told in listed if ours.match(told.get("name", ""))}


def job_id(name: str, disk: str) -> str:
    """Return the id of a disk's job. With ``-`` in a name it could be that of another disk of another chain."""
    plain = f"{_PREFIX}{name}-{disk}"
    return f"{plain}-{_digest(name, disk)[:8]}" if "-" in name + disk else plain


def disk_of(name: str, ident: str) -> str:
    """Return the disk that has this id in the backups of that name, be it unplugged; empty where it is not one of theirs."""
    rest = ident[len(_PREFIX + name) + 1 :]
    return next((disk for disk in (rest, rest[:-9]) if disk and job_id(name, disk) == ident), "")


def is_scratch(file: str) -> bool:
    """Tell whether a file is called as a scratch image."""
    return file.startswith(_PREFIX) and file.endswith((".qcow2", ".qcow2.part"))


def node_name(name: str, disk: str, what: str = "target") -> str:
    """Return the name of a node that is there for the time of a backup."""
    return f"{_PREFIX}{what[:3]}-{_digest(name, disk)[:16]}"


def _digest(name: str, disk: str) -> str:
    return hashlib.sha256(f"{name}/{disk}".encode()).hexdigest()
