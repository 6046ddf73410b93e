# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task that changes nothing beside `ansible.builtin.ping`: in the task's own process, and as Ansible runs modules.

And what a module weighs that is sent to the managed host.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.imports import costs
from bench.plays import PING, BenchError, Taken, expect, play
from bench.table import Bar, Row, ratio_of
from support.vm import VERSIONS, VM

PAIRS = 24
WARM_UP = 2
ALONE_PAIRS = 12
# what the ways are called, whether it is the short one, and what a task may cost by the clock, in pings
WAYS = (("in Ansible's own process", True, Bar("<=", 0.12)), ("as a module process", False, Bar("<=", 1.25)))
MODULE = "ansible_collections.vmm.qemu.plugins.modules.qemu_disk"


def disk(vm: VM) -> dict[str, Any]:
    """A disk with the options that people give."""
    return {
        "id": "data",
        "filename": str(vm.directory / "data.raw"),
        "format": "raw",
        "bus": "rp0",
        "serial": "DATA01",
        "cache": {"direct": False},
    }


def disk_task(vm: VM) -> dict[str, Any]:
    """That disk in a task of its own."""
    return {"name": f"qemu_disk, unchanged, QEMU {vm.version}", "vmm.qemu.qemu_disk": {"socket": vm.qmp, **disk(vm)}}


def machine_task(vm: VM) -> dict[str, Any]:
    """The whole VM, which is that disk."""
    options = {"socket": vm.qmp, "disks": [disk(vm)], "power": "paused"}
    return {"name": f"qemu_machine, unchanged, QEMU {vm.version}", "vmm.qemu.qemu_machine": options}


@contextmanager
def _vms() -> Iterator[list[VM]]:
    """One of two versions, paused: an idle QEMU takes no processor time from what is measured."""
    first, second = VERSIONS[:2]
    with VM(first) as old, VM(second) as new:
        yield [old, new]


def _tasks(home: Path, vms: list[VM]) -> Iterator[Row]:
    """Each round is one ping and one of each of the others, in one play."""
    for taken in play(home, [disk_task(vm) for vm in vms]):
        expect(taken, 1)
    others = [*map(disk_task, vms), machine_task(vms[-1])]
    for way, here, limit in WAYS:
        took: dict[str, list[Taken]] = {}
        for taken in play(home, [PING, *others] * (PAIRS + WARM_UP), here=here):
            took.setdefault(taken.name, []).append(expect(taken, 0))
        pings = took["ping"][WARM_UP:]
        for task in others:
            mine = took[task["name"]][WARM_UP:]
            # a whole VM's module brings every kind along, which only matters where it is sent
            at_most = limit if here or "vmm.qemu.qemu_disk" in task else None
            yield beside(f"{task['name']}, {way}: ping", mine, pings, "wall", at_most)
            yield beside(f"{task['name']}, {way}, processor time: ping", mine, pings, "processor")


def beside(what: str, mine: list[Taken], its: list[Taken], time_of: str, limit: Bar | None = None) -> Row:
    """Return the row of two tasks' times, `wall` or `processor`."""
    seconds = [[float(getattr(taken, time_of)) for taken in side] for side in (mine, its)]
    return Row(what, [f"{median(side) * 1000:.0f} ms" for side in seconds], ratio_of(*seconds), limit)


def _payloads(home: Path, vm: VM) -> dict[str, Path]:
    """The files that Ansible sends to the managed host."""
    play(home, [PING, disk_task(vm)], environment={"ANSIBLE_KEEP_REMOTE_FILES": "1"})
    found = {path.stem.partition("_")[2]: path for path in (home / "remote").rglob("AnsiballZ_*.py")}
    if set(found) != {"ping", "qemu_disk"}:
        raise BenchError(f"no payloads of both modules: {found}")
    return found


def _alone(payload: Path, home: Path) -> tuple[float, float]:
    """The wall and processor time of the payload alone, as the managed host has them."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(payload)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        output = stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchError(f"{payload.name}: {output!r}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def _weight(home: Path, vm: VM) -> Iterator[Row]:
    """Size and files of the payload, what it costs alone, and how much of that is our own modules."""
    payloads = _payloads(home, vm)
    disk, ping = payloads["qemu_disk"], payloads["ping"]
    runs = [(_alone(disk, home), _alone(ping, home)) for _turn in range(ALONE_PAIRS)]
    for index, what in enumerate(("wall", "processor")):
        mine, its = ([run[side][index] for run in runs] for side in (0, 1))
        shown = [f"{median(seconds) * 1000:.0f} ms" for seconds in (mine, its)]
        yield Row(f"qemu_disk's payload alone, {what} time: ping", shown, ratio_of(mine, its))

    sizes = [payload.stat().st_size for payload in (disk, ping)]
    yield Row("payload: ping", [f"{size / 1000:.0f} kB" for size in sizes], sizes[0] / sizes[1])
    trees = []
    for payload in (disk, ping):
        subprocess.run([sys.executable, str(payload), "explode"], check=True, stdout=subprocess.DEVNULL)
        trees.append(payload.parent / "debug_dir")
    counts = [sum(1 for path in tree.rglob("*.py") if path.stat().st_size) for tree in trees]
    yield Row("files in the payload that are not empty: ping", list(map(str, counts)), counts[0] / counts[1])

    # -B, from a tree that no interpreter has compiled: on the managed host, too, every run compiles everything
    basic = "import ansible.module_utils.basic"
    statements = {"basic": basic, "all": f"{basic}, {MODULE}"}
    cost = costs(statements, {"PYTHONPATH": str(trees[0])}, "-B", rounds=ALONE_PAIRS)
    basics = cost["basic"].processor
    own = cost["all"].processor - basics
    shown = [f"{seconds * 1000:.0f} ms" for seconds in (own, basics)]
    yield Row("import of qemu_disk's own files, uncompiled, processor time: basic.py", shown, own / basics)


def measure() -> Iterator[Row]:
    """Tasks first, then what is in them."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory, _vms() as vms:
        for vm in vms:
            vm.image("data.raw")
        home = Path(directory)
        yield from _tasks(home, vms)
        yield from _weight(home, vms[-1])
