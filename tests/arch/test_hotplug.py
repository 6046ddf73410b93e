# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of other processors than x86, and of its machine pc: what is plugged in and out, and what they say of it themselves.

A pseries guest takes notice of a new PCI device only by a program of its distribution (rtas_errd), which the test guest
lacks. It sees the device when it boots again, and a disk on a SCSI bus at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from support.architectures import AARCH64, PPC64, S390X
from support.lifecycle import Lifecycle, names
from support.modules import run_module
from support.vm import VM

PC = "7.2"


def LIVE_VM(version: str) -> dict[str, Any]:
    pc = {"machine": "pc", "memory": "256,slots=2,maxmem=2G"} if version == PC else {}
    return {"scsi": True, "args": ["-smp", "1,maxcpus=3"], **pc}


class Machine(NamedTuple):
    """What a machine can."""

    arch: str
    transport: str
    bus: dict[str, Any]  # where devices go
    root: str  # where one is when it has gone there
    disk: str  # what a guest sees at once
    memory: bool
    cpu: str  # the driver of a CPU; none: CPUs stay as they are
    gives_cpu_back: bool


MACHINES = {
    PC: Machine("x86_64", "pci", {}, "pci.0", "vda", memory=True, cpu="qemu64-x86_64-cpu", gives_cpu_back=True),
    AARCH64: Machine("aarch64", "pci", {"bus": "rp0"}, "rp0", "vda", memory=True, cpu="", gives_cpu_back=False),
    PPC64: Machine("ppc64", "pci", {}, "pci.0", "sda", True, "power9_v2.0-spapr-cpu-core", gives_cpu_back=True),
    S390X: Machine("s390x", "ccw", {}, "virtual-css", "vda", False, "qemu-s390x-cpu", gives_cpu_back=False),
}


@pytest.fixture(scope="module", params=MACHINES)
def qemu_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture
def machine(qemu_version: str) -> Machine:
    return MACHINES[qemu_version]


def bus_of(vm: VM, ident: str) -> str:
    return str(vm.observer.qom_get(f"/machine/peripheral/{ident}", "parent_bus")).rpartition("/")[2]


def test_the_bed_has_it(live_vm: VM, machine: Machine) -> None:
    assert live_vm.observer.look("query-target") == {"arch": machine.arch}
    kernel = {"ppc64": "ppc64le"}.get(machine.arch, machine.arch)
    assert live_vm.run_in_guest("uname -m").split() == [kernel]


def test_a_disk(live_vm: VM, machine: Machine) -> None:
    life, clean = Lifecycle(live_vm, "qemu_disk"), live_vm.fingerprint()
    added = life.step(id="d0", filename=live_vm.image("a.img", "24M"), serial="ARCH01", **machine.bus)
    assert live_vm.plugged() == {"d0": f"virtio-blk-{machine.transport}"}
    assert added["device"]["driver"] == f"virtio-blk-{machine.transport}" and bus_of(live_vm, "d0") == machine.root
    assert added["device"]["addr"]
    if machine.disk == "vda":
        live_vm.guest_sees(blk={"vda"})
        assert live_vm.run_in_guest("cat /sys/block/vda/size /sys/block/vda/serial").split() == ["49152", "ARCH01"]
    assert names(life.step(id="d0", state="absent")) == ["device_del", "blockdev-del"]
    live_vm.guest_sees(blk=set())
    assert live_vm.fingerprint() == clean


def test_a_scsi_disk_that_grows(live_vm: VM) -> None:
    life, clean = Lifecycle(live_vm, "qemu_disk"), live_vm.fingerprint()
    disk: dict[str, Any] = {"id": "s0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": live_vm.image("s.img")}
    life.step(**disk)
    live_vm.guest_sees(blk={"sda"})
    life.step(**disk, size="32M")
    live_vm.run_in_guest(
        "echo 1 >/sys/block/sda/device/rescan; until grep -qx 65536 /sys/block/sda/size; do sleep 0.1; done"
    )
    life.step(id="s0", state="absent")
    live_vm.guest_sees(blk=set())
    assert live_vm.fingerprint() == clean


