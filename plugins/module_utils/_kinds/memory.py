# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Memory modules: a backend object and the device on it. ``pc-dimm``, ``nvdimm`` and ``virtio-mem``."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core import coercion
from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.option import Option, Want
from .._core.step import Step, Wait
from .._core.vm import PERIPHERAL
from .._qmp import errors
from .._qmp.values import human_size
from .device import DEVICE, Device
from .device_steps import Unplugged
from .kind import Change, Part, State, properties
from .object import OBJECT, OBJECTS, Object, objects

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM
    from .._qmp.events import Event

MEMORY = {
    **{name: option for name, option in DEVICE.options.items() if name not in ("driver", "addr", "wait")},
    "addr": Option("str"),
    "kind": Option("str", choices=["dimm", "nvdimm", "virtio-mem"]),
    "size": Option("str"),
    "backend": Option("str", choices=["ram", "file", "memfd"]),
    "mem_path": Option("path"),
    "share": Option("bool"),
    "prealloc": Option("bool"),
    "pmem": Option("bool"),
    "label_size": Option("str"),
    "numa_node": Option("int"),
    "requested_size": Option("str"),
    "wait": Option("bool", default=True),
}
_DRIVERS = {"dimm": "pc-dimm", "nvdimm": "nvdimm", "virtio-mem": "virtio-mem-pci"}
_BACKEND = {"size": "size", "mem_path": "mem-path", "share": "share", "prealloc": "prealloc", "pmem": "pmem"}
_SIZES = ("size", "label_size", "requested_size")
_ALIGNMENT = 2 << 20
"""What an x86 machine maps anonymous memory in, and the usual block of ``virtio-mem``."""


_VIRTIO_MEM_GOES = (8, 1)
"""The first QEMU that unplugs ``virtio-mem``."""


class Backend(Object):
    """What a memory module is made of."""

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with the size, also of a backend of another type."""
        full = super().complete(vm, want, have)
        size = vm.prop(f"{OBJECTS}/{self.ident(want)}", "size")
        return {**full, "options": {"size": size, **full["options"]}}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``object-add``. Raise Refusal for a backend without a size."""
        if "size" not in want["options"]:
            raise _sizeless(want["id"])
        return super().create(vm, want, draft)


class Released(Unplugged):
    """The end of a module's ``device_del``. A guest that keeps it says so in ``ACPI_DEVICE_OST``."""

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the end, or an ejection (source 3) that was neither begun (132) nor done (0)."""
        info = event.data.get("info", {})
        refused = info.get("device") == self.ident and info.get("source") == 3 and info.get("status") not in (0, 132)
        return super().is_end(event) or (event.name == "ACPI_DEVICE_OST" and refused)

    def raise_if_refused(self, event: Event) -> None:
        """Raise OperationFailed with the guest's status."""
        super().raise_if_refused(event)
        if event.name == "ACPI_DEVICE_OST":
            status = event.data["info"]["status"]
            raise OperationFailed(
                f"the guest refused to give memory {self.ident} back (ACPI status {status}): it is in use there"
            )


class Resized(Wait):
    """A ``virtio-mem`` device has the size that was requested. The guest does it, block by block, and may stop short."""

    needs_guest = True

    def __init__(self, ident: str, size: int) -> None:
        self.ident = ident
        self.size = size

    def is_done(self, vm: VM) -> bool:
        """Tell whether it has."""
        return bool(vm.prop(f"{PERIPHERAL}/{self.ident}", "size") == self.size)

    def timeout_error(self, vm: VM) -> Exception:
        """Return how far the guest has got."""
        now, status = vm.prop(f"{PERIPHERAL}/{self.ident}", "size"), vm.status
        why = "the guest went no further within the timeout" if status == "running" else f"the VM is {status}"
        return NotDoneInTime(f"requested_size: memory {self.ident} stands at {now} of {self.size} bytes: {why}")


