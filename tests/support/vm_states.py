# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random worlds: what a VM has beside what it was started with, as raw commands, as a document, and as what is then read.

A world is built from genes, three small numbers for each id. Two worlds share their ids, so that between the one that is
and the one that is wanted everything happens: another type under the same id, other backends, other places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from support.state import KINDS, Item

MIB = 1 << 20
SECTION_OF = {kind.name: kind.section for kind in KINDS if kind.name != "device"}
KEY_OF = {called: kind.key.replace("-", "_") for kind in KINDS for called in (kind.name, kind.section)}
# Every controller gives its devices back without a guest.
BED = (
    *("-device", "virtio-serial-pci,id=vs0,bus=rp0", "-device", "qemu-xhci,id=usb0,p2=15,p3=15,bus=rp1"),
    *("-object", "rng-builtin,id=cold0", "-chardev", "null,id=cold0", "-netdev", "user,id=cold0"),
    *("-blockdev", "null-co,node-name=cold0", "-device", "scsi-hd,id=cold0,drive=cold0,bus=scsi0.0,scsi-id=60"),
)


class Gene(NamedTuple):
    """What an id is in a world: a variant (0: nothing), and two choices within it."""

    variant: int
    one: int
    two: int


class Part(NamedTuple):
    """One thing as QEMU has it: the command that makes it, what is then read of it, and what it stands on."""

    item: Item
    command: str
    arguments: dict[str, Any]
    expects: dict[str, Any]
    needs: frozenset[Item] = frozenset()
    claims: frozenset[Any] = frozenset()
    """Places that nothing else can have."""


class Thing(NamedTuple):
    """One entry of a document, with the parts that it makes."""

    section: str
    entry: dict[str, Any]
    parts: tuple[Part, ...]


@dataclass
class World:
    """Things, each after what it stands on."""

    directory: str
    things: list[Thing] = field(default_factory=list)
    taken: set[Any] = field(default_factory=set)
    slot: str = ""
    """Whose turn it is, and whose each part is."""
    slots: dict[Item, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the files of the one whose turn it is begin."""
        return f"{self.directory}/{self.slot}"

    @property
    def parts(self) -> dict[Item, Part]:
        return {part.item: part for thing in self.things for part in thing.parts}

    def free(self, table: str, choice: int) -> str | None:
        """A backend that nothing uses yet."""
        unused = [name for kind, name in self.parts if kind == table and (kind, name) not in self.taken]
        return unused[choice % len(unused)] if unused else None

    def carrier(self, driver: str, choice: int) -> str | None:
        """A controller of this world."""
        there = [name for (kind, name), part in self.parts.items() if part.expects.get("driver") == driver]
        return there[choice % len(there)] if there else None

    def object_of(self, kind: str, choice: int) -> str | None:
        there = [name for (_table, name), part in self.parts.items() if part.arguments.get("qom-type") == kind]
        return there[choice % len(there)] if there else None

    def grows(self, node: str) -> bool:
        """Whether its document has a size for it. One below another can't grow."""
        part = self.parts["blockdev", node]
        return "size" in part.expects and "size" not in part.arguments

    def add(self, section: str, entry: dict[str, Any], *parts: Part) -> None:
        self.things.append(Thing(section, entry, parts))
        for part in parts:
            self.slots[part.item] = self.slot
            self.taken |= part.needs | part.claims

    def place(self, bus: str, choice: int) -> int:
        """A number on a bus that is free."""
        return next(number for number in range(choice, choice + 64) if (bus, number) not in self.taken)