def test_a_nic(live_vm: VM, machine: Machine) -> None:
    life, clean = Lifecycle(live_vm, "qemu_nic"), live_vm.fingerprint()
    life.step(id="n0", netdev={"type": "user"}, mac="52:54:00:ab:cd:01", queues=1, **machine.bus)
    assert live_vm.plugged() == {"n0": f"virtio-net-{machine.transport}"} and bus_of(live_vm, "n0") == machine.root
    if machine.arch == "ppc64":
        since = len(live_vm.serial)
        run_module(live_vm, "qemu_power", state="reset")
        live_vm.wait_serial("GUEST-STATE", since=since)
    live_vm.guest_sees(net={"lo", "eth0"})
    assert live_vm.run_in_guest("cat /sys/class/net/eth0/address").split() == ["52:54:00:ab:cd:01"]
    if machine.arch == "ppc64":  # it would have to give it back, which takes the same program
        return
    assert names(life.step(id="n0", state="absent")) == ["device_del", "netdev_del"]
    live_vm.guest_sees(net={"lo"})
    assert live_vm.fingerprint() == clean


def test_a_whole_document(live_vm: VM, machine: Machine) -> None:
    document: dict[str, Any] = {
        "objects": [{"id": "rng0", "qom_type": "rng-builtin"}],
        "chardevs": [{"id": "c0", "type": "null"}],
        "netdevs": [{"id": "net0", "type": "user"}],
        "disks": [{"id": "s0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": live_vm.image("a.img")}],
        "devices": [{"id": "r0", "driver": "virtio-rng", "options": {"rng": "rng0"}, **machine.bus}],
    }
    clean, life = live_vm.fingerprint(), Lifecycle(live_vm, "qemu_machine")
    life.step(**document)
    assert live_vm.plugged() == {"s0": "scsi-hd", "r0": f"virtio-rng-{machine.transport}"}
    live_vm.guest_sees(blk={"sda"})
    if machine.arch != "ppc64":
        live_vm.guest_has_rng()
    gone: dict[str, Any] = {
        name: [{"id": entry["id"], "state": "absent"} for entry in entries] for name, entries in document.items()
    }
    life.step(**gone)
    live_vm.guest_sees(blk=set())
    assert live_vm.fingerprint() == clean


def test_memory(live_vm: VM, machine: Machine) -> None:
    life, clean, had = Lifecycle(live_vm, "qemu_memory_hotplug"), live_vm.fingerprint(), live_vm.guest_state()["memkb"]
    if not machine.memory:
        life.refused("memory m0", machine.arch, "no pc-dimm", id="m0", size="256M")
        return
    life.step(id="m0", size="256M")
    assert live_vm.plugged() == {"m0": "pc-dimm"}
    live_vm.guest_sees(memkb=lambda kb: kb > had + 200 * 1024)
    life.step(id="m0", state="absent")
    live_vm.guest_sees(memkb=lambda kb: kb < had + 10 * 1024)
    assert live_vm.fingerprint() == clean


def test_what_it_tells_of_itself(live_vm: VM, machine: Machine) -> None:
    told = run_module(live_vm, "qemu_info", gather_subset=["all"])["vm"]
    assert told["machine"]["arch"] == machine.arch
    assert len(told["hotpluggable_cpus"]) == (3 if machine.cpu else 0)
    assert (told["machine"]["kvm"], told["devices"]["scsi0"]["driver"]) == (False, f"virtio-scsi-{machine.transport}")


def test_cpus_and_the_power_button(live_vm: VM, machine: Machine) -> None:
    """In one: where no CPU is given back the guest is not clean again, and an emulated ppc64 dies soon after it has given one."""
    life = Lifecycle(live_vm, "qemu_cpu_hotplug")
    if not machine.cpu:
        life.refused("no CPU hot-plug", vcpus=2)
    else:
        life.step(vcpus=2)
        assert live_vm.plugged() == {"cpu1": machine.cpu}
        live_vm.guest_sees(cpus={"0", "1"})
    if machine.gives_cpu_back:
        life.step(vcpus=1)
        assert live_vm.plugged() == {}
        live_vm.guest_sees(cpus={"0"})
    elif machine.cpu:
        life.refused("can't be unplugged", machine.arch, vcpus=1)

    pressed = run_module(live_vm, "qemu_power", state="shutdown")
    assert names(pressed) == ["system_powerdown"] and pressed["changed"]
    assert live_vm.wait_exit() == 0
    assert run_module(live_vm, "qemu_power", state="shutdown")["changed"] is False
