# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which block node a device has, by its own word. What has to be known where nothing changes, too."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.vm import PERIPHERAL
from .blockdev_nodes import nodes

if TYPE_CHECKING:
    from .._core.vm import VM


def resolve_node(vm: VM, device: str, node: str) -> str:
    """Return the node of a disk: this one unless it is only the name that a disk's node has by default, and QEMU made the disk."""
    there = device in vm.peripherals()
    if node != f"{device}-node" or (there and drive_property(vm, device) == node) or node in nodes(vm):
        return node
    from . import blockdev_graph

    of_qemu = blockdev_graph.drive_id(vm, device) if there else blockdev_graph.held(vm, device)
    return (blockdev_graph.image(vm, device) if of_qemu else "") or node


def drive_property(vm: VM, device: str) -> Any:
    """Return what a device says that it has; one that hands its disk on (usb-storage) says nothing."""
    return vm.prop(f"{PERIPHERAL}/{device}", "drive")
