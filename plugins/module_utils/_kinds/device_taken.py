# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a new device would find taken: its slot, its address on a SCSI bus, its turn at booting; and a VM that is on its way.

QEMU says the same, but not in check mode. Each is looked at only where the task names it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterator, Tuple

from .._core.errors import Refusal
from .._core.vm import PERIPHERAL
from .blockdev_active import check_staying
from .device_bus import ROOTS, bus_path
from .device_slot import address

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

_LEFT = "postmigrate"
_UNIT = ("channel", "scsi-id", "lun")


def check_taken(vm: VM, arguments: Dict[str, Any], known: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal for a ``device_add`` with these arguments that names a place which another device has.

    ``known`` are the driver's properties; a DIMM has an ``addr``, too, but not on PCI.
    """
    if "addr" in arguments and "multifunction" in known:
        _check_slot(vm, arguments, draft)
    if arguments.get("scsi-id", -1) >= 0 and arguments.get("lun", -1) >= 0 and "bus" in arguments:
        _check_unit(vm, arguments, draft)
    if arguments.get("bootindex", -1) >= 0:
        _check_bootindex(vm, arguments, draft)


def check_migration(vm: VM, what: str, draft: Draft) -> None:
    """Raise Refusal while the VM is on its way: QEMU refuses every ``device_add`` and ``device_del`` then."""
    check_staying(vm, what, "QEMU refuses that")
    if vm.ask("query-migrate").get("status") == "completed" and vm.status == _LEFT:
        draft.warnings.append(
            f"{what}: the guest has left this virtual machine ({_LEFT}), and this does not change the one in which it runs now"
        )


def _check_slot(vm: VM, arguments: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal for a slot that is taken. QEMU adds no other function either where function 0 is there already."""
    wanted, path = _place(arguments["addr"]), _pci(vm, arguments.get("bus"))
    if wanted is None or path is None:
        return
    for holder in _on_bus(vm, path, draft):
        there = _place(address(vm, holder) or "")
        if there and there[0] == wanted[0] and there[1] in (0, wanted[1]):
            raise Refusal(
                f"addr: slot {wanted[0]:#x} of {path} is taken by {_named(vm, holder)}: give another one, or none"
            )


def _check_unit(vm: VM, arguments: Dict[str, Any], draft: Draft) -> None:
    bus, wanted = arguments["bus"], tuple(arguments.get(name, 0) for name in _UNIT)
    path = bus_path(vm, bus)
    taken = [(_named(vm, holder), _unit(vm, holder)) for holder in (_on_bus(vm, path, draft) if path else ())]
    for ident, other in _coming(draft, arguments["id"]):
        if other.get("bus") == bus:
            taken.append((f"device {ident}", tuple(_number(other.get(name, 0)) for name in _UNIT)))
    for name, unit in taken:
        if unit == wanted:
            raise Refusal(f"lun: {name} has SCSI id {wanted[1]}, unit {wanted[2]} of {bus}: give another one, or none")


def _check_bootindex(vm: VM, arguments: Dict[str, Any], draft: Draft) -> None:
    wanted = arguments["bootindex"]
    for path in vm.devices():
        if not _goes(draft, path) and vm.prop(path, "bootindex") == wanted:
            raise Refusal(f"bootindex: {_named(vm, path)} has {wanted} already: give another one")
    for ident, other in _coming(draft, arguments["id"]):
        if _number(other.get("bootindex")) == wanted:
            raise Refusal(f"bootindex: device {ident} shall have {wanted} too: give another one")


def _coming(draft: Draft, ident: str) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Return the other devices that the same plan adds, each with its options beside its bus."""
    for (kind, name), want in draft.adding.items():
        if kind == "device" and name != ident:
            options = {key.replace("_", "-"): value for key, value in want.get("options", {}).items()}
            yield name, {**options, "bus": want.get("bus")}


def _on_bus(vm: VM, path: str, draft: Draft) -> Iterator[str]:
    """Return the paths of the devices on a bus, but for those that leave."""
    for child in vm.children(path):
        holder = str(vm.prop(path, child)) if child.startswith("child[") else ""
        if holder and not _goes(draft, holder):
            yield holder


def _pci(vm: VM, bus: str | None) -> str | None:
    """Return a path of the PCI bus that is meant: without a name the machine's root."""
    found = (bus_path(vm, name) for name in ([bus] if bus else ROOTS))
    return next((path for path in found if path), None)


def _place(addr: Any) -> Tuple[int, int] | None:
    """Return slot and function of a PCI address, both hexadecimal; None for another value, or any address (-1)."""
    slot, _dot, function = str(addr).partition(".")
    try:
        return None if slot.startswith("-") else (int(slot, 16), int(function or "0", 16))
    except ValueError:
        return None


def _unit(vm: VM, path: str) -> Tuple[Any, ...]:
    return tuple(vm.prop(path, name) for name in _UNIT)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _goes(draft: Draft, path: str) -> bool:
    return ("device", path.rpartition("/")[2]) in draft.removing


def _named(vm: VM, path: str) -> str:
    parent, _slash, name = path.rpartition("/")
    return f"device {name}" if parent == PERIPHERAL else f"a {vm.prop(path, 'type')}"