class Module(Device):
    """The device of a memory module."""

    name = "memory_device"
    changeable_keys = frozenset(["options.requested-size"])

    def ending(self, ident: str) -> Wait:
        """Return a Wait that hears the guest's word on its memory, too."""
        return Released(ident)

    def read(self, vm: VM, want: Want) -> State | None:
        """Return what any device has, with the backend's size.

        What a ``virtio-mem`` device has counts as what was requested: a guest that stopped short is asked again. Where
        the task does not wait for it, the request itself is compared.
        """
        have = super().read(vm, want)
        if have is None:
            return None
        path = f"{PERIPHERAL}/{want['id']}"
        if "size" in want:
            have["size"] = vm.prop(vm.prop(path, "memdev", ""), "size")
        if "options.requested-size" in have and want["wait"]:
            have["options.requested-size"] = vm.prop(path, "size")
        return have

    def compare(self, have: State, want: State) -> Tuple[List[Change], List[str]]:
        """Compare all but the size, which is the backend's."""
        return super().compare(have, {key: value for key, value in want.items() if key != "size"})

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with size and slot, too; where in the guest's memory it comes is for QEMU to choose anew."""
        size = vm.prop(vm.prop(f"{PERIPHERAL}/{want['id']}", "memdev", ""), "size")
        full = {"size": size, **super().complete(vm, want, have)}
        if "memaddr" not in want["options"]:
            full["options"].pop("memaddr", None)
        return full

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``, and the request to a ``virtio-mem`` device. Room is checked before the backend is made."""
        ident, options = want["id"], dict(want["options"])
        if "size" not in want:
            raise _sizeless(ident)
        want = {"driver": self.usual, **want, "options": options}
        _check_room(vm, want, draft)
        requested = options.pop("requested-size", 0)
        *steps, adding = super().create(vm, want, draft)
        arguments = adding.arguments
        if "addr" in arguments and not want["driver"].startswith("virtio-mem"):
            # not a slot, but a place in memory
            adding = adding.replace(arguments={**arguments, "addr": coercion.to_int(arguments["addr"])})
        if requested:
            # the undo of a request that the guest met in part: a device with memory in use can't be unplugged
            adding = adding.replace(undo=(_request(ident, 0, 0, True), *adding.undo))
            return [*steps, adding, _request(ident, requested, 0, want["wait"])]
        return [*steps, adding]

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the ``qom-set`` of the requested size."""
        path, size = f"{PERIPHERAL}/{want['id']}", want["options"]["requested-size"]
        block, most = vm.prop(path, "block-size", _ALIGNMENT), vm.prop(vm.prop(path, "memdev", ""), "size", size)
        _check_request(size, block, most)
        return [_request(want["id"], size, vm.prop(path, "requested-size"), want["wait"])]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_del``; a ``virtio-mem`` device is emptied first. Raise Refusal for an ``nvdimm``, which stays."""
        ident = self.ident(want)
        driver = vm.peripherals()[ident]
        if driver == "nvdimm":
            raise Refusal(f"memory {ident} is an nvdimm, and QEMU can't unplug those")
        steps: List[Step] = []
        if driver.startswith("virtio-mem"):
            if vm.session.version[:2] < _VIRTIO_MEM_GOES:  # nothing that can be read tells
                raise Refusal(
                    f"memory {ident} is a virtio-mem device, which QEMU before 8.1 can't unplug: "
                    "requested_size: 0 takes all of its memory back"
                )
            path = f"{PERIPHERAL}/{ident}"
            requested = vm.prop(path, "requested-size")
            if requested or vm.prop(path, "size"):
                steps.append(_request(ident, 0, requested, True))
        return steps + super().remove(vm, want, draft)

    def describe(self, vm: VM, want: Want) -> Any:
        """Return it as ``query-memory-devices`` does, with its type, and with underscores in its names."""
        for entry in vm.ask("query-memory-devices"):
            if entry["data"].get("id") == want["id"]:
                return {"type": entry["type"], **{key.replace("-", "_"): value for key, value in entry["data"].items()}}
        return {}


_BACKENDS = Backend()
_MODULES = Module(usual=_DRIVERS["dimm"], mark="memdev")


def memory(want: Want, present: bool) -> List[Part]:
    """Return the two halves of a memory module: first the backend, then the device on it. Raise Refusal for a bad size."""
    want = {**want, **{name: _size(name, want[name]) for name in _SIZES if name in want}}
    ident, kind, options = want["id"], want.get("kind", "dimm"), want.get("options", {})
    backend: Want = {"id": str(options.get("memdev", f"{ident}-mem")), "options": properties(want, _BACKEND)}
    if "backend" in want or "mem_path" in want or "size" in want:
        usual = "file" if "mem_path" in want else "ram"
        backend["qom_type"] = f"memory-backend-{want.get('backend', usual)}"
    if kind == "nvdimm" and "mem_path" in want:
        backend["options"].setdefault("share", True)  # else what the guest writes never reaches the file
    device: Want = {key: want[key] for key in ("id", "bus", "size") if key in want}
    device["wait"] = want.get("wait", True) or not present
    if "kind" in want:
        device["driver"] = _DRIVERS[kind]
    names = {"label_size": "label-size", "numa_node": "node", "requested_size": "requested-size"}
    if kind == "virtio-mem" and "addr" in want:
        device["addr"] = want["addr"]
    else:
        names["addr"] = "addr"  # a number, in the guest's memory
    device["options"] = {**properties(want, names), **options, "memdev": backend["id"]}
    return [Part(_BACKENDS, backend), Part(_MODULES, device)]


def _sizeless(ident: str) -> Refusal:
    return Refusal(f"size: to add memory {ident} its size must be given")


def _size(option: str, value: Any) -> int:
    try:
        return human_size(value)
    except ValueError as exc:
        raise Refusal(f"{option}: {exc}") from exc


def _check_room(vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal where the machine has no slot or no room left, the size can't be mapped, or the backend is taken."""
    size, ident, virtio = want["size"], want["id"], want["driver"].startswith("virtio-mem")
    if virtio:
        _check_request(want["options"].get("requested-size", 0), want["options"].get("block-size", _ALIGNMENT), size)
    _check_backend(vm, want, draft)
    _check_driver(vm, want)
    if want["driver"] == "nvdimm" and vm.prop("/machine", "nvdimm") is False:
        raise Refusal(f"memory {ident}: this VM takes no nvdimm: start it with nvdimm=on (-M q35,nvdimm=on)")
    machine: Dict[str, int] = vm.prop("/machine", "memory", {})
    if not machine:
        return  # QEMU before 7.1 does not tell; it refuses by itself
    if machine.get("max-size", 0) <= machine["size"]:
        raise Refusal(
            "this VM has no room for memory modules: start it with slots and maxmem (-m 1G,slots=4,maxmem=4G)"
        )
    there = [
        entry
        for entry in vm.ask("query-memory-devices")
        if (Module.name, entry["data"].get("id")) not in draft.removing
    ]
    coming = [{"driver": _MODULES.usual, **other} for (kind, _id), other in draft.adding.items() if kind == Module.name]
    slots = sum(entry["type"] in ("dimm", "nvdimm") for entry in there)
    slots += sum(not other["driver"].startswith("virtio-mem") for other in coming)
    theirs = f" (with {', '.join(other['id'] for other in coming)} of the same task)" if coming else ""
    if not virtio and slots >= machine.get("slots", 0):
        raise Refusal(f"memory {ident}: all {machine.get('slots', 0)} slots of this VM are taken{theirs}")
    room = machine["max-size"] - machine["size"]
    used = sum(entry["data"].get("max-size", entry["data"].get("size", 0)) for entry in there)
    used += sum(other["size"] for other in coming)
    if size > room - used:
        raise Refusal(f"size: {size} bytes do not fit: of {room} bytes for modules, {used} are taken{theirs}")


