# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Plugging and unplugging: the steps that add and remove a device, and what is looked at before. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core import coercion
from .._core.errors import OperationFailed, Pending, Refusal
from .._core.option import Want
from .._core.step import Step, Wait
from .._core.vm import PERIPHERAL
from .._qmp import errors
from . import blockdev_graph, blockdev_steps, device_qtree, drive_limits, qemu_texts
from .blockdev_nodes import drive_of, held_by, nodes
from .device_backends import check_backends
from .device_bus import check_bus, hotpluggable
from .device_properties import ALIASES, Properties, property_name
from .device_slot import Slot, address, on_pci, slot
from .device_taken import check_migration, check_taken

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM
    from .._qmp.events import Event

# What a property decides where the others were not named: they are not taken over beside a new value.
_DERIVED = {
    "drive": ("cyls", "heads", "secs", "lcyls", "lheads", "lsecs", "physical_block_size", "logical_block_size"),
    "logical_block_size": ("physical_block_size",),
    "num-queues": ("vectors",),
    "mq": ("vectors",),
}
# Of a serial number, QEMU makes a SCSI disk's device_id as well, unless it is told another: so much of it.
_DEVICE_ID = 20
_SERIAL = 20
"""How many bytes of a serial number a guest is told by virtio-blk and nvme."""
_MMIO = re.compile(r"virtio-.+-device\Z")
# Read-only, or told by other means.
_APART = ("addr", "devno", "dev_id", "subch_id", "size")
_REFUSED = ("DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR")


class Unplugged(Wait):
    """The end of a ``device_del``: ``DEVICE_DELETED`` for the id, or the id gone for good.

    QEMU only asks the guest. virtio devices send a first event with a path alone, which does not count.
    A request made while the guest boots is lost, so it is made again.
    """

    needs_guest = True
    resend_every = 2.5

    def __init__(self, ident: str) -> None:
        self.ident = ident
        self._gone = 0

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the device's own ``DEVICE_DELETED``, or the word of a guest that refuses."""
        mine = event.data.get("device") == self.ident or event.data.get("path") == f"{PERIPHERAL}/{self.ident}"
        return mine and (event.name == "DEVICE_DELETED" or event.name in _REFUSED)

    def raise_if_refused(self, event: Event) -> None:
        """Raise OperationFailed when the guest refused."""
        if event.name in _REFUSED:
            raise OperationFailed(
                f"the guest refused to give device {self.ident} back ({event.name}); it stays as it was"
            )

    def is_done(self, vm: VM) -> bool:
        """Tell whether the id was missing at two looks in a row: it leaves the tree shortly before it is finished."""
        self._gone = 0 if self.ident in vm.peripherals() else self._gone + 1
        return self._gone > 1

    def classify(self, error: errors.CommandError) -> str:
        """Return "done" where it is gone meanwhile, "pending" where the guest was asked before (QEMU gives no class)."""
        return qemu_texts.removal_state(error)

    def timeout_error(self, vm: VM) -> Exception:
        """Return a Pending with the likely reason."""
        status = vm.status
        why = (
            "the guest has not answered: it may still be booting, have no driver for hot-unplug, or run no system"
            if status == "running"
            else f"the VM is {status}, and only a running guest can give a device back"
        )
        return Pending(
            f"removal of device {self.ident} is pending: {why}. Its backend is untouched; run the task again to finish the removal"
        )


class Emptied(Unplugged):
    """The end of a request for a slot: all of its functions are gone."""

    def __init__(self, shared: Slot) -> None:
        super().__init__(shared.zeroth)
        self.left = {shared.zeroth, *shared.others}

    def is_end(self, event: Event) -> bool:
        """Tell whether each has its ``DEVICE_DELETED`` now, or the guest refuses."""
        if event.name == "DEVICE_DELETED":
            self.left.discard(event.data.get("device", ""))
            return not self.left
        return super().is_end(event)

    def is_done(self, vm: VM) -> bool:
        """Tell whether none of them was there at two looks in a row."""
        self.left &= set(vm.peripherals())
        self._gone = 0 if self.left else self._gone + 1
        return self._gone > 1


