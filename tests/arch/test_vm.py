# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_vm: from nothing to a guest that runs, for each architecture and each machine of x86."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.architectures import architecture
from support.lifecycle import names
from support.modules import run_module
from support.roles import Machines, Roles, nothing_is_there
from support.timing import until
from support.vm import BED


class Case(NamedTuple):
    """Options of a VM, and what comes of them."""

    arch: str
    options: dict[str, Any]
    machine: str  # its machine type as QEMU tells it
    transport: str
    disk: dict[str, Any]  # how one is plugged in
    uefi: bool = False
    disks: str = "vda vdb vdc"  # what the guest sees then


# an emulated microvm has no timer to measure the rate of another by: it is told that of the processor, which is the guest's as well
KHZ = re.findall(r"^cpu MHz\s*: ([0-9]+)\.([0-9]{3})", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0]
MICROVM = {
    "machine": "microvm",
    "append": f"{architecture('7.2').cmdline} tsc_early_khz={''.join(KHZ)}",
    "arguments": {"device": {"driver": "virtio-scsi-device", "id": "scsi0"}},
}
CASES = {
    "aarch64": Case("aarch64", {"cpu": "cortex-a57"}, "virt-", "pci", {"bus": "rp0"}, uefi=True),
    "ppc64": Case("ppc64", {"cpu": "POWER9"}, "pseries-", "pci", {}, disks="vda vdb"),
    "s390x": Case("s390x", {}, "s390-ccw-virtio-", "ccw", {}),
    "q35-uefi": Case("x86_64", {"firmware": "uefi"}, "pc-q35-", "pci", {"bus": "rp0"}, uefi=True),
    "pc": Case("x86_64", {"machine": "pc"}, "pc-i440fx-", "pci", {}),
    "pc-uefi": Case("x86_64", {"machine": "pc", "firmware": "uefi"}, "pc-i440fx-", "pci", {"bus": "rp0"}, uefi=True),
    "microvm": Case(
        "x86_64", MICROVM, "microvm", "device", {"driver": "scsi-hd", "bus": "scsi0.0"}, disks="sda vda vdb"
    ),
}


@pytest.fixture
def vms() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def program(arch: str) -> str:
    return f"/usr/bin/qemu-system-{arch}"


def guest(arch: str) -> dict[str, Any]:
    """What boots the test guest of an architecture."""
    its = architecture(f"7.2-{arch}" if arch != "x86_64" else "7.2")
    files = BED / its.guest
    return {
        "binary": program(arch),
        "kernel": f"{files}/vmlinuz",
        "initrd": f"{files}/initrd.gz",
        "append": its.cmdline,
        "memory": "512M",
        "power": "running",
        "shutdown_timeout": 60,
    }


def sees(vms: Roles, *words: str) -> None:
    """Wait until the guest's last word of what it has is this."""
    log = vms.base / "vm1" / "run" / "console.log"

    def told() -> bool:
        said = re.findall(r"^GUEST-STATE .*\n", log.read_text(errors="replace").replace("\r", ""), re.MULTILINE)
        return bool(said) and all(word in said[-1] for word in words)

    until(told)


def answer(vms: Machines, command: str) -> list[str]:
    """What the guest prints when that is typed to it."""
    text = f"a1 {command}\n"
    path = str(vms.base / "vm1" / "run" / "console")
    options: dict[str, Any] = {"from": "serial", "path": path, "text": text, "expect": [{"text": "GUEST-DONE a1 0"}]}
    return list(run_module(None, "qemu_console", **options)["seen"])


@pytest.mark.parametrize("name", CASES)
def test_from_nothing_to_running_and_back(vms: Machines, name: str) -> None:
    case = CASES[name]
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", **case.disk}
    has: dict[str, Any] = {**guest(case.arch), **case.options, "disk_size": "8M", "user_data": {"password": "hush"}}
    foretold = vms.done(True, check=True, **has)
    nothing_is_there(vms)
    vms.done(True, **has)
    assert foretold.tasks[-1].changed
    sees(vms, "blk=[vda vdb]")
    with vms.observer() as observer:
        assert observer.execute("query-target") == {"arch": case.arch}
        assert observer.qom_get("/machine", "type").startswith(case.machine)
        devices = observer.devices()
        assert {ident: devices[ident] for ident in ("disk", "seed", "rng0", "balloon0", "serial0")} == {
            **dict.fromkeys(("disk", "seed"), f"virtio-blk-{case.transport}"),
            "rng0": f"virtio-rng-{case.transport}",
            "balloon0": f"virtio-balloon-{case.transport}",
            "serial0": f"virtio-serial-{case.transport}",
        }
        assert ("rp7" in devices) == case.machine.startswith(("virt-", "pc-"))
    assert ("uefi-vars.fd" in vms.files()) == case.uefi
    if case.uefi:
        assert "efi" in answer(vms, "ls -1 /sys/firmware")
        variables = (vms.base / "vm1" / "uefi-vars.fd").stat()
        assert variables.st_blocks * 512 < 2 << 20 and variables.st_mode & 0o777 == 0o600
    vms.done(True, **has, disks=[data])
    sees(vms, f"blk=[{case.disks}]")
    for check in (True, False):
        run = vms.done(False, check=check, **has, disks=[data])
        assert not run.tasks[-1].result["restart_required"]

    stopped = vms.done(True, **has, state="stopped").tasks[-1].result
    assert "system_powerdown" in names(stopped)
    assert vms.processes() == {}
    vms.done(True, state="absent", binary=program(case.arch), remove_data=True)
    nothing_is_there(vms)


def test_the_role_for_another_processor() -> None:
    """Nothing but the program says that it is one for aarch64: machine and firmware are those that it takes."""
    roles = Roles()
    try:
        has: dict[str, Any] = {**guest("aarch64"), "cpu": "cortex-a57", "disk_size": "8M"}
        roles.done(True, **has)
        sees(roles, "blk=[vda]")
        assert "uefi-vars.fd" in roles.files()
        roles.done(False, **has)
        roles.done(True, state="absent", remove_data=True, binary=program("aarch64"))
        nothing_is_there(roles)
    finally:
        roles.close()
