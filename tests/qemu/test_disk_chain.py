# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk is a chain of nodes: what lies above the one that a task names is the same disk, and is never lost by a task.

The VMs are paused and their disks on virtio-scsi, which gives a device back without its guest. `qemu-io` on the human
monitor writes and reads as the guest would: through the device.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import OLDEST, VERSIONS, VM

MB = 1 << 20


@pytest.fixture(scope="module", params=[OLDEST, *VERSIONS])
def qemu_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture
def vm(start_vm: Any) -> VM:
    started: VM = start_vm(scsi=True)
    return started


@pytest.fixture
def disk(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_disk")


@pytest.fixture
def given(vm: VM) -> dict[str, Any]:
    return {
        "id": "data",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": vm.image("data.qcow2", "16M", "qcow2"),
        "format": "qcow2",
    }


def guest(vm: VM, device: str, line: str) -> str:
    """What the device's guest would read or write. An empty answer is a good one (qemu-io prints to QEMU's own output)."""
    return vm.observer.hmp(f'qemu-io -d {device} "{line}"')


def holds(vm: VM, image: str, byte: int) -> bool:
    """Whether an image, as a whole chain of files, has this byte in its first 64 KiB."""
    line = f"read -P {byte:#x} 0 64k"
    done = subprocess.run(
        ["qemu-io", "-r", "-c", line, "-f", "qcow2", image], capture_output=True, text=True, check=False
    )
    return "Pattern verification failed" not in done.stdout and "read 65536/65536" in done.stdout


def drive(vm: VM, device: str = "data") -> str:
    has: str = vm.observer.qom_get(f"/machine/peripheral/{device}", "drive")
    return has


def snapshot_by_qemu(vm: VM) -> str:
    """An overlay that belongs to QEMU, as most tools make them."""
    path = f"{vm.directory}/ov.qcow2"
    vm.observer.execute("blockdev-snapshot-sync", node_name="data-node", snapshot_file=path, snapshot_node_name="ov")
    return path


def snapshot_by_nodes(vm: VM) -> str:
    """An overlay that belongs to whoever has the monitor, as libvirt and backup programs make them."""
    path = vm.image("ov.qcow2", "16M", "qcow2")
    below = {"driver": "file", "filename": path}
    vm.observer.send("blockdev-add", {"driver": "qcow2", "node-name": "ov", "file": below, "backing": None})
    vm.observer.execute("blockdev-snapshot", node="data-node", overlay="ov")
    return path


SNAPSHOTS = pytest.mark.parametrize("snapshot", [snapshot_by_qemu, snapshot_by_nodes])


@SNAPSHOTS
def test_a_disk_below_an_overlay_is_the_disk(disk: Lifecycle, given: dict[str, Any], snapshot: Any) -> None:
    vm = disk.vm
    disk.step(**given)
    guest(vm, "data", "write -P 0x11 0 64k")
    overlay = snapshot(vm)
    guest(vm, "data", "write -P 0x22 0 64k")
    assert disk.same(**given)["unverifiable"] == []
    disk.same(**given, read_only=False)  # QEMU reads the base only, the guest has the overlay
    run_module(vm, "qemu_machine", disks=[given])
    assert drive(vm) == "ov"

    grown = disk.step(**given, size="24M")
    assert grown["commands"] == [{"execute": "block_resize", "arguments": {"node-name": "ov", "size": 24 * MB}}]
    assert vm.observer.node("ov")["image"]["virtual-size"] == 24 * MB
    assert vm.observer.node("data-node")["image"]["virtual-size"] == 16 * MB
    disk.refused("never shrunk", **given, size="16M")

    assert names(disk.step(id="data", state="absent"))[-2:] == ["blockdev-del", "blockdev-del"]
    assert vm.observer.nodes() == set() and "data" not in vm.plugged()
    assert holds(vm, given["filename"], 0x11) and holds(vm, overlay, 0x22)


@SNAPSHOTS
def test_a_disk_made_anew_keeps_its_overlay(disk: Lifecycle, given: dict[str, Any], snapshot: Any) -> None:
    vm = disk.vm
    disk.step(**given)
    overlay = snapshot(vm)
    guest(vm, "data", "write -P 0x22 0 64k")
    disk.refused("serial", "recreate=true", **given, serial="NEW")
    disk.step(**given, serial="NEW", recreate=True)
    assert (drive(vm), vm.observer.qom_get("/machine/peripheral/data", "serial")) == ("ov", "NEW")
    guest(vm, "data", "write -P 0x33 0 64k")
    assert not any(node.startswith("held-") for node in vm.observer.nodes())
    disk.refused("lies below ov", **{**given, "filename": vm.image("other.qcow2", "16M", "qcow2")}, recreate=True)
    disk.step(id="data", state="absent")
    assert holds(vm, overlay, 0x33) and not holds(vm, given["filename"], 0x33)


@SNAPSHOTS
@pytest.mark.parametrize("way", [{"serial": "NEW", "recreate": True}, {"state": "absent"}])
def test_what_fails_in_the_middle_gives_the_whole_chain_back(
    disk: Lifecycle, given: dict[str, Any], snapshot: Any, way: dict[str, Any]
) -> None:
    vm = disk.vm
    disk.step(**given)
    snapshot(vm)
    guest(vm, "data", "write -P 0x22 0 64k")
    bad = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("bad.img")}
    entries = [{**given, **{key: value for key, value in way.items() if key != "recreate"}}]
    entries.append({**bad, "options": {"werror": "bogus"}})
    before = vm.fingerprint()
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_machine", disks=entries, recreate=True)
    assert failed.value.result["rolled_back"] and "not_rolled_back" not in failed.value.result
    assert vm.fingerprint() == before
    assert drive(vm) == "ov"
    disk.same(**given)


