# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An incremental backup of a large disk of which little has changed, beside a copy of all of it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.plays import PING, expect, play
from bench.table import Row, ratio_of
from support.vm import VERSIONS, VM

GIB = 10
CHANGED = 100
"""MiB that change between two backups: 1 %, a MiB here and there."""
ROUNDS = 3


def _disk(path: Path) -> Path:
    """An image with nothing but data."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), f"{GIB}G"], check=True)
    writes = [word for number in range(GIB) for word in ("-c", f"write -q -P {number + 1} {number}G 1G")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, str(path)], check=True)
    return path


def _change(vm: VM, turn: int) -> None:
    for number in range(CHANGED):
        vm.observer.hmp(f'qemu-io data-node "write -q -P {100 + turn} {number * GIB * 1024 // CHANGED}M 1M"')


def _copy(image: Path) -> float:
    """Seconds that a copy of the whole image takes, while QEMU has it open."""
    copy = image.with_name("copy.qcow2")
    start = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", str(image), str(copy)], check=True)
    taken = time.monotonic() - start
    copy.unlink()
    return taken


def measure() -> Iterator[Row]:
    """The seconds of each round: of the task, and of the copy."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory, VM(VERSIONS[-1], scsi=True) as vm:
        home = Path(directory)
        image = _disk(home / "data.qcow2")
        disk = {"id": "data", "driver": "scsi-hd", "bus": "scsi0.0", "filename": str(image), "format": "qcow2"}
        backup: dict[str, Any] = {"socket": vm.qmp, "name": "bench", "path": str(home / "backups"), "timeout": 600}
        tasks = [
            {"name": "disk", "vmm.qemu.qemu_disk": {"socket": vm.qmp, **disk}},
            {"name": "full", "vmm.qemu.qemu_backup": backup},
        ]
        play(home, tasks, here=True)
        ours, copies, pings = [], [], []
        for turn in range(ROUNDS):
            _change(vm, turn)
            ping, task = play(home, [PING, {"name": "incremental", "vmm.qemu.qemu_backup": backup}], here=True)
            ours.append(expect(task, 1).wall)
            pings.append(ping.wall)
            copies.append(_copy(image))
    what = f"backup of a {GIB} GiB disk of which {CHANGED} MiB have changed"
    for other, name in ((copies, "qemu-img convert of all of it"), (pings, "ping")):
        middle = [f"{sorted(seconds)[ROUNDS // 2]:.2f} s" for seconds in (ours, other)]
        yield Row(f"{what}: {name}", middle, ratio_of(ours, other))
