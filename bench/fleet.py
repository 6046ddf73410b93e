# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many VMs on one host: a task that changes nothing on 1 to 100 of them, and the life of 50.

Each is a host of the inventory, or all are data of one task.

They are small, paused, and have no guest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.picture import Curve
from bench.plays import PING, BenchError, Taken, expect, play
from bench.table import Bar, Row, growth, ratio_of
from support.vm import VERSIONS, VM, qemu_binary

VERSION = VERSIONS[-1]
SIZES = (1, 10, 50, 100)
TURNS = 3
LIVES = 50
FORKS = "10"
PANEL = "Seconds of a task that changes nothing"
MACHINE = "vmm.qemu.qemu_machine"
DISK = {"id": "data", "filename": "{{ home }}/data.raw", "driver": "scsi-hd", "bus": "scsi0.0"}


def _machine(name: str, **document: Any) -> dict[str, Any]:
    return {"name": name, MACHINE: {"socket": "{{ home }}/qmp", "power": "paused", **document}}


def _inventory(home: Path, places: list[Path]) -> list[str]:
    """ansible-playbook's arguments for a fleet of VMs, each with its directory."""
    hosts = {f"vm{number:03}": {"home": str(place)} for number, place in enumerate(places)}
    path = home / "fleet.json"
    path.write_text(json.dumps({"fleet": {"hosts": hosts}}))
    return ["-i", str(path), "-f", FORKS]


def _image(place: Path) -> None:
    with (place / "data.raw").open("wb") as image:
        image.truncate(1 << 20)


@contextmanager
def _fleet() -> Iterator[list[Path]]:
    """The directories of as many running VMs as are needed at most."""
    with ExitStack() as stack:
        vms = [stack.enter_context(VM(VERSION, memory="16", ports=(), scsi=True)) for _number in range(max(SIZES))]
        for vm in vms:
            _image(vm.directory)
        yield [vm.directory for vm in vms]


def _unchanged(home: Path) -> Iterator[Row | Curve]:
    task = _machine("unchanged", disks=[DISK])
    with _fleet() as places:
        fleet = _inventory(home, places)
        (added,) = play(home, [task], *fleet, hosts="fleet", here=True)
        expect(added, max(SIZES))
        on = {size: f"fleet[0:{size - 1}]" for size in SIZES}
        pings = {size: play(home, [PING], *fleet, hosts=on[size], here=True)[0] for size in SIZES}
        taken: dict[int, list[Taken]] = {size: [] for size in SIZES}
        yield from _in_one_task(home, places)
        for _turn in range(TURNS):
            for size in SIZES:
                _warm_up, unchanged = play(home, [task, task], *fleet, hosts=on[size], here=True)
                taken[size].append(expect(unchanged, 0))
    for size, mine in taken.items():
        ping, what = pings[size], f"qemu_machine, unchanged, {size} VM" + "s" * (size > 1)
        yield _row(f"{what}: ping", [each.wall for each in mine], ping.wall)
        yield _row(f"{what}, processor time: ping", [each.processor for each in mine], ping.processor)
    costs = {size: median(each.wall for each in mine) for size, mine in taken.items()}
    yield growth("unchanged", "VM", costs)
    yield Curve(PANEL, "virtual machines", "qemu_machine", costs)
    yield Curve(PANEL, "virtual machines", "ping", {size: ping.wall for size, ping in pings.items()})


def _in_one_task(home: Path, places: list[Path]) -> Iterator[Row | Curve]:
    """All of them as ``machines`` of one task, beside a ping of their host. Each turn is one play."""
    machines = {
        place.name: {"socket": f"{place}/qmp", "disks": [{**DISK, "filename": f"{place}/data.raw"}]} for place in places
    }
    tasks = {
        size: {"name": str(size), MACHINE: {"power": "paused", "machines": dict(list(machines.items())[:size])}}
        for size in SIZES
    }
    pings: list[Taken] = []
    taken: dict[int, list[Taken]] = {size: [] for size in SIZES}
    for _turn in range(TURNS):
        _warm_up, ping, *each = play(home, [tasks[1], PING, *tasks.values()], here=True)
        pings.append(ping)
        for size, mine in zip(SIZES, each):
            taken[size].append(expect(mine, 0))
    walls, processors = (
        {size: [float(getattr(each, kind)) for each in mine] for size, mine in taken.items()}
        for kind in ("wall", "processor")
    )
    its_wall, its_processor = median(ping.wall for ping in pings), median(ping.processor for ping in pings)
    for size in SIZES:
        what = f"qemu_machine, unchanged, {size} VM{'s' * (size > 1)} in one task"
        yield _row(f"{what}: ping", walls[size], its_wall)
        yield _row(f"{what}, processor time: ping", processors[size], its_processor)
    each_of_most = [seconds / SIZES[-1] for seconds in processors[SIZES[-1]]]
    yield _row(f"each of {SIZES[-1]} in one task, processor time: ping", each_of_most, its_processor, Bar("<=", 0.03))
    yield growth(
        "unchanged in one task, processor time", "VM", {size: median(mine) for size, mine in processors.items()}
    )
    yield Curve(PANEL, "virtual machines", "machines, one task", {size: median(mine) for size, mine in walls.items()})


def _life() -> list[dict[str, Any]]:
    """The tasks of a VM's life, whose names are what they have done."""
    arguments = {
        "machine": {"type": "q35", "accel": "tcg"},
        "m": 16,
        "nodefaults": True,
        "display": "none",
        "S": True,
        "device": {"driver": "virtio-scsi-pci", "id": "scsi0"},
    }
    instance = {"name": "{{ inventory_hostname }}", "socket": "{{ home }}/qmp"}
    start = {**instance, "binary": str(qemu_binary(VERSION)), "arguments": arguments}
    return [
        {"name": "started", "vmm.qemu.qemu_instance": start},
        _machine("given a disk", disks=[DISK]),
        _machine("disk grown", disks=[{**DISK, "size": "2M"}]),
        _machine("disk taken away", disks=[{"id": "data", "state": "absent"}]),
        {"name": "stopped", "vmm.qemu.qemu_instance": {**instance, "state": "stopped"}},
    ]


def _lives(home: Path) -> Iterator[Row]:
    """50 VMs made, changed and removed by one playbook."""
    places = [home / f"vm{number:03}" for number in range(LIVES)]
    for place in places:
        place.mkdir()
        _image(place)
    life = _life()
    fleet = _inventory(home, places)
    ping, *steps = play(home, [PING, *life], *fleet, hosts="fleet", here=True)
    for step in steps:
        yield _row(f"{LIVES} VMs {step.name}: ping", [expect(step, LIVES).wall], ping.wall)
    left = [path.name for place in places for path in place.iterdir() if path.name != "data.raw"]
    if left:
        raise BenchError(f"the VMs have left something behind: {left}")
    yield _row(f"{LIVES} VMs made, changed and removed: ping", [sum(step.wall for step in steps)], ping.wall)


def _row(what: str, mine: list[float], its: float, limit: Bar | None = None) -> Row:
    shown = [f"{seconds * 1000:.0f} ms" for seconds in (median(mine), its)]
    return Row(what, shown, ratio_of(mine, [its] * len(mine)), limit)


def measure() -> Iterator[Row | Curve]:
    """The tables' rows, and the curves of one panel."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        home = Path(directory)
        yield from _unchanged(home)
        yield from _lives(home)
