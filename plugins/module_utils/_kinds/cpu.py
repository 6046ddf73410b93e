# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""vCPUs: ``query-hotpluggable-cpus`` says what slots there are, and each slot's properties go to ``device_add`` as they stand.

That holds for every machine: x86 has sockets, cores and threads, s390x cores, pseries cores of several vCPUs.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Set

from .._core.errors import OperationFailed, Pending, Refusal
from .._core.option import Option, Want
from .._core.step import Step, Wait
from .._core.vm import PERIPHERAL
from .._qmp import errors
from .._qmp.values import parse_int
from . import qemu_texts
from .device_taken import check_migration
from .kind import Change, Kind, Part, State

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM
    from .._qmp.events import Event

Slot = Dict[str, Any]
"""An entry of ``query-hotpluggable-cpus``: ``{props, vcpus-count, type, qom-path?}``; without a path it is free."""
CPU = {
    "vcpus": Option("int"),
    "slot": Option("dict"),
    "state": Option("str", choices=["present", "absent"], default="present"),
    "wait": Option("bool", default=True),
}


class Unplugged(Wait):
    """The end of a CPU's ``device_del``: its slot is free. Under emulation no ``DEVICE_DELETED`` names the CPU."""

    needs_guest = True
    resend_every = 2.5

    def __init__(self, path: str) -> None:
        self.path = path

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the guest's refusal to eject the CPU; that the slot is empty is seen in between."""
        info = event.data.get("info", {})
        mine = f"{PERIPHERAL}/{info.get('device')}" == self.path
        return (
            event.name == "ACPI_DEVICE_OST" and mine and info.get("source") == 3 and info.get("status") not in (0, 132)
        )

    def raise_if_refused(self, event: Event) -> None:
        """Raise OperationFailed: only a refusal ends the wait."""
        info = event.data["info"]
        raise OperationFailed(
            f"the guest refused to give {info['device']} back (ACPI status {info['status']}); it stays plugged"
        )

    def is_done(self, vm: VM) -> bool:
        """Tell whether no slot holds it any more."""
        return all(slot.get("qom-path") != self.path for slot in slots(vm))

    def classify(self, error: errors.CommandError) -> str:
        """Return "done" where it is gone meanwhile, "pending" where the guest was asked before."""
        return qemu_texts.removal_state(error)

    def timeout_error(self, vm: VM) -> Exception:
        """Return a Pending with the likely reason."""
        status = vm.status
        why = "the guest has not given it back yet" if status == "running" else f"the VM is {status}"
        return Pending(f"removal of {self.path.rpartition('/')[2]} is pending: {why}; run the task again to finish it")


class Plugged(Wait):
    """The end of a CPU's ``device_add``: the machine shows it."""

    def __init__(self, ident: str) -> None:
        self.path = f"{PERIPHERAL}/{ident}"

    def is_done(self, vm: VM) -> bool:
        """Tell whether a slot holds it and it is among the running CPUs."""
        paths = [cpu.get("qom-path", "") for cpu in vm.ask("query-cpus-fast")]
        return any(path == self.path or path.startswith(f"{self.path}/") for path in paths)


class Vcpus(Kind):
    """How many vCPUs the VM has."""

    name = "cpus"
    keys = ()
    changeable_keys = frozenset(["vcpus"])

    def check(self, want: Want) -> None:
        """Raise Refusal for less than one."""
        if want["vcpus"] < 1:
            raise Refusal(f"vcpus: {want['vcpus']} is not at least 1")

    def ident(self, want: Want) -> str:
        """Return the option that it is, beside the slots of the same name."""
        return "vcpus"

    def read(self, vm: VM, want: Want) -> State | None:
        """Return the vCPUs of all slots that are taken."""
        return {"vcpus": sum(cpu["vcpus"] for cpu in described(vm))}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return the number alone."""
        return {"vcpus": want["vcpus"]}

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps that fill free slots from the lowest up, or empty plugged ones from the highest down."""
        number, wait = want["vcpus"] - have["vcpus"], want.get("wait", True)
        if number > 0:
            free = [slot for slot in reversed(slots(vm)) if "qom-path" not in slot]
            taken = _taken_ids(vm, draft)
            return [step for slot in _take(free, number, have, want) for step in plug(vm, slot, wait, draft, taken)]
        mine = [slot for slot in slots(vm) if _hotplugged(slot)]
        return [step for slot in _take(mine, -number, have, want) for step in unplug(vm, slot, wait, draft)]

    def describe(self, vm: VM, want: Want) -> Any:
        """Return every CPU, as ``described``."""
        return described(vm)


