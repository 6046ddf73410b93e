# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The disks of a VM as chains of images, and which of these are the overlays of a snapshot.

An overlay is known by the name of its file, which a VM that is started anew from its disks has, too: ``DISK@NAME.qcow2``,
and ``DISK@NAME~1.qcow2`` where a disk went back to the snapshot and the other name was taken then.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Container, Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .._core.vm import NO_MACHINE, PERIPHERAL
from .._host.overlay_file import is_empty
from .._host.qemu_img import in_use
from .._kinds.blockdev_graph import attached, chain_from, children, images_from, is_held, jobs_on, tops, users
from .._kinds.blockdev_nodes import nodes

if TYPE_CHECKING:
    from .._core.vm import VM

_FORMATS_OF_FILES = ("file", "host_device")
_PLACES = (f"{PERIPHERAL}/", f"{PERIPHERAL}-anon/", "/machine/unattached/")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_NODE_LONGEST = 31
MOST_NAMES = 10
"""How many names the overlays of one snapshot may have."""


class Layer(NamedTuple):
    """An image in a chain."""

    node: str
    driver: str
    path: str
    """Of the file or the device of the host that it is in; empty for anything else."""
    source: str
    """What QEMU calls it by: the path, or ``json:{...}`` where more than that matters."""
    size: int
    read_only: bool
    cache: Dict[str, bool] = {}

    @property
    def format(self) -> str:
        """Its format, as the header of an overlay has it."""
        return "raw" if self.driver in _FORMATS_OF_FILES else self.driver


class Disk(NamedTuple):
    """What a device has."""

    name: str
    qom: str
    """The path of the device's object that has it."""
    top: str
    """The topmost node, which can be a filter over the topmost image."""
    layers: Sequence[Layer]
    """From the topmost image down."""
    users: Dict[str, List[str]] = {}
    """By node: who else holds it (``export e0``, ``device d1``)."""
    jobs: Sequence[str] = ()
    """The jobs that work on it."""

    def overlay(self, name: str) -> int | None:
        """Return the place of the snapshot's overlay in the chain; None where it has none."""
        return next((place for place, layer in enumerate(self.layers[:-1]) if self.is_overlay(layer.path, name)), None)

    def is_overlay(self, path: str, name: str = "") -> bool:
        """Tell whether a file is called as the overlay of that snapshot of this disk, or of any."""
        wanted = re.escape(f"{self.name}@{name}") if name else re.escape(self.name) + "@[A-Za-z0-9._-]+"
        return re.fullmatch(wanted + r"(~[0-9]+)?\.qcow2", os.path.basename(path)) is not None


class Place(NamedTuple):
    """Where a new overlay comes to be."""

    path: str
    node: str
    there: bool = False
    """Whether an earlier run has left the file, and nothing in it."""
    stray: str = ""
    """The node by which that run has left it open."""
    taken: bool = False
    """Whether something else is there."""


def all_disks(vm: VM) -> Dict[str, Disk]:
    """Return what the devices have, by the device's id, or the name of its ``-drive`` or its node where it has none."""
    found: Dict[str, Disk] = {}
    of_graph = tops(vm)
    for drive in vm.ask("query-block"):
        qdev = drive.get("qdev", "")
        of_drive = of_graph.get(drive["device"] or qdev, "") if "inserted" in drive and qdev else ""
        # a job's filter that was there for the graph alone is not the top any more
        top = next((node for node in chain_from(vm, of_drive) if node in nodes(vm)), "")
        if not top or ("/" in qdev and not qdev.startswith(_PLACES)):
            continue  # firmware's memory is not a disk
        disk = _disk(vm, drive, top)
        found.setdefault(disk.name, disk)
    return found


def _disk(vm: VM, drive: Dict[str, Any], top: str) -> Disk:
    qdev = drive["qdev"]
    chain, images = chain_from(vm, top), [_layer(vm, node) for node in images_from(vm, top)]
    ident = qdev.split("/")[3] if qdev.startswith(f"{PERIPHERAL}/") else qdev if "/" not in qdev else drive["device"]
    mine = ("device", qdev.split("/")[3] if qdev.startswith(f"{PERIPHERAL}/") else qdev)
    return Disk(
        name=ident or images[0].node,
        qom=qdev if "/" in qdev else f"{PERIPHERAL}/{qdev}",
        top=top,
        layers=images,
        users={node: _others(vm, node, chain, mine) for node in chain},
        jobs=jobs_on(vm, chain),
    )


def _others(vm: VM, node: str, chain: Sequence[str], mine: Tuple[str, str]) -> List[str]:
    own = [mine, *(("blockdev", name) for name in chain)]
    return [" ".join(user) for user in users(vm, node) if user not in own and user[0] != "block job"]


