# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_disk: the medium of a drive, its tray, limits and thresholds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

CD: dict[str, Any] = {"id": "cd", "driver": "scsi-cd", "bus": "scsi0.0", "read_only": True}
SWAP = [
    *("blockdev-add", "blockdev-open-tray", "blockdev-remove-medium", "blockdev-del", "blockdev-add"),
    *("blockdev-insert-medium", "blockdev-close-tray", "blockdev-del"),
]


@pytest.fixture
def disk(start_vm: Any) -> Lifecycle:
    return Lifecycle(start_vm(scsi=True), "qemu_disk")


def drive(vm: VM, device: str) -> dict[str, Any]:
    """What query-block tells of a device's drive."""
    listed: dict[str, Any] = {
        entry.get("qdev", "").replace("/machine/peripheral/", "").split("/")[0]: entry
        for entry in vm.observer.execute("query-block")
    }
    found: dict[str, Any] = listed[device]
    return found


def holds(vm: VM, device: str) -> tuple[bool, str]:
    """Whether a drive's tray is open, and the image in it."""
    found = drive(vm, device)
    return found["tray_open"], found.get("inserted", {}).get("file", "")


def iso(vm: VM, name: str, mark: str = "") -> str:
    path = vm.image(name, "1M")
    with Path(path).open("r+b") as file:
        file.write((mark or name).encode())
    return path


# -- the medium ---------------------------------------------------------------


def test_the_life_of_a_drive_and_its_media(disk: Lifecycle) -> None:
    vm, clean = disk.vm, disk.vm.fingerprint()
    one, two = iso(vm, "1.iso"), iso(vm, "2.iso")
    empty = disk.step(**CD, medium="absent")
    assert names(empty) == ["device_add"] and empty["blockdev"] == {}
    assert holds(vm, "cd") == (False, "")
    disk.same(**{**CD, "filename": ""})
    disk.same(id="cd")
    disk.step(**CD, filename=one)
    assert holds(vm, "cd") == (False, one)
    changed = disk.step(**CD, filename=two)
    assert names(changed) == SWAP
    assert changed["diff"]["before"]["blockdev"]["cd-node"]["filename"] == one
    assert changed["diff"]["after"]["blockdev"]["cd-node"]["filename"] == two
    assert changed["blockdev"]["filename"] == two
    assert holds(vm, "cd") == (False, two)
    assert vm.observer.qom_get("/machine/peripheral/cd", "drive") == "cd-node"

    opened = disk.step(id="cd", tray="open")
    assert names(opened) == ["blockdev-open-tray"] and opened["drive"]["tray"] == "open"
    assert names(disk.step(**CD, filename=one, tray="open")) == [
        name for name in SWAP if name not in ("blockdev-open-tray", "blockdev-close-tray")
    ]
    assert holds(vm, "cd") == (True, one)
    assert names(disk.step(**CD, filename=one)) == ["blockdev-close-tray"]  # a guest can't read it in an open tray

    gone = disk.step(**{**CD, "filename": ""})
    assert names(gone) == ["blockdev-open-tray", "blockdev-remove-medium", "blockdev-close-tray", "blockdev-del"]
    assert (gone["blockdev"], gone["drive"]["medium"]) == ({}, "absent")
    assert holds(vm, "cd") == (False, "")
    disk.same(**CD, filename=one, medium="absent")
    disk.step(id="cd", tray="open")
    disk.step(id="cd", tray="closed")
    disk.step(id="cd", state="absent")
    assert vm.fingerprint() == clean


def test_another_way_to_open_a_medium_is_another_medium(disk: Lifecycle) -> None:
    vm = disk.vm
    disk.step(**CD, filename=iso(vm, "1.iso"))
    path = vm.image("q.qcow2", "4M", "qcow2")
    disk.step(**CD, filename=path, format="qcow2")
    assert vm.observer.node("cd-node")["drv"] == "qcow2" and holds(vm, "cd") == (False, path)
    if vm.version != "5.2":
        assert names(disk.step(**CD, cache={"no_flush": True})) == ["blockdev-reopen"]


def test_what_can_not_be_put_in_leaves_the_guest_alone(disk: Lifecycle) -> None:
    vm = disk.vm
    one = iso(vm, "1.iso")
    disk.step(**CD, filename=one)
    disk.refused("filename: cannot use /nonexistent.iso", **CD, filename="/nonexistent.iso")
    vm.observer.forget_events()
    text = iso(vm, "2.iso")
    disk.refused("blockdev-add", foretold=False, **CD, filename=text, format="qcow2")
    vm.observer.forget_events()
    assert holds(vm, "cd") == (False, one)
    for wrong, words in (
        ({"id": "hd", "filename": one, "driver": "scsi-hd", "bus": "scsi0.0", "tray": "open"}, "hd (scsi-hd)"),
        ({"id": "hd", "filename": "", "driver": "scsi-hd", "bus": "scsi0.0"}, "hd (scsi-hd)"),
        ({"id": "hd", "medium": "absent", "bus": "rp0"}, "hd (virtio-blk)"),
        ({"id": "cd", "filename": "", "medium": "present"}, "filename: it is empty"),
        ({"id": "ce", "driver": "scsi-cd", "bus": "scsi0.0", "medium": "present"}, "its filename must be given"),
        ({"id": "cd", "medium": "absent", "limits": {"bps": 1}}, "limits: drive cd has no medium"),
    ):
        disk.refused(words, **wrong)
    disk.step(id="hd", driver="scsi-hd", bus="scsi0.0", filename=vm.image("hd.img"))
    disk.refused("medium: device hd (scsi-hd) has no medium", id="hd", medium="absent")
    disk.refused("filename is", "recreate", id="hd", filename=vm.image("other.img"))


