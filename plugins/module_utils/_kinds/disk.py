# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A disk: a block node and the device on it, as one."""

from __future__ import annotations

from typing import List

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev import BLOCKDEV
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device import DEVICE, Device
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Option, Part, Want, properties

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
_DEVICE = Device(usual="virtio-blk")


def disk(want: Want, present: bool) -> List[Part]:
    """The two halves of a disk: first the node, then the device that stands on it."""
    name = want.get("node_name", f"{want['id']}-node")
    node: Want = {key: want[key] for key in ("filename", "read_only", "cache", "discard", "size") if key in want}
    node["node_name"] = name
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
    return [Part(BLOCKDEV, node), Part(_DEVICE, device)]