def complete(vm: VM, want: Want) -> Want:
    """Return what was asked for and, for what it does not name, the place and the properties that the device has."""
    was = dict(_recreate_steps(vm, want["id"])[0].arguments)
    place: Want = {key: was.pop(key) for key in ("driver", "bus") if key in was}
    place["addr"] = was.pop("addr", was.pop("devno", None))
    if "bus" in want or place["addr"] is None:
        del place["addr"]
    named = want.get("options", {})
    for decided, derived in _DERIVED.items():
        if decided in named or decided.replace("-", "_") in named:
            was = {name: value for name, value in was.items() if name not in derived}
    if "serial" in named and was.get("device_id") == was.get("serial", "")[:_DEVICE_ID]:
        del was["device_id"]
    was.pop("id")
    if want.get("medium") == "absent":
        was.pop("drive", None)
    if "drive" in named and named["drive"] in blockdev_graph.chain(vm, want["id"]):
        named = {name: value for name, value in named.items() if name != "drive"}  # the top of that disk, as it was
    return {**place, **want, "options": {**was, **named}}


def add(vm: VM, want: Want, usual: str | None, ending: Wait, draft: Draft) -> Step:
    """Return the ``device_add``, each value in its property's own type (QEMU takes no other since 9.2)."""
    ident = str(want["id"])
    driver, known = _driver(vm, ident, want.get("driver", usual))
    arguments: Dict[str, Any] = {"driver": driver, "id": ident}
    if "bus" in want:
        arguments["bus"] = want["bus"]
    if "addr" in want:
        arguments["addr" if "addr" in known else "devno"] = str(want["addr"])
    for name, value in want.get("options", {}).items():
        name = property_name(known, driver, name)
        try:
            # Older versions list addr as a number, and take text all the same.
            arguments[name] = str(value) if name == "addr" else coercion.coerce(value, known[name]["type"])
        except ValueError as exc:
            raise Refusal(f"options: {name} of {driver} is of type {known[name]['type']}: {exc}") from exc
    check_migration(vm, f"device_add {ident}", draft)
    if _MMIO.match(driver) and "bus" not in want:
        raise Refusal(f"driver: {driver} is one for virtio-mmio, which takes no hot-plug")
    check_bus(vm, want, known, draft)
    check_taken(vm, arguments, known, draft)
    check_backends(vm, ident, arguments, known, draft)
    draft.warnings += _what_guests_see(ident, arguments)
    return Step(
        "device_add",
        arguments,
        undo=[Step("device_del", {"id": ident}, wait=ending, removes=True)],
        retry=qemu_texts.is_taken,
        hint=qemu_texts.write_lock_hint,
    )


def _what_guests_see(ident: str, arguments: Dict[str, Any]) -> List[str]:
    """Return what to warn of where the guest sees something else than what was asked for, or nothing yet."""
    warnings = []
    serial = str(arguments.get("serial", "")).encode()
    if len(serial) > _SERIAL and arguments["driver"].startswith(("virtio-blk", "nvme")):
        seen = serial[:_SERIAL].decode(errors="replace")
        warnings.append(f"serial: the guest sees only the first {_SERIAL} bytes of that of {ident}: {seen}")
    standby = arguments.get("failover_pair_id")
    if standby:
        warnings.append(
            f"failover_pair_id: QEMU hides {ident} until the guest's driver of {standby} asks for it. Until then no task sees it, "
            "and none can remove it"
        )
    return warnings