@pytest.mark.parametrize("wanted", ["2.iso", ""])
def test_a_failure_after_it_puts_the_old_medium_back(disk: Lifecycle, wanted: str) -> None:
    vm = disk.vm
    one = iso(vm, "1.iso")
    disk.step(**CD, filename=one)
    before = vm.fingerprint()
    bad: dict[str, Any] = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("bad.img")}
    document = [{**CD, "filename": wanted and iso(vm, wanted)}, {**bad, "options": {"werror": "bogus"}}]
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_machine", disks=document)
    assert "not_rolled_back" not in failed.value.result
    assert holds(vm, "cd") == (False, one) and vm.fingerprint() == before


@pytest.mark.parametrize("done", range(1, len(SWAP)))
def test_a_run_that_was_killed_is_finished_by_the_next(disk: Lifecycle, done: int) -> None:
    vm = disk.vm
    one, two = iso(vm, "1.iso"), iso(vm, "2.iso")
    run_module(vm, "qemu_disk", **CD, filename=one)
    whole = vm.fingerprint()
    plan = run_module(vm, "qemu_disk", check=True, **CD, filename=two)["commands"]
    for command in plan[:done]:
        vm.observer.send(command["execute"], command["arguments"])
    for _run in range(2):
        last = run_module(vm, "qemu_disk", **CD, filename=two if done % 2 or done > 4 else one)
    assert not last["changed"]
    assert vm.fingerprint() == whole and holds(vm, "cd")[0] is False


@pytest.mark.parametrize("wanted", ["2.iso", ""])
def test_a_run_that_was_killed_is_finished_on_a_drive_of_the_command_line(start_vm: Any, wanted: str) -> None:
    args = ["-drive", "file=null-co://,if=none,id=dr,media=cdrom,format=raw", "-device", "scsi-cd,id=cd,drive=dr"]
    done = 0
    while True:
        vm, done = start_vm(scsi=True, args=args), done + 1
        disk, path = Lifecycle(vm, "qemu_disk"), wanted and iso(vm, wanted)
        plan = run_module(vm, "qemu_disk", check=True, id="cd", filename=path)["commands"]
        for command in plan[:done]:
            vm.observer.send(command["execute"], command["arguments"])
        foretold = run_module(vm, "qemu_disk", check=True, id="cd", filename=path)
        assert run_module(vm, "qemu_disk", id="cd", filename=path)["commands"] == foretold["commands"]
        disk.same(id="cd", filename=path)
        assert holds(vm, "cd")[1] == path and "held-cd" not in vm.observer.nodes()
        if done == len(plan):
            return
        vm.close()


def test_media_of_the_command_line(start_vm: Any, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("c.iso", "d.iso")]
    for image in paths:
        image.write_bytes(bytes(1 << 20))
    args = [
        "-drive",
        f"file={paths[0]},if=none,id=drive3,media=cdrom",
        "-device",
        "ide-cd,id=cd3,drive=drive3,bus=ide.0",
    ]
    args += [
        "-drive",
        f"file={paths[1]},if=none,id=drive4,media=cdrom,node-name=nn",
        "-device",
        "ide-cd,id=cd4,drive=drive4,bus=ide.1",
    ]
    vm = start_vm(args=args)
    disk, two = Lifecycle(vm, "qemu_disk"), iso(vm, "2.iso")
    bad: dict[str, Any] = {"id": "bad", "driver": "virtio-blk-pci", "bus": "rp0", "filename": vm.image("bad.img")}
    for device, path in (("cd3", str(paths[0])), ("cd4", str(paths[1]))):
        before = vm.fingerprint()
        for wanted in ("", two):
            with pytest.raises(ModuleFailed) as failed:
                run_module(
                    vm,
                    "qemu_machine",
                    disks=[{"id": device, "filename": wanted}, {**bad, "options": {"werror": "bogus"}}],
                )
            assert "not_rolled_back" not in failed.value.result
            assert holds(vm, device) == (False, path) and vm.fingerprint() == before
        disk.same(id=device, filename=path)
        assert disk.step(id=device, filename=two)["blockdev"]["filename"] == two
        assert holds(vm, device) == (False, two)
        disk.step(id=device, filename="")
        disk.step(id=device, filename=path, read_only=True)
        disk.step(id=device, medium="absent")
        assert holds(vm, device) == (False, "")
    assert vm.observer.nodes() == set()


