# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory of 1,000 scripted monitors, beside its bars in seconds and MB; and what 20 add that say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.monitors import monitors
from bench.plays import BenchError
from bench.table import Bar, Row
from support import inventory
from support.plays import ansible_environment

MONITORS = 1000
SILENT = 20
TURNS = 3
SECONDS, MEGABYTES, ADDED = 3.0, 120.0, 2.0
# Runs a command and tells what it took: the peak memory of a process is never told to be less than that of its parent was.
COUNTED = """
import json, os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_pid, status, used = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss], file)
"""


class Cost(NamedTuple):
    """What one `ansible-inventory --list` took: seconds, processor seconds, and MB at its peak."""

    wall: float
    processor: float
    peak: float


def _cost(home: Path, hosts: int, source: Path | str) -> Cost:
    (home / "ansible.cfg").touch()
    out = home / "out.json"
    begun = time.monotonic()
    with out.open("wb") as told:
        command = [inventory.COMMAND, "-i", str(source), "--list"]
        counted = [sys.executable, "-I", "-S", "-c", COUNTED, str(home / "used.json"), *command]
        subprocess.run(counted, stdout=told, cwd=home, env=ansible_environment(home), check=True)
    wall = time.monotonic() - begun
    status, processor, peak = json.loads((home / "used.json").read_text())
    found = len(json.loads(out.read_text())["_meta"]["hostvars"])
    if status or found != hosts:
        raise BenchError(f"ansible-inventory has ended with {status}, and told {found} of {hosts} hosts")
    return Cost(wall, processor, peak / 1024)


def _file(home: Path, **options: Any) -> Path:
    return inventory.write(home, sockets=[f"{home}/*.qmp"], **options)


def _row(what: str, mine: list[float], unit: str, limit: float, limited: bool = True) -> Row:
    number = median(mine)
    return Row(what, [f"{number:.2f} {unit}", f"{limit:g} {unit}"], number / limit, Bar("<=", 1.0) if limited else None)


def measure() -> Iterator[Row]:
    """The table's rows."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")))
        stack.enter_context(monitors([home / f"vm{number:04}.qmp" for number in range(MONITORS)]))
        static = home / "static.json"
        static.write_text(json.dumps({"all": {"hosts": {f"vm{number:04}": {"a": "b"} for number in range(MONITORS)}}}))
        file = _file(home)
        floors, plain = [], []
        for _turn in range(TURNS):
            floors.append(_cost(home, MONITORS, static))
            plain.append(_cost(home, MONITORS, file))
        what = f"inventory of {MONITORS} monitors"
        yield _row(f"{what}: its bar", [each.wall for each in plain], "s", SECONDS)
        yield _row(f"{what}, memory: its bar", [each.peak for each in plain], "MB", MEGABYTES)
        floor = median(each.processor for each in floors)
        yield _row(
            f"{what}, processor time: that of as many in a file", [c.processor for c in plain], "s", floor, False
        )
        silent = [home / f"silent{number:02}.qmp" for number in range(SILENT)]
        stack.enter_context(monitors(silent, silent=True))
        more = [_cost(home, MONITORS + SILENT, file).wall - each.wall for each in plain]
        yield _row(f"{SILENT} of them that say nothing add: their bar", more, "s", ADDED)
        expressions = {
            "compose": {"where": "qemu_hypervisor ~ qemu_socket"},
            "groups": {"on_7": "qemu_version is version('8', '<')"},
            "keyed_groups": [{"key": "qemu_version"}],
        }
        for path in silent:
            path.unlink()
        costs = [_cost(home, MONITORS, _file(home, **expressions)).processor]
        yield _row(
            f"{what} with three expressions, processor time: without",
            costs,
            "s",
            median(c.processor for c in plain),
            False,
        )
