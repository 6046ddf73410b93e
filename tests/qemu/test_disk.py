# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_disk: a disk's whole life with a live guest, and what must be refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

LIVE_VM = {"scsi": True}


@pytest.fixture
def disk(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_disk")


def test_a_whole_life(disk: Lifecycle) -> None:
    vm = disk.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "bus": "rp0", "serial": "DATA01"}

    added = disk.step(**given)
    assert names(added) == ["blockdev-add", "device_add"]
    assert vm.plugged() == {"d0": "virtio-blk-pci"}
    assert vm.observer.qom_get("/machine/peripheral/d0", "drive") == "d0-node"
    vm.guest_sees(blk={"vda"})
    assert vm.run_in_guest("cat /sys/block/vda/serial").strip() == "DATA01"
    assert added["device"]["options"]["serial"] == "DATA01"
    assert added["blockdev"]["size"] == 16 << 20

    disk.refused("options.serial", "'DATA01'", "'OTHER'", "recreate", **{**given, "serial": "OTHER"})

    grown = disk.step(id="d0", size="24M")
    assert names(grown) == ["block_resize"]
    assert vm.observer.node("d0-node")["image"]["virtual-size"] == 24 << 20
    assert int(vm.run_in_guest("cat /sys/block/vda/size")) == (24 << 20) // 512
    disk.same(id="d0", size=str(24 << 20))
    disk.refused("size", "never shrunk", id="d0", size="8M")

    again = disk.step(**{**given, "serial": "OTHER"}, recreate=True)
    assert names(again) == ["device_del", "device_add"]
    assert vm.observer.qom_get("/machine/peripheral/d0", "serial") == "OTHER"

    gone = disk.step(id="d0", state="absent")
    assert names(gone) == ["device_del", "blockdev-del"]
    assert vm.fingerprint() == clean
    vm.guest_sees(blk=set())


def test_every_option_reaches_qemu(disk: Lifecycle) -> None:
    vm = disk.vm
    vm.observer.execute("object-add", qom_type="iothread", id="io0")
    done = disk.step(
        id="d0",
        node_name="n0",
        filename=vm.image("q.qcow2", "8M", "qcow2"),
        format="qcow2",
        driver="virtio-blk-pci",
        bus="rp1",
        addr="0x0",
        serial="S",
        queues=2,
        shared=True,
        discard="unmap",
        iothread="io0",
        romfile="",
        disable_modern=True,
        options={
            "logical_block_size": "4k",
            "physical_block_size": 4096,
            "write-cache": "off",
            "disable-legacy": False,
        },
        # as QEMU has them, or as qemu_blockdev does
        blockdev={
            "read-only": True,
            "detect-zeroes": "on",
            "cache": {"direct": "yes", "no-flush": True},
            "aio": "native",
            "lazy-refcounts": True,
        },
    )
    node = vm.observer.node("n0")
    assert (node["drv"], node["ro"], node["detect_zeroes"]) == ("qcow2", True, "on")
    assert node["cache"] == {"writeback": False, "direct": True, "no-flush": True} or node["cache"]["no-flush"]
    want = {
        "serial": "S",
        "num-queues": 2,
        "share-rw": True,
        "iothread": "/objects/io0",
        "romfile": "",
        "disable-modern": True,
        "logical_block_size": 4096,
        "write-cache": "off",
    }
    assert {name: vm.observer.qom_get("/machine/peripheral/d0", name) for name in want} == want
    blockdev = done["commands"][0]["arguments"]
    assert (blockdev["discard"], blockdev["file"]["aio"], blockdev["lazy-refcounts"]) == ("unmap", "native", True)
    disk.step(id="d0", node_name="n0", state="absent")


@pytest.mark.parametrize("driver", ["scsi-hd", "scsi-cd"])
def test_behind_a_scsi_controller(disk: Lifecycle, driver: str) -> None:
    vm = disk.vm
    given: dict[str, Any] = {
        "id": "s0",
        "driver": driver,
        "bus": "scsi0.0",
        "scsi_id": 1,
        "lun": 3,
        "filename": vm.image("s.img"),
    }
    disk.step(**given)
    where = [vm.observer.qom_get("/machine/peripheral/s0", name) for name in ("scsi-id", "lun")]
    assert where == [1, 3]
    disk.step(id="s0", state="absent")


