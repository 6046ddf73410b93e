# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that chance decides, each by a number of its own, and tasks that it kills, stops or cuts off."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible
from support.cutter import Cutter
from support.lab import Lab
from support.modules import ModuleFailed
from support.vm import VERSIONS

SEED = int(os.environ.get("CHAOS_SEED") or 1)
RUNS = int(os.environ.get("CHAOS_RUNS") or 0)


def runs(usual: int, of_ten: int) -> list[Any]:
    """(QEMU's version, number) of each run: `usual`, or so many tenths of CHAOS_RUNS. The number alone decides all of a run."""
    count = (RUNS * of_ten + 9) // 10 if RUNS else usual
    numbers = range(SEED, SEED + count)
    versions = [VERSIONS[number % len(VERSIONS)] for number in numbers]
    return [pytest.param(version, number, id=f"{version}-{number}") for version, number in zip(versions, numbers)]


_ROADS = (*((version, version) for version in VERSIONS), *zip(VERSIONS, VERSIONS[1:]))


def migrations(usual: int) -> list[Any]:
    """(from, to, number) of each migration: `usual`, or a tenth of CHAOS_RUNS."""
    count = (RUNS + 9) // 10 if RUNS else usual
    roads = [(number, _ROADS[number % len(_ROADS)]) for number in range(SEED, SEED + count)]
    return [pytest.param(*road, number, id=f"{'-'.join(road)}-{number}") for number, road in roads]


def chance(number: int) -> random.Random:
    """What decides about a run; a failure shows how to have it again."""
    test = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition("[")[0]
    print(f"this one alone: CHAOS_SEED={number} CHAOS_RUNS=1 scripts/test chaos -- -k {test}")
    return random.Random(number)


class Fault(NamedTuple):
    """What befalls a task once it has sent so many bytes."""

    kind: str
    """kill, term: the signals; cut: the connection ends; gone: and nobody listens at the monitor's address any more."""
    at: int


KINDS = ("kill", "term", "cut", "gone")


def fault(chance: random.Random, lab: Lab, document: dict[str, Any]) -> Fault:
    """One that strikes mostly while the task changes the VM."""
    counter = Cutter(lab.vm.qmp, 0)
    with counter:
        foretold = lab.run(document, check=True, socket=counter.address)
    reads = counter.sent
    changes = sum(len(json.dumps(command)) for command in foretold["commands"])
    at = reads + chance.randint(0, changes * 5 // 4) if chance.random() < 0.85 else chance.randint(1, reads)
    return Fault(chance.choice(KINDS), at)


def suffer(lab: Lab, document: dict[str, Any], fault: Fault) -> dict[str, Any] | None:
    """Run the task and let that befall it. Its result, be it a failure; None of one that was killed or told to stop."""
    task = Signalled()
    strike = {"kill": task.kill, "term": task.term}.get(fault.kind)
    cutter = Cutter(lab.vm.qmp, fault.at, strike, cut=fault.kind != "term", gone=fault.kind == "gone")
    with cutter:
        result = task.run(lambda: lab.run(document, socket=cutter.address))
    lab.settle(cutter.heard)
    return result


class Signalled:
    """A task in a process of its own, as a module's is, that signals can reach."""

    def __init__(self) -> None:
        self._child = 0
        self._begun = threading.Event()
        self._sent: int | None = None

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def term(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        self._sent = number
        self._begun.wait()
        os.kill(self._child, number)

    def run(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Its result, be it a failure; None where a signal has ended it before it had one."""
        told, tell = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            _be_the_task(work, tell)
        self._begun.set()
        os.close(tell)
        with os.fdopen(told) as said:
            result = json.loads(said.read() or "null")
        _pid, status = os.waitpid(self._child, 0)
        assert result is not None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == self._sent), status
        return None if result is None else dict(result)


def _be_the_task(work: Callable[[], dict[str, Any]], tell: int) -> None:
    """Run it as a module's process does, and end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with interruptible():
            try:
                result = work()
            except ModuleFailed as failed:
                result = failed.result
        os.write(tell, json.dumps(result).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