def test_a_medium_that_another_tool_has_put_in(disk: Lifecycle) -> None:
    """QEMU names its node; the one of the task is left, in no drive, or has gone."""
    vm = disk.vm
    one, two, three = (iso(vm, f"{name}.iso") for name in (1, 2, 3))
    disk.step(**CD, filename=one)
    for wanted in (two, two, ""):
        vm.observer.execute("blockdev-change-medium", id="cd", filename=three)
        disk.same(id="cd")
        assert names(disk.step(id="cd", tray="open")) == ["blockdev-open-tray"]
        assert names(disk.step(id="cd", tray="closed", limits={"iops": 5})) == [
            "blockdev-close-tray",
            "block_set_io_throttle",
        ]
        assert holds(vm, "cd") == (False, three)
        disk.step(id="cd", limits={"iops": 0})
        disk.step(**CD, filename=wanted)
        assert holds(vm, "cd") == (False, wanted)
    vm.observer.execute("blockdev-change-medium", id="cd", filename=three)  # there is no node of the task's
    disk.same(id="cd", tray="closed")
    disk.step(id="cd", state="absent")
    assert "cd" not in vm.observer.devices() and vm.observer.nodes() == set()


def test_a_node_that_another_drive_has_is_not_put_in(disk: Lifecycle) -> None:
    vm = disk.vm
    disk.step(**CD, filename=iso(vm, "1.iso"))
    other = {**CD, "id": "ce"}
    disk.step(**other, filename=iso(vm, "2.iso"))
    disk.refused("drive: block node cd-node is in use by device cd", **other, node_name="cd-node")


def test_a_medium_with_an_overlay_stays(disk: Lifecycle) -> None:
    vm = disk.vm
    stick: dict[str, Any] = {"id": "st", "driver": "scsi-hd", "bus": "scsi0.0", "options": {"removable": True}}
    disk.step(**stick, filename=vm.image("st.qcow2", "4M", "qcow2"), format="qcow2")
    overlay = {"node-name": "st-node", "snapshot-file": f"{vm.directory}/over", "snapshot-node-name": "over"}
    vm.observer.send("blockdev-snapshot-sync", {**overlay, "format": "qcow2"})
    disk.refused("st-node lies below over", **stick, filename="")
    disk.refused("it lies below over", **stick, filename=iso(vm, "1.iso"))
    disk.step(id="st", tray="open")
    disk.step(id="st", state="absent")


def test_drives_with_long_ids_change_together(disk: Lifecycle) -> None:
    vm = disk.vm
    drives = [{**CD, "id": f"cdrom-of-the-virtual-machine-{name}", "node_name": name} for name in ("a", "b")]
    for name in ("1.iso", "2.iso"):
        path = iso(vm, name)
        Lifecycle(vm, "qemu_machine").step(disks=[{**entry, "filename": path} for entry in drives])
    assert [holds(vm, entry["id"]) for entry in drives] == [(False, path)] * 2


def test_a_floppy_has_no_tray(start_vm: Any) -> None:
    vm = start_vm(machine="pc", args=["-device", "floppy,id=fd"])
    disk = Lifecycle(vm, "qemu_disk")
    for name in ("1.img", "2.img"):
        disk.step(id="fd", filename=iso(vm, name))
        assert vm.observer.execute("query-block")[0]["inserted"]["file"] == f"{vm.directory}/{name}"
    disk.refused("tray: device fd (floppy) has no tray", id="fd", tray="open")
    assert names(disk.step(id="fd", filename="")) == ["blockdev-remove-medium", "blockdev-del"]
    assert "inserted" not in vm.observer.execute("query-block")[0]


def test_a_drive_whose_device_has_no_id_is_not_a_new_disks(start_vm: Any) -> None:
    vm = start_vm(machine="pc", args=["-drive", "file=null-co://,if=ide,index=2,media=cdrom,format=raw"])
    for filename, words in ((iso(vm, "1.iso"), "has no id"), ("", "medium")):
        Lifecycle(vm, "qemu_disk").refused(words, id="ide1-cd0", filename=filename)


def test_media_of_a_document(disk: Lifecycle) -> None:
    vm, clean, machine = disk.vm, disk.vm.fingerprint(), Lifecycle(disk.vm, "qemu_machine")
    one, two = iso(vm, "1.iso"), iso(vm, "2.iso")
    data: dict[str, Any] = {"id": "data", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("data.img")}
    machine.step(disks=[{**CD, "filename": one}, {**data, "limits": {"bps": "1M"}}])
    changed = machine.step(disks=[{**CD, "filename": two}, {**data, "limits": {"bps": "2M"}}], purge=True)
    assert changed["summary"]["change"] == 2
    assert holds(vm, "cd") == (False, two) and limits(vm, "data")["bps"] == 2 << 20
    gone = machine.step(disks=[{**CD, "filename": two, "medium": "absent"}, data], purge=True)
    assert [(entry["action"], entry["id"]) for entry in gone["plan"]] == [("change", "cd")]
    assert gone["plan"][0]["changes"]["medium"] == {"before": "present", "after": "absent"}
    machine.step(disks=[], purge=True)
    assert vm.fingerprint() == clean