class CpuSlot(Kind):
    """One slot, named by as many of its topology ids as it takes to tell it from the others: taken or free."""

    name = "cpus"
    keys = ("slot",)
    changeable_keys = frozenset(["plugged"])

    def ident(self, want: Want) -> str:
        """Return the topology ids as text."""
        return ",".join(f"{name}={value}" for name, value in sorted(_ids(want).items()))

    def check(self, want: Want) -> None:
        """Raise Refusal for ids that are not numbers, and for none."""
        try:
            ids = _ids(want)
        except ValueError as exc:
            raise Refusal(f"slot: {want['slot']} must be topology ids and numbers, such as core-id: 2 ({exc})") from exc
        if not ids:
            raise Refusal("slot: it names no topology id, such as core-id: 2")

    def read(self, vm: VM, want: Want) -> State | None:
        """Tell whether it is taken."""
        return {"plugged": "qom-path" in self._slot(vm, want)}

    def wanted(self, vm: VM, want: Want) -> State:
        """Tell whether it shall be."""
        return {"plugged": want.get("state", "present") == "present"}

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps that fill it or empty it."""
        slot, wait = self._slot(vm, want), want.get("wait", True)
        return unplug(vm, slot, wait, draft) if have["plugged"] else plug(vm, slot, wait, draft, _taken_ids(vm, draft))

    def describe(self, vm: VM, want: Want) -> Any:
        """Return every CPU, as ``described``."""
        return described(vm)

    def _slot(self, vm: VM, want: Want) -> Slot:
        """Return the one slot that has these ids. Raise Refusal for none or several."""
        ids = _ids(want)
        found = [slot for slot in slots(vm) if ids.items() <= slot["props"].items()]
        if len(found) == 1:
            return found[0]
        there = "; ".join(_words(slot) for slot in (found or slots(vm)))
        raise Refusal(
            f"slot: {self.ident(want)} {'means several slots' if found else 'is not a slot of this machine'}: {there}"
        )


def slots(vm: VM) -> List[Slot]:
    """Return the machine's CPU slots, highest first, as QEMU lists them. Raise Refusal for a machine without CPU hot-plug."""
    try:
        found: List[Slot] = vm.ask("query-hotpluggable-cpus")
    except errors.CommandError as exc:
        raise Refusal(f"this machine has no CPU hot-plug ({exc.desc})") from exc
    return found


def described(vm: VM) -> List[Dict[str, Any]]:
    """Return the VM's CPUs, lowest first: ``{slot, vcpus, type, id}``; only those that were hot-plugged have an id."""
    try:
        taken = [slot for slot in reversed(slots(vm)) if "qom-path" in slot]
    except Refusal:  # no hot-plug, but CPUs
        return [{"slot": cpu.get("props", {}), "vcpus": 1} for cpu in vm.ask("query-cpus-fast")]
    listed = []
    for slot in taken:
        entry = {"slot": slot["props"], "vcpus": slot["vcpus-count"], "type": slot["type"]}
        if _id(slot):
            entry["id"] = _id(slot)
        listed.append(entry)
    return listed


def plug(vm: VM, slot: Slot, wait: bool, draft: Draft, taken: Set[str]) -> List[Step]:
    """Return the steps that fill a free slot. QEMU's own topology ids are copied, whatever they are called on this machine.

    ``taken``: the device ids that are not free; the new one is added.
    """
    ident = _free_id(vm, slot, taken)
    check_migration(vm, f"device_add {ident}", draft)
    taken.add(ident)
    arguments = {"driver": slot["type"], "id": ident, **slot["props"]}
    undo = [] if _stays(vm) else [Step("device_del", {"id": ident}, wait=Unplugged(f"{PERIPHERAL}/{ident}"))]
    return [Step("device_add", arguments, wait=Plugged(ident) if wait else None, undo=undo)]


