# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_backup: what is in the images that it lists, and what is left where it is stopped or fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle
from support.modules import run_module
from support.vm import VM

SIZE = 8 << 20
LIVE_VM = {"scsi": True}
DISKS = (("a", "scsi-hd", "raw", "scsi0.0"), ("b", "virtio-blk-pci", "qcow2", "rp0"))


def plug(vm: VM, new: bool = True) -> VM:
    """`a` is a raw scsi-hd, `b` a qcow2 virtio-blk."""
    for name, driver, fmt, bus in DISKS:
        path = vm.image(f"{name}.img", str(SIZE), fmt) if new else f"{vm.directory}/{name}.img"
        run_module(vm, "qemu_disk", id=name, driver=driver, filename=path, format=fmt, bus=bus)
    return vm


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    """No guest, not started."""
    return plug(start_vm(scsi=True))


@pytest.fixture
def life(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_backup")


def device(disk: str) -> str:
    return f"/machine/peripheral/{disk}/virtio-backend" if disk in ("b", "c") else disk


def write(vm: VM, pattern: int, at: str = "0", size: str = "1M", disks: str = "ab") -> None:
    """As the guest would, through the devices."""
    for disk in disks:
        vm.observer.hmp(f'qemu-io -d {device(disk)} "write -P {pattern} {at} {size}"')
        vm.observer.hmp(f'qemu-io -d {device(disk)} "flush"')


def place(vm: VM) -> Path:
    return vm.directory / "bk"


def backup(vm: VM, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_backup", **{"name": "daily", "path": str(place(vm)), **options})


def listed(vm: VM) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place(vm) / "chain.json").read_text())["backups"]
    return found


def is_good(vm: VM, number: int = 0, disks: str = "ab") -> None:
    """The images of that backup are whole, and hold what the disks hold now."""
    entry = next(one for one in listed(vm)[::-1] if number in (0, one["number"]))
    for disk in disks:
        image = place(vm) / entry["disks"][disk]["file"]
        subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)
        same(str(image), f"{vm.directory}/{disk}.img", "raw" if disk == "a" else "qcow2")


def same(image: str, other: str, fmt: str) -> None:
    command = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", fmt, image, other]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{image}: {done.stdout}"


def bitmaps(vm: VM, disk: str = "b") -> list[str]:
    (node,) = (one for one in vm.observer.look("query-named-block-nodes") if one["node-name"] == f"{disk}-node")
    return sorted(bitmap["name"] for bitmap in node.get("dirty-bitmaps", []))


def tidy(vm: VM) -> None:
    """Nothing is there but what is listed: no job, node, file or bitmap."""
    assert vm.observer.execute("query-jobs") == []
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}
    entries = listed(vm) if (place(vm) / "chain.json").exists() else []
    files = {image["file"] for entry in entries for image in entry["disks"].values()}
    there = {str(path.relative_to(place(vm))) for path in place(vm).rglob("*") if path.is_file()}
    assert there - {"chain.json"} == files
    chained = [entry for entry in entries if entry["level"] != "copy"]
    bases = [*chained[-1:], *[entry for entry in chained if entry["level"] == "full"][-1:]]
    for disk in "ab":
        assert set(bitmaps(vm, disk)) == {base["disks"][disk]["bitmap"] for base in bases if disk in base["disks"]}


def test_full_and_incremental(life: Lifecycle) -> None:
    vm = life.vm
    foretold = backup(vm, check=True, diff=True)
    assert not place(vm).exists() and bitmaps(vm) == []
    done = backup(vm, diff=True)
    assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
    assert (done["backup"]["level"], done["backup"]["why"]) == ("full", "there is no full backup yet")
    assert "a is of format raw and keeps no bitmap" in " ".join(done["warnings"])
    assert (place(vm) / "chain.json").stat().st_mode & 0o777 == 0o600
    is_good(vm)
    for number in range(2, 7):
        write(vm, number, f"{number * 512}k", "64k")
        foretold = backup(vm, check=True, diff=True, verify=True)
        assert foretold["backup"]["number"] == number and len(listed(vm)) == number - 1
        done = backup(vm, diff=True, verify=True)
        assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
        told = done["backup"]
        assert told["level"] == "incremental" and told["disks"]["b"]["dirty"] == 65536
        assert told["disks"]["b"]["written"] == os.stat(told["disks"]["b"]["path"]).st_blocks * 512
        is_good(vm)
        tidy(vm)
    life.same(name="daily", path=str(place(vm)), every="1h")
    shutil.move(place(vm), f"{place(vm)}.moved")  # all of it: images stand on each other by their bare names
    shutil.move(f"{place(vm)}.moved", place(vm))
    is_good(vm)
