# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks, from 1 to 100: all in one `qemu_machine` task, beside loops of tasks, and beside no more than the commands.

The QEMUs are paused and have no guest, and each round has new ones, on which nothing was plugged before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from ansible_collections.vmm.qemu.plugins.modules.qemu_machine import MODULE
from bench import disks
from bench.picture import Curve
from bench.plays import PING, BenchError, Taken, expect, play
from bench.table import Bar, Row, growth, ratio_of
from support.vm import VERSIONS, VM

VERSION = VERSIONS[-1]
SIZES = (1, 10, 50, 100)
ROUNDS = 5
BARE = Bar("<=", 1.5)
TASKS = Bar("<=", 1 / 20)
TURNS = {1: 3, 10: 1, 100: 1}  # how often so many disks are added one by one
ONE_BY_ONE = {
    "single qemu_disk tasks": (disks.single_tasks, TASKS),
    "loop in one qemu_disk task": (disks.loop, None),
    "loop of shell + socat": (disks.shell_loop, TASKS),
}
MOST_COMMANDS = 15
PANEL = "Seconds to add disks"


class Round(NamedTuple):
    """What one round took."""

    ping: Taken
    added: Taken
    again: Taken
    bare: float
    """Seconds of the commands alone."""


def _round(home: Path, count: int) -> Round:
    with VM(VERSION, scsi=True) as vm, VM(VERSION, scsi=True) as other:
        document = disks.document(vm, count)
        tasks = [disks.one_task(vm, document, name) for name in ("added", "again")]
        _warm_up, ping, added, again = play(home, [PING, PING, *tasks], here=True)
        bare = disks.bare(other, disks.document(other, count))
        for each in (vm, other):
            disks.check(each, count)
    return Round(ping, expect(added, 1), expect(again, 0), bare)


def _one_by_one(home: Path, count: int, way: Callable[..., list[dict[str, Any]]]) -> tuple[float, float]:
    """Seconds of one task that adds so many disks, and those of adding as many to another VM one by one."""
    with VM(VERSION, scsi=True) as vm, VM(VERSION, scsi=True) as other:
        one = disks.one_task(vm, disks.document(vm, count), "one task")
        singly = way(other, disks.document(other, count), "one by one")
        _warm_up, all_at_once, *each = play(home, [PING, one, *singly], here=True)
        disks.check(vm, count)
        disks.check(other, count)
    return all_at_once.wall, sum(expect(taken, 1).wall for taken in each)


class _Counted(QMPSession):
    """A session that counts its commands."""

    sent = 0

    def execute(self, *args: Any, **how: Any) -> Any:
        type(self).sent += 1
        return super().execute(*args, **how)


def _full_read() -> Row:
    """How many commands it takes to find that nothing is to be done on a VM that has a bit of everything."""
    with VM(VERSION, scsi=True, args=["-device", "virtio-balloon-pci,id=balloon0"]) as vm:
        document = {
            "disks": disks.document(vm, 100),
            "objects": [{"id": "io0", "qom_type": "iothread"}],
            "chardevs": [{"id": "null0", "type": "null"}],
            "nics": [{"id": "net0", "netdev": {"type": "user"}, "bus": "rp0"}],
            "vcpus": 1,
            "balloon": "256M",
            "power": "paused",
        }
        defaults = {name: option.fields.get("default") for name, option in MODULE.options.items()}
        params = {**defaults, "socket": vm.qmp, **document}
        made = MODULE.run(params)
        if made.get("failed"):
            raise BenchError(made["msg"])
        again = MODULE.run(params, open_session=_Counted.connect)
        if again.get("failed") or again["changed"]:
            raise BenchError(f"what was made is not unchanged: {again['msg']}")
    shown = [str(_Counted.sent), str(MOST_COMMANDS)]
    what = "commands of a full read, 100 disks and one of each other kind: the most there may be"
    return Row(what, shown, _Counted.sent / MOST_COMMANDS, Bar("<=", 1.0))


def _disks(count: int) -> str:
    return f"{count} disk" + "s" * (count > 1)


def _row(what: str, mine: list[float], its: list[float], limit: Bar | None = None) -> Row:
    return Row(what, [f"{median(seconds) * 1000:.0f} ms" for seconds in (mine, its)], ratio_of(mine, its), limit)


def _rows(size: int, rounds: list[Round]) -> Iterator[Row]:
    """One task beside the least that it could be: the commands, and a task."""
    limit = BARE if size == max(SIZES) else None
    least = [taken.bare + taken.ping.wall for taken in rounds]
    added = [taken.added for taken in rounds]
    number = _disks(size)
    what = f"{number} added by one task"
    yield _row(f"{what}: bare commands and a ping", [taken.wall for taken in added], least, limit)
    pings = [[getattr(taken.ping, name) for taken in rounds] for name in ("wall", "processor")]
    yield _row(f"{what}, processor time: ping", [taken.processor for taken in added], pings[1])
    yield _row(f"{number}, unchanged, one task: ping", [taken.again.wall for taken in rounds], pings[0])


def measure() -> Iterator[Row | Curve]:
    """The tables' rows, and the curves of one panel."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        home = Path(directory)
        taken: dict[int, list[Round]] = {size: [] for size in SIZES}
        for _turn in range(ROUNDS):
            for size in SIZES:
                taken[size].append(_round(home, size))
        for size, rounds in taken.items():
            yield from _rows(size, rounds)
        added, again = (
            {size: median(getattr(taken, name).wall for taken in rounds) for size, rounds in taken.items()}
            for name in ("added", "again")
        )
        yield growth("added by one task", "disk", added)
        yield growth("unchanged", "disk", again)
        yield _full_read()
        yield Curve(PANEL, "disks", "one qemu_machine task", added)
        yield Curve(PANEL, "disks", "the same, unchanged", again)
        for name, (way, limit) in ONE_BY_ONE.items():
            costs = {}
            for size, turns in TURNS.items():
                at_once, singly = map(list, zip(*(_one_by_one(home, size, way) for _turn in range(turns))))
                at_most = limit if size == max(TURNS) else None
                yield _row(f"{_disks(size)} added by one task: {name}", at_once, singly, at_most)
                costs[size] = median(singly)
            if limit:
                yield Curve(PANEL, "disks", name, costs)