def test_what_a_stopped_run_has_held_is_taken_up_by_the_next(disk: Lifecycle, given: dict[str, Any]) -> None:
    vm = disk.vm
    disk.step(**given)
    overlay = snapshot_by_qemu(vm)
    guest(vm, "data", "write -P 0x22 0 64k")
    gone = {"id": "data", "state": "absent"}
    for want in (given, gone):
        held = {"driver": "raw", "node-name": "held-data", "read-only": True, "file": "ov"}
        vm.observer.send("blockdev-add", held)
        vm.observer.execute("device_del", id="data")
        vm.observer.wait_event("DEVICE_DELETED", device="data")
        disk.step(**want)
        assert "held-data" not in vm.observer.nodes()
        assert ("data" in vm.plugged()) == ("state" not in want)
        assert "data" not in vm.plugged() or drive(vm) == "ov"
    assert vm.observer.nodes() == set()
    assert holds(vm, overlay, 0x22)


def test_what_a_killed_run_has_held_beside_its_device_is_let_go(disk: Lifecycle, given: dict[str, Any]) -> None:
    """It was killed while the guest had not given the device back, which then never did."""
    vm = disk.vm
    disk.step(**given)
    overlay = snapshot_by_qemu(vm)
    guest(vm, "data", "write -P 0x22 0 64k")
    for want in ({**given, "serial": "NEW", "recreate": True}, {"id": "data", "state": "absent"}):
        held = {"driver": "raw", "node-name": "held-data", "read-only": True, "file": "ov"}
        vm.observer.send("blockdev-add", held)
        disk.step(**want)
        assert "held-data" not in vm.observer.nodes()
        assert "data" not in vm.plugged() or drive(vm) == "ov"
    assert vm.observer.nodes() == set()
    assert holds(vm, overlay, 0x22)


def test_what_a_killed_run_has_held_till_the_end_is_let_go_by_the_next(vm: VM, given: dict[str, Any]) -> None:
    """It was killed when all else was done."""
    run_module(vm, "qemu_disk", **given)
    snapshot_by_qemu(vm)
    vm.observer.send("blockdev-add", {"driver": "raw", "node-name": "held-data", "read-only": True, "file": "ov"})
    for check in (True, False):
        assert names(run_module(vm, "qemu_disk", check=check, **given)) == ["blockdev-del"]
    assert "held-data" not in vm.observer.nodes() and drive(vm) == "ov"
    Lifecycle(vm, "qemu_disk").same(**given)


