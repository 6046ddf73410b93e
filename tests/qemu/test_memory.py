# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_memory_hotplug: modules that come and go, guests that keep them, and room that is not there."""

from __future__ import annotations

from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

MB = 1 << 20
LIVE_VM = {"memory": "256,slots=4,maxmem=4G", "machine": "q35,nvdimm=on"}


@pytest.fixture
def memory(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_memory_hotplug")


@pytest.fixture
def cold(start_vm: Any) -> Lifecycle:
    """Without a guest."""
    return Lifecycle(start_vm(**LIVE_VM), "qemu_memory_hotplug")


def devices(vm: VM) -> dict[str, dict[str, Any]]:
    """What QEMU has plugged, by id."""
    return {entry["data"]["id"]: entry["data"] for entry in vm.observer.look("query-memory-devices")}


def backend(vm: VM, ident: str) -> dict[str, Any]:
    return {name: vm.observer.qom_get(f"/objects/{ident}", name) for name in ("type", "size", "share", "prealloc")}


def test_a_whole_life(memory: Lifecycle) -> None:
    vm = memory.vm
    clean, before = vm.fingerprint(), vm.guest_state()["memkb"]
    added = memory.step(id="dimm0", size="128M")
    assert names(added) == ["object-add", "device_add"]
    assert added["commands"][0]["arguments"] == {"qom-type": "memory-backend-ram", "id": "dimm0-mem", "size": 128 * MB}
    assert devices(vm)["dimm0"]["size"] == 128 * MB
    assert added["memory_device"]["type"] == "dimm" and added["memory_device"]["size"] == 128 * MB
    vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    memory.same(id="dimm0", size=str(128 * MB), kind="dimm", backend="ram")

    memory.refused("size", str(128 * MB), str(256 * MB), "recreate", id="dimm0", size="256M")
    memory.refused("qom_type", "memory-backend-ram", "recreate", id="dimm0", backend="memfd")
    memory.refused("driver", "'pc-dimm'", "'nvdimm'", id="dimm0", kind="nvdimm")
    failed = memory.refused("device_add", "taken back", foretold=False, id="dimm0", numa_node=9, recreate=True)
    assert [step["execute"] for step in failed["rolled_back"]] == ["device_add"]
    shared = memory.step(id="dimm0", share=True, recreate=True)  # what isn't named stays
    assert names(shared) == ["device_del", "object-del", "object-add", "device_add"]
    assert backend(vm, "dimm0-mem")["share"] and devices(vm)["dimm0"]["size"] == 128 * MB
    again = memory.step(id="dimm0", size="256M", recreate=True)
    assert names(again) == ["device_del", "object-del", "object-add", "device_add"]
    vm.guest_sees(memkb=lambda kb: kb > before + 200 * 1024)

    assert names(memory.step(id="dimm0", state="absent")) == ["device_del", "object-del"]
    assert vm.fingerprint() == clean and devices(vm) == {}
    vm.guest_sees(memkb=lambda kb: kb < before + 1024)


def test_every_option_reaches_qemu(cold: Lifecycle) -> None:
    vm = cold.vm
    done = cold.step(
        id="m0",
        kind="dimm",
        size="64M",
        backend="memfd",
        share=False,
        prealloc=True,
        numa_node=0,
        addr="0x180000000",
        options={"slot": 2},
    )
    assert backend(vm, "m0-mem") == {"type": "memory-backend-memfd", "size": 64 * MB, "share": False, "prealloc": True}
    data = devices(vm)["m0"]
    assert (data["addr"], data["slot"], data["node"]) == (0x180000000, 2, 0)
    assert done["memory_device"]["slot"] == 2
    cold.step(id="m1", size="64M", mem_path=vm.image("mem", "64M"), share=True)
    assert backend(vm, "m1-mem")["type"] == "memory-backend-file" and backend(vm, "m1-mem")["share"] is True
    assert vm.observer.qom_get("/objects/m1-mem", "mem-path") == f"{vm.directory}/mem"
    cold.refused("mem-path", "/other", "recreate", id="m1", mem_path="/other")
    vm.observer.execute("object-add", qom_type="memory-backend-ram", id="mine", size=32 * MB)
    assert names(cold.step(id="m2", size="32M", options={"memdev": "mine"})) == ["device_add"]


def test_an_nvdimm(cold: Lifecycle) -> None:
    vm = cold.vm
    given: dict[str, Any] = {
        "id": "n0",
        "kind": "nvdimm",
        "size": "64M",
        "mem_path": vm.image("nv", "64M"),
        "label_size": "128k",
    }
    cold.step(**given)
    assert backend(vm, "n0-mem")["share"] is True
    assert vm.observer.qom_get("/machine/peripheral/n0", "label-size") == 128 << 10
    cold.refused("nvdimm", "can't unplug", id="n0", state="absent")
    cold.refused("nvdimm", "can't unplug", **{**given, "label_size": "256k", "recreate": True})


def test_virtio_mem_that_the_guest_does_not_follow(cold: Lifecycle) -> None:
    vm = cold.vm
    given: dict[str, Any] = {"id": "v0", "kind": "virtio-mem", "size": "256M", "bus": "rp1"}
    done = run_module(vm, "qemu_memory_hotplug", **given, requested_size="64M", wait=False)
    assert done["memory_device"]["requested_size"] == 64 * MB and done["memory_device"]["size"] == 0
    run_module(vm, "qemu_memory_hotplug", check=True, **given, requested_size="64M", wait=False)
    for requested in ("64M", "128M"):  # asked before or not: it would be waited for
        cold.refused("v0", "prelaunch", "let it run", id="v0", requested_size=requested)
    vm.observer.execute("cont")  # to firmware, which has no driver for it
    for requested in ("64M", "128M"):
        with pytest.raises(ModuleFailed) as failed:
            run_module(vm, "qemu_memory_hotplug", id="v0", requested_size=requested, timeout=2.5)
        for word in ("v0", " 0 of ", "no further"):
            assert word in failed.value.result["msg"]
        assert vm.observer.qom_get("/machine/peripheral/v0", "requested-size") == 64 * MB


def test_half_done_states_are_completed(memory: Lifecycle) -> None:
    vm = memory.vm
    before = vm.guest_state()["memkb"]
    vm.observer.execute("object-add", qom_type="memory-backend-ram", id="dimm0-mem", size=128 * MB)
    assert names(memory.step(id="dimm0", size="128M")) == ["device_add"]
    vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    vm.observer.execute("device_del", id="dimm0")
    vm.observer.wait_event("DEVICE_DELETED", device="dimm0")
    assert names(memory.step(id="dimm0", state="absent")) == ["object-del"]
    vm.guest_sees(memkb=lambda kb: kb < before + 1024)


def test_a_failure_in_the_middle_leaves_nothing(cold: Lifecycle) -> None:
    result = cold.refused("device_add", foretold=False, id="m0", size="64M", numa_node=9)
    assert result["error"]["class"] == "GenericError"
    assert result["rolled_back"] == [{"execute": "object-del", "arguments": {"id": "m0-mem"}}]


def test_without_a_guest_a_removal_is_pending(cold: Lifecycle) -> None:
    vm = cold.vm
    run_module(vm, "qemu_memory_hotplug", id="m0", size="64M")
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_memory_hotplug", id="m0", state="absent", timeout=2.5)
    assert failed.value.result["pending"] is True
    assert "m0-mem" in vm.observer.objects()


def test_what_reading_can_tell_is_refused(cold: Lifecycle) -> None:
    vm = cold.vm
    image = vm.image("mem", "64M")
    cold.step(id="m0", size="64M")
    cold.step(id="m1", size="64M")
    for words, options in (
        (("size", "must be given"), {"id": "m9"}),
        (("not a valid size", "lots"), {"id": "m9", "size": "lots"}),
        (("2 MiB", str(3 * MB)), {"id": "m9", "size": "3M"}),
        (("size",), {"id": "m9", "size": 0}),
        (("do not fit", str(4096 * MB)), {"id": "m9", "size": "4G"}),
        (("m0-mem", "already used by m0"), {"id": "m9", "size": "64M", "options": {"memdev": "m0-mem"}}),
        (("pc.ram", "the machine itself"), {"id": "m9", "size": "256M", "options": {"memdev": "pc.ram"}}),
        (("no property 'nosuch'",), {"id": "m9", "size": "64M", "options": {"nosuch": 1}}),
        (("no property 'pmem'",), {"id": "m9", "size": "64M", "pmem": True}),
        (("multiple of the block size",), {"id": "v9", "kind": "virtio-mem", "size": "65M", "bus": "rp0"}),
        (
            ("requested_size", "more"),
            {"id": "v9", "kind": "virtio-mem", "size": "64M", "bus": "rp0", "requested_size": "66M"},
        ),
        (("hot-plug", "rp0"), {"id": "v9", "kind": "virtio-mem", "size": "64M"}),
        (("'1m'", "letter"), {"id": "1m", "size": "64M"}),
    ):
        cold.refused(*words, **options)
    cold.step(id="m2", size="64M", mem_path=image)
    cold.step(id="m3", size="64M", mem_path=image)
    cold.refused("all 4 slots", id="m4", size="64M")
    cold.step(id="v0", kind="virtio-mem", size="64M", bus="rp0")  # which takes none


def test_a_vm_without_room(paused_vm: VM) -> None:
    life = Lifecycle(paused_vm, "qemu_memory_hotplug")
    life.refused("no room", "slots", "maxmem", id="m0", size="64M")
    life.refused("nvdimm=on", id="m0", kind="nvdimm", size="64M")


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": live_vm.qmp, "id": "dimm0", "size": "128M"}
    before = live_vm.guest_state()["memkb"]
    assert ansible_task("qemu_memory_hotplug", given, check=True).changed
    assert devices(live_vm) == {}
    assert ansible_task("qemu_memory_hotplug", given).result["memory_device"]["size"] == 128 * MB
    live_vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    assert not ansible_task("qemu_memory_hotplug", given).changed
    assert ansible_task("qemu_memory_hotplug", {**given, "state": "absent"}).changed
    assert devices(live_vm) == {}
    live_vm.guest_sees(memkb=lambda kb: kb < before + 1024)


def test_virtio_mem_grows_and_shrinks(memory: Lifecycle) -> None:
    vm = memory.vm
    before = vm.guest_state()["memkb"]
    given: dict[str, Any] = {"id": "v0", "kind": "virtio-mem", "size": "1G", "bus": "rp1"}
    assert names(memory.step(**given, requested_size="128M")) == ["object-add", "device_add", "qom-set"]
    assert devices(vm)["v0"]["size"] == 128 * MB
    vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    assert memory.same(**given)["memory_device"]["requested_size"] == 128 * MB  # what isn't named isn't touched

    grown = memory.step(id="v0", requested_size="256M")
    where = {"path": "/machine/peripheral/v0", "property": "requested-size", "value": 256 * MB}
    assert grown["commands"] == [{"execute": "qom-set", "arguments": where}]
    assert devices(vm)["v0"]["size"] == 256 * MB
    assert memory.step(id="v0", requested_size="64M")["memory_device"]["size"] == 64 * MB
    memory.refused("requested_size", "multiple", str(2 * MB), id="v0", requested_size="1M")
    memory.refused("requested_size", "more than", str(1024 * MB), id="v0", requested_size="2G")
    memory.step(id="v0", requested_size=0)
    vm.guest_sees(memkb=lambda kb: kb < before + 20 * 1024)  # the kernel's account of it stays

    if vm.observer.greeting["version"]["qemu"]["major"] < 8:
        memory.refused("virtio-mem", "8.1", "requested_size", id="v0", state="absent")
        return
    memory.step(id="v0", requested_size="64M")
    assert names(memory.step(id="v0", state="absent")) == ["qom-set", "device_del", "object-del"]
    assert devices(vm) == {}


def test_what_the_guest_keeps(memory: Lifecycle) -> None:
    """An nvdimm always; a module whose memory was brought online for the kernel's own use, and is in use."""
    vm = memory.vm
    memory.step(id="n0", kind="nvdimm", size="128M", mem_path=vm.image("nv", "128M"))
    vm.guest_sees(blk={"pmem0"})
    vm.run_in_guest("echo online_kernel >/sys/devices/system/memory/auto_online_blocks")
    before = vm.guest_state()["memkb"]
    memory.step(id="dimm0", size="128M")
    vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    # inodes can't be moved
    vm.run_in_guest("i=0; while [ $i -lt 5000 ]; do : >/tmp/$i; i=$((i+1)); done", 60)
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_memory_hotplug", id="dimm0", state="absent", timeout=15)
    result = failed.value.result
    assert "refused" in result["msg"] and "status 130" in result["msg"] and "pending" not in result
    assert "dimm0" in devices(vm) and "dimm0-mem" in vm.observer.objects()
