# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm on many virtual machines of one host: nothing to do, and from nothing to running, for each of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.picture import Curve
from bench.plays import PING, BenchError, Taken, play
from bench.ssh import over
from bench.table import Bar, Row, ratio_of
from support.roles import SMALL, ended
from support.sshd import Sshd
from support.vm import VERSIONS, qemu_binary

BARE = 50
WHOLE = 10
TURNS = 3
NOTHING_TO_DO, FROM_NOTHING = Bar("<=", 0.6), Bar("<=", 1)


def _fleet(home: Path, names: Sequence[str], variables: dict[str, Any]) -> list[str]:
    """ansible-playbook's arguments for virtual machines, each a host of the inventory."""
    own = {
        "vm_directory": f"{home}/{{{{ inventory_hostname }}}}",
        "vm_user": "",
        "vm_binary": str(qemu_binary(VERSIONS[-1])),
    }
    path = home / "fleet.json"
    path.write_text(json.dumps({"fleet": {"hosts": dict.fromkeys(names), "vars": {**SMALL, **own, **variables}}}))
    return ["-i", str(path), "-f", "10"]


def _run(home: Path, fleet: list[str], how: dict[str, Any]) -> tuple[Taken, float, float, int]:
    """A ping of all hosts beside the role on all: its seconds by clock and processor, and on how many hosts something changed."""
    *tasks, ping = play(home, [PING], *fleet, hosts="fleet", roles=["vmm.qemu.vm"], **how)
    return (
        ping,
        sum(task.wall for task in tasks),
        sum(task.processor for task in tasks),
        max(task.changed for task in tasks),
    )


def _life(
    home: Path, prefix: str, count: int, what: str, variables: dict[str, Any], how: dict[str, Any]
) -> Iterator[Row]:
    here = (
        "here" in how
    )  # what the host's side takes over SSH is in the wall time alone, and at first its copy of the code
    names = [f"{prefix}{number:03}" for number in range(count)]
    fleet = _fleet(home, names, variables)
    try:
        ping, wall, processor, changed = _run(home, fleet, how)
        if changed != count:
            raise BenchError(f"the role changed something on {changed} of {count} new virtual machines")
        yield _row(
            f"role vm, {what}, from nothing to running, {count} VMs: ping",
            [(wall, ping.wall)],
            FROM_NOTHING if here else None,
        )
        yield _row(f"role vm, {what}, from nothing to running, processor time: ping", [(processor, ping.processor)])
        turns = [_run(home, fleet, how) for _turn in range(TURNS)]
        if any(turn[3] for turn in turns):
            raise BenchError("the role changed something where nothing was to be done")
        yield _row(
            f"role vm, {what}, nothing to do, {count} VMs: ping",
            [(mine, its.wall) for its, mine, _p, _c in turns],
            NOTHING_TO_DO,
        )
        yield _row(
            f"role vm, {what}, nothing to do, processor time: ping",
            [(mine, its.processor) for its, _w, mine, _c in turns],
            NOTHING_TO_DO if here else None,
        )
    finally:
        ended(home)


def _row(what: str, pairs: list[tuple[float, float]], limit: Bar | None = None) -> Row:
    shown = [f"{seconds * 1000:.0f} ms" for seconds in pairs[len(pairs) // 2]]
    return Row(what, shown, ratio_of([mine for mine, _its in pairs], [its for _mine, its in pairs]), limit)


def measure() -> Iterator[Row | Curve]:
    """The tables' rows."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        home = Path(directory)
        yield from _life(home, "bare", BARE, "bare", {}, {"here": True})
        whole = {
            "vm_disk_size": "8M",
            "vm_user_data": {"packages": ["x"]},
            "vm_disks": [
                {"id": "data", "filename": f"{home}/{{{{ inventory_hostname }}}}/data", "size": "1M", "bus": "rp0"}
            ],
        }
        yield from _life(home, "whole", WHOLE, "disk, seed and data disk", whole, {"here": True})
        with Sshd(python_path="") as sshd:
            yield from _life(home, "far", WHOLE, "over SSH, bare", {}, {"variables": over(sshd, True)})
