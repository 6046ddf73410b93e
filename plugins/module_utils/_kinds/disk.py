# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A disk: a block node and the device on it, as one."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List

from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .._qmp.values import human_size
from .blockdev import BLOCKDEV, Blockdev
from .blockdev_nodes import check_bytes, file_of, held_by, is_removable, nodes
from .device import DEVICE, Device
from .device_node import drive_property, resolve_node
from .drive import DRIVE
from .drive import OPTIONS as OF_THE_DRIVE
from .kind import Change, Part, State, properties

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

DISK = {
    **{name: option for name, option in DEVICE.options.items() if name != "wait"},
    **{name: BLOCKDEV.options[name] for name in ("filename", "read_only", "cache", "discard", "size")},
    "node_name": Option("str"),
    "format": Option("str"),
    "scsi_id": Option("int"),
    "lun": Option("int"),
    "serial": Option("str"),
    "queues": Option("int"),
    "shared": Option("bool"),
    "iothread": Option("str"),
    "romfile": Option("str"),
    "disable_modern": Option("bool"),
    "blockdev": Option("dict"),
    "write_threshold": Option("str"),
    **OF_THE_DRIVE,
}
_PROPERTIES = {
    "scsi_id": "scsi-id",
    "lun": "lun",
    "serial": "serial",
    "queues": "num-queues",
    "shared": "share-rw",
    "iothread": "iothread",
    "romfile": "romfile",
    "disable_modern": "disable-modern",
}
_DEVICE = Device(usual="virtio-blk", mark="drive")
_OF_THE_TOP = ("size", "read_only")
_OF_THE_NODE = ("filename", "read_only", "cache", "discard", "size", "write_threshold")
_MOVES = ("tray", "force", "medium")
_BESIDE = ("device", "bare", *_MOVES)
"""What a disk's node is told beside a node's own options."""


