# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many SCSI disks, and the ways of plugging them."""

from __future__ import annotations

import json
import time
from typing import Any

from bench.plays import BenchError
from support.vm import VM

Command = dict[str, Any]


def document(vm: VM, count: int) -> list[dict[str, Any]]:
    """So many disks, each with an image of its own."""
    disks = []
    for number in range(count):
        image = vm.directory / f"d{number}.raw"
        with image.open("ab") as file:
            file.truncate(1 << 20)
        place = {"driver": "scsi-hd", "bus": "scsi0.0", "scsi_id": number}
        disks.append({"id": f"d{number}", "filename": str(image), "serial": f"SERIAL{number}", **place})
    return disks


def commands(disk: dict[str, Any]) -> list[Command]:
    """The two commands that add a disk."""
    node = f"{disk['id']}-node"
    file = {"driver": "file", "filename": disk["filename"]}
    device = {
        "id": disk["id"],
        "driver": "scsi-hd",
        "bus": disk["bus"],
        "drive": node,
        "scsi-id": disk["scsi_id"],
        "serial": disk["serial"],
    }
    return [
        {"execute": "blockdev-add", "arguments": {"node-name": node, "driver": "raw", "file": file}},
        {"execute": "device_add", "arguments": device},
    ]


def one_task(vm: VM, disks: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """All of them in one task."""
    return {"name": name, "vmm.qemu.qemu_machine": {"socket": vm.qmp, "disks": disks}}


def single_tasks(vm: VM, disks: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """A task for each of them."""
    return [{"name": name, "vmm.qemu.qemu_disk": {"socket": vm.qmp, **disk}} for disk in disks]


def loop(vm: VM, disks: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """One task with a loop, which Ansible runs in one worker."""
    options = {option: f"{{{{ item.{option} }}}}" for option in disks[0]}
    return [{"name": name, "vmm.qemu.qemu_disk": {"socket": vm.qmp, **options}, "loop": disks}]


def shell_loop(vm: VM, disks: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """What is done without the collection: `socat` in a loop, and nobody who reads the answers."""
    first = {"execute": "qmp_capabilities"}
    lines = [" ".join(f"'{json.dumps(line)}'" for line in (first, *commands(disk))) for disk in disks]
    script = "printf '%s\\n' {{ item }} | socat - UNIX-CONNECT:" + vm.qmp
    return [{"name": name, "ansible.builtin.shell": script, "loop": lines}]


def bare(vm: VM, disks: list[dict[str, Any]]) -> float:
    """Seconds that the bare commands take over one connection, one after the other."""
    start = time.perf_counter()
    for disk in disks:
        for command in commands(disk):
            vm.observer.send(command["execute"], command["arguments"])
    return time.perf_counter() - start


def check(vm: VM, count: int) -> None:
    """Raise BenchError unless the VM has so many disks."""
    found = len(vm.plugged())
    if found != count:
        raise BenchError(f"there should be {count} disks, and there are {found}")