def test_nvme_and_a_host_device(disk: Lifecycle) -> None:
    done = disk.step(id="n0", driver="nvme", bus="rp2", serial="NV1", filename="/dev/null", read_only=True)
    assert done["commands"][0]["arguments"]["file"] == {"driver": "host_device", "filename": "/dev/null"}
    disk.step(id="n0", state="absent")


def test_half_done_states_are_completed(disk: Lifecycle) -> None:
    vm = disk.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "bus": "rp0"}
    run_module(vm, "qemu_blockdev", node_name="d0-node", filename=given["filename"])
    assert names(disk.step(**given)) == ["device_add"]
    vm.guest_sees(blk={"vda"})
    vm.observer.execute("device_del", id="d0")
    vm.observer.wait_event("DEVICE_DELETED", device="d0")
    assert names(disk.step(id="d0", state="absent")) == ["blockdev-del"]
    assert vm.fingerprint() == clean


def test_a_failure_in_the_middle_leaves_nothing(disk: Lifecycle) -> None:
    image = disk.vm.image("a.img")
    bad: dict[str, Any] = {"id": "d0", "filename": image, "bus": "rp0", "options": {"logical_block_size": 3000}}
    result = disk.refused("device_add", "logical_block_size", "taken back: blockdev-del", foretold=False, **bad)
    assert result["error"]["class"] == "GenericError"
    assert "logical_block_size" in result["error"]["desc"]
    assert result["rolled_back"] == [{"execute": "blockdev-del", "arguments": {"node-name": "d0-node"}}]


def test_a_failed_recreation_gives_the_old_disk_back(disk: Lifecycle) -> None:
    vm = disk.vm
    given: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img"), "bus": "rp0", "serial": "OLD", "queues": 1}
    disk.step(**given)
    vm.guest_sees(blk={"vda"})
    before = _settings(vm, "d0")
    bad: dict[str, Any] = {**given, "serial": "NEW", "options": {"logical_block_size": 3000}, "recreate": True}
    result = disk.refused("logical_block_size", "taken back: device_add", foretold=False, **bad)
    assert [step["execute"] for step in result["rolled_back"]] == ["device_add"]
    assert _settings(vm, "d0") == before
    other: dict[str, Any] = {
        **given,
        "filename": vm.image("b.img"),
        "options": {"logical_block_size": 3000},
        "recreate": True,
    }
    result = disk.refused("logical_block_size", foretold=False, **other)
    assert [step["execute"] for step in result["rolled_back"]] == ["blockdev-del", "blockdev-add", "device_add"]
    assert _settings(vm, "d0") == before
    assert vm.observer.node("d0-node")["file"] == given["filename"]


def _settings(vm: VM, ident: str) -> dict[str, Any]:
    """Every property of a device that can be set, but for memory that QEMU allots anew."""
    path = f"/machine/peripheral/{ident}"
    driver = vm.observer.devices()[ident]
    known = vm.observer.execute("device-list-properties", typename=driver)
    return {item["name"]: vm.observer.qom_get(path, item["name"]) for item in known if "link<" not in item["type"]}


def test_a_node_that_goes_with_its_device(disk: Lifecycle) -> None:
    """The overlay of a snapshot belongs to no monitor: it ends when nothing uses it any more."""
    vm = disk.vm
    bus: dict[str, Any] = {"driver": "virtio-blk-pci", "bus": "rp0"}
    disk.step(id="d0", filename=vm.image("a.raw"), **bus)
    overlay = {"snapshot-file": f"{vm.directory}/overlay.qcow2", "snapshot-node-name": "over", "format": "qcow2"}
    vm.observer.execute("blockdev-snapshot-sync", **{"node-name": "d0-node"}, **overlay)
    assert names(disk.step(id="d0", node_name="over", state="absent")) == ["device_del", "blockdev-del"]
    assert "d0" not in vm.observer.devices() and "over" not in vm.observer.nodes()
    disk.step(id="d0", state="absent")
    assert "d0-node" not in vm.observer.nodes()