def _check_driver(vm: VM, want: Want) -> None:
    """Raise Refusal where the machine's QEMU has no such modules: room for them would be of no use."""
    try:
        vm.device_properties(want["driver"])
    except errors.DeviceNotFound:
        raise Refusal(
            f"memory {want['id']}: the machines of {vm.ask('query-target')['arch']} have no {want['driver']} in this QEMU"
        ) from None


def _check_backend(vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal for a size that QEMU can't map, and for a backend that something else uses."""
    size, backend = want["size"], want["options"]["memdev"]
    used = [user for _kind, user in OBJECT.users(vm, {"id": backend}) if user != want["id"]]
    if backend == os.path.basename(vm.prop("/machine", "memory-backend", "")):
        used.append("the machine itself")
    if used:
        raise Refusal(f"memory {want['id']}: its backend {backend} is already used by {used[0]}")
    # files and memfds may have any number of pages; other machines have other steps
    kind = draft.adding.get(("object", backend), {}).get("qom_type", objects(vm).get(backend))
    anonymous = kind == "memory-backend-ram"
    if size <= 0 or (anonymous and size % _ALIGNMENT and vm.ask("query-target")["arch"] in ("x86_64", "i386")):
        raise Refusal(f"size: {size} bytes are not a multiple of 2 MiB, in which this machine maps memory")


def _check_request(requested: int, block: Any, size: int) -> None:
    block = _size("block-size", block)
    if size % block:
        raise Refusal(f"size: {size} bytes are not a multiple of the block size, {block}")
    if requested % block:
        raise Refusal(f"requested_size: {requested} bytes are not a multiple of the block size, {block}")
    if requested > size:
        raise Refusal(f"requested_size: {requested} bytes are more than the device's size, {size}")


def _request(ident: str, size: int, before: int, wait: bool) -> Step:
    where = {"path": f"{PERIPHERAL}/{ident}", "property": "requested-size"}
    undo = [Step("qom-set", {**where, "value": before})]
    return Step("qom-set", {**where, "value": size}, wait=Resized(ident, size) if wait else None, undo=undo)
