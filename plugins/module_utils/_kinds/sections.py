# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The lists that a document of the whole machine can have: what is in here is in qemu_machine, its purge, and qemu_info."""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, Want
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev import BLOCKDEV
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.chardev import CHARDEV
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device import DEVICE
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.disk import DISK, disk
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Kind, Part
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.memory import MEMORY, memory
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.netdev import NETDEV
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.nic import NIC, nic
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.object import OBJECT


class Section(NamedTuple):
    """One list of the document."""

    name: str
    """As a plan calls one of its entries."""
    options: Dict[str, Option]
    parts: Callable[[Want, bool], List[Part]]
    keys: Sequence[str] = ("id",)
    kind: Kind | None = None
    """What its entries are, where each is one thing."""


def of_kind(kind: Kind) -> Dict[str, Section]:
    """Return the section of a kind, by its name."""
    return {kind.section: Section(kind.name, kind.options, lambda want, present: [Part(kind, want)], kind.keys, kind)}


# In the order of what stands on what, as far as that is so in every document.
SECTIONS: Dict[str, Section] = {
    **of_kind(OBJECT),
    **of_kind(CHARDEV),
    **of_kind(NETDEV),
    **of_kind(BLOCKDEV),
    "memory": Section("memory", MEMORY, memory),
    "disks": Section("disk", DISK, disk),
    "nics": Section("nic", NIC, nic),
    **of_kind(DEVICE),
}
