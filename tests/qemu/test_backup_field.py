# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users of backup programs report most: each listed backup still restores to what the disks were."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.vm import VM

ODD = "5121k"
"""Not a multiple of a cluster, and a disk of any other size."""
SIZE = 5121 << 10


class Life:
    """A VM with two disks, its backups, and what the disks were at each."""

    def __init__(self, vm: VM, directory: Path) -> None:
        self.vm, self.kept = vm, directory / "kept"
        self.kept.mkdir()
        self.path = str(directory / 'it\'s a, "b" %41 ü')
        for disk, port in (("a", "rp0"), ("b", "rp1")):
            self.plug(disk, port, vm.image(f"{disk}.qcow2", ODD, "qcow2"))

    def plug(self, disk: str, port: str, path: str) -> None:
        run_module(self.vm, "qemu_disk", id=disk, filename=path, format="qcow2", bus=port)

    def write(self, disk: str, pattern: int, at: str = "0", size: str = "64k") -> None:
        device = f"/machine/peripheral/{disk}/virtio-backend"
        self.vm.observer.hmp(f'qemu-io -d {device} "write -P {pattern} {at} {size}"')
        self.vm.observer.hmp(f'qemu-io -d {device} "flush"')

    def image(self, disk: str) -> str:
        """The image that the guest writes to."""
        (found,) = (one for one in self.vm.observer.look("query-block") if f"/{disk}/" in one["qdev"])
        path: str = found["inserted"]["image"]["filename"]
        return path

    def backup(self, **options: Any) -> dict[str, Any]:
        """Take one, and keep what the disks are."""
        done: dict[str, Any] = run_module(self.vm, "qemu_backup", **{"name": "daily", "path": self.path, **options})[
            "backup"
        ]
        for disk in done["disks"]:
            kept = str(self.kept / f"{disk}-{done['number']}.raw")
            subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", self.image(disk), kept], check=True)
        return done

    def restored(self, number: int, to: Path, path: str = "", **options: Any) -> None:
        """Restore a backup, and compare with what its disks were."""
        to.mkdir()
        place: dict[str, Any] = {"name": "daily", "path": path or self.path, "until": str(number), "timeout": 600.0}
        done = run_module(None, "qemu_backup", state="restored", to=str(to), format="raw", **place, **options)
        assert done["changed"]
        for disk in done["backup"]["disks"]:
            assert (to / f"{disk}.raw").read_bytes() == (self.kept / f"{disk}-{number}.raw").read_bytes(), (
                disk,
                number,
            )
        run_module(None, "qemu_backup", state="verified", to=str(to), format="raw", **place)


@pytest.fixture
def life(start_vm: Callable[..., VM], tmp_path: Path) -> Life:
    return Life(start_vm(), tmp_path)


def test_more_than_ten_some_of_them_empty_or_compressed(life: Life, tmp_path: Path) -> None:
    for number in range(1, 13):
        if number % 3:
            life.write("a", number, f"{number * 320}k")
            life.write("b", number, f"{SIZE - number * 512}", "512")
        assert life.backup(compress=number % 2 == 0)["level"] == ("full" if number == 1 else "incremental")
    for number in (1, 2, 3, 9, 10, 11, 12):
        life.restored(number, tmp_path / str(number))


def test_disks_that_come_grow_and_are_restored_in_place(life: Life, tmp_path: Path) -> None:
    vm = life.vm
    life.write("a", 1)
    life.backup()
    life.plug("c", "rp2", vm.image("c.qcow2", "1M", "qcow2"))
    life.write("c", 2)
    assert life.backup()["level"] == "full"
    life.write("a", 3, "1M")
    assert life.backup()["level"] == "incremental"
    run_module(vm, "qemu_disk", id="b", size="8M", filename=life.image("b"), format="qcow2", bus="rp1")
    life.write("b", 4, "6M")
    assert "b has grown" in life.backup()["why"]
    life.backup()
    # one of the disks is put back in time, and the others are not
    vm.observer.execute("quit")
    vm.wait_exit()
    image = f"{vm.directory}/a.qcow2"
    place: dict[str, Any] = {"name": "daily", "path": life.path, "state": "restored", "to": {"a": image}}
    run_module(None, "qemu_backup", until="1", disks=["a"], force=True, **place)
    vm.start()
    for disk, port in (("a", "rp0"), ("b", "rp1"), ("c", "rp2")):
        life.plug(disk, port, f"{vm.directory}/{disk}.qcow2")
    life.write("a", 5, "2M")
    done = life.backup()
    assert done["level"] == "full" and "a does not have the bitmap" in done["why"]
    assert life.backup()["level"] == "incremental"
    for number in range(1, 8):
        life.restored(number, tmp_path / str(number))


