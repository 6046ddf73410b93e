# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `import` costs in a fresh interpreter: our session beside PyPI's qemu.qmp."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import NamedTuple

from bench.table import Bar, Row
from support.collection import collection_root

ROUNDS = 32
SESSION = "ansible_collections.vmm.qemu.plugins.module_utils._qmp.session"
BAR = Bar("<", 1 / 3)


class Cost(NamedTuple):
    """Seconds by the clock and by the processor."""

    wall: float
    processor: float


def fresh(statement: str, environment: Mapping[str, str], *options: str) -> Cost:
    """What one interpreter costs that does just this."""
    # -S: site would read the venv's .pth files, which are none of anybody's import; -s: nor is the user's directory
    command = [sys.executable, "-S", "-s", *options, "-c", statement]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=dict(environment), cwd="/", stdin=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def costs(
    statements: Mapping[str, str], environment: Mapping[str, str], *options: str, rounds: int = ROUNDS
) -> dict[str, Cost]:
    """What each statement costs on top of `pass`: medians of interleaved rounds."""
    everything = {"": "pass", **statements}
    found: dict[str, list[Cost]] = {name: [] for name in everything}
    for statement in everything.values():
        fresh(statement, environment, *options)  # compiled once, in the page cache once
    for _turn in range(rounds):
        for name, statement in everything.items():
            found[name].append(fresh(statement, environment, *options))
    wall, processor = ({name: median(cost[index] for cost in found[name]) for name in found} for index in (0, 1))
    return {name: Cost(wall[name] - wall[""], processor[name] - processor[""]) for name in statements}


def measure() -> Iterator[Row]:
    """The session beside qemu.qmp, both already compiled, both from the same path."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as cache:
        environment = {
            "PYTHONPATH": f"{collection_root()}:{sysconfig.get_path('purelib')}",
            "PYTHONPYCACHEPREFIX": cache,
        }
        cost = costs({"ours": f"import {SESSION}", "pypi": "import qemu.qmp"}, environment)
    for what, mine, theirs in zip(Cost._fields, cost["ours"], cost["pypi"]):
        shown = [f"{seconds * 1000:.1f} ms" for seconds in (mine, theirs)]
        yield Row(f"import of the session, {what} time: qemu.qmp", shown, mine / theirs, BAR)
