# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_cpu_hotplug: CPUs that a guest brings up and gives back, and slots that there are not.

QEMU 7.2 corrupts itself when an emulated CPU goes: there that is the last that happens to a VM, which no other test gets.
QEMU 10.0 ends when more CPUs ever came than `maxcpus`, those that went included: hence so many slots.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.vm import VM, is_since

ROOM = {"args": ["-smp", "1,maxcpus=16,sockets=1,cores=16,threads=1"]}


@pytest.fixture
def cold(start_vm: Any) -> Lifecycle:
    """Without a guest."""
    return Lifecycle(start_vm(**ROOM), "qemu_cpu_hotplug")


@pytest.fixture
def live(start_vm: Any) -> Lifecycle:
    """With one, for this test alone."""
    return Lifecycle(start_vm(guest=True, **ROOM), "qemu_cpu_hotplug")


def cores(vm: VM) -> set[int]:
    """The slots that are taken."""
    return {slot["props"]["core-id"] for slot in vm.observer.look("query-hotpluggable-cpus") if "qom-path" in slot}


def free_slot(vm: VM, core: int) -> dict[str, Any]:
    """What `device_add` fills it with."""
    slots = vm.observer.look("query-hotpluggable-cpus")
    slot = next(slot for slot in slots if slot["props"]["core-id"] == core)
    return {"driver": slot["type"], **slot["props"]}


def running(vm: VM) -> int:
    return len(vm.observer.look("query-cpus-fast"))


def test_a_whole_life(live: Lifecycle) -> None:
    vm = live.vm
    added = live.step(vcpus=2)
    assert added["diff"]["before"] == {"cpus": {"vcpus": {"vcpus": 1}}}
    assert added["diff"]["after"] == {"cpus": {"vcpus": {"vcpus": 2}}}
    assert names(added) == ["device_add"]
    assert [(cpu["slot"]["core-id"], cpu.get("id")) for cpu in added["cpus"]] == [(0, None), (1, "cpu1")]
    assert sum(cpu["vcpus"] for cpu in added["cpus"]) == running(vm) == 2
    vm.guest_sees(cpus=2)
    live.step(slot={"core_id": 3})
    vm.guest_sees(cpus=3)
    assert cores(vm) == {0, 1, 3}
    live.same(vcpus=3)
    live.same(slot={"core-id": "3", "socket-id": 0, "thread-id": 0})

    if vm.observer.greeting["version"]["qemu"]["major"] < 10:
        assert names(run_module(vm, "qemu_cpu_hotplug", vcpus=2)) == ["device_del"]
        return
    assert names(live.step(slot={"core-id": 3}, state="absent")) == ["device_del"]
    vm.guest_sees(cpus=2)
    assert cores(vm) == {0, 1}
    live.step(vcpus=3)  # slots are taken from the lowest up, whoever has been there
    assert cores(vm) == {0, 1, 2}
    vm.observer.send("device_add", free_slot(vm, 3))  # by hand, and without an id
    vm.guest_sees(cpus=4)
    live.same(vcpus=4)
    assert names(live.step(vcpus=1)) == ["device_del"] * 3
    assert cores(vm) == {0} and running(vm) == 1
    live.same(slot={"core-id": 3}, state="absent")
    vm.guest_sees(cpus=1)


def test_drift_and_somebody_elses_ids(cold: Lifecycle) -> None:
    vm = cold.vm
    run_module(vm, "qemu_device", id="cpu1", driver="virtio-rng-pci", bus="rp0")  # takes the id
    done = cold.step(vcpus=2)
    assert [cpu.get("id") for cpu in done["cpus"]] == [None, "cpu17"]
    vm.observer.send("device_add", free_slot(vm, 7))
    cold.same(vcpus=3)
    cold.same(slot={"core-id": 7})
    assert cold.step(slot={"core-id": 5})["cpus"][-2]["id"] == "cpu5"
    assert cores(vm) == {0, 1, 5, 7} and running(vm) == 4
    assert names(cold.step(vcpus=6, wait=False)) == ["device_add"] * 2
    assert cores(vm) == {0, 1, 2, 3, 5, 7}