def test_another_directory_and_another_place_of_the_disk(life: Life, tmp_path: Path) -> None:
    vm = life.vm
    life.write("a", 1)
    life.backup()
    other = str(tmp_path / "other")
    assert run_module(vm, "qemu_backup", name="daily", path=other)["backup"]["level"] == "full"
    life.write("a", 2, "1M")
    assert life.backup()["level"] == "full"  # the bitmaps went with the other directory
    life.write("a", 3, "2M")
    assert life.backup()["level"] == "incremental"
    run_module(vm, "qemu_blockdev", node_name="new", filename=vm.image("new.qcow2", ODD, "qcow2"), driver="qcow2")
    mirror: dict[str, Any] = {"operation": "mirror", "device": "a", "complete": "pivot"}
    mirror["target"] = "new"
    run_module(vm, "qemu_block_job", id="m", **mirror)
    life.write("a", 4, "3M")
    done = life.backup()
    assert done["level"] == "full" and "a is on" in done["why"]
    run_module(vm, "qemu_disk_snapshot", name="s")
    life.write("a", 5, "4M")
    life.backup()
    with pytest.raises(ModuleFailed, match="which would be lost with it: remove that first"):
        run_module(vm, "qemu_disk_snapshot", name="s", state="absent")
    run_module(vm, "qemu_backup", name="daily", path=life.path, state="absent")
    run_module(vm, "qemu_disk_snapshot", name="s", state="absent")
    life.write("b", 6, "4M")
    assert life.backup()["level"] == "full"
    for number in range(1, 7):
        life.restored(number, tmp_path / str(number))


@pytest.fixture
def read_only(life: Life, tmp_path: Path) -> Iterator[Callable[[], str]]:
    place = tmp_path / "mounted"

    def mount() -> str:
        place.mkdir()
        subprocess.run(["mount", "--bind", life.path, str(place)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        return str(place)

    yield mount
    subprocess.run(["umount", str(place)], check=True)


def test_a_copy_on_a_read_only_file_system(life: Life, read_only: Callable[[], str], tmp_path: Path) -> None:
    life.write("a", 1)
    life.backup()
    life.write("a", 2, "1M")
    life.backup()
    shutil.copytree(life.path, tmp_path / "copy")
    shutil.rmtree(life.path)
    life.path = str(tmp_path / "copy")
    place = read_only()
    life.restored(2, tmp_path / "out", place)
    with pytest.raises(ModuleFailed, match="is not writable"):
        life.backup(path=place)


def test_a_disk_that_is_put_back_to_an_internal_snapshot(life: Life, tmp_path: Path) -> None:
    """Its bitmap would not tell what has changed by that."""
    vm = life.vm
    vm.observer.execute("cont")
    life.write("a", 1)
    run_module(vm, "qemu_snapshot", name="s", devices=["a-node", "b-node"], vmstate="a-node")
    life.write("a", 2)
    life.backup()
    load: dict[str, Any] = {"name": "s", "state": "loaded", "devices": ["a-node", "b-node"], "vmstate": "a-node"}
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="devices: a-node has bitmap vmm-backup-daily-1"):
            run_module(vm, "qemu_snapshot", check=check, **load)
    assert vm.observer.look("query-status")["running"]
    run_module(vm, "qemu_backup", name="daily", path=life.path, state="absent")
    run_module(vm, "qemu_snapshot", **load)
    assert life.backup()["level"] == "full"
    vm.observer.execute("quit")
    vm.wait_exit()
    # QEMU itself lets nobody do it by hand
    command = ["qemu-img", "snapshot", "-a", "s", f"{vm.directory}/a.qcow2"]
    assert "active dirty bitmaps" in subprocess.run(command, check=False, capture_output=True, text=True).stderr
    for number in (1, 2):
        life.restored(number, tmp_path / str(number))
