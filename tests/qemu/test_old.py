# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest QEMU that is supported, 5.2: the same tasks, and what it can't do.

Its `pc` machine, since a guest answers hot-plug there: PCI devices go to `pci.0`, or nowhere in particular.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.observer import ObserverError
from support.vm import OLDEST, VM

MB = 1 << 20
LIVE_VM = {
    "memory": "256,slots=4,maxmem=2G",
    "scsi": True,
    "args": ["-smp", "1,maxcpus=8", "-device", "virtio-balloon-pci,id=balloon0"],
}


@pytest.fixture(scope="module")
def qemu_version() -> str:
    return OLDEST


def test_a_disk(live_vm: VM) -> None:
    vm, life, clean = live_vm, Lifecycle(live_vm, "qemu_disk"), live_vm.fingerprint()
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "serial": "DATA01", "cache": {"direct": True}}
    assert names(life.step(**given, bus="pci.0", addr="0x9")) == ["blockdev-add", "device_add"]
    vm.guest_sees(blk={"vda"})
    assert vm.run_in_guest("cat /sys/block/vda/serial").strip() == "DATA01"
    assert names(life.step(id="d0", size="24M")) == ["block_resize"]
    life.same(id="d0", bus="pci.0", addr="09.0")
    life.refused("serial", "'DATA01'", "recreate", **{**given, "serial": "OTHER"})
    assert names(life.step(**{**given, "serial": "OTHER"}, recreate=True)) == ["device_del", "device_add"]
    bad: dict[str, Any] = {**given, "serial": "NEW", "options": {"logical_block_size": 3000}, "recreate": True}
    vm.guest_sees(blk={"vda"})
    life.refused("logical_block_size", "taken back: device_add", foretold=False, **bad)
    vm.guest_sees(blk={"vda"})
    assert names(life.step(id="d0", state="absent")) == ["device_del", "blockdev-del"]
    assert vm.fingerprint() == clean