def test_a_drive_of_the_command_line_is_removed_with_its_new_medium(start_vm: Any) -> None:
    args = ["-drive", "file=null-co://,if=none,id=dr,media=cdrom,format=raw", "-device", "scsi-cd,id=cd,drive=dr"]
    vm = start_vm(scsi=True, args=args)
    disk = Lifecycle(vm, "qemu_disk")
    disk.step(id="cd", filename=iso(vm, "1.iso"))
    bad = {
        "id": "bad",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": vm.image("bad.img"),
        "options": {"werror": "no"},
    }
    with pytest.raises(ModuleFailed):
        run_module(vm, "qemu_machine", disks=[{"id": "cd", "state": "absent"}, bad])
    assert holds(vm, "cd") == (False, f"{vm.directory}/1.iso")
    disk.step(id="cd", state="absent")
    assert "cd" not in vm.observer.devices() and vm.observer.nodes() == set()


# -- a guest that locks its tray ----------------------------------------------


class Guest:
    """What an operating system does to a CD drive: ATAPI packets, by the ports of the secondary IDE channel."""

    def __init__(self, vm: VM) -> None:
        self.look = vm.observer

    def _send(self, *packet: int) -> bool:
        for port, value in ((0x176, 0xA0), (0x171, 0), (0x174, 0), (0x175, 8), (0x177, 0xA0)):
            self.look.hmp(f"o /b {port} {value}")
        words = bytes([*packet, *bytes(12 - len(packet))])
        for place in range(0, 12, 2):
            self.look.hmp(f"o /h 0x170 {int.from_bytes(words[place : place + 2], 'little')}")
        return not self._status() & 1

    def _status(self) -> int:
        return int(self.look.hmp("i /b 0x177").split("=")[1], 16)

    def packet(self, *packet: int) -> None:
        """Send it, again while the drive has news first (another medium)."""
        while not self._send(*packet):
            assert self._send(0x03, 0, 0, 0, 18)
            self._receive(18)

    def _receive(self, length: int) -> bytes:
        words = (int(self.look.hmp("i /h 0x170").split("=")[1], 16) for _word in range(0, length, 2))
        return b"".join(word.to_bytes(2, "little") for word in words)

    def lock(self, locked: bool) -> None:
        self.packet(0x1E, 0, 0, 0, int(locked))

    def eject(self) -> None:
        self.packet(0x1B, 0, 0, 0, 2)

    def is_asked(self) -> bool:
        """Whether somebody wants it to open the tray."""
        self.packet(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)
        return self._receive(8)[4] & 0xF == 1

    def reads(self, length: int) -> str:
        """The first bytes of the medium."""
        self.packet(0x28, 0, 0, 0, 0, 0, 0, 0, 1)
        while not self._status() & 8:
            pass
        return self._receive(2048)[:length].decode()


@pytest.fixture
def ide(start_vm: Any, tmp_path: Path) -> VM:
    rom = tmp_path / "rom"  # whose processor does nothing, since the test does what it would
    rom.write_bytes(bytes(0xFFF0) + b"\xf4\xeb\xfd".ljust(16, b"\0"))
    vm: VM = start_vm(machine="pc", args=["-device", "ide-cd,id=cd,bus=ide.1", "-bios", str(rom)])
    return vm


def test_a_guest_reads_the_other_medium(ide: VM) -> None:
    disk, guest = Lifecycle(ide, "qemu_disk"), Guest(ide)
    for name in ("1.iso", "2.iso"):
        disk.step(id="cd", driver="ide-cd", filename=iso(ide, name), read_only=True)
        assert guest.reads(5) == name
    guest.eject()  # the medium stays in the open tray
    assert holds(ide, "cd") == (True, f"{ide.directory}/2.iso")
    assert names(disk.step(id="cd", filename=f"{ide.directory}/2.iso")) == ["blockdev-close-tray"]
    assert guest.reads(5) == "2.iso"


def test_a_locked_tray_waits_for_its_guest(ide: VM) -> None:
    disk, guest = Lifecycle(ide, "qemu_disk"), Guest(ide)
    one, two = iso(ide, "1.iso"), iso(ide, "2.iso")
    given: dict[str, Any] = {"id": "cd", "driver": "ide-cd", "read_only": True}
    disk.step(**given, filename=one)
    guest.lock(True)
    disk.refused("takes a guest that answers", "prelaunch", **given, filename=two)
    ide.observer.execute("cont")
    before = ide.fingerprint()
    with pytest.raises(ModuleFailed) as failed:
        run_module(ide, "qemu_disk", **given, filename=two, timeout=1.5)
    assert "the guest has locked the tray of cd" in failed.value.result["msg"]
    assert "force=true" in failed.value.result["msg"] and "not_rolled_back" not in failed.value.result
    assert holds(ide, "cd") == (False, one) and ide.fingerprint() == before
    forced = run_module(ide, "qemu_disk", **given, filename=two, force=True)
    assert forced["commands"][1]["arguments"] == {"id": "cd", "force": True}
    assert holds(ide, "cd") == (False, two)
    assert guest.reads(5) == "2.iso"

    guest.lock(True)
    guest.is_asked()
    foretold = run_module(ide, "qemu_disk", check=True, **given, filename=one)
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(run_module, ide, "qemu_disk", **given, filename=one)
        while not guest.is_asked():
            assert not changing.done()
        guest.lock(False)
        guest.eject()
        assert changing.result()["commands"] == foretold["commands"]
    assert holds(ide, "cd") == (False, one)
    assert guest.reads(5) == "1.iso"


