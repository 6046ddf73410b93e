# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Host devices handed to the guest: PCI devices, mediated devices, channel subsystem devices and crypto adapters."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, List

from .._core.errors import Refusal
from .._core.option import Option, Want
from .device import DEVICE, Device
from .kind import Part, State, properties

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.step import Step
    from .._core.vm import VM

VFIO = {
    **{name: option for name, option in DEVICE.options.items() if name != "wait"},
    "driver": Option("str", choices=["vfio-pci", "vfio-ccw", "vfio-ap"]),
    "host": Option("str"),
    "sysfsdev": Option("path"),
    "romfile": Option("str"),
}
PCI_DEVICES = "/sys/bus/pci/devices"
_PROPERTIES = {"host": "host", "sysfsdev": "sysfsdev", "romfile": "romfile"}
_PCI_ADDRESS = re.compile(r"(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([01]?[0-9a-f])\.([0-7])\Z")


class Vfio(Device):
    """A device that stands for one of the host's."""

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with one name of the host's device: QEMU makes a ``sysfsdev`` of each ``host``, and prefers that."""
        full = super().complete(vm, want, have)
        options = dict(full["options"])
        if options.get("host") and "sysfsdev" not in want["options"]:
            options.pop("sysfsdev", None)
        elif "sysfsdev" in want["options"]:
            options.pop("host", None)
        return {**full, "options": options}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``. Raise Refusal where another driver holds the host's device, if that is this host."""
        options, driver = want["options"], want.get("driver", self.usual)
        if not options.get("host") and not options.get("sysfsdev"):
            raise Refusal(f"host: device {want['id']} does not exist yet, and to add it host or sysfsdev must be given")
        if driver != "vfio-pci" and options.get("host"):
            raise Refusal(f"host: only vfio-pci takes a PCI address; for {driver} give sysfsdev")
        for option in ("addr", "romfile"):
            if (driver, option) in (("vfio-ap", "addr"), ("vfio-ap", "romfile"), ("vfio-ccw", "romfile")) and (
                option in want or option in options
            ):
                raise Refusal(f"{option}: {driver} has none: leave it out")
        if vm.local and driver == "vfio-pci":
            _check_holder(options)
        return super().create(vm, want, draft)


_DEVICE = Vfio(usual="vfio-pci")


def vfio(want: Want, present: bool) -> List[Part]:
    """Return the one part, the device. Raise Refusal for both names of the host's device, and for an address that is not valid."""
    if "host" in want and "sysfsdev" in want:
        raise Refusal("host and sysfsdev both name the host's device: give one of them")
    device: Want = {key: want[key] for key in ("id", "driver", "bus", "addr") if key in want}
    device["options"] = {**properties(want, _PROPERTIES), **want.get("options", {})}
    if device["options"].get("host"):
        device["options"]["host"] = _pci_address(str(device["options"]["host"]))
    return [Part(_DEVICE, device)]


def _pci_address(text: str) -> str:
    """Return it as QEMU and sysfs write it: ``0000:01:00.0``."""
    found = _PCI_ADDRESS.match(text.lower())
    if not found:
        raise Refusal(
            f"host: {text!r} is not a valid PCI address such as '0000:01:00.0' (in quotes: YAML takes some addresses for numbers)"
        )
    domain, bus, slot, function = (int(part or "0", 16) for part in found.groups())
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"


def _check_holder(options: Want) -> None:
    """Raise Refusal when the PCI device is here and another driver has it. A mediated device's driver says nothing."""
    path = options.get("sysfsdev") or f"{PCI_DEVICES}/{options['host']}"
    if os.path.basename(os.path.realpath(f"{path}/subsystem")) != "pci" or not os.path.exists(f"{path}/driver"):
        return
    holder = os.path.basename(os.path.realpath(f"{path}/driver"))
    if "vfio" not in holder:  # the kernel has several that let a device go: mlx5_vfio_pci, ...
        name = os.path.basename(os.path.realpath(path))
        raise Refusal(f"host: {name} is held by the driver {holder}: bind it to vfio-pci first")