def test_what_reading_can_tell_is_refused(cold: Lifecycle) -> None:
    for words, options in (
        (("vcpus", "17", "room for 16"), {"vcpus": 17}),
        (("vcpus", "at least 1"), {"vcpus": 0}),
        (("core-id=99", "not a slot", "core-id=15"), {"slot": {"core-id": 99}}),
        (("node=1", "not a slot"), {"slot": {"node": 1}}),
        (("socket-id=0", "several slots"), {"slot": {"socket-id": 0}}),
        (("slot", "'two'"), {"slot": {"core-id": "two"}}),
        (("slot", "inf"), {"slot": {"core-id": float("inf")}}),
        (("topology",), {"slot": {}}),
        (("core-id=0", "started with"), {"slot": {"core-id": 0}, "state": "absent"}),
        (("vcpus", "slot"), {"vcpus": 2, "slot": {"core-id": 1}}),
        (("vcpus", "slot"), {}),
        (("slot",), {"vcpus": 2, "state": "absent"}),
    ):
        cold.refused(*words, **options)
    assert cores(cold.vm) == {0}


def test_cpus_that_the_vm_was_started_with_stay(start_vm: Any) -> None:
    life = Lifecycle(start_vm(args=["-smp", "2,maxcpus=4"]), "qemu_cpu_hotplug")
    life.refused("vcpus", "1", "started with", vcpus=1)
    assert running(life.vm) == 2


def test_a_guest_that_is_not_ready_keeps_its_cpu(cold: Lifecycle) -> None:
    vm = cold.vm
    cold.step(vcpus=2)
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_cpu_hotplug", vcpus=1, timeout=10)
    if is_since(vm.version, "11.1"):  # it takes the command, and the guest may still give its CPU back
        assert failed.value.result["pending"]
    else:
        assert failed.value.result["error"]["class"] == "GenericError"
        assert "not made itself ready" in failed.value.result["msg"]
    assert running(vm) == 2


def test_a_failure_in_the_middle_says_what_stays(cold: Lifecycle) -> None:
    """The answer to the first is lost: it can't be taken back from a guest that isn't there, and that is said."""
    vm = cold.vm
    with Proxy(vm.qmp, "cut", "device_add") as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_cpu_hotplug", vcpus=3)
    assert "lost QEMU" in failed.value.result["msg"]
    assert "could not be taken back: device_del cpu1" in failed.value.result["msg"]
    assert cores(vm) == {0, 1}
    assert names(cold.step(vcpus=3)) == ["device_add"]  # the next run completes it
    assert cores(vm) == {0, 1, 2}


def test_a_guest_that_refuses_and_one_that_has_not_answered(live: Lifecycle) -> None:
    vm = live.vm
    live.step(vcpus=2)
    vm.guest_sees(cpus=2)
    vm.run_in_guest("echo 0 >/sys/firmware/acpi/hotplug/processor/enabled")
    result = live.refused("refused", "cpu1", "status 128", foretold=False, vcpus=1)
    assert "pending" not in result
    vm.observer.execute("stop")
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_cpu_hotplug", vcpus=1, timeout=2.5)
    assert failed.value.result["pending"] is True
    assert "paused" in failed.value.result["msg"]
    assert cores(vm) == {0, 1}


@pytest.mark.parametrize("machine", ["none", "microvm"])
def test_a_machine_without_cpu_hotplug_says_so(start_vm: Any, machine: str) -> None:
    life = Lifecycle(start_vm(machine=machine), "qemu_cpu_hotplug")
    life.refused("no CPU hot-plug", vcpus=2)
    life.refused("no CPU hot-plug", slot={"core-id": 1})
    if machine == "microvm":
        assert life.same(vcpus=1)["cpus"][0]["vcpus"] == 1  # what is there already needs no hot-plug


def test_as_ansible_runs_it(cold: Lifecycle, ansible_task: Any) -> None:
    vm = cold.vm
    given = {"socket": vm.qmp, "vcpus": 3}
    assert ansible_task("qemu_cpu_hotplug", given, check=True).changed
    assert running(vm) == 1
    assert len(ansible_task("qemu_cpu_hotplug", given).result["cpus"]) == 3
    assert not ansible_task("qemu_cpu_hotplug", given).changed
    bad = ansible_task("qemu_cpu_hotplug", {**given, "slot": {"core-id": 1}})
    assert bad.failed and "mutually exclusive" in bad.result["msg"]