def test_a_disk_that_a_killed_run_has_held_grows_at_its_top(disk: Lifecycle, given: dict[str, Any]) -> None:
    """The guest's size, and whether it may write, are the overlay's, also while no device has it."""
    vm = disk.vm
    disk.step(**given)
    snapshot_by_qemu(vm)
    vm.observer.send("blockdev-add", {"driver": "raw", "node-name": "held-data", "read-only": True, "file": "ov"})
    vm.observer.execute("device_del", id="data")
    vm.observer.wait_event("DEVICE_DELETED", device="data")
    done = disk.step(**given, size="32M", read_only=False)
    assert names(done) == ["device_add", "block_resize", "blockdev-del"]
    assert drive(vm) == "ov" and vm.observer.node("ov")["image"]["virtual-size"] == 32 * MB


@pytest.mark.parametrize("section", ["disks", "devices"])
def test_a_purge_leaves_what_a_killed_run_has_held_for_the_disk(vm: VM, given: dict[str, Any], section: str) -> None:
    run_module(vm, "qemu_disk", **given)
    snapshot_by_qemu(vm)
    vm.observer.send("blockdev-add", {"driver": "raw", "node-name": "held-data", "read-only": True, "file": "ov"})
    vm.observer.execute("device_del", id="data")
    vm.observer.wait_event("DEVICE_DELETED", device="data")
    place = {name: given[name] for name in ("id", "driver", "bus")}
    node = {"node_name": "data-node", "driver": "qcow2", "filename": given["filename"]}
    whole: dict[str, Any] = {"disks": [given], "blockdevs": []}
    if section == "devices":
        whole = {"devices": [{**place, "options": {"drive": "data-node"}}], "blockdevs": [node]}
    Lifecycle(vm, "qemu_machine").step(**whole, purge=True)
    assert drive(vm) == "ov" and "held-data" not in vm.observer.nodes()


@SNAPSHOTS
def test_an_overlay_that_is_named_goes_alone(disk: Lifecycle, given: dict[str, Any], snapshot: Any) -> None:
    vm = disk.vm
    disk.step(**given)
    overlay = snapshot(vm)
    named = {**given, "node_name": "ov", "filename": overlay}
    disk.same(**named)
    disk.step(**named, serial="NEW", recreate=True)
    other = vm.image("other.qcow2", "16M", "qcow2")
    disk.step(**{**named, "filename": other}, recreate=True)
    assert other in vm.observer.node("ov")["file"]
    assert names(disk.step(id="data", node_name="ov", state="absent")) == ["device_del", "blockdev-del"]
    assert not {"ov", "held-data"} & vm.observer.nodes()


def test_a_removal_that_the_guest_does_not_answer_holds_nothing(vm: VM, given: dict[str, Any]) -> None:
    bus = "pci.0" if vm.version == OLDEST else "rp0"
    run_module(vm, "qemu_disk", **{**given, "driver": "virtio-blk-pci", "bus": bus})
    snapshot_by_qemu(vm)
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_disk", id="data", state="absent", timeout=5)
    assert failed.value.result.get("pending"), failed.value.result
    assert "held-data" not in vm.observer.nodes()
    assert drive(vm) == "ov"


def test_a_usb_disk_below_an_overlay_is_the_disk(start_vm: Any, given: dict[str, Any]) -> None:
    vm = start_vm(args=["-device", "qemu-xhci,id=usb0"])
    disk, usb = Lifecycle(vm, "qemu_disk"), {**given, "driver": "usb-storage", "bus": "usb0.0"}
    disk.step(**usb)
    snapshot_by_qemu(vm)
    disk.same(**usb)
    assert disk.step(**usb, size="24M")["commands"][0]["arguments"]["node-name"] == "ov"


@SNAPSHOTS
def test_a_node_below_an_overlay_is_not_plugged_again(disk: Lifecycle, given: dict[str, Any], snapshot: Any) -> None:
    vm = disk.vm
    disk.step(**given)
    snapshot(vm)
    hold = {"driver": "raw", "node-name": "mine", "read-only": True, "file": "ov"}
    vm.observer.send("blockdev-add", hold)
    run_module(vm, "qemu_device", id="data", state="absent")
    disk.refused("data-node", "lies below ov", **given)


