# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""vhost-user devices: a socket to the process that does the work, and the device on it."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, List, Set

from .._core.errors import Refusal
from .._core.option import Option, Want
from .._qmp import errors
from .chardev import CHARDEV
from .device import DEVICE, Device
from .kind import Part

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.step import Step
    from .._core.vm import VM

VHOST_USER = {
    **{name: option for name, option in DEVICE.options.items() if name != "wait"},
    "path": Option("str"),
    "reconnect": Option("int"),
}


class VhostUser(Device):
    """A device whose backend is another process, which must see the guest's memory."""

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``. Raise Refusal without shared memory: QEMU makes it all the same, and it never works."""
        private = [name for name in sorted(_memory(vm)) if vm.prop(f"/objects/{name}", "share") is False]
        if private:
            raise Refusal(
                f"the guest's memory ({', '.join(private)}) is not shared, so the backend of {want['id']} could not see it: "
                "start the VM with a memory backend that has share=on"
            )
        full = {**want, "driver": on_machine(vm, want["driver"])} if "driver" in want else want
        return super().create(vm, full, draft)


_DEVICE = VhostUser(mark="chardev")


def vhost_user(want: Want, present: bool) -> List[Part]:
    """Return the socket, of which QEMU is the client, and the device."""
    name = f"{want['id']}-chardev"
    socket: Want = {key: want[key] for key in ("path", "reconnect") if key in want}
    device: Want = {key: want[key] for key in ("id", "driver", "bus", "addr") if key in want}
    device["options"] = {"chardev": name, **want.get("options", {})}
    if socket:
        socket.update(type="socket", server=False)
    return [Part(CHARDEV, {"id": name, **socket}), Part(_DEVICE, device)]


def on_machine(vm: VM, driver: str) -> str:
    """Return the driver with the machine's transport where its name leaves that out: ``vhost-user-blk`` on PCI or CCW."""
    if driver.endswith(("-pci", "-ccw")):
        return driver
    full = f"{driver}-{'ccw' if vm.ask('query-target')['arch'] == 's390x' else 'pci'}"
    try:
        vm.device_properties(full)
    except errors.CommandError:
        return driver
    return full


def _memory(vm: VM) -> Set[str]:
    """Return the backends that the guest's memory is made of: the machine's own, and those that are mapped or plugged in."""
    own = os.path.basename(vm.prop("/machine", "memory-backend") or "")
    found = {own} if own else set()
    for name, kind in vm.members("/objects").items():
        if kind.startswith("memory-backend-"):
            path = f"/objects/{name}"
            regions = [part for part, what in vm.members(path).items() if what == "memory-region"]
            if any(vm.prop(f"{path}/{region}", "container") for region in regions):
                found.add(name)
    return found