def test_a_guest_saved_and_loaded(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    path = tmp_path / "saved"
    vm = start_vm(memory="64")
    vm.observer.execute("cont")
    with pytest.raises(ModuleFailed, match="is the first that can do it in parallel"):
        run_module(vm, "qemu_save", path=str(path), parallel=2)
    assert run_module(vm, "qemu_save", path=str(path))["changed"] and vm.wait_exit() == 0
    there = start_vm(memory="64", args=["-incoming", "defer"])
    assert run_module(there, "qemu_save", path=str(path), state="running")["changed"]
    assert there.observer.status() == "running" and not list(tmp_path.iterdir())


def test_a_disk_behind_scsi(live_vm: VM) -> None:
    life = Lifecycle(live_vm, "qemu_disk")
    life.step(id="s0", driver="scsi-hd", bus="scsi0.0", scsi_id=1, lun=2, filename=live_vm.image("s.img"))
    life.step(id="s0", state="absent")


def test_media_and_limits(live_vm: VM) -> None:
    """This QEMU can all of it; how a medium is cached, which others change where it is, takes it out and puts it in again."""
    vm, life, clean = live_vm, Lifecycle(live_vm, "qemu_disk"), live_vm.fingerprint()
    given: dict[str, Any] = {"id": "cd", "driver": "scsi-cd", "bus": "scsi0.0", "read_only": True}
    for name in ("1.iso", "2.iso"):
        life.step(**given, filename=vm.image(name, "1M"), limits={"iops": 100}, limit_group="g")
        found = next(entry for entry in vm.observer.execute("query-block") if entry.get("qdev") == "cd")
        told = [found["inserted"][key] for key in ("file", "ro", "iops", "group")]
        assert told == [f"{vm.directory}/{name}", True, 100, "g"] and not found["tray_open"]
    assert "blockdev-remove-medium" in names(life.step(**given, cache={"no_flush": True}))
    life.step(id="cd", filename="")
    life.refused("no medium", id="cd", limits={"iops": 5})
    life.step(id="cd", state="absent")
    life.step(id="d0", filename=vm.image("d.img"), bus="pci.0", limits={"bps": "1M"}, write_threshold="8M")
    life.step(id="d0", state="absent")
    assert vm.fingerprint() == clean


def test_a_nic(live_vm: VM) -> None:
    vm, life, clean = live_vm, Lifecycle(live_vm, "qemu_nic"), live_vm.fingerprint()
    given: dict[str, Any] = {"id": "n0", "mac": "52:54:00:ab:cd:01", "netdev": {"type": "user"}}
    assert names(life.step(**given)) == ["netdev_add", "device_add"]
    vm.guest_sees(net={"lo", "eth0"})
    other: dict[str, Any] = {**given, "netdev": {"type": "user", "options": {"net": "10.9.0.0/24"}}}
    assert len(life.step(**other, recreate=True)["commands"]) == 4
    vm.guest_sees(net={"lo", "eth0"})
    assert names(life.step(id="n0", state="absent")) == ["device_del", "netdev_del"]
    assert vm.fingerprint() == clean


def test_netdevs_of_one_id(paused_vm: VM) -> None:
    """QEMU makes as many of them as it is told to; the collection makes one."""
    vm, life = paused_vm, Lifecycle(paused_vm, "qemu_netdev")
    life.step(id="u0", type="user")
    life.refused("u0", "recreate", id="u0", type="hubport", options={"hubid": 1})
    assert vm.observer.hmp("info network").count("u0:") == 1
    life.step(id="u0", state="absent")
    vm.observer.execute("netdev_add", type="user", id="u1")
    vm.observer.execute("netdev_add", type="user", id="u1")
    assert vm.observer.hmp("info network").count("u1:") == 2  # what the collection is there to prevent


def test_a_node_is_not_reopened(paused_vm: VM) -> None:
    vm, life = paused_vm, Lifecycle(paused_vm, "qemu_blockdev")
    given: dict[str, Any] = {"node_name": "n0", "driver": "qcow2", "filename": vm.image("a.qcow2", "8M", "qcow2")}
    life.step(**given)
    assert not vm.observer.node("n0")["ro"]
    for change, word in (({"read_only": True}, "read_only"), ({"cache": {"direct": True}}, "cache.direct")):
        life.refused(word, "False", "True", "recreate", **given, **change)
    assert names(life.step(**given, read_only=True, recreate=True)) == ["blockdev-del", "blockdev-add"]
    assert vm.observer.node("n0")["ro"]
    life.step(node_name="n0", state="absent")


def test_any_device(live_vm: VM) -> None:
    vm, life = live_vm, Lifecycle(live_vm, "qemu_device")
    given: dict[str, Any] = {"id": "r0", "driver": "virtio-rng", "options": {"max-bytes": "1k", "period": 1000}}
    added = life.step(**given)
    assert added["device"]["driver"] == "virtio-rng-pci" and added["device"]["bus"] == "pci.0"
    vm.guest_has_rng()
    life.refused("options.max-bytes", "1024", "2048", "recreate", **{**given, "options": {"max-bytes": 2048}})
    life.step(id="r0", state="absent")
    life.refused("no property 'nosuch'", id="r1", driver="virtio-rng-pci", options={"nosuch": 1})
    life.refused("isa.0", "hot-plug", id="r1", driver="isa-serial", bus="isa.0")
    vm.observer.execute("device_add", driver="virtio-rng-pci", id="r2")
    with pytest.raises(ObserverError, match="Duplicate ID"):
        vm.observer.execute("device_add", driver="virtio-rng-pci", id="r2")
    life.same(id="r2", driver="virtio-rng-pci")
    vm.guest_has_rng()
    vm.observer.execute("stop")
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_device", id="r2", state="absent", timeout=2.5)
    assert failed.value.result["pending"] and "paused" in failed.value.result["msg"]
    vm.observer.execute("cont")
    run_module(vm, "qemu_device", id="r2", state="absent")
    assert vm.plugged() == {}


def test_memory(live_vm: VM) -> None:
    vm, life, clean = live_vm, Lifecycle(live_vm, "qemu_memory_hotplug"), live_vm.fingerprint()
    before = vm.guest_state()["memkb"]
    assert names(life.step(id="dimm0", size="128M")) == ["object-add", "device_add"]
    vm.guest_sees(memkb=lambda kb: kb > before + 100 * 1024)
    life.refused("size", str(128 * MB), str(256 * MB), "recreate", id="dimm0", size="256M")
    assert names(life.step(id="dimm0", size="256M", recreate=True))[-1] == "device_add"
    vm.guest_sees(memkb=lambda kb: kb > before + 200 * 1024)
    assert names(life.step(id="dimm0", state="absent")) == ["device_del", "object-del"]
    assert vm.fingerprint() == clean


def test_how_much_memory_fits_is_not_told(start_vm: Any) -> None:
    """Check mode can't foresee it; QEMU's own error comes, and nothing stays behind."""
    life = Lifecycle(start_vm(memory="256,slots=1,maxmem=512M"), "qemu_memory_hotplug")
    for vm, size, words in (
        (life.vm, "1G", ("device_add", "taken back: object-del", "space")),
        (start_vm(), "64M", ("device_add", "taken back: object-del", "slot")),
    ):
        assert run_module(vm, "qemu_memory_hotplug", check=True, id="m0", size=size)["changed"]
        result = Lifecycle(vm, "qemu_memory_hotplug").refused(*words, foretold=False, id="m0", size=size)
        assert result["error"]["class"] == "GenericError"
    life.step(id="m0", size="64M")
    life.refused("device_add", "slot", foretold=False, id="m1", size="64M")
    life.refused("2 MiB", id="m1", size="3M")


def test_virtio_mem(live_vm: VM) -> None:
    vm, life = live_vm, Lifecycle(live_vm, "qemu_memory_hotplug")
    life.step(id="v0", kind="virtio-mem", size="512M", requested_size="128M")
    assert life.step(id="v0", requested_size="64M")["memory_device"]["size"] == 64 * MB
    life.refused("virtio-mem", "8.1", id="v0", state="absent")
    vm.kill()  # for the next test another one, without it


def test_the_balloon(live_vm: VM) -> None:
    life = Lifecycle(live_vm, "qemu_balloon")
    life.step(size="192M")
    assert abs(live_vm.observer.look("query-balloon")["actual"] - 192 * MB) <= MB
    life.step(size="256M")


def test_cpus_come_and_stay(live_vm: VM) -> None:
    """Today's guests don't see them come, and QEMU refuses to take one back."""
    vm, life = live_vm, Lifecycle(live_vm, "qemu_cpu_hotplug")
    added = life.step(vcpus=3)
    assert [cpu["slot"]["socket-id"] for cpu in added["cpus"]] == [0, 1, 2]
    life.step(slot={"socket-id": 5})
    assert len(vm.observer.look("query-cpus-fast")) == 4
    result = life.refused("not made itself ready", foretold=False, vcpus=3)
    assert result["error"]["class"] == "GenericError"
    life.refused("room for 8", vcpus=9)
    vm.kill()


def test_its_information(paused_vm: VM) -> None:
    told = run_module(paused_vm, "qemu_info", gather_subset=["all"])["vm"]
    assert told["version"]["qemu"]["major"] == 5


def test_a_disk_snapshot_can_be_taken_and_committed_and_not_gone_back_to(live_vm: VM) -> None:
    vm, life = live_vm, Lifecycle(live_vm, "qemu_disk_snapshot")
    disk: dict[str, Any] = {"id": "s0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("s.img")}
    run_module(vm, "qemu_disk", **disk)
    life.step(name="s1")
    answer = life.refused("6.2 and later can", "was kept", foretold=False, name="s1", state="reverted")
    assert "after it was realized" in answer["error"]["desc"] and "not_rolled_back" not in answer
    assert vm.observer.status() == "running" and not (vm.directory / "s0@s1~1.qcow2").exists()
    life.step(name="s1", state="absent")
    run_module(vm, "qemu_disk", id="s0", state="absent")


def test_a_backup_can_be_taken_of_a_guest_that_writes_to_it_directly_alone(live_vm: VM) -> None:
    vm, life = live_vm, Lifecycle(live_vm, "qemu_backup")
    image = vm.image("k.qcow2", "8M", "qcow2")
    run_module(vm, "qemu_disk", id="k0", driver="scsi-hd", bus="scsi0.0", filename=image, format="qcow2")
    where: dict[str, Any] = {"name": "daily", "path": f"{vm.directory}/bk", "disks": ["k0"]}
    for level in ("full", "incremental"):
        done = run_module(vm, "qemu_backup", **where)["backup"]
        assert done["level"] == level, done["why"]
        vm.observer.hmp('qemu-io -d k0 "write -P 2 1M 64k"')
    for refused in ({"fleece": str(vm.directory)}, {"state": "exported", "listen": f"{vm.directory}/nbd"}):
        life.refused(
            "this QEMU has no views of a disk as it was (snapshot-access): 7.2 and later have", **{**where, **refused}
        )
    run_module(vm, "qemu_backup", state="absent", remove_data=True, **where)
    run_module(vm, "qemu_disk", id="k0", state="absent")


def test_nobody_asks_for_block_nodes_beside_a_backup_that_is_over(live_vm: VM) -> None:
    """This QEMU crashes then: of somebody else's such job the task tells, and its own are not kept."""
    vm = live_vm
    disk: dict[str, Any] = {"id": "k0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("o.img")}
    run_module(vm, "qemu_disk", **disk)
    target: dict[str, Any] = {"node_name": "copy", "driver": "file", "filename": vm.image("copy.img")}
    run_module(vm, "qemu_blockdev", **target)
    vm.observer.execute("blockdev-backup", job_id="b", device="k0-node", target="copy", sync="full", auto_dismiss=False)
    vm.observer.wait_event("JOB_STATUS_CHANGE", id="b", status="concluded")
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"job b: this backup is over.*qemu_block_job"):
            run_module(vm, "qemu_blockdev", check=check, **target)
    assert names(run_module(vm, "qemu_block_job", id="b", state="finished")) == ["job-dismiss"]

    def copy(**options: Any) -> dict[str, Any]:
        return run_module(vm, "qemu_block_job", operation="backup", device="k0", **options)

    for state in ("running", "finished"):
        begun = copy(id=state, target="copy", state=state)
        assert names(begun) == ["blockdev-backup"]
        vm.observer.wait_event("BLOCK_JOB_COMPLETED", device=state)
        assert vm.observer.look("query-jobs") == []
    run_module(vm, "qemu_info", gather_subset=["block_nodes"])
    run_module(vm, "qemu_blockdev", node_name="copy", state="absent")
    run_module(vm, "qemu_disk", id="k0", state="absent")


def test_disks_do_not_go_along(paused_vm: VM) -> None:
    run_module(paused_vm, "qemu_disk", id="d0", filename=paused_vm.image("a.img"), bus="pci.0", addr="0x9")
    life = Lifecycle(paused_vm, "qemu_migrate")
    life.refused("this QEMU has no yank", uri="unix:/nowhere", copy_disks={"address": "/nowhere"})


def test_a_text_screen_and_keys(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(args=["-device", "VGA", "-boot", "menu=on,splash-time=60000"])
    vm.observer.execute("cont")
    expect = [{"text": "Press ESC for boot menu", "keys": ["esc"]}, {"text": "Select boot device:"}]
    options: dict[str, Any] = {"from": "screen", "expect": expect, "stable": 0.5}
    done = run_module(vm, "qemu_console", **options)
    assert names(done) == ["send-key"] and "Select boot device:" in done["seen"]