class DiskNode(Blockdev):
    """The node of a disk. It is the disk's wherever it lies in what the device has: on top, or below overlays and filters."""

    kept_for_removal = ("device", *_MOVES)
    changeable_keys = Blockdev.changeable_keys | {"write_threshold"}

    def check(self, want: Want) -> None:
        """Raise Refusal also for a threshold that is not a size."""
        super().check(want)
        check_bytes("write_threshold", want.get("write_threshold", 0))

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return it with the device's own node in place of a default name, where QEMU was started with the disk."""
        name = resolve_node(vm, want["device"], self.ident(want))
        return want if name == self.ident(want) else {**want, "node_name": name}

    def read(self, vm: VM, want: Want) -> State | None:
        """Return of the top node what the guest has: its size, and whether it may write.

        The name alone for a drive with another medium, or none, of which the task asks nothing that a node has.
        """
        have, name, device = super().read(vm, want), self.ident(want), want["device"]
        if have is None:
            return {"node_name": name} if want.get("bare") and is_removable(vm, device) else None
        top = _top(vm, want)
        if top != name:
            node = nodes(vm)[top]
            have.update({"size": node["image"]["virtual-size"], "read_only": node["ro"]})
        if "write_threshold" in want:
            have["write_threshold"] = nodes(vm)[_storage(vm, want)]["write_threshold"]
        return {**have, "device": device}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it without whose disk it is, which nothing tells."""
        flat = super().wanted(vm, _alone(want))
        if "write_threshold" in want:
            flat["write_threshold"] = human_size(want["write_threshold"])
        return flat

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return all of a medium that can be taken out, unless it lies below another node."""
        device, live = have.get("device", ""), super().changeable(vm, have)
        if not is_removable(vm, device):
            return live
        from . import blockdev_graph

        return live if have["node_name"] in blockdev_graph.chain(vm, device)[1:] else live | set(have)

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return steps for the node as it is open where they do, else for another medium, unless the drive goes too."""
        asked = {change.key for change in changes} - self.changeable_keys
        if asked and asked - super().changeable(vm, have) and is_removable(vm, want["device"]):
            if ("device", want["device"]) in draft.removing:
                return [*self.remove(vm, want, draft), *self.create(vm, self.complete(vm, want, have), draft)]
            from . import disk_medium

            return disk_medium.replaced(self, vm, want, have, draft)
        of_node = [change for change in changes if change.key != "write_threshold"]
        watched = [change for change in changes if change.key == "write_threshold"]
        steps = self._change_open(vm, want, have, of_node, draft) if of_node else []
        return steps + [_threshold(_storage(vm, want), change.after, change.before) for change in watched]

    def _change_open(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return steps for the top node where the guest sees the change, for its own where the image is opened in another way."""
        mine, top = _alone(want), _top(vm, want)
        if top == self.ident(want):
            return super().change(vm, mine, have, changes, draft)
        above = {key: mine.pop(key) for key in _OF_THE_TOP if key in mine}
        of_top = [change for change in changes if change.key in _OF_THE_TOP]
        own = [change for change in changes if change.key not in _OF_THE_TOP]
        steps = super().change(vm, mine, have, own, draft) if own else []
        return steps + (super().change(vm, {**above, "node_name": top}, have, of_top, draft) if of_top else [])

    def recreate_refusal(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        """Return it for a node that QEMU was started with, one with others on top, and one that its device has left."""
        device, name = want["device"], self.ident(want)
        if device not in vm.peripherals():
            return ""
        from . import blockdev_graph, device_drive

        disk = blockdev_graph.chain(vm, device)
        if name in disk[1:]:
            return f"it lies below {disk[0]}, which has what device {device} has written since: remove the disk first"
        left = bool(disk) and name not in disk
        return (device_drive.moved(vm, device, name) if left else "") or device_drive.recreate_refusal(
            vm, device, name, []
        )

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the steps that make it, with a threshold for the node that its image is stored by, which has a name then.

        Raise Refusal also for an image that lies below what a snapshot of the disk has left: it would be the guest's past.
        """
        _check_id(vm, want["device"])
        if isinstance(want.get("filename"), str) and not want.get("read_only"):
            _check_top(vm, want["filename"], want["device"])
        steps = super().create(vm, _alone(want), draft)
        limit = human_size(want.get("write_threshold", 0))
        if not limit:
            return steps
        added, name = steps[0], self.ident(want)
        below = added.arguments.get("file", name)
        if isinstance(below, dict):
            below = {"node-name": file_of(name), **below}
            steps[0] = added.replace(arguments={**added.arguments, "file": below})
            below = below["node-name"]
        return [*steps, _threshold(below, limit, 0)]

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Pass on what is of the node alone."""
        kept: Want = {key: want[key] for key in ("device", "write_threshold") if key in want}
        return {**super().complete(vm, _alone(want), have), **kept}

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the step that lets go what a stopped run has held beside the device."""
        name = held_by(want["device"])
        if name not in nodes(vm) or want["device"] not in vm.peripherals() or ("blockdev", name) in draft.removing:
            return []
        from . import blockdev_steps

        return [blockdev_steps.release(name)]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Remove all that lies above it in what its device has, and then the node. QEMU deletes by itself what it has made.

        Where the device stays, the node is a medium, and is taken out.
        """
        from . import blockdev_graph, blockdev_steps, disk_medium

        name, device = self.ident(want), want["device"]
        if device in vm.peripherals() and ("device", device) not in draft.removing:
            return disk_medium.ejected(self, vm, want, draft)
        disk = [*blockdev_graph.above(vm, device, name), name]
        if blockdev_graph.held(vm, device) and name in blockdev_graph.chain(vm, device):
            disk.insert(0, held_by(device))
        late = len(disk) > 1 or bool(blockdev_graph.drive_id(vm, device))
        draft.removing.update(("blockdev", node) for node in disk)
        steps = []
        for node in disk:
            BLOCKDEV.check_unused(vm, {"node_name": node}, draft)
            steps += [] if node.startswith("#") else blockdev_steps.remove(vm, {"node_name": node})
        return [step.replace(last=late) for step in steps]  # after the last one that can be taken back

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return who uses the disk from outside: what lies above the node goes with it."""
        from . import blockdev_graph

        return blockdev_graph.outside(vm, want["device"], self.ident(want))

    def describe(self, vm: VM, want: Want) -> Any:
        """Return its state; that of the node of the usual name where the medium's own was QEMU's, and has gone with it."""
        names = (self.ident(want), f"{want['device']}-node")
        name = next((name for name in names if name in nodes(vm)), "")
        found = super().describe(vm, {**want, "node_name": name}) if name else {}
        return {key: value for key, value in found.items() if key != "device"}


DISK_NODE = DiskNode()


def _alone(want: Want) -> Want:
    """Return what is of the node alone."""
    return {key: value for key, value in want.items() if key not in (*_BESIDE, "write_threshold")}


def _storage(vm: VM, want: Want) -> str:
    """Return the node by which what the guest writes is stored: below the format, where a write has its place in the file."""
    from . import blockdev_graph

    image = blockdev_graph.image(vm, want["device"]) or str(want["node_name"])
    below = blockdev_graph.children(vm, image)
    return below.get("data-file", below.get("file", image))


def _check_top(vm: VM, image: str, device: str) -> None:
    """Raise Refusal for an image over which a snapshot of the disk has left an overlay."""
    from .._host import qcow2_header
    from .host_path import is_seen

    def listed(directory: str) -> Dict[str, List[str]]:  # each directory once: many disks may have their images in one
        return vm.table(f"overlays in {directory}", partial(qcow2_header.overlays, directory))

    with contextlib.suppress(OSError):
        if device in listed(os.path.dirname(image)) and is_seen(vm, "filename", image):
            qcow2_header.check_top("filename", image, device, listed)


def _check_id(vm: VM, device: str) -> None:
    """Raise Refusal for the name of a drive (``-cdrom``) whose device has no id: the task means that one."""
    for drive in vm.ask("query-block"):
        if drive["device"] == device and drive.get("qdev") and device not in vm.peripherals():
            raise Refusal(
                f"id: {device} is a drive that QEMU was started with, and its device ({drive['qdev']}) has no id, so that no task "
                "can change it: start QEMU with -device and an id for it, or give another id"
            )


def _threshold(node: str, size: int, now: int) -> Step:
    back = Step("block-set-write-threshold", {"node-name": node, "write-threshold": now})
    return Step("block-set-write-threshold", {"node-name": node, "write-threshold": size}, undo=[back])


def _top(vm: VM, want: Want) -> str:
    """Return the top node of the disk that this node is; the node itself where no device has it and none is held."""
    node, device = str(want["node_name"]), want["device"]
    if drive_property(vm, device) == node if device in vm.peripherals() else held_by(device) not in nodes(vm):
        return node
    from . import blockdev_graph

    return next(iter(blockdev_graph.above(vm, device, node)), node)


def disk(want: Want, present: bool) -> List[Part]:
    """Return the parts of a disk: the node, the device that stands on it, and its drive where the task says something of that."""
    if want.get("filename") == "":
        if want.get("medium") == "present":
            raise Refusal("filename: it is empty, and medium is present: give the image that shall be in the drive")
        want = {**{key: value for key, value in want.items() if key != "filename"}, "medium": "absent"}
    empty = want.get("medium") == "absent"
    name = want.get("node_name", f"{want['id']}-node")
    node: Want = {key: want[key] for key in _OF_THE_NODE if key in want}
    if "format" in want:
        node["driver"] = want["format"]
    for key, value in want.get("blockdev", {}).items():
        option = str(key).replace("-", "_")  # as qemu_blockdev calls it
        if option in ("node_name", "driver"):
            raise Refusal(
                f"blockdev: {key} is the disk's own option {'node_name' if 'name' in key else 'format'}: give that"
            )
        if option in BLOCKDEV.options:
            node[option] = BLOCKDEV.options[option].fit(f"blockdev: {key}", value)
        else:
            node.setdefault("options", {})[key] = value
    moves: Want = {key: want[key] for key in _MOVES if key in want}
    if not node and "node_name" not in want and want.get("medium") != "present":
        moves["bare"] = True
    node.update({"node_name": name, "device": want["id"], **moves})
    device: Want = {**{key: want[key] for key in ("id", "driver", "bus", "addr") if key in want}, **moves}
    medium = {} if empty else {"drive": name}
    device["options"] = {**medium, **properties(want, _PROPERTIES), **want.get("options", {})}
    drive: Want = {key: want[key] for key in OF_THE_DRIVE if key in want}
    parts = [Part(DISK_NODE, node, not empty), Part(_DEVICE, device)]
    asked = empty or any(key not in ("medium", "force") for key in drive)
    named: Want = {key: want[key] for key in ("id", "driver") if key in want}
    return [*parts, Part(DRIVE, {**drive, **named})] if asked and present else parts
