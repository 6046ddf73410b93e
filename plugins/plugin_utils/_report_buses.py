# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""The buses and devices of a virtual machine as a tree, by what ``qemu_info`` tells.

QEMU has no query for the tree. A bus is named after the device that has it: ``rp0`` is that of the port ``rp0``, and
``scsi0.0`` the first of the controller ``scsi0``.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Tuple

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_values import mappings, members, number, text

Device = Dict[str, Any]
"""``{id, driver, addr, note, buses: [{name, devices}]}``; ``free``: the ports that it stands for, in which nothing is."""
Bus = Dict[str, Any]

_ROOT = re.compile(r"pcie?\.0")
_PORT = re.compile(r"(pcie-root-port|xio3130-downstream|ioh3420)")
_DEEPEST = 12


def buses(vm: Dict[str, Any]) -> List[Bus]:
    """Return the topmost buses, with their devices, and the buses of these."""
    by_bus: Dict[str, Dict[str, Device]] = {}
    for ident, told in members(vm.get("devices")).items():
        device = {"id": text(ident), "driver": text(told.get("driver")), "addr": text(told.get("addr"))}
        by_bus.setdefault(text(told.get("bus")), {})[ident] = {**device, "note": _note(told)}
    root = next((name for name in sorted(by_bus) if _ROOT.fullmatch(name)), "pci.0")
    for bus, number_, device in _unnamed(vm.get("pci"), root):
        by_bus.setdefault(bus, {})[f"\0{number_}"] = device
    owned: Dict[str, List[str]] = {}
    idents = {ident for devices in by_bus.values() for ident in devices}
    for name in by_bus:
        owned.setdefault(_owner(name, idents), []).append(name)
    return [_bus(name, by_bus, owned, ()) for name in sorted(owned.get("", []), key=lambda name: (not name, name))]


def _owner(bus: str, idents: set[str]) -> str:
    """Return the device that has a bus; empty for one of the machine itself."""
    stem, _dot, _rest = bus.rpartition(".")
    return bus if bus in idents else stem if stem in idents else ""


def _bus(name: str, by_bus: Dict[str, Dict[str, Device]], owned: Dict[str, List[str]], above: Tuple[str, ...]) -> Bus:
    devices: List[Device] = []
    free: List[str] = []
    for ident, device in sorted(by_bus[name].items(), key=lambda item: (item[1]["addr"], item[0])):
        below = [one for one in owned.get(ident, []) if one not in above and len(above) < _DEEPEST]
        if not below and _PORT.fullmatch(device["driver"]):
            free.append(device["id"])
        else:
            devices.append({**device, "buses": [_bus(one, by_bus, owned, (*above, name)) for one in sorted(below)]})
    if free:
        devices.append({"id": "", "driver": "", "addr": "", "note": "", "buses": [], "free": free})
    return {"name": name, "devices": devices}


def _note(told: Dict[str, Any]) -> str:
    return text(told.get("mac")) or text(told.get("node"))


def _unnamed(pci: Any, root: str) -> Iterator[Tuple[str, int, Device]]:
    """Yield the PCI devices that have no id, each with its bus and a number of its own."""
    todo = [(root, one) for bus in mappings(pci) for one in mappings(bus.get("devices"))]
    for place, (bus, one) in enumerate(todo):  # which grows
        if len(todo) > 2000:
            return
        ident = text(one.get("qdev_id"))
        bridge = one.get("pci_bridge")
        below = mappings(bridge.get("devices")) if isinstance(bridge, dict) else []
        todo += [(ident or bus, lower) for lower in below]
        if not ident:
            what = one.get("class_info")
            addr = f"{number(one.get('slot')) or 0:02x}.{number(one.get('function')) or 0:x}"
            driver = text(what.get("desc")) if isinstance(what, dict) else ""
            yield bus, place, {"id": "", "driver": driver, "addr": addr, "note": ""}
