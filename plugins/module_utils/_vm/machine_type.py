# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a machine type has: which one is usual, how devices are attached to it, what it boots by. Pure."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict

from .._core.errors import Refusal

_USUAL = {
    **dict.fromkeys(("x86_64", "i386"), "q35"),
    **dict.fromkeys(("aarch64", "arm", "riscv32", "riscv64", "loongarch64"), "virt"),
    **dict.fromkeys(("ppc64", "ppc"), "pseries"),
    "s390x": "s390-ccw-virtio",
}


def usual(architecture: str) -> str:
    """Return the machine type for VMs of an architecture. Raise Refusal where none is the usual one."""
    if architecture not in _USUAL:
        raise Refusal(f"machine: there is no usual machine type for {architecture}: name one")
    return _USUAL[architecture]


def transport(params: Dict[str, Any]) -> str:
    """Return how virtio's devices are attached, as their drivers' names end: ``pci``, ``ccw``, ``device`` (virtio-mmio)."""
    if params["machine"].startswith("s390-ccw"):
        return "ccw"
    pcie = params["machine_options"].get("pcie")
    return "device" if is_micro(params["machine"]) and pcie not in (True, "on") else "pci"


def has_ports(params: Dict[str, Any]) -> bool:
    """Tell whether it has PCIe root ports. On pseries devices go to the root bus itself, and microvm takes none on PCI."""
    machine = params["machine"]
    return transport(params) == "pci" and not is_micro(machine) and not machine.startswith("pseries")


def is_micro(machine: str) -> bool:
    """Tell whether it is the small one of x86, which has no PCI unless asked for."""
    return machine.startswith("microvm")


def is_pc(machine: str, architecture: str) -> bool:
    """Tell whether it has a PC's graphics card and keyboard, and its places for firmware."""
    return architecture in ("x86_64", "i386") and not is_micro(machine)


def needs_uefi(machine: str, architecture: str) -> bool:
    """Tell whether it has no firmware of its own that could boot a disk."""
    return architecture == "aarch64" and (machine == "virt" or machine.startswith("virt-"))
