# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that change nothing over SSH, by the code that the host keeps and as modules, beside `ansible.builtin.ping`.

The server is one on this machine, to which a connection stays open.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.plays import PING, BenchError, Taken, expect, play
from bench.table import Bar, Row
from bench.tasks import beside, disk_task, machine_task
from support.sshd import Sshd
from support.vm import VERSIONS, VM

ROUNDS, WARM_UP = 10, 2
HOSTS, HOST_ROUNDS = 20, 3
# The floor of a task, what a Python costs that does nothing, and what is measured.
RAW: dict[str, Any] = {"name": "a command that does nothing", "raw": "true"}
PYTHON: dict[str, Any] = {"name": "a Python that does nothing", "raw": "/usr/bin/python3 -I -S -c pass"}
RUNNER_BAR = Bar("<=", 0.30)
SENT_BAR = Bar("<=", 0.10)


def over(sshd: Sshd, runner: bool) -> dict[str, Any]:
    """The variables of a play over a server's connection."""
    python = "/usr/bin/python3"  # the system's, as on another host
    return {
        **sshd.variables,
        "ansible_python_interpreter": python,
        "ansible_pipelining": True,
        "vmm_qemu_runner": runner,
    }


def _rounds(
    home: Path, tasks: list[dict[str, Any]], rounds: int, *arguments: str, **how: Any
) -> dict[str, list[Taken]]:
    """What each task took, turn by turn, the first turns left out."""
    took: dict[str, list[Taken]] = {}
    for taken in play(home, [PING, *tasks] * (rounds + WARM_UP), *arguments, **how):
        took.setdefault(taken.name, []).append(taken)
    return {name: each[WARM_UP:] for name, each in took.items()}


def _one_host(home: Path, vm: VM) -> Iterator[Row]:
    disk, machine = disk_task(vm), machine_task(vm)
    with Sshd(python_path="") as sshd:
        for way, runner in (("by the code that the host keeps", True), ("as a module", False)):
            took = _rounds(home, [disk, machine, RAW, PYTHON], ROUNDS, variables=over(sshd, runner))
            for task in (disk, machine, *([RAW, PYTHON] if runner else [])):
                ours, own = took[task["name"]], task in (disk, machine)
                if own:
                    ours = [expect(taken, 0) for taken in ours]
                what = f"{task['name']}, {way}" if own else task["name"]
                limit = RUNNER_BAR if runner and task is disk else None
                yield beside(f"over SSH: {what}: ping", ours, took["ping"], "wall", limit)


def _many_hosts(home: Path, vm: VM) -> Iterator[Row]:
    disk = disk_task(vm)
    with Sshd(python_path="") as sshd:
        inventory = home / "hosts.json"
        inventory.write_text(json.dumps({"fleet": {"hosts": {f"host{number}": {} for number in range(HOSTS)}}}))
        arguments = ("-i", str(inventory), "-f", "10")
        took = _rounds(home, [disk], HOST_ROUNDS, *arguments, hosts="fleet", variables=over(sshd, True))
        ours = [expect(taken, 0) for taken in took[disk["name"]]]
        yield beside(f"over SSH, {HOSTS} hosts, 10 forks: {disk['name']}: ping", ours, took["ping"], "wall")


def _sent(home: Path, vm: VM) -> Row:
    """What goes over the line to the host for a task: most of it is what the task is run by."""
    disk = disk_task(vm)
    with Sshd(python_path="") as sshd:
        sizes = []
        for task in (disk, PING):
            play(home, [task], variables=over(sshd, True))  # which puts the code there
            before = _received(sshd)
            for taken in play(home, [task] * ROUNDS, variables=over(sshd, True)):
                expect(taken, 0)
            sizes.append((_received(sshd) - before) / ROUNDS)
    shown = [f"{size / 1000:.0f} kB" for size in sizes]
    return Row(f"over SSH: what is sent for {disk['name']}: ping", shown, sizes[0] / sizes[1], SENT_BAR)


def _received(sshd: Sshd) -> int:
    """The bytes that a server has read from its one client."""
    told = subprocess.run(["ss", "-tinH", f"sport = :{sshd.port}"], check=True, capture_output=True, text=True).stdout
    counts = re.findall(r" bytes_received:(\d+)", told)
    if len(counts) != 1:
        raise BenchError(f"not one connection to the SSH server: {told}")
    return int(counts[0])


def measure() -> Iterator[Row]:
    """Measure one host, then many, each with a connection of its own to the same."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory, VM(VERSIONS[-1]) as vm:
        vm.image("data.raw")
        home = Path(directory)
        for taken in play(home, [disk_task(vm)]):
            expect(taken, 1)
        yield from _one_host(home, vm)
        yield from _many_hosts(home, vm)
        yield _sent(home, vm)
