# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A virtio serial port: a character device and the port on it, as one."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.option import Option, Want
from . import qemu_texts
from .chardev import CHARDEV
from .device import Device
from .kind import Part, properties

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.step import Step
    from .._core.vm import VM

SERIAL_PORT = {
    "id": Option("str", required=True),
    "name": Option("str"),
    "chardev": Option("dict", options={**CHARDEV.options, "id": Option("str")}),
    "bus": Option("str"),
    "options": Option("dict"),
}


class Port(Device):
    """A port, which sits on the bus of a controller."""

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``. Without ``bus``, QEMU takes the first controller with room."""
        steps = super().create(vm, want, draft)
        return [*steps[:-1], steps[-1].replace(hint=qemu_texts.serial_bus_hint)]


_DEVICE = Port(usual="virtserialport", mark="chardev")


def serial_port(want: Want, present: bool) -> List[Part]:
    """Return the character device (where the task names one, or when it goes), and the port."""
    backend: Want = {"id": f"{want['id']}-chardev", **want.get("chardev", {})}
    device: Want = {key: want[key] for key in ("id", "bus") if key in want}
    device["options"] = properties(want, {"name": "name"})
    parts: List[Part] = []
    if "chardev" in want:
        device["options"]["chardev"] = backend["id"]
    device["options"].update(want.get("options", {}))
    if "chardev" in want or not present:
        parts.append(Part(CHARDEV, backend))
    return [*parts, Part(_DEVICE, device)]
