# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Where a device sits, and what sits there with it: the functions of a PCI slot, which a guest gives back all at once."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List, NamedTuple, Set

from .._core.vm import PERIPHERAL

if TYPE_CHECKING:
    from .._core.vm import VM


class Slot(NamedTuple):
    """The devices of a slot with several functions, by id; ``zeroth`` is function 0, ``others`` are the rest."""

    zeroth: str
    others: List[str]


def address(vm: VM, path: str) -> str | None:
    """Return where the device sits: slot and function on PCI (``05.0``), the device number on CCW; elsewhere there is none.

    Which of both properties a driver has is asked once.
    """
    drivers = vm.table("addressed by", dict)
    driver = vm.peripherals().get(path.rpartition("/")[2], "")
    if drivers.get(driver, "addr") == "addr" and on_pci(vm, path):
        number = vm.prop(path, "addr")
        return f"{number >> 3:02x}.{number & 7:x}"
    where = "" if drivers.get(driver) == "" else vm.prop(path, "dev_id") or ""
    if driver:  # the id of one without any could be another's
        drivers[driver] = "dev_id" if where else ""
    return str(where) or None


def on_pci(vm: VM, path: str) -> bool:
    """Tell whether the device sits on a PCI bus. A DIMM, which sits on none, has an ``addr`` in memory."""
    return isinstance(vm.prop(path, "addr"), int) and bool(vm.prop(path, "parent_bus"))


def carriers(bus: str) -> Set[str]:
    """Return the ids that the bus's device may have: a port's bus has the port's id, a controller's ends in a number more."""
    return {bus, bus.rpartition(".")[0]} - {""}


def function(addr: object) -> str:
    """Return the function in a PCI address, empty where none is named: ``1`` of ``00.1``."""
    return str(addr).partition(".")[2]


def slot(vm: VM, ident: str) -> Slot | None:
    """Return the slot that a device shares with other functions; None: it has a place of its own, or function 0 is not there.

    Without function 0 a guest sees none of them, and each can go alone. One that the machine made itself does not count.
    """
    path = f"{PERIPHERAL}/{ident}"
    mine = address(vm, path)
    if not mine or "." not in mine or "." in mine.partition(".")[2]:
        return None
    number = mine.partition(".")[0]
    if function(mine) == "0" and vm.prop(path, "multifunction") is not True:
        return None
    bus = str(vm.prop(path, "parent_bus"))
    links = [name for name in vm.children(bus) if name.startswith("child[")]
    paths = [place for place in (vm.prop(bus, name) for name in links) if str(place).startswith(PERIPHERAL)]
    there = {place: address(vm, place) or "" for place in paths}
    found = {place.rpartition("/")[2]: addr for place, addr in there.items() if addr.partition(".")[0] == number}
    zeroth = [name for name, addr in found.items() if function(addr) == "0"]
    return Slot(zeroth[0], [name for name in found if name != zeroth[0]]) if zeroth and len(found) > 1 else None
