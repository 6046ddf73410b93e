# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Devices: ``device_add``, ``device_del``, and the properties that QOM reads back."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, FrozenSet, List, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want, suggestion
from .._core.vm import PERIPHERAL
from .._qmp import errors
from . import references
from .blockdev_nodes import drive_of, is_removable
from .device_node import resolve_node
from .device_properties import ALIASES, property_name, spelled
from .device_slot import address, carriers, slot
from .kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.step import Step, Wait
    from .._core.vm import VM


# What a disk's device is told of its drive, beside its own options.
_OF_THE_DRIVE = ("tray", "force", "medium", "bare")


class Device(Kind):
    """A device with an id, whatever its driver and bus."""

    name = namespace = "device"
    section = "devices"
    kept_for_removal = ("wait",)
    bulk_read = True
    options = {
        "id": Option("str", required=True),
        "driver": Option("str"),
        "bus": Option("str"),
        "addr": Option("raw"),
        "options": Option("dict"),
        "wait": Option("bool", default=True),
    }

    reserved_options = frozenset(["id", "driver", "bus"])

    def __init__(self, usual: str | None = None, mark: str = "") -> None:
        """``usual``: the driver of a new device that names none; an alias such as ``virtio-blk`` fits every machine.

        ``mark``: a property that all devices of the sort have, so that no other one is removed by mistake.
        """
        self.usual = usual
        self.mark = mark

    def check(self, want: Want) -> None:
        """Raise Refusal also for a PCI slot that YAML has read as another number than QEMU would."""
        super().check(want)
        for addr in (want.get("addr"), want.get("options", {}).get("addr")):
            if isinstance(addr, int) and addr > 9:
                raise Refusal(f"addr: {addr}: QEMU reads slots as hexadecimal: write this one as a string, '{addr:#x}'")

    def read(self, vm: VM, want: Want) -> State | None:
        """Return driver, bus, address, and of the properties those that ``want`` names: QEMU has no query for all at once."""
        ident = self.ident(want)
        driver = vm.peripherals().get(ident)
        if driver is None:
            return None
        path = f"{PERIPHERAL}/{ident}"
        have: State = {"id": ident, "driver": driver}
        bus = vm.prop(path, "parent_bus")
        if bus:
            have["bus"] = os.path.basename(bus)
        where = address(vm, path)
        if where:
            have["addr"] = where
        known = self.same("driver", driver, want.get("driver", driver))  # else it says nothing of the wanted one's
        for name in want.get("options", {}):
            value = self._value(vm, ident, driver, name) if known else vm.prop(path, name)
            if name == "netdev" and value:
                from . import netdev

                value = value if netdev.wired(vm, value, ident) else ""
            if name == "drive" and (value != want["options"][name] or driver.endswith("-cd")):
                value = drive_as(vm, ident, value, want)
            if value is not None:
                have[f"options.{name}"] = value
        return have

    def _value(self, vm: VM, ident: str, driver: str, name: str) -> Any:
        """Return a property's value, None where QEMU has it but can't read it. Raise Refusal for one that the driver lacks."""
        path = f"{PERIPHERAL}/{ident}"
        try:
            return vm.ask("qom-get", path=path, property=name)
        except errors.CommandError:
            known = vm.device_properties(driver)
        if self.usual and not spelled(known, name):
            near = suggestion(name, known) or ": name one that it has, or give another id"
            raise Refusal(f"id: {ident} is a {driver}, which has no property {name!r}{near}")
        return vm.prop(path, property_name(known, driver, name))

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return it with the disk's own node in place of a default name, where QEMU was started with the disk.

        Without a node for a drive whose medium can be taken out, where the task says nothing of that.
        """
        drive, ident = want.get("options", {}).get("drive"), self.ident(want)
        if drive != f"{ident}-node":
            return want
        options = {**want["options"], "drive": resolve_node(vm, ident, drive)}
        if want.get("bare") and is_removable(vm, ident):
            del options["drive"]
        return {**want, "options": options}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it with each property's value whole: some are structures."""
        flat = {key: value for key, value in want.items() if key not in ("options", "wait", *_OF_THE_DRIVE)}
        flat.update({f"options.{name}": value for name, value in want.get("options", {}).items()})
        return flat

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Compare as the property's own type; an alias such as ``virtio-blk`` is its driver on this machine."""
        if key == "driver":
            return bool(have in (want, ALIASES.get(want), f"{want}-pci", f"{want}-ccw", f"{want}-device"))
        if key == "addr":
            return _plain_address(have) == _plain_address(want)
        return coercion.same(have, want)

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return its backend, and the device whose bus it sits on where that bears the device's id."""
        below = references.named(want.get("options", {}))
        return below | {("device", name) for name in carriers(want.get("bus", ""))}

    def current_dependencies(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """Return its backends and the device that it sits on, as its properties tell.

        With a carrier that shares its slot, and with function 0 of one, the other functions, which go together with it.
        """
        ident = self.ident(want)
        path, known = f"{PERIPHERAL}/{ident}", vm.device_properties(vm.peripherals()[ident])
        values = {name: vm.prop(path, name) for name in references.PROPERTIES if name in known}
        if want.get("medium") == "absent":  # taken out, and not with the device
            values.pop("drive", None)
        below = references.named(
            {name: os.path.basename(value) for name, value in values.items() if isinstance(value, str)}
        )
        if "drive" in values:
            from . import blockdev_graph

            below |= {("blockdev", node) for node in blockdev_graph.chain(vm, ident)}
        bus, shared = str(vm.prop(path, "parent_bus", "")), slot(vm, ident)
        beside = set(shared.others) if shared and shared.zeroth == ident else set()
        if bus.startswith(f"{PERIPHERAL}/"):
            carrier = bus.split("/")[3]
            shared = slot(vm, carrier)
            beside |= {carrier, *([shared.zeroth, *shared.others] if shared else [])}
        return below | {("device", name) for name in beside}

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return the medium of a drive that can be emptied."""
        live = "options.drive" in have and is_removable(vm, have["id"])
        return frozenset(["options.drive"]) if live else frozenset()

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps that put a medium into its drive."""
        from . import device_drive

        return device_drive.insert(vm, want, draft)

    def recreate_refusal(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        """Return it for a device that can't be unplugged, a disk that QEMU would delete, and one whose data is elsewhere now."""
        from . import device_drive

        return device_drive.recreate_refusal(vm, self.ident(want), want.get("options", {}).get("drive"), changes)

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with the device's place and properties; nothing of a device of another driver."""
        from . import device_steps

        differs = "driver" in want and not self.same("driver", have["driver"], want["driver"])
        return want if differs else device_steps.complete(vm, want)

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``, each value in its property's own type (QEMU takes no other since 9.2)."""
        from . import device_drive

        return device_drive.add_steps(vm, want, self.usual, self.ending(self.ident(want)), draft)

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_del``, over when the device has gone; with ``wait`` false, when QEMU has asked the guest."""
        from . import device_steps

        ident = self.ident(want)
        driver = vm.peripherals().get(ident, "")
        named = "driver" in want  # recreated as another device, which the task says
        if driver and self.mark and not named and not spelled(vm.device_properties(driver), self.mark):
            raise Refusal(f"id: {ident} is a {driver}, which has no property {self.mark!r}: give another id")
        return device_steps.delete(vm, want, self.ending(ident), draft)

    def list(self, vm: VM) -> List[Want]:
        """Return the ids."""
        return [{"id": ident} for ident in vm.peripherals()]

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return the devices that sit on its buses."""
        from . import device_steps

        return [("device", name) for name in device_steps.devices_on(vm, self.ident(want))]

    def ending(self, ident: str) -> Wait:
        """Return the Wait that ends a removal."""
        from .device_steps import Unplugged

        return Unplugged(ident)


def drive_as(vm: VM, ident: str, value: Any, want: Want) -> Any:
    """Return what a device's disk is, beside the node that is wanted: that one where it is the disk, on top or below.

    Empty for a drive with nothing in it, or whose tray is open and is not to be; None where it can't be told, else QEMU's
    own word (usb-storage has none, since it hands its drive on to a disk of its own).
    """
    drive, wanted = drive_of(vm, ident), want["options"]["drive"]
    if drive is None:
        return value or None
    if drive.get("tray_open") and want.get("tray") != "open":
        return ""
    if value == wanted:
        return value
    from . import blockdev_graph

    node = blockdev_graph.top(vm, ident)
    if not node or wanted in blockdev_graph.chain(vm, ident):
        return wanted if node else ""
    return value or node


def _plain_address(addr: Any) -> str:
    """Return one form for ``5``, ``0x5``, ``05.0`` and ``5.0`` (QEMU reads hexadecimal); a CCW address has two dots more."""
    text = str(addr).lower()
    slot, _dot, function = text.partition(".")
    try:
        return f"{int(slot, 16):x}.{int(function or '0', 16):x}"
    except ValueError:
        return text


DEVICE = Device()