@pytest.mark.parametrize("named", [None, "KEPT"])
def test_what_a_guest_knows_a_scsi_disk_by_follows_its_serial(disk: Lifecycle, named: str | None) -> None:
    options: dict[str, Any] = {"options": {"device_id": named}} if named else {}
    image = disk.vm.image("s0.raw")
    disk.step(id="s0", driver="scsi-hd", bus="scsi0.0", filename=image, serial="FIRST", **options)
    for serial in ("SECOND", "THIRD"):
        disk.step(id="s0", serial=serial, recreate=True)
        assert disk.vm.observer.qom_get("/machine/peripheral/s0", "device_id") == (named or serial)
    disk.step(id="s0", state="absent")


def test_a_recreation_keeps_what_was_not_named(disk: Lifecycle) -> None:
    vm = disk.vm
    image = vm.image("q.qcow2", "8M", "qcow2")
    disk.step(
        id="s0", driver="scsi-hd", bus="scsi0.0", lun=3, serial="OLD", shared=True, filename=image, format="qcow2"
    )
    disk.step(id="s0", serial="NEW", recreate=True)
    want = {"serial": "NEW", "lun": 3, "share-rw": True, "drive": "s0-node"}
    assert {name: vm.observer.qom_get("/machine/peripheral/s0", name) for name in want} == want
    assert vm.observer.devices()["s0"] == "scsi-hd"
    other = vm.image("r.qcow2", "8M", "qcow2")
    disk.step(id="s0", filename=other, recreate=True)
    assert vm.observer.node("s0-node")["drv"] == "qcow2"
    assert vm.observer.qom_get("/machine/peripheral/s0", "serial") == "NEW"
    disk.step(id="s0", state="absent")


def test_a_controller_with_disks_on_it_stays(disk: Lifecycle) -> None:
    disk.step(id="s0", driver="scsi-hd", bus="scsi0.0", filename=disk.vm.image("a.img"))
    Lifecycle(disk.vm, "qemu_device").refused("carries s0", id="scsi0", state="absent")
    Lifecycle(disk.vm, "qemu_device").refused("can't be unplugged", id="rp0", state="absent")
    disk.step(id="s0", state="absent")


def test_what_reading_can_tell_is_refused_before_anything_is_sent(disk: Lifecycle) -> None:
    vm = disk.vm
    image = vm.image("a.img")
    disk.step(id="d0", filename=image, bus="rp0")
    new = {"id": "d1", "filename": vm.image("b.img"), "bus": "rp1"}
    refusals: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("port rp0", "occupied by device d0", "free ports: rp1"), {**new, "bus": "rp0"}),
        (("pcie.0", "hot-plug", "rp1"), {**new, "bus": "pcie.0"}),
        (("pcie.0", "hot-plug", "rp1"), {"id": "d1", "filename": image}),
        (("no bus 'rp99'",), {**new, "bus": "rp99"}),
        (("cannot use /nosuch/x", "No such file"), {**new, "filename": "/nosuch/x"}),
        (("is a directory",), {**new, "filename": "/tmp"}),
        (("no property 'seriall'", "'serial'"), {**new, "options": {"seriall": "x"}}),
        (("no property 'seriall'", "'serial'"), {"id": "d0", "options": {"seriall": "x"}}),
        (("'virtio-blk-zz'",), {**new, "driver": "virtio-blk-zz"}),
        (("no object 'io9'",), {**new, "iothread": "io9"}),
        (("num-queues", "uint16"), {**new, "options": {"num-queues": "many"}}),
        (("'1bad'", "letter"), {**new, "id": "1bad"}),
        (("31 characters",), {**new, "id": "d" * 30}),
        (("driver", "nosuchfmt"), {**new, "format": "nosuchfmt"}),
        (("not a valid size", "lots"), {**new, "size": "lots"}),
        (("own option format",), {**new, "blockdev": {"driver": ["a"]}}),
        (("blockdev: cache",), {**new, "blockdev": {"cache": "none"}}),
        (("blockdev: cache", "'bypass'"), {**new, "blockdev": {"cache": {"bypass": True}}}),
        (("addr: 17", "'0x11'"), {**new, "addr": 17}),
        (("timeout: 0",), {**new, "timeout": 0}),
        (("connect_timeout: -1",), {**new, "connect_timeout": -1}),
        (("in use by device d0", "share-rw"), {**new, "node_name": "d0-node", "filename": image}),
    ]
    for words, options in refusals:
        disk.refused(*words, **options)
    disk.step(id="d0", state="absent")