def test_a_disk_while_a_job_works_on_it(disk: Lifecycle, given: dict[str, Any]) -> None:
    vm = disk.vm
    disk.step(**given)
    run_module(vm, "qemu_blockdev", node_name="tgt", driver="qcow2", filename=vm.image("tgt.qcow2", "16M", "qcow2"))
    vm.observer.send("blockdev-mirror", {"job-id": "m", "device": "data-node", "target": "tgt", "sync": "full"})
    ready(vm)  # else its figures change while the task is held against them
    disk.same(**given)
    run_module(vm, "qemu_machine", disks=[given])
    disk.refused("block job m", **given, size="24M")
    disk.refused("block job m", **given, serial="NEW", recreate=True)
    disk.refused("block job m", id="data", state="absent")

    vm.observer.execute("block-job-cancel", device="m")
    ended(vm)
    disk.same(**given)
    assert names(disk.step(**given, size="24M")) == ["block_resize"]
    disk.step(id="data", state="absent")


def test_a_disk_while_it_is_backed_up(disk: Lifecycle, given: dict[str, Any]) -> None:
    vm = disk.vm
    disk.step(**given)
    run_module(vm, "qemu_blockdev", node_name="tgt", driver="qcow2", filename=vm.image("tgt.qcow2", "16M", "qcow2"))
    vm.observer.send("blockdev-backup", {"job-id": "b", "device": "data-node", "target": "tgt", "sync": "none"})
    disk.same(**given)
    disk.refused("block job b", **given, size="24M")
    vm.observer.execute("block-job-cancel", device="b")


def test_after_a_pivot_the_message_says_where_the_data_is(disk: Lifecycle, given: dict[str, Any]) -> None:
    vm = disk.vm
    disk.step(**given)
    target = vm.image("tgt.qcow2", "16M", "qcow2")
    run_module(vm, "qemu_blockdev", node_name="tgt", driver="qcow2", filename=target)
    vm.observer.send("blockdev-mirror", {"job-id": "m", "device": "data-node", "target": "tgt", "sync": "full"})
    ready(vm)
    vm.observer.execute("block-job-complete", device="m")
    ended(vm)
    assert drive(vm) == "tgt"
    told = ("device data has block node tgt", target, "name tgt")
    for recreate in (False, True):
        disk.refused(*told, **given, recreate=recreate)
        disk.refused(*told, **{**given, "filename": vm.image("x.qcow2", "16M", "qcow2")}, recreate=recreate)
        answer = disk.refused(*told, id="data", size="24M", recreate=recreate)
        assert "set recreate" not in answer["msg"]
    Lifecycle(vm, "qemu_device").refused(*told, id="data", options={"drive": "data-node"}, recreate=True)
    disk.same(**{**given, "node_name": "tgt", "filename": target})

    vm.observer.execute("blockdev-del", node_name="data-node")
    disk.refused(*told, **given, recreate=True)


def test_another_image_under_a_new_name_may_be_had(disk: Lifecycle, given: dict[str, Any]) -> None:
    disk.step(**given)
    other = {**given, "node_name": "new", "filename": disk.vm.image("new.qcow2", "16M", "qcow2")}
    disk.refused("recreate=true", **other)
    disk.step(**other, recreate=True)
    assert drive(disk.vm) == "new"


def test_a_throttled_disk_is_the_disk(disk: Lifecycle, given: dict[str, Any]) -> None:
    """A filter, put in by whoever: by `qom-set` where QEMU can do that, else by plugging it over."""
    vm = disk.vm
    run_module(vm, "qemu_blockdev", node_name="data-node", driver="qcow2", filename=given["filename"])
    vm.observer.send("object-add", {"qom-type": "throttle-group", "id": "tg"})
    vm.observer.send(
        "blockdev-add", {"driver": "throttle", "node-name": "thr", "file": "data-node", "throttle-group": "tg"}
    )
    vm.observer.execute("device_add", driver="scsi-hd", id="data", bus="scsi0.0", drive="thr")
    disk.same(**given)
    grown = disk.step(**given, size="24M")
    assert grown["commands"][0]["arguments"]["node-name"] == "thr"
    assert vm.observer.node("data-node")["image"]["virtual-size"] == 24 * MB
    disk.step(id="data", state="absent")
    assert vm.observer.nodes() == set()