# -- limits -------------------------------------------------------------------

ZERO = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def limits(vm: VM, device: str) -> dict[str, Any]:
    """The limits that are there, and the group."""
    found = drive(vm, device)["inserted"]
    return {key: value for key, value in found.items() if value and (key.startswith(("bps", "iops")) or key == "group")}


@pytest.mark.parametrize(("driver", "group"), [("virtio-blk-pci", "/virtio-backend"), ("scsi-hd", "d0")])
def test_the_life_of_limits(disk: Lifecycle, driver: str, group: str) -> None:
    vm, clean = disk.vm, disk.vm.fingerprint()
    group = f"/machine/peripheral/d0{group}" if group.startswith("/") else group
    given: dict[str, Any] = {
        "id": "d0",
        "driver": driver,
        "bus": "rp0" if "pci" in driver else "scsi0.0",
        "filename": vm.image("a.img"),
    }
    first = disk.step(**given, limits={"bps": "10M", "iops_rd": "100"})
    assert names(first) == ["blockdev-add", "device_add", "block_set_io_throttle"]
    assert limits(vm, "d0") == {"bps": 10 << 20, "iops_rd": 100, "group": group}
    assert first["drive"]["limits"]["bps"] == 10 << 20
    vm.observer.send("block_set_io_throttle", {"id": group, **ZERO, "bps": 5, "iops_wr": 7})  # drift
    back = disk.step(id="d0", limits={"bps": "10M", "bps_max": "20M", "bps_max_length": 3, "iops_size": "4k"})
    assert names(back) == ["block_set_io_throttle"]
    kept = {"bps": 10 << 20, "bps_max": 20 << 20, "bps_max_length": 3, "iops_size": 4096, "iops_wr": 7}
    assert limits(vm, "d0") == {**kept, "group": group}
    assert back["diff"]["before"]["drive"]["d0"]["limits"]["bps"] == 5
    disk.same(id="d0", limits={})
    disk.same(**given)
    for wrong, words in (
        ({"bps_rd": "1M"}, "bps is 10485760 and bps_rd is 1048576"),
        ({"bps_max": "9M"}, "bps_max: 9437184 is lower than bps (10485760)"),
        ({"iops_max": 5}, "a burst needs a limit iops"),
        ({"iops_wr_max_length": 5}, "needs iops_wr_max"),
        ({"iops_wr_max_length": 0}, "is not between 1 and"),
        ({"bps": "fast"}, "limits: bps: 'fast' is not a valid size"),
        ({"bps": "1000000000000001"}, "is not between 0 and"),
        ({"iops_wr": 0, "iops_size": 5}, "iops_size"),
        ({"bps_max": "900T", "bps_max_length": 5}, "5 seconds at"),
    ):
        disk.refused(words, id="d0", limits=wrong)
    bad: dict[str, Any] = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("bad.img")}
    document = [{"id": "d0", "limits": {"bps": 0}}, {**bad, "options": {"werror": "bogus"}}]
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_machine", disks=document)
    assert "not_rolled_back" not in failed.value.result
    assert limits(vm, "d0") == {**kept, "group": group}
    disk.step(id="d0", limits={"bps": 0})  # and its burst
    assert limits(vm, "d0") == {"iops_size": 4096, "iops_wr": 7, "group": group}
    disk.step(id="d0", limits={"iops_wr": 0})
    assert limits(vm, "d0") == {}
    if driver == "scsi-hd":
        disk.step(id="d0", state="absent")
        assert vm.fingerprint() == clean