def delete(vm: VM, want: Want, ending: Wait, draft: Draft) -> List[Step]:
    """Return the ``device_del``, over when the device has gone; with ``wait`` false, when QEMU has asked the guest.

    One request for all functions of a slot, which function 0 makes.
    A disk that QEMU would delete with its device is held until the end of the plan, so that it can be given back.
    """
    ident = str(want["id"])
    check_migration(vm, f"device_del {ident}", draft)
    _check_removal(vm, ident, draft)
    shared = slot(vm, ident)
    if shared:
        _check_slot(vm, ident, draft)
        if ident != shared.zeroth:
            return []
    end = Emptied(shared) if shared else ending
    end.needs_guest = _asks_guest(vm, ident)
    # without a guest it takes a moment only, in which QEMU crashes if the disk grows (7.2 to 11.1)
    end.no_wait = end.needs_guest and not want.get("wait", True)
    names = [*shared.others, ident] if shared else [ident]
    step = Step(
        "device_del",
        {"id": ident},
        wait=end,
        capture_undo=lambda vm: [step for name in names for step in _given_back(vm, name)],
        removes=True,
        still_needed=lambda vm: not vm.peripherals().keys().isdisjoint(names),
    )
    held = {held_by(name): blockdev_graph.goes_along(vm, name, draft) for name in names}
    stale = [name for name in held if name in nodes(vm)]  # of a run that was killed before the guest had answered
    draft.removing.update(("blockdev", name) for name in stale)
    return [
        *(blockdev_steps.delete_node(name) for name in stale),
        *(blockdev_steps.hold(name, node) for name, node in held.items() if node),
        *(_emptied(vm, ident) if not shared else []),
        step,
        *(blockdev_steps.release(name) for name, node in held.items() if node),
    ]


def _emptied(vm: VM, ident: str) -> List[Step]:
    """Return the steps that take the medium out of a CD drive which goes.

    QEMU (5.2 to 11.1) never lets go of what is in one that was made empty, and does not tell which was.
    """
    drive = drive_of(vm, ident) or {}
    if not vm.peripherals()[ident].endswith("-cd") or "inserted" not in drive or drive["device"]:
        return []
    where, was_open = {"id": drive["qdev"]}, drive["tray_open"]

    def is_empty(vm: VM) -> bool:  # not where the drive was added again, with its medium and closed
        return "inserted" not in (drive_of(vm, ident) or {})

    def is_moved(vm: VM) -> bool:
        return bool((drive_of(vm, ident) or {}).get("tray_open") != was_open)

    opening, closing = Step("blockdev-open-tray", {**where, "force": True}), Step("blockdev-close-tray", where)
    back = Step("blockdev-insert-medium", {**where, "node-name": blockdev_graph.top(vm, ident)})
    as_it_was = (opening if was_open else closing).replace(still_needed=is_moved)
    undo = [opening.replace(still_needed=is_empty), back.replace(still_needed=is_empty), as_it_was]
    return [opening.replace(undo=[as_it_was]), Step("blockdev-remove-medium", where, undo=undo)]


def _check_slot(vm: VM, ident: str, draft: Draft) -> None:
    """Raise Refusal where other functions of the slot shall stay: a guest gives back the slot as a whole."""
    names = [name for name in beside(vm, ident) if ("device", name) not in draft.removing]
    if names:
        raise Refusal(
            f"device {ident} shares its slot with {', '.join(names)}, and a guest gives back all functions of a slot at once: "
            "remove them in one task, with qemu_machine"
        )


def _driver(vm: VM, ident: str, name: str | None) -> Tuple[str, Properties]:
    """Return the driver that a name stands for on this machine, and its properties.

    QEMU's own aliases leave out the transport: CCW on s390x, PCI elsewhere; ``device-list-properties`` does not know them.
    """
    name = ALIASES.get(name or "", name)
    if name is None:
        raise Refusal(f"driver: device {ident} does not exist yet, and to add it its driver must be named")
    try:
        return name, vm.device_properties(name)
    except errors.CommandError as exc:
        why = exc.desc
    if name.startswith("virtio-"):
        suffix = "ccw" if vm.ask("query-target")["arch"] == "s390x" else "pci"
        try:
            return f"{name}-{suffix}", vm.device_properties(f"{name}-{suffix}")
        except errors.CommandError:
            pass
    raise Refusal(f"driver: {name!r} is not a device that this QEMU can make ({why})")


