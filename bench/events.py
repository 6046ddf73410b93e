# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source on 1,000 scripted monitors: how soon an event is there, what it costs to wait for one, and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import IO

from bench.monitors import monitors
from bench.plays import BenchError
from bench.table import Bar, Row
from support.collection import collection_root
from support.events import FILE

MONITORS = 1000
EVENTS = 20
IDLE = 5.0
SECONDS, MEGABYTES, BUSY = 0.2, 32.0, 0.01


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """MB that are there for it alone, the interpreter and its modules included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _next(told: IO[str], name: str) -> str:
    for line in told:
        if f"'event': '{name}'" in line:
            return line
    raise BenchError("the event source has ended")


def _row(what: str, mine: float, unit: str, limit: float) -> Row:
    return Row(what, [f"{mine:.3g} {unit}", f"{limit:g} {unit}"], mine / limit, Bar("<=", 1.0))


def measure() -> Iterator[Row]:
    """The table's rows."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")))
        machines = stack.enter_context(monitors([home / f"vm{number:04}.events" for number in range(MONITORS)]))
        command = [sys.executable, "-u", f"{collection_root()}/{FILE}", f"{home}/*.events"]
        begun = time.monotonic()
        source = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert source.stdout is not None
            for _number in range(MONITORS):
                _next(source.stdout, "connected")
            what = f"events of {MONITORS} monitors"
            started = time.monotonic() - begun
            yield Row(f"{what}: all connected", [f"{started:.2f} s", f"{MONITORS / started:.0f} a second"], started)
            waits = []
            for number in range(EVENTS):
                sent = time.monotonic()
                machines.peers[f"vm{number * 37 % MONITORS:04}"].sendall(b'{"event": "STOP"}\r\n')
                _next(source.stdout, "STOP")
                waits.append(time.monotonic() - sent)
            yield _row(f"{what}: an event is there, its bar", median(waits), "s", SECONDS)
            before = _processor(source.pid)
            time.sleep(IDLE)
            idle = (_processor(source.pid) - before) / IDLE
            yield _row(f"{what}: processor while nothing happens, its bar", idle, "of one", BUSY)
            yield _row(f"{what}: memory, its bar", _resident(source.pid), "MB", MEGABYTES)
        finally:
            source.terminate()
            source.wait()
