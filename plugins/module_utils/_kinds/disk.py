# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A disk: a block node and the device on it, as one."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.errors import Refusal
from .._core.option import Option, Want
from .blockdev import BLOCKDEV, Blockdev
from .blockdev_nodes import held_by, nodes
from .device import DEVICE, Device
from .device_node import drive_property, resolve_node
from .kind import Change, Part, State, properties

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.step import Step
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

    kept_for_removal = ("device",)

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return it with the device's own node in place of a default name, where QEMU was started with the disk."""
        name = resolve_node(vm, want["device"], self.ident(want))
        return want if name == self.ident(want) else {**want, "node_name": name}

    def read(self, vm: VM, want: Want) -> State | None:
        """Return of the top node what the guest has: its size, and whether it may write."""
        have = super().read(vm, want)
        top = _top(vm, want)
        if have is not None and top != self.ident(want):
            node = nodes(vm)[top]
            have.update({"size": node["image"]["virtual-size"], "read_only": node["ro"]})
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it without whose disk it is, which nothing tells."""
        return super().wanted(vm, {key: value for key, value in want.items() if key != "device"})

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return steps for the top node where the guest sees the change, for its own where the image is opened in another way."""
        mine = {key: value for key, value in want.items() if key != "device"}
        top = _top(vm, want)
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
        """Pass on what is of the node alone."""
        return super().create(vm, {key: value for key, value in want.items() if key != "device"}, draft)

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Pass on what is of the node alone."""
        return super().complete(vm, {key: value for key, value in want.items() if key != "device"}, have)

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the step that lets go what a stopped run has held beside the device."""
        name = held_by(want["device"])
        if name not in nodes(vm) or want["device"] not in vm.peripherals() or ("blockdev", name) in draft.removing:
            return []
        from . import blockdev_steps

        return [blockdev_steps.release(name)]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Remove all that lies above it in what its device has, and then the node. QEMU deletes by itself what it has made."""
        from . import blockdev_graph, blockdev_steps

        name, device = self.ident(want), want["device"]
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


DISK_NODE = DiskNode()


def _top(vm: VM, want: Want) -> str:
    """Return the top node of the disk that this node is; the node itself where no device has it and none is held."""
    node, device = str(want["node_name"]), want["device"]
    if drive_property(vm, device) == node if device in vm.peripherals() else held_by(device) not in nodes(vm):
        return node
    from . import blockdev_graph

    return next(iter(blockdev_graph.above(vm, device, node)), node)


def disk(want: Want, present: bool) -> List[Part]:
    """Return the two halves of a disk: first the node, then the device that stands on it."""
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