def _layer(vm: VM, node: str) -> Layer:
    known = nodes(vm)
    found = known[node]
    below = found if found["drv"] in _FORMATS_OF_FILES else known.get(children(vm, node).get("file", ""), found)
    path = below["file"] if below["drv"] in _FORMATS_OF_FILES else ""
    return Layer(node, found["drv"], path, found["file"], found["image"]["virtual-size"], found["ro"], found["cache"])


def place(vm: VM, disk: Disk, name: str, base: Layer, directory: str, most: int = 1) -> Place:
    """Return the first of so many names that a new overlay can have, or one that is ``taken``.

    A file that an earlier run has left is as good as none where nothing has been written to it.
    """
    for number in range(most):
        path = os.path.join(directory, f"{disk.name}@{name}{f'~{number}' if number else ''}.qcow2")
        node, found = _free_node(vm, disk.name, name, number), openers(vm, path)
        stray = next((name for name in found if not is_held(vm, name)), "")
        if not os.path.lexists(path):
            return Place(path, node, stray=stray)
        in_chain = any(is_held(vm, name) for name in found)
        if is_empty(path, base.source) and not in_chain and (stray or not in_use(path)):
            return Place(path, node, there=True, stray=stray)
    return Place(path, node, stray=stray, taken=True)


def openers(vm: VM, path: str) -> List[str]:
    """Return the qcow2 nodes that have a file open."""
    return [name for name, node in nodes(vm).items() if node["drv"] == "qcow2" and _layer(vm, name).path == path]


def _free_node(vm: VM, disk: str, name: str, number: int) -> str:
    """Return the name of a new overlay's node: what it is called, or of what is too long for QEMU a digest."""
    known: Container[str] = nodes(vm)
    for suffix in ("", *(f".{count}" for count in range(1, MOST_NAMES))):
        node = f"{disk}.{name}{f'.{number}' if number else ''}{suffix}"
        if len(node) > _NODE_LONGEST or not node[0].isalpha():
            node = "overlay-" + hashlib.sha256(node.encode()).hexdigest()[:20]
        if node not in known:
            return node
    raise Refusal(f"name: all names that an overlay of {disk} for {name} could have are those of other block nodes")


def reverting(name: str) -> Tuple[str, str]:
    """Return the names of the node that says that disks go back to a snapshot: of a guest that ran, and of one that didn't."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"revert-running-{digest}", f"revert-stopped-{digest}"


def is_reverting(vm: VM, name: str) -> bool:
    """Tell whether that goes on, or was stopped on the way."""
    return any(mark in nodes(vm) for mark in reverting(name))


def check_bitmaps(vm: VM, disk: Disk, layers: Sequence[Layer]) -> None:
    """Raise Refusal where an image that is to go has dirty bitmaps: the next incremental backup would miss what they tell."""
    for layer in layers:
        names = [bitmap["name"] for bitmap in nodes(vm)[layer.node].get("dirty-bitmaps", []) if bitmap.get("name")]
        if names:
            raise Refusal(
                f"disks: {layer.source} of {disk.name} has bitmap {names[0]}, which would be lost with it: remove that first "
                "(qemu_bitmap, or qemu_backup with state=absent, which keeps the backups), and let a full backup follow"
            )


def named(known: Dict[str, Disk], option: str, names: Sequence[str]) -> List[Disk]:
    """Return the disks of these names, or of these nodes. Raise Refusal for one that is not there."""
    found: List[Disk] = []
    for name in names:
        disk = known.get(name) or next((disk for disk in known.values() if name in disk.users), None)
        if disk is None:
            raise Refusal(f"{option}: there is no disk {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
        found += [disk] if disk not in found else []
    return found


def check_here(vm: VM, socket: str, what: str) -> None:
    """Raise Refusal where QEMU's files are not this host's, and where there is no guest that has disks."""
    if not vm.local:
        raise Refusal(
            f"socket: {socket} is a monitor over the network, and the files of {what} are made on QEMU's own host: run the task "
            "there, with the monitor's UNIX socket"
        )
    if vm.status == NO_MACHINE:
        raise Refusal(
            "disks: a qemu-storage-daemon has no guest, and so no disks: name the socket of a virtual machine"
        )


def check_label(disk: Disk) -> None:
    """Raise Refusal for a disk whose name can't be part of a file's name."""
    if not _LABEL.match(disk.name):
        raise Refusal(
            f"disks: the device {disk.qom} has no id by which its files could be called: give it one, or "
            "name the other disks"
        )


def released(vm: VM, disk: Disk, name: str = "") -> List[Layer]:
    """Return the overlays of a snapshot, or of any, that are over an image of the disk and that no device has, top ones first."""
    below = {layer.node for layer in disk.layers}
    free = [node for node, told in nodes(vm).items() if told["drv"] == "qcow2" and not attached(vm, node)]
    layers = [_layer(vm, node) for node in free]
    found = [layer for layer in layers if disk.is_overlay(layer.path, name) and below & set(chain_from(vm, layer.node))]
    return sorted(found, key=lambda layer: -len(chain_from(vm, layer.node)))