def devices_on(vm: VM, ident: str) -> List[str]:
    """Return the devices with ids that sit on a bus of this one."""
    return list(vm.table("devices_on", lambda: _riders(vm)).get(ident, []))


def beside(vm: VM, ident: str) -> List[str]:
    """Return the other functions of its slot, which go when it goes."""
    shared = slot(vm, ident)
    return [name for name in (shared.zeroth, *shared.others) if name != ident] if shared else []


def _riders(vm: VM) -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    device_qtree.read_all(vm)
    for name in vm.peripherals():
        bus = str(vm.prop(f"{PERIPHERAL}/{name}", "parent_bus", ""))
        if bus.startswith(f"{PERIPHERAL}/"):
            found.setdefault(bus.split("/")[3], []).append(name)
    return found


def _check_removal(vm: VM, ident: str, draft: Draft) -> None:
    """Raise Refusal for a device that other devices sit on (QEMU would take them along), or that can't be unplugged."""
    staying = sorted(rider for rider in devices_on(vm, ident) if ("device", rider) not in draft.removing)
    if staying:
        raise Refusal(f"device {ident} carries {', '.join(staying)}: remove what sits on it first")
    check_hotplug(vm, ident)


def check_hotplug(vm: VM, ident: str) -> None:
    """Raise Refusal for a device that can't be unplugged."""
    path = f"{PERIPHERAL}/{ident}"
    if vm.prop(path, "hotpluggable") is False:
        raise Refusal(f"device {ident} ({vm.peripherals()[ident]}) can't be unplugged")
    bus = vm.prop(path, "parent_bus")
    if bus and not hotpluggable(vm, bus):
        raise Refusal(
            f"device {ident} sits on {os.path.basename(bus)}, which takes no hot-plug, so it can't be unplugged"
        )


def _asks_guest(vm: VM, ident: str) -> bool:
    """Tell whether QEMU asks the guest to give the device back: on PCI, and for CPUs and memory, which sit on no bus."""
    path = f"{PERIPHERAL}/{ident}"
    return on_pci(vm, path) or not vm.prop(path, "parent_bus")


def _recreate_steps(vm: VM, ident: str) -> List[Step]:
    """Return the ``device_add`` that makes a device as it now is: every property that can be set and is not at its default."""
    path = f"{PERIPHERAL}/{ident}"
    driver = vm.peripherals()[ident]
    have: Dict[str, Any] = {"driver": driver, "id": ident}
    for name, known in vm.device_properties(driver).items():
        value = vm.prop(path, name)
        if name == "drive" and value != f"{ident}-node":  # usb-storage hands it on; a -drive goes with its device
            value = blockdev_graph.top(vm, ident) or None
        unset = value is None or value == known.get("default-value") or (value in ("", -1) and name != "romfile")
        if unset or not _settable(known) or name in _APART:
            continue
        if known["type"].startswith("link<"):
            if not value.startswith("/objects/"):
                continue
            value = os.path.basename(value)
        have[name] = value
    where = address(vm, path)
    if where:
        have["addr" if "addr" in vm.device_properties(driver) else "devno"] = where
    bus = vm.prop(path, "parent_bus")
    if bus:
        have["bus"] = os.path.basename(bus)
    return [Step("device_add", have, retry=qemu_texts.is_taken)]


def _given_back(vm: VM, ident: str) -> List[Step]:
    """Return the steps that give a device back as it now is, a disk with its limits."""
    again = _recreate_steps(vm, ident)
    return again + (
        drive_limits.again(vm, ident, again[0].arguments["driver"]) if "drive" in again[0].arguments else []
    )


def _settable(known: Dict[str, Any]) -> bool:
    """Tell whether ``device_add`` would take the property: the list has some that only tell (a bus number)."""
    return "default-value" in known or known["type"].startswith(("str", "int", "uint", "link<"))