def unplug(vm: VM, slot: Slot, wait: bool, draft: Draft) -> List[Step]:
    """Return the steps that empty a slot. Raise Refusal where that can't be."""
    if _stays(vm):
        raise Refusal("CPUs can't be unplugged on s390x: QEMU has no way to take one back from the guest")
    if not _hotplugged(slot):
        raise Refusal(f"slot {_words(slot)}: the VM was started with this CPU, so it can't be unplugged")
    path = slot["qom-path"]
    ident = _id(slot)
    check_migration(vm, f"device_del {ident or path}", draft)
    again = Step("device_add", {"driver": slot["type"], **({"id": ident} if ident else {}), **slot["props"]})
    end = Unplugged(path)
    end.no_wait = not wait
    return [
        Step(
            "device_del",
            {"id": ident or path},
            wait=end,
            undo=[again],
            hint=qemu_texts.cpu_unplug_hint,
            removes=True,
            still_needed=lambda vm: not end.is_done(vm),
        )
    ]


def _take(free: List[Slot], number: int, have: State, want: Want) -> List[Slot]:
    """Return so many slots that their vCPUs come to ``number``. Raise Refusal where they don't."""
    taken: List[Slot] = []
    for slot in free:
        if number > 0:
            taken.append(slot)
            number -= slot["vcpus-count"]
    if number > 0:
        reach = sum(slot["vcpus-count"] for slot in free)
        limit = (
            f"has room for {have['vcpus'] + reach}"
            if want["vcpus"] > have["vcpus"]
            else f"keeps the {have['vcpus'] - reach} that it was started with"
        )
        raise Refusal(f"vcpus: {want['vcpus']} can't be reached from {have['vcpus']}: this VM {limit}")
    if number < 0:
        each = taken[-1]["vcpus-count"]
        raise Refusal(
            f"vcpus: {want['vcpus']} can't be reached from {have['vcpus']}: a slot of this machine has {each} vCPUs"
        )
    return taken


def _ids(want: Want) -> Dict[str, int]:
    return {str(name).replace("_", "-"): parse_int(value) for name, value in want["slot"].items()}


def _words(slot: Slot) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(slot["props"].items()))


def _free_id(vm: VM, slot: Slot, taken: Set[str]) -> str:
    """Return ``cpu`` and the slot's number from the bottom; another number where that id is taken."""
    every = [other["props"] for other in reversed(slots(vm))]
    number = every.index(slot["props"])
    while f"cpu{number}" in taken:
        number += len(every)
    return f"cpu{number}"


def _taken_ids(vm: VM, draft: Draft) -> Set[str]:
    """Return the ids of the devices that are there or that the plan adds."""
    return {*vm.peripherals(), *(ident for kind, ident in draft.adding if kind == "device")}


def _hotplugged(slot: Slot) -> bool:
    """Tell whether it was hot-plugged, be it without an id, by somebody else."""
    return str(slot.get("qom-path", "")).startswith(PERIPHERAL)


def _id(slot: Slot) -> str:
    """Return the device id, or nothing: ``device_del`` takes a path, too."""
    where, _slash, name = str(slot["qom-path"]).rpartition("/")
    return name if where == PERIPHERAL else ""


def _stays(vm: VM) -> bool:
    return bool(vm.ask("query-target")["arch"] == "s390x")


VCPUS = Vcpus()
CPU_SLOT = CpuSlot()


def cpu(want: Want) -> List[Part]:
    """Return the number of vCPUs, or one slot. Raise Refusal for both, for none, and for a number that shall be absent."""
    if ("vcpus" in want) == ("slot" in want):
        raise Refusal("one of vcpus and slot must be given, and only one")
    if "slot" in want:
        return [Part(CPU_SLOT, want)]
    if want.get("state", "present") != "present":
        raise Refusal("state: absent needs a slot; vcpus says by itself how many there shall be")
    return [Part(VCPUS, want)]
