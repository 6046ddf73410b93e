# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""s390x: CCW disks and NICs by device number, and CPUs that come and stay. Without a guest: CCW needs none to let go."""

from __future__ import annotations

from typing import Any

import pytest

from support.architectures import S390X
from support.lifecycle import Lifecycle, names
from support.modules import run_module
from support.vm import VM


@pytest.fixture(scope="module")
def qemu_version() -> str:
    return S390X


@pytest.fixture
def vm(start_vm: Any) -> VM:
    started: VM = start_vm(args=["-smp", "1,maxcpus=6"])
    return started


def address(vm: VM, ident: str) -> str:
    return str(vm.observer.qom_get(f"/machine/peripheral/{ident}", "dev_id"))


def test_the_bed_has_it(vm: VM) -> None:
    assert vm.observer.look("query-target") == {"arch": "s390x"}


@pytest.mark.parametrize("driver", ["virtio-blk-ccw", None])
def test_a_disk(vm: VM, driver: str | None) -> None:
    life, clean = Lifecycle(vm, "qemu_disk"), vm.fingerprint()
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "addr": "fe.0.0010", "serial": "DATA01"}
    if driver:
        given["driver"] = driver
    added = life.step(**given)
    assert added["commands"][1]["arguments"]["devno"] == "fe.0.0010"
    assert added["device"]["driver"] == "virtio-blk-ccw" and added["device"]["addr"] == "fe.0.0010"
    assert vm.plugged() == {"d0": "virtio-blk-ccw"} and address(vm, "d0") == "fe.0.0010"
    life.same(id="d0", addr="FE.0.0010", bus="virtual-css")
    life.same(id="d0", driver="virtio-blk")
    life.refused("addr", "fe.0.0010", "fe.0.0011", "recreate", **{**given, "addr": "fe.0.0011"})
    assert names(life.step(**{**given, "addr": "FE.0.00AB"}, recreate=True)) == ["device_del", "device_add"]
    assert address(vm, "d0") == "fe.0.00ab"
    assert names(life.step(id="d0", state="absent")) == ["device_del", "blockdev-del"]
    assert vm.fingerprint() == clean


def test_a_nic(vm: VM) -> None:
    life, clean = Lifecycle(vm, "qemu_nic"), vm.fingerprint()
    given: dict[str, Any] = {"id": "n0", "netdev": {"type": "user"}, "mac": "52:54:00:ab:cd:01", "addr": "fe.0.0020"}
    life.step(**given, driver="virtio-net-ccw", queues=2)
    assert address(vm, "n0") == "fe.0.0020"
    assert vm.observer.qom_get("/machine/peripheral/n0", "mq") is True
    assert names(life.step(id="n0", state="absent")) == ["device_del", "netdev_del"]
    life.step(**given)
    assert vm.plugged() == {"n0": "virtio-net-ccw"}
    life.step(id="n0", state="absent")
    assert vm.fingerprint() == clean


def test_a_device_number_that_is_taken_or_none(vm: VM) -> None:
    life = Lifecycle(vm, "qemu_disk")
    life.step(id="d0", filename=vm.image("a.img"), addr="fe.0.0010")
    other: dict[str, Any] = {"id": "d1", "filename": vm.image("b.img")}
    result = life.refused("fe.0.0010", foretold=False, **other, addr="FE.0.0010")
    assert result["error"]["class"] == "GenericError"
    assert [step["execute"] for step in result["rolled_back"]] == ["blockdev-del"]
    life.refused("devno", "fe.0.ab", foretold=False, **other, addr="fe.0.ab")
    added = life.step(**other)  # QEMU chooses one
    assert added["device"]["addr"] == address(vm, "d1")


def test_a_failed_recreation_gives_the_old_disk_back(vm: VM) -> None:
    life = Lifecycle(vm, "qemu_disk")
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "addr": "fe.0.0010", "serial": "OLD"}
    life.step(**given)
    bad: dict[str, Any] = {**given, "serial": "NEW", "options": {"logical_block_size": 3000}, "recreate": True}
    result = life.refused("logical_block_size", "taken back: device_add", foretold=False, **bad)
    assert [step["execute"] for step in result["rolled_back"]] == ["device_add"]
    assert address(vm, "d0") == "fe.0.0010"
    life.same(**given)


def test_cpus_come_and_stay(vm: VM) -> None:
    life = Lifecycle(vm, "qemu_cpu_hotplug")
    added = life.step(slot={"core-id": 2})
    arguments = added["commands"][0]["arguments"]  # since 8.2 with the places above the core's
    assert {"driver": "qemu-s390x-cpu", "id": "cpu2", "core-id": 2}.items() <= arguments.items()
    assert vm.observer.look("query-cpus-fast")[1]["qom-path"] == "/machine/peripheral/cpu2"
    life.step(vcpus=4)
    taken = [slot["props"]["core-id"] for slot in vm.observer.look("query-hotpluggable-cpus") if "qom-path" in slot]
    assert sorted(taken) == [0, 1, 2, 3]
    life.refused("core-id=9", "not a slot", slot={"core-id": 9})
    life.refused("vcpus", "7", "room for 6", vcpus=7)
    life.refused("s390x", "unplugged", slot={"core-id": 2}, state="absent")
    life.refused("s390x", "unplugged", vcpus=2)


def test_there_are_no_memory_modules(vm: VM) -> None:
    Lifecycle(vm, "qemu_memory_hotplug").refused("memory m0", "s390x", "no pc-dimm", id="m0", size="64M")


def test_its_information(vm: VM) -> None:
    told = run_module(vm, "qemu_info", gather_subset=["all"])["vm"]
    assert len(told["hotpluggable_cpus"]) == 6
