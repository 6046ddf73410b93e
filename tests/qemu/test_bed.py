# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed itself: what every other test on a real QEMU takes for granted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from support.observer import ObserverError
from support.vm import ROOT_PORTS, VM, BedError, process_exists


def plug_disk(vm: VM) -> None:
    vm.observer.execute("blockdev-add", driver="file", node_name="n0", filename=vm.image("disk.img"))
    vm.observer.execute("device_add", driver="virtio-blk-pci", id="d0", bus="rp0", drive="n0")


def test_each_wrapper_is_the_qemu_it_says(paused_vm: VM) -> None:
    version = paused_vm.observer.greeting["version"]["qemu"]
    assert f"{version['major']}.{version['minor']}" == paused_vm.version


def test_a_qemu_that_looks_at_all_its_types_lives_on(paused_vm: VM) -> None:
    types = paused_vm.observer.look("qom-list-types", implements="user-creatable")  # it loads all modules that it finds
    assert "memory-backend-ram" in {kind["name"] for kind in types}
    assert paused_vm.observer.status() == "prelaunch"


def test_a_paused_vm_is_stopped_and_has_free_root_ports(paused_vm: VM) -> None:
    assert paused_vm.observer.status() == "prelaunch"
    assert set(ROOT_PORTS) == set(paused_vm.observer.devices())
    assert paused_vm.plugged() == {}


def test_the_observer_sees_what_was_added_and_what_qemu_refuses(paused_vm: VM) -> None:
    clean = paused_vm.fingerprint()
    plug_disk(paused_vm)
    assert paused_vm.plugged() == {"d0": "virtio-blk-pci"}
    assert "n0" in paused_vm.observer.nodes()
    assert paused_vm.fingerprint() != clean
    with pytest.raises(ObserverError) as refused:
        paused_vm.observer.execute("blockdev-del", node_name="n0")
    assert refused.value.error_class == "GenericError"


def test_the_guest_sees_a_disk_come_and_go(live_vm: VM) -> None:
    plug_disk(live_vm)
    live_vm.guest_sees(blk={"vda"})
    live_vm.observer.execute("device_del", id="d0")
    live_vm.observer.wait_event("DEVICE_DELETED", device="d0")
    live_vm.observer.execute("blockdev-del", node_name="n0")
    live_vm.guest_sees(blk=set())


def test_the_guest_sees_a_nic(live_vm: VM) -> None:
    live_vm.observer.execute("netdev_add", type="user", id="nd0")
    live_vm.observer.execute("device_add", driver="virtio-net-pci", id="nic0", bus="rp1", netdev="nd0")
    live_vm.guest_sees(net={"lo", "eth0"})


def test_a_vm_left_changed_is_not_handed_on(live_vm: VM) -> None:
    assert live_vm.plugged() == {}  # the test before left a NIC behind
    live_vm.guest_sees(net={"lo"})


def test_the_guest_runs_a_command(live_vm: VM) -> None:
    assert live_vm.run_in_guest("echo $((6 * 7))") == "42\n"
    with pytest.raises(BedError, match="failed in the guest with 1"):
        live_vm.run_in_guest("false")


def test_the_guest_answers_the_power_button(live_vm: VM) -> None:
    for _press in range(30):  # the first ones may come before anything in the guest listens to the button
        live_vm.observer.execute("system_powerdown")
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert live_vm.wait_exit(2.0) == 0
            return
    pytest.fail("the guest did not power off")


def test_the_guest_brings_up_a_cpu_and_memory(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True, memory="256,slots=4,maxmem=2G", args=["-smp", "1,maxcpus=4"])
    before = vm.guest_state()["memkb"]
    vm.observer.execute("object-add", qom_type="memory-backend-ram", id="mem0", size=128 << 20)
    vm.observer.execute("device_add", driver="pc-dimm", id="dimm0", memdev="mem0")
    vm.guest_sees(memkb=lambda now: now > before + 100 * 1024)
    free = [cpu for cpu in vm.observer.look("query-hotpluggable-cpus") if "qom-path" not in cpu][-1]
    vm.observer.send("device_add", {"driver": free["type"], "id": "cpu1", **free["props"]})
    vm.guest_sees(cpus=2)


def test_a_guest_that_ignores_everything(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True, append="bed.ignorepower bed.count acpiphp.disable=1")
    plug_disk(vm)
    vm.observer.execute("device_del", id="d0")
    vm.observer.execute("system_powerdown")
    here = len(vm.serial)
    vm.wait_serial("GUEST-COUNT", since=here)
    with pytest.raises(TimeoutError):
        vm.observer.wait_event("DEVICE_DELETED", timeout=2, device="d0")
    assert vm.alive
    vm.observer.execute("system_reset")  # takes what was asked for out at once
    vm.observer.wait_event("DEVICE_DELETED", device="d0")


def test_virtio_scsi_is_there_when_asked_for(start_vm: Callable[..., VM]) -> None:
    assert start_vm(scsi=True).observer.devices()["scsi0"] == "virtio-scsi-pci"


def test_a_qemu_that_does_not_start_says_why_and_leaves_nothing(qemu_version: str) -> None:
    vm = VM(qemu_version, args=["-device", "nonesuch"], start=False)
    with pytest.raises(BedError, match="nonesuch"):
        vm.start()
    assert not vm.alive
    assert not vm.directory.exists()


def test_closing_leaves_neither_process_nor_files(qemu_version: str) -> None:
    with VM(qemu_version) as vm:
        pid = vm.pid
        assert process_exists(pid)
    assert not process_exists(pid)
    assert not vm.directory.exists()


def test_a_real_task_gives_its_result(ansible_task: Callable[..., Any]) -> None:
    pong = ansible_task("ansible.builtin.ping", {"data": "here"})
    assert (pong.status, pong.result["ping"]) == ("ok", "here")
    assert ansible_task("ansible.builtin.fail", {"msg": "as told"}).result["msg"] == "as told"


def test_a_real_playbook_gives_every_result(playbook: Callable[..., Any]) -> None:
    tasks = [{"name": name, "ansible.builtin.debug": {"msg": name}} for name in ("one", "two")]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}])
    assert run.rc == 0, run.output
    assert run["two"].result["msg"] == "two"