def test_an_image_with_a_format_is_not_given_to_a_guest_as_raw(disk: Lifecycle) -> None:
    """It would see the image's own header, and write over it."""
    image = disk.vm.image("a.qcow2", "8M", "qcow2")
    given: dict[str, Any] = {"id": "d0", "filename": image, "bus": "rp0"}
    disk.refused("qcow2", "name the format", **given)
    Lifecycle(disk.vm, "qemu_blockdev").refused("qcow2", node_name="n0", filename=image)
    disk.step(**given, format="raw")
    disk.same(**given)


def test_an_image_in_use_by_another_vm(disk: Lifecycle, start_vm: Any) -> None:
    image = disk.vm.image("q.qcow2", "8M", "qcow2")
    start_vm(args=["-drive", f"file={image},format=qcow2,if=none,id=x", "-device", "virtio-blk-pci,drive=x,bus=rp0"])
    given: dict[str, Any] = {"id": "d0", "filename": image, "format": "qcow2", "bus": "rp0"}
    result = disk.refused("another process uses this image", foretold=False, **given)
    assert "write" in result["error"]["desc"]


def test_an_unplug_that_the_guest_does_not_answer_is_pending(paused_vm: VM) -> None:
    given: dict[str, Any] = {"id": "d0", "filename": paused_vm.image("a.img"), "bus": "rp0"}
    run_module(paused_vm, "qemu_disk", **given)
    for _run in range(2):
        with pytest.raises(ModuleFailed) as failed:
            run_module(paused_vm, "qemu_disk", id="d0", state="absent", timeout=2.5)
        result = failed.value.result
        assert result["pending"] is True
        assert "pending" in result["msg"] and "prelaunch" in result["msg"]
        assert "d0-node" in paused_vm.observer.nodes()
    # A reset lets go of what was asked back, and the next run finishes the job.
    paused_vm.observer.execute("system_reset")
    paused_vm.observer.wait_event("DEVICE_DELETED", device="d0")
    done = run_module(paused_vm, "qemu_disk", id="d0", state="absent")
    assert names(done) == ["blockdev-del"]
    assert "d0-node" not in paused_vm.observer.nodes()


def test_a_node_in_use_by_a_job_stays(disk: Lifecycle) -> None:
    vm = disk.vm
    disk.step(id="d0", filename=vm.image("a.img", "64M"), bus="rp0")
    vm.guest_sees(blk={"vda"})
    vm.observer.send("blockdev-add", {"driver": "null-co", "node-name": "t0", "size": 64 << 20})
    vm.observer.execute("blockdev-mirror", job_id="j0", device="d0-node", target="t0", sync="full", speed=1 << 16)
    disk.refused("in use by", "j0", id="d0", state="absent")
    vm.observer.execute("block-job-cancel", device="j0", force=True)
    vm.observer.wait_event("BLOCK_JOB_CANCELLED", device="j0")
    vm.observer.execute("blockdev-del", node_name="t0")
    disk.step(id="d0", state="absent")


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": live_vm.qmp, "id": "d0", "filename": live_vm.image("a.img"), "bus": "rp0"}
    assert ansible_task("qemu_disk", given, check=True).changed
    assert live_vm.plugged() == {}
    first = ansible_task("qemu_disk", given, diff=True)
    assert first.changed and first.result["diff"]["after"]["device"]["d0"]["bus"] == "rp0"
    assert live_vm.plugged() == {"d0": "virtio-blk-pci"}
    assert not ansible_task("qemu_disk", given).changed
    bad = ansible_task("qemu_disk", {**given, "id": "d1"})
    assert bad.status == "failed" and "occupied by device d0" in bad.result["msg"]
    where = {"QEMU_QMP_SOCKET": live_vm.qmp}
    assert ansible_task("qemu_disk", {"id": "d0", "state": "absent"}, environment=where).changed
    assert live_vm.plugged() == {} and os.path.exists(given["filename"])