def test_limits_outlive_what_is_done_to_a_disk(disk: Lifecycle) -> None:
    """Made again it has them again; so has a disk that is given back, and another medium."""
    vm = disk.vm
    given: dict[str, Any] = {"id": "d0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("a.img")}
    disk.step(**given, limits={"bps": "10M"}, limit_group="g")
    disk.step(**given, serial="S1", recreate=True)
    assert limits(vm, "d0") == {"bps": 10 << 20, "group": "g"}
    disk.step(**given, serial="S2", recreate=True, limits={"bps": "20M"})
    assert limits(vm, "d0") == {"bps": 20 << 20, "group": "g"}
    bad: dict[str, Any] = {**given, "serial": "S3", "options": {"logical_block_size": 3000}, "recreate": True}
    disk.refused("logical_block_size", foretold=False, **bad)
    assert limits(vm, "d0") == {"bps": 20 << 20, "group": "g"}
    disk.step(**CD, filename=iso(vm, "1.iso"), limits={"iops": 10})
    disk.step(**CD, filename=iso(vm, "2.iso"))
    disk.same(id="cd", limits={"iops": 10})
    disk.step(**CD, filename="")
    disk.refused("limits: drive cd has no medium", id="cd", limits={"iops": 20})
    disk.step(**CD, filename=iso(vm, "1.iso"), limits={"iops": 20})
    assert limits(vm, "cd") == {"iops": 20, "group": "cd"}


def test_a_group_has_one_set_of_limits(disk: Lifecycle) -> None:
    vm = disk.vm
    ways = [("d0", "scsi-hd", "scsi0.0"), ("d1", "virtio-blk-pci", "rp0"), ("d2", "scsi-hd", "scsi0.0")]
    disks: list[dict[str, Any]] = [
        {"id": ident, "driver": driver, "bus": bus, "filename": vm.image(ident), "limit_group": "g"}
        for ident, driver, bus in ways
    ]
    machine = Lifecycle(vm, "qemu_machine")
    machine.refused(
        "disks[1] d1: limit_group: g has one set of limits",
        "disks[0] d0 differ",
        disks=[{**disks[0], "limits": {"bps": "1M"}}, {**disks[1], "limits": {"bps": "2M"}}],
    )
    disk.refused("limit_group: g has no limits yet", **disks[0])
    made = machine.step(disks=[{**entry, "limits": {"bps": "1M"}} for entry in disks[:2]])
    assert made["warnings"] == []
    disk.step(**disks[2])
    assert [limits(vm, ident) for ident in ("d0", "d1", "d2")] == [{"bps": 1 << 20, "group": "g"}] * 3

    more = disk.step(id="d2", limits={"iops": 50})
    assert more["warnings"] == ["limit_group: d0, d1 of group g get the limits of d2, too"]
    assert limits(vm, "d1") == {"bps": 1 << 20, "iops": 50, "group": "g"}
    disk.step(id="d2", limit_group="own")
    assert (limits(vm, "d2")["group"], limits(vm, "d2")["iops"]) == ("own", 50)
    bad: dict[str, Any] = {
        "id": "bad",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": vm.image("bad.img"),
        "options": {"werror": "no"},
    }
    with pytest.raises(ModuleFailed):
        run_module(vm, "qemu_machine", disks=[{"id": "d2", "limit_group": "g", "limits": {"bps": "5M"}}, bad])
    assert limits(vm, "d2") == {"bps": 1 << 20, "iops": 50, "group": "own"}
    assert limits(vm, "d0") == {"bps": 1 << 20, "iops": 50, "group": "g"}
    vm.observer.send("object-add", {"qom-type": "throttle-group", "id": "tg", "limits": {"bps-read": 4096}})
    disk.step(id="d2", limit_group="tg", limits={"iops": 7})
    assert limits(vm, "d2") == {"bps_rd": 4096, "iops": 7, "group": "tg"}


def test_an_empty_drives_group_is_left_alone(disk: Lifecycle) -> None:
    """It is still in its group, of which QEMU tells nothing."""
    vm = disk.vm
    data: dict[str, Any] = {"id": "d0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("d0")}
    disk.step(**data, limits={"bps": "1M"}, limit_group="g")
    disk.step(**CD, filename=iso(vm, "1.iso"), limit_group="g")
    disk.step(**CD, filename="")
    disk.step(**CD, filename=iso(vm, "2.iso"), limits={"iops": 9})
    assert limits(vm, "cd") == {"iops": 9, "group": "cd"}
    assert limits(vm, "d0") == {"bps": 1 << 20, "group": "g"}


def test_limits_of_disks_of_the_command_line(start_vm: Any) -> None:
    args = ["-drive", "file=/dev/null,if=none,id=a,format=raw,read-only=on", "-device", "virtio-blk-pci,id=v,drive=a"]
    args += ["-drive", "file=null-co://,if=none,id=b,format=raw", "-device", "ide-hd,id=i,drive=b"]
    vm = start_vm(machine="pc", args=args)
    for ident in ("v", "i"):
        Lifecycle(vm, "qemu_disk").step(id=ident, limits={"iops": 9})
        assert limits(vm, ident)["iops"] == 9


# -- thresholds ---------------------------------------------------------------


def test_a_threshold_is_set_again_once_it_was_passed(disk: Lifecycle) -> None:
    vm = disk.vm
    given: dict[str, Any] = {
        "id": "d0",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": vm.image("a.qcow2", "1G", "qcow2"),
    }
    made = disk.step(**given, format="qcow2", write_threshold="10M")
    assert names(made) == ["blockdev-add", "block-set-write-threshold", "device_add"]
    assert made["blockdev"]["write_threshold"] == 10 << 20
    vm.observer.hmp('qemu-io -d d0 "write 500M 1M"')
    assert vm.observer.node("d0-node-file")["write_threshold"] == 10 << 20
    vm.observer.hmp('qemu-io -d d0 "write 0 16M"')
    vm.observer.wait_event("BLOCK_WRITE_THRESHOLD", node_name="d0-node-file")
    again = disk.step(id="d0", write_threshold="100M")
    assert names(again) == ["block-set-write-threshold"]
    assert vm.observer.node("d0-node-file")["write_threshold"] == 100 << 20
    disk.step(id="d0", write_threshold="0")
    disk.refused("write_threshold: 'much'", id="d0", write_threshold="much")
    disk.step(id="d1", driver="scsi-hd", bus="scsi0.0", filename=vm.image("b.img"))
    disk.step(id="d1", write_threshold="1M")
    for ident in ("d0", "d1"):
        disk.step(id=ident, state="absent")
    assert vm.observer.nodes() == set()


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_disk_with_a_threshold_is_given_back_with_it(disk: Lifecycle, form: str) -> None:
    """Its file's node has a name, and goes with it all the same."""
    vm = disk.vm
    data: dict[str, Any] = {"id": "d0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("d0", "8M", form)}
    data["format"] = form
    disk.step(**data, write_threshold="5M")
    disk.step(**CD, filename=iso(vm, "1.iso"), write_threshold="6M")
    before = vm.fingerprint()
    bad = {
        "id": "bad",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": vm.image("bad.img"),
        "options": {"werror": "no"},
    }
    for change in (
        [{"id": "d0", "state": "absent"}],
        [{**CD, "filename": iso(vm, "2.iso")}],
        [{"id": "cd", "filename": ""}],
    ):
        with pytest.raises(ModuleFailed) as failed:
            run_module(vm, "qemu_machine", disks=[*change, bad])
        assert "not_rolled_back" not in failed.value.result and vm.fingerprint() == before
        assert holds(vm, "cd") == (False, f"{vm.directory}/1.iso")
        assert vm.observer.node("d0-node-file")["write_threshold"] == 5 << 20
        assert vm.observer.node("cd-node-file")["write_threshold"] == 6 << 20
    disk.step(**data, serial="S", recreate=True)
    disk.step(**data, read_only=True, recreate=True)
    disk.step(**CD, filename=vm.image("q", "4M", "qcow2"), format="raw", write_threshold="6M")
    disk.step(**CD, format="qcow2")
    disk.refused("write_threshold: 9223372036854775808", id="d0", write_threshold="8E")
    for ident in ("d0", "cd"):
        disk.step(id=ident, state="absent")
    assert vm.observer.nodes() == set()


def test_a_drive_that_gives_way_to_another_device(start_vm: Any) -> None:
    """Its medium is not exchanged for the new device's image: with the device it goes."""
    vm = start_vm(scsi=True, args=["-device", "qemu-xhci,id=usb0"])
    stick, clean = Lifecycle(vm, "qemu_disk"), vm.fingerprint()
    one, two = vm.image("one.raw", "1M"), vm.image("two.raw", "2M")
    stick.step(id="k0", driver="usb-storage", bus="usb0.0", filename=one, options={"removable": True})
    assert drive(vm, "k0")["removable"]
    wanted: dict[str, Any] = {"id": "k0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": two}
    stick.refused("recreate", **wanted)
    done = stick.step(**wanted, recreate=True)
    assert not [name for name in names(done) if "tray" in name or "medium" in name]
    found = drive(vm, "k0")
    assert found["inserted"]["file"] == two and not found["removable"]
    stick.step(id="k0", state="absent")
    assert vm.fingerprint() == clean


def test_a_drive_with_a_strangers_medium_gives_way_to_another_device(start_vm: Any) -> None:
    """QEMU has named the node of that medium, and deletes it with the drive: the new device's has the usual name."""
    vm = start_vm(scsi=True, args=["-device", "qemu-xhci,id=usb0"])
    stick, clean = Lifecycle(vm, "qemu_disk"), vm.fingerprint()
    one, two, three = (vm.image(f"{name}.raw", "1M") for name in ("one", "two", "three"))
    stick.step(id="k0", driver="scsi-hd", bus="scsi0.0", filename=one, options={"removable": True})
    vm.observer.send("blockdev-change-medium", {"id": "k0", "filename": three, "format": "raw"})
    assert drive(vm, "k0")["inserted"]["node-name"].startswith("#block")
    stick.step(id="k0", driver="usb-storage", bus="usb0.0", filename=two, recreate=True)
    assert {node["file"] for node in vm.observer.execute("query-named-block-nodes")} == {two}
    stick.step(id="k0", state="absent")
    assert vm.fingerprint() == clean


def test_the_group_that_is_named_as_its_first_disk(disk: Lifecycle) -> None:
    """A disk without a group is in one that has its own name, which another one may join."""
    vm = disk.vm
    scsi: dict[str, Any] = {"driver": "scsi-hd", "bus": "scsi0.0"}
    one, other = ({"id": name, "filename": iso(vm, name), **scsi} for name in ("a", "c"))
    disk.step(**one, limits={"iops": 100})
    disk.step(**other, limit_group="a")
    changed = disk.step(id="a", limits={"iops": 50})
    assert changed["warnings"] == ["limit_group: c of group a get the limits of a, too"]
    assert drive(vm, "c")["inserted"]["iops"] == 50
    machine = Lifecycle(vm, "qemu_machine")
    refusal = "disks[1] c: limit_group: a has one set of limits for all its disks, and those of disks[0] a differ"
    machine.refused(
        refusal, disks=[{**one, "limits": {"iops": 10}}, {**other, "limit_group": "a", "limits": {"iops": 99}}]
    )
    machine.step(disks=[{**one, "limits": {"iops": 10}}, {**other, "limit_group": "a"}])


# -- the end of a drive -------------------------------------------------------

GONE = ["blockdev-open-tray", "blockdev-remove-medium", "device_del", "blockdev-del"]


@pytest.mark.parametrize("tray", ["closed", "open"])
def test_a_drive_that_was_made_empty_goes_with_its_medium(disk: Lifecycle, tray: str) -> None:
    """QEMU 5.2 to 11.1 keep what is in such a drive for good, when it goes with its medium."""
    vm, clean = disk.vm, disk.vm.fingerprint()
    one = iso(vm, "1.iso")
    disk.step(**CD, medium="absent")
    disk.step(**CD, filename=one, tray=tray)
    before = vm.fingerprint()
    fails: dict[str, Any] = {"chardevs": [{"id": "c", "type": "socket", "path": f"{vm.directory}/nobody"}]}
    with pytest.raises(ModuleFailed, match="chardev-add failed") as failed:
        run_module(vm, "qemu_machine", disks=[{"id": "cd", "state": "absent"}], **fails)
    assert failed.value.result["commands"] == [] and vm.fingerprint() == before
    assert holds(vm, "cd") == (tray == "open", one)
    disk.step(**CD, filename=one, tray=tray, serial="another", recreate=True)
    assert holds(vm, "cd") == (tray == "open", one)
    assert names(disk.step(id="cd", state="absent")) == GONE
    disk.same(id="cd", state="absent")
    assert vm.fingerprint() == clean


def test_what_of_a_drive_of_its_command_line_can_change(start_vm: Any) -> None:
    """blockdev-reopen takes no name that QEMU has given."""
    args = ["-drive", "file=null-co://,if=none,id=dr,format=raw", "-device", "scsi-hd,id=hd,drive=dr,bus=scsi0.0"]
    disk = Lifecycle(start_vm(scsi=True, args=args), "qemu_disk")
    disk.refused(
        "cache.no_flush is False, wanted True", "QEMU was started with drive dr", id="hd", cache={"no_flush": True}
    )


@pytest.mark.parametrize(
    ("here", "there", "fits"),
    [
        ({"driver": "scsi-hd", "shared": True}, {"driver": "scsi-hd", "share-rw": True}, True),
        ({"driver": "scsi-hd"}, {"driver": "scsi-hd", "share-rw": True}, False),
        ({"driver": "scsi-hd", "shared": True}, {"driver": "scsi-hd"}, False),
        ({"driver": "scsi-hd"}, {"driver": "scsi-cd", "share-rw": True}, True),
        ({"driver": "scsi-hd", "shared": True}, {"driver": "scsi-cd"}, False),
        ({"driver": "scsi-cd"}, {"driver": "scsi-cd"}, True),
        ({"driver": "scsi-cd"}, {"driver": "scsi-hd"}, False),
        ({"driver": "scsi-cd", "shared": True}, {"driver": "scsi-hd"}, True),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_two_devices_of_one_disk(
    disk: Lifecycle, here: dict[str, Any], there: dict[str, Any], fits: bool, at_once: bool
) -> None:
    """Each lets the other do what it does: to write, unless it is a CD drive."""
    one: dict[str, Any] = {"id": "a", "filename": iso(disk.vm, "a.img"), "bus": "scsi0.0", **here}
    options = {"drive": "a-node", **{key: value for key, value in there.items() if key != "driver"}}
    other = {"id": "b", "driver": there["driver"], "bus": "scsi0.0", "options": options}
    both = Lifecycle(disk.vm, "qemu_machine")
    if not at_once:
        disk.step(**one)
    if fits:
        both.step(disks=[one], devices=[other])
        assert disk.vm.plugged() == {"a": here["driver"], "b": there["driver"]}
    else:
        both.refused("share-rw", disks=[one], devices=[other])


def test_a_drive_that_is_made_anew_and_empty(disk: Lifecycle) -> None:
    vm = disk.vm
    disk.step(**CD, filename=iso(vm, "1.iso"))
    disk.step(**CD, medium="absent", serial="another", recreate=True)
    assert holds(vm, "cd") == (False, "") and "cd-node" not in vm.observer.nodes()
    disk.step(id="cd", state="absent")


def test_a_disk_is_shared_with_a_device_without_an_id(start_vm: Any) -> None:
    node = ["-blockdev", "driver=null-co,node-name=n,read-zeroes=on"]
    shared = start_vm(scsi=True, args=[*node, "-device", "scsi-hd,bus=scsi0.0,drive=n,share-rw=on"])
    other: dict[str, Any] = {"id": "b", "driver": "scsi-hd", "bus": "scsi0.0"}
    Lifecycle(shared, "qemu_device").step(**other, options={"drive": "n", "share-rw": True})
    alone = start_vm(scsi=True, args=[*node, "-device", "scsi-cd,bus=scsi0.0,drive=n"])
    Lifecycle(alone, "qemu_device").refused("share-rw", **other, options={"drive": "n", "share-rw": True})
    Lifecycle(alone, "qemu_device").step(**{**other, "driver": "scsi-cd"}, options={"drive": "n"})