@SNAPSHOTS
@pytest.mark.parametrize("lists", [{}, {"blockdevs": []}])
def test_a_purge_takes_the_chain_for_the_disk(
    vm: VM, given: dict[str, Any], snapshot: Any, lists: dict[str, Any]
) -> None:
    run_module(vm, "qemu_disk", **given)
    snapshot(vm)
    kept = run_module(vm, "qemu_machine", disks=[given], purge=True, **lists)
    assert (kept["changed"], kept["commands"]) == (False, [])
    gone = run_module(vm, "qemu_machine", disks=[], purge=True, **lists)
    assert gone["summary"]["remove"] == 1
    assert vm.observer.nodes() == set() and "data" not in vm.plugged()


# -- what QEMU was started with ----------------------------------------------


@pytest.fixture
def started(start_vm: Any, tmp_path: Any) -> VM:
    """A VM as people start them: disks by -drive, one with a node name; a CD drive with a medium, and an empty one."""
    paths = {name: str(tmp_path / name) for name in ("a.qcow2", "b.qcow2", "c.iso")}
    for path in paths.values():
        form = "raw" if path.endswith("iso") else "qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", form, path, "16M"], check=True)
    args = ["-drive", f"file={paths['a.qcow2']},if=none,id=drive1,format=qcow2"]
    args += ["-device", "scsi-hd,id=disk1,drive=drive1,bus=scsi0.0"]
    args += ["-drive", f"file={paths['b.qcow2']},if=none,id=drive2,format=qcow2,node-name=nn2"]
    args += ["-device", "scsi-hd,id=disk2,drive=drive2,bus=scsi0.0"]
    args += [
        "-drive",
        f"file={paths['c.iso']},if=none,id=drive3,media=cdrom",
        "-device",
        "ide-cd,id=cd3,drive=drive3,bus=ide.0",
    ]
    args += ["-device", "ide-cd,id=cd4,bus=ide.1"]
    vm: VM = start_vm(scsi=True, args=args)
    return vm


def image_of(vm: VM, device: str) -> dict[str, Any]:
    listed = {drive.get("qdev"): drive.get("inserted", {}) for drive in vm.observer.execute("query-block")}
    found: dict[str, Any] = listed[device]
    return found


def test_a_disk_of_the_command_line_is_grown_by_its_device(started: VM) -> None:
    disk = Lifecycle(started, "qemu_disk")
    tasks: list[tuple[str, dict[str, Any]]] = [("disk1", {}), ("disk2", {}), ("disk2", {"node_name": "nn2"})]
    for device, more in tasks:
        size = image_of(started, device)["image"]["virtual-size"] + 8 * MB
        assert names(disk.step(id=device, size=str(size), **more)) == ["block_resize"]
        assert image_of(started, device)["image"]["virtual-size"] == size
    path = image_of(started, "disk1")["file"]
    assert disk.same(id="disk1", filename=path, format="qcow2", driver="scsi-hd", bus="scsi0.0")["unverifiable"] == []
    run_module(started, "qemu_machine", disks=[{"id": "disk1", "filename": path, "size": "24M"}], purge=True)

    node = Lifecycle(started, "qemu_blockdev")
    node.step(node_name="drive1", size="32M")
    node.step(node_name=image_of(started, "disk1")["node-name"], size="40M")
    node.step(node_name="drive2", size="48M")
    assert image_of(started, "disk1")["image"]["virtual-size"] == 40 * MB
    node.refused("there is no block node #block9999999", node_name="#block9999999", size="40M")
    node.refused("in use by device disk1", node_name=image_of(started, "disk1")["node-name"], state="absent")


def test_a_disk_of_the_command_line_is_not_made_anew(started: VM) -> None:
    told = ("QEMU was started with drive drive1", "delete it together with device disk1")
    for recreate in (False, True):
        answer = Lifecycle(started, "qemu_device").refused(
            *told, id="disk1", options={"serial": "S10"}, recreate=recreate
        )
        assert "set recreate" not in answer["msg"]
        Lifecycle(started, "qemu_disk").refused(*told, id="disk1", serial="S10", recreate=recreate)
        other = started.image("other.qcow2", "16M", "qcow2")
        Lifecycle(started, "qemu_disk").refused(*told, id="disk1", filename=other, format="qcow2", recreate=recreate)
    assert drive(started, "disk1") == "drive1"


