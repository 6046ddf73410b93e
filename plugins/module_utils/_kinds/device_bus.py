# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Where a device may be plugged: what buses tell of themselves before ``device_add`` is tried."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import Refusal
from .._core.vm import PERIPHERAL
from .._qmp import errors
from .device_slot import address, carriers, function

if TYPE_CHECKING:
    from .._core.option import Want
    from .._core.plan import Draft
    from .._core.vm import VM

# One slot each. QEMU before 10.0 puts a second device beside the first without a word, and no guest ever sees it.
_PORTS = frozenset(["pcie-root-port", "ioh3420", "xio3130-downstream", "cxl-rp"])
ROOTS = ("pci.0", "pcie.0")
_ACPI = frozenset(["ICH9-LPC", "PIIX4_PM"])


def check_bus(vm: VM, want: Want, known: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal for a bus that isn't there, takes no hot-plug, or is a port that is taken.

    ``known`` are the driver's properties: without ``bus``, a PCI device goes to the machine's root bus.
    """
    bus = want.get("bus")
    if bus is None:
        if "multifunction" in known:
            _check_root(vm, want["id"])
        return
    ports = _free_ports(vm) if "multifunction" in known else ""
    if any(("device", name) in draft.adding for name in carriers(bus)):  # which the same plan brings
        return
    path = bus_path(vm, bus)
    kind = "" if path else _in_tree(vm, bus)
    if not path and not kind:
        raise Refusal(f"bus: this VM has no bus {bus!r}{ports}")
    if kind.startswith("pxb") or (path and not hotpluggable(vm, path)):
        raise Refusal(f"bus: {bus} takes no hot-plug{ports}")
    if not _is_port(vm, bus):
        return
    addr, holder = want.get("addr"), _port_holder(vm, bus)
    if holder and ("device", holder) not in draft.removing and not _apart(address(vm, f"{PERIPHERAL}/{holder}"), addr):
        raise Refusal(f"bus: port {bus} is occupied by device {holder}{_free_ports(vm)}")
    for (kind, ident), other in draft.adding.items():
        if kind == "device" and other.get("bus") == bus and ident != want["id"] and not _apart(other.get("addr"), addr):
            last = ", whose function 0 comes last" if function(addr) and function(other.get("addr")) == "0" else ""
            raise Refusal(f"bus: port {bus} is wanted by {ident} too, and has one slot{last}")


def _check_root(vm: VM, ident: str) -> None:
    """Raise Refusal where a PCI device without a ``bus`` has no root bus to go to, or none that would take it."""
    if not hotpluggable(vm, "pcie.0"):
        raise Refusal(
            f"bus: {ident} would go to pcie.0, which takes no hot-plug: name the bus of a pcie-root-port"
            + _free_ports(vm)
        )
    if not any(bus_path(vm, name) for name in ROOTS) and not vm.ask("query-pci"):
        raise Refusal(f"device {ident} is one for PCI, which this machine does not have")


def bus_path(vm: VM, bus: str) -> str | None:
    """Return a QOM path that names the bus, or None when there is no such bus.

    QOM finds a partial path anywhere in its tree; a port's bus bears its port's id, so that one is tried first.
    A name that stands in two places is not missing: QEMU knows which one is a bus.
    """
    for path in (f"{bus}/{bus}", bus):
        try:
            vm.ask("qom-get", path=path, property="hotplug-handler")
        except errors.DeviceNotFound:
            continue
        except errors.CommandError:
            pass
        return path
    return None


def _in_tree(vm: VM, bus: str) -> str:
    """Return the type of a bus that no path leads to (a pxb's has the name of a device beside it); empty: there is none."""
    found = re.search(rf"^ *bus: {re.escape(bus)}\r?\n *type (\S+)", vm.monitor("info qtree"), re.MULTILINE)
    return found.group(1) if found else ""


def hotpluggable(vm: VM, path: str) -> bool:
    """Tell whether QEMU would take a device there: something handles hot-plug on the bus. True where there is no such bus.

    The chipset's ACPI handler stands on every PCI bus in newer versions, but serves only those that it has numbered.
    """
    handler = vm.prop(path, "hotplug-handler")
    if handler and vm.prop(handler, "type") in _ACPI:
        return "acpi-pcihp-bsel" in vm.children(path)
    return bool(handler != "")


def _is_port(vm: VM, bus: str) -> bool:
    return vm.peripherals().get(bus) in _PORTS


def _port_holder(vm: VM, bus: str) -> str | None:
    """Return the id of the device in a one-slot port, or None for a free port and for every other bus."""
    if not _is_port(vm, bus):
        return None
    slots = [name for name in vm.children(f"{bus}/{bus}") if name.startswith("child[")]
    return os.path.basename(str(vm.prop(f"{bus}/{bus}", slots[0]))) if slots else None


def _apart(first: Any, addr: Any) -> bool:
    """Tell whether a device may follow another into its slot: as another function of it, the zeroth coming last."""
    theirs = function(first)
    return theirs not in ("", "0") and function(addr) not in ("", theirs)


def _free_ports(vm: VM) -> str:
    """Return text that names the ports that are free, to end a message with."""
    free: List[str] = [
        ident
        for ident in sorted(vm.peripherals())
        if _is_port(vm, ident) and _port_holder(vm, ident) is None and hotpluggable(vm, f"{ident}/{ident}")
    ]
    return f"; free ports: {', '.join(free)}" if free else "; this VM has no free pcie-root-port"
