# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A full backup of a large disk, and incremental ones when little has changed, beside a copy of all of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.plays import BenchError, expect, play
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
        vm.observer.hmp(f'qemu-io -d data "write -q -P {100 + turn} {number * GIB * 1024 // CHANGED}M 1M"')


def _copy(image: Path) -> float:
    """Seconds that a copy of the whole image takes, while QEMU has it open."""
    copy = image.with_name("copy.qcow2")
    start = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", str(image), str(copy)], check=True)
    taken = time.monotonic() - start
    copy.unlink()
    return taken


def _check_dirty(path: Path) -> None:
    dirty = json.loads((path / "chain.json").read_text())["backups"][-1]["disks"]["data"]["dirty"]
    if dirty != CHANGED << 20:
        raise BenchError(f"{dirty} bytes have changed, where it should have been {CHANGED} MiB")


def measure() -> Iterator[Row]:
    """The seconds of the task, and of a copy right after it: once for a full backup, and in turns for incremental ones."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory, VM(VERSIONS[-1], scsi=True) as vm:
        home = Path(directory)
        image = _disk(home / "data.qcow2")
        disk = {"id": "data", "driver": "scsi-hd", "bus": "scsi0.0", "filename": str(image), "format": "qcow2"}
        backup: dict[str, Any] = {"socket": vm.qmp, "name": "bench", "path": str(home / "backups"), "timeout": 600}
        task = {"name": "backup", "vmm.qemu.qemu_backup": backup}
        full = play(home, [{"name": "disk", "vmm.qemu.qemu_disk": {"socket": vm.qmp, **disk}}, task], here=True)[1]
        yield _row("full", [expect(full, 1).wall], [_copy(image)])
        ours, copies = [], []
        for turn in range(ROUNDS):
            _change(vm, turn)
            ours.append(expect(play(home, [task], here=True)[0], 1).wall)
            _check_dirty(home / "backups")
            copies.append(_copy(image))
        yield _row(f"incremental (1 %, {CHANGED} MiB)", ours, copies)


def _row(level: str, ours: Sequence[float], copies: Sequence[float]) -> Row:
    shown = [f"{median(seconds):.2f} s" for seconds in (ours, copies)]
    return Row(f"{level} backup of a {GIB} GiB disk: qemu-img convert of all of it", shown, ratio_of(ours, copies))
