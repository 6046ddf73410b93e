# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A disk: a block node and the device on it, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev import BLOCKDEV, Blockdev, held_by, nodes
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device import DEVICE, Device
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Change, Option, Part, State, Want, properties
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import PERIPHERAL

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM

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


class DiskNode(Blockdev):
    """The node of a disk. It is the disk's wherever it lies in what the device has: on top, or below overlays and filters."""

    def identity(self, want: Want) -> Want:
        """Also whose disk it is."""
        return {key: want[key] for key in (self.key, "device")}

    def meant(self, vm: VM, want: Want) -> Want:
        """A node that was not named is, where QEMU was started with the disk, the one that the device has."""
        name = meant(vm, want["device"], self.ident(want))
        return want if name == self.ident(want) else {**want, self.key: name}

    def read(self, vm: VM, want: Want) -> State | None:
        """Of the top node what the guest has: its size, and whether it may write."""
        have = super().read(vm, want)
        top = _top(vm, want)
        if have is not None and top != self.ident(want):
            node = nodes(vm)[top]
            have.update({"size": node["image"]["virtual-size"], "read_only": node["ro"]})
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Not whose disk it is, which nothing tells."""
        return super().wanted(vm, {key: value for key, value in want.items() if key != "device"})

    def change(self, vm: VM, want: Want, have: State, changes: List[Change]) -> List[Step]:
        """What the guest has is changed on the top node, how the image is opened on its own."""
        mine = {key: value for key, value in want.items() if key != "device"}
        top = _top(vm, want)
        if top == self.ident(want):
            return super().change(vm, mine, have, changes)
        above = {key: mine.pop(key) for key in _OF_THE_TOP if key in mine}
        of_top = [change for change in changes if change.key in _OF_THE_TOP]
        own = [change for change in changes if change.key not in _OF_THE_TOP]
        steps = super().change(vm, mine, have, own) if own else []
        return steps + (super().change(vm, {**above, self.key: top}, have, of_top) if of_top else [])

    def lasting(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        """A node that QEMU was started with, one with others on top, and one that its device has left."""
        device, name = want["device"], self.ident(want)
        if device not in vm.peripherals():
            return ""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph, drive

        disk = blockgraph.chain(vm, device)
        if name in disk[1:]:
            return f"it lies below {disk[0]}, which has what device {device} has written since: remove the disk first"
        left = bool(disk) and name not in disk
        return (drive.moved(vm, device, name) if left else "") or drive.lasting(vm, device, name, [])

    def create(self, vm: VM, want: Want) -> List[Step]:
        """Of the node alone."""
        return super().create(vm, {key: value for key, value in want.items() if key != "device"})

    def inherit(self, vm: VM, want: Want, have: State) -> Want:
        """Of the node alone."""
        return super().inherit(vm, {key: value for key, value in want.items() if key != "device"}, have)

    def always(self, vm: VM, want: Want) -> List[Step]:
        """What a stopped run has held beside the device is let go."""
        name = held_by(want["device"])
        if name not in nodes(vm) or want["device"] not in vm.peripherals() or ("blockdev", name) in vm.leaving:
            return []
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blocknode

        return [blocknode.release(name)]

    def remove(self, vm: VM, want: Want) -> List[Step]:
        """All that lies above it in what its device has, and then the node. QEMU deletes by itself what it has made."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph, blocknode

        name, device = self.ident(want), want["device"]
        disk = [*blockgraph.above(vm, device, name), name]
        if blockgraph.held(vm, device) and name in blockgraph.chain(vm, device):
            disk.insert(0, held_by(device))
        late = len(disk) > 1 or bool(blockgraph.drive_id(vm, device))
        vm.leaving.update(("blockdev", node) for node in disk)
        steps = []
        for node in disk:
            if node.startswith("#"):
                blocknode.check_unused(vm, node)
            else:
                steps += blocknode.remove(vm, {self.key: node})
        for step in steps:
            step.late = late  # after the last one that can be taken back
        return steps


DISK_NODE = DiskNode()


def meant(vm: VM, device: str, node: str) -> str:
    """The node of a disk: this one unless it is only the name that a disk's node has by default, and QEMU made the disk."""
    there = device in vm.peripherals()
    if node != f"{device}-node" or (there and _drive(vm, device) == node) or node in nodes(vm):
        return node
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph

    of_qemu = blockgraph.drive_id(vm, device) if there else blockgraph.held(vm, device)
    return (blockgraph.image(vm, device) if of_qemu else "") or node


def _top(vm: VM, want: Want) -> str:
    """The top node of the disk that this node is; the node itself where no device has it, nor a stopped run has left it held."""
    node, device = str(want["node_name"]), want["device"]
    if _drive(vm, device) == node if device in vm.peripherals() else held_by(device) not in nodes(vm):
        return node
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph

    return next(iter(blockgraph.above(vm, device, node)), node)


def _drive(vm: VM, device: str) -> Any:
    """What a device says that it has; one that hands its disk on (usb-storage) says nothing."""
    return vm.prop(f"{PERIPHERAL}/{device}", "drive")


def disk(want: Want, present: bool) -> List[Part]:
    """The two halves of a disk: first the node, then the device that stands on it."""
    name = want.get("node_name", f"{want['id']}-node")
    node: Want = {key: want[key] for key in ("filename", "read_only", "cache", "discard", "size") if key in want}
    node.update({"node_name": name, "device": want["id"]})
    if "format" in want:
        node["driver"] = want["format"]
    for key, value in want.get("blockdev", {}).items():
        option = str(key).replace("-", "_")  # as qemu_blockdev calls it
        if option in ("node_name", "driver"):
            raise Refusal(f"blockdev: {key} is said by {'node_name' if 'name' in key else 'format'}")
        if option in BLOCKDEV.options:
            node[option] = BLOCKDEV.options[option].fit(f"blockdev: {key}", value)
        else:
            node.setdefault("options", {})[key] = value
    device: Want = {key: want[key] for key in ("id", "driver", "bus", "addr") if key in want}
    device["options"] = {"drive": name, **properties(want, _PROPERTIES), **want.get("options", {})}
    return [Part(DISK_NODE, node), Part(_DEVICE, device)]
