# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The lists that a document of the whole machine can have: what is in here is in qemu_machine, its purge, and qemu_info."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Sequence

from .._core.option import Option, Want
from .blockdev import BLOCKDEV
from .chardev import CHARDEV
from .device import DEVICE
from .disk import DISK, disk
from .kind import Kind, Part
from .memory import MEMORY, memory
from .netdev import NETDEV
from .nic import NIC, nic
from .object import OBJECT


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