@pytest.mark.parametrize("device", ["disk1", "disk2"])
def test_a_disk_of_the_command_line_is_removed_and_given_back(started: VM, device: str) -> None:
    path = image_of(started, device)["file"]
    guest(started, device, "write -P 0x22 0 64k")
    bad = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": started.image("bad.img")}
    with pytest.raises(ModuleFailed) as failed:
        run_module(
            started, "qemu_machine", disks=[{"id": device, "state": "absent"}, {**bad, "options": {"werror": "bogus"}}]
        )
    assert "not_rolled_back" not in failed.value.result
    assert image_of(started, device)["file"] == path
    Lifecycle(started, "qemu_disk").step(id=device, state="absent")
    assert device not in started.plugged()
    assert path not in [node["file"] for node in started.observer.execute("query-named-block-nodes")]
    assert holds(started, path, 0x22)


# -- media --------------------------------------------------------------------


def test_a_medium_is_put_into_a_drive_that_was_emptied(disk: Lifecycle) -> None:
    vm = disk.vm
    given: dict[str, Any] = {
        "id": "cd",
        "driver": "scsi-cd",
        "bus": "scsi0.0",
        "read_only": True,
        "filename": vm.image("1.iso", "1M"),
    }
    disk.step(**given)
    for close in (False, True):
        vm.observer.execute("eject", id="cd", force=True)
        if close:
            vm.observer.execute("blockdev-close-tray", id="cd")
        put = disk.step(**given)
        opened = ["blockdev-open-tray"] if close else []
        assert names(put) == [*opened, "blockdev-insert-medium", "blockdev-close-tray"]
        assert drive(vm, "cd") == "cd-node"
    disk.step(id="cd", state="absent")


def test_a_medium_that_could_not_be_kept_is_taken_out_again(disk: Lifecycle) -> None:
    vm = disk.vm
    given: dict[str, Any] = {
        "id": "cd",
        "driver": "scsi-cd",
        "bus": "scsi0.0",
        "read_only": True,
        "filename": vm.image("1.iso", "1M"),
    }
    disk.step(**given)
    vm.observer.execute("eject", id="cd", force=True)
    vm.observer.execute("blockdev-close-tray", id="cd")
    bad = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("bad.img")}
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_machine", disks=[given, {**bad, "options": {"werror": "bogus"}}])
    assert "not_rolled_back" not in failed.value.result
    found = {entry["qdev"]: entry for entry in vm.observer.execute("query-block")}["cd"]
    assert ("inserted" in found, found["tray_open"]) == (False, False)


def test_an_empty_drive_that_qemu_was_started_with_takes_a_medium(started: VM) -> None:
    disk, iso = Lifecycle(started, "qemu_disk"), started.image("2.iso", "1M")
    for device in ("cd4", "cd3"):
        given: dict[str, Any] = {"id": device, "driver": "ide-cd", "filename": iso, "read_only": True}
        disk.step(**given)
        assert image_of(started, device)["file"] == iso


# -- names ---------------------------------------------------------------------


def test_an_image_by_another_of_its_names_is_the_same(disk: Lifecycle, given: dict[str, Any]) -> None:
    vm = disk.vm
    disk.step(**given)
    link = vm.directory / "link.qcow2"
    link.symlink_to(given["filename"])
    disk.same(**{**given, "filename": str(link)})
    disk.same(**{**given, "filename": given["filename"].replace("/data", "//data")})
    link.unlink()
    link.symlink_to(vm.image("other.qcow2", "16M", "qcow2"))
    disk.refused("filename is", **{**given, "filename": str(link)})


def test_a_drive_is_not_set_to_the_node_that_it_has(started: VM) -> None:
    """QEMU aborts at that."""
    path = "/machine/peripheral/disk2"
    same = run_module(started, "qemu_qom", path=path, property="drive", value="nn2")
    assert not same["changed"]
    assert started.alive


def ready(vm: VM, job: str = "m") -> None:
    deadline = time.monotonic() + 60
    while next(item["status"] for item in vm.observer.execute("query-jobs") if item["id"] == job) != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(vm: VM) -> None:
    deadline = time.monotonic() + 60
    while vm.observer.execute("query-jobs"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
