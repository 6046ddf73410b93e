# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One migration that something befalls, and its user, who reads what the tasks say and does that."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from support.chaos import Signalled
from support.line import Line
from support.migration import MACHINE, incoming, wait_for
from support.modules import ModuleFailed, run_module
from support.timing import no_hang, until
from support.vm import VM

KINDS = ("dies", "reset", "silent", "deaf", "torn", "kill", "term")
TIMEOUT = 10.0
_COUNT = re.compile(r"^GUEST-COUNT (\d+)\r?\n", re.MULTILINE)
_PATIENCE = 60.0  # for a guest on a busy machine to say one more number


class Fault(NamedTuple):
    """What happens once so many bytes of the guest have passed."""

    kind: str
    at: int


class Sides:
    """A guest that counts on the QEMU `here`, and goes to QEMU `to`; started anew where the last example left none."""

    def __init__(self, here: str, to: str) -> None:
        self.versions = here, to
        self._vm: VM | None = None
        self.size = 0
        """How much a whole migration of it sends."""

    def start(self, version: str, incoming: bool = False) -> VM:
        args = ["-incoming", "defer"] if incoming else []
        return VM(version, guest=True, append="bed.count", machine=MACHINE, ports=["rp0"], args=args)

    def source(self) -> VM:
        if self._vm is None or not self._vm.alive or self._vm.observer.status() != "running":
            self.close()
            self._vm = self.start(self.versions[0])
        if not self.size:
            self.size = self._measure(self._vm)
        return self._vm

    def _measure(self, vm: VM) -> int:
        """Of a first one, to nowhere."""
        vm.observer.execute("migrate", uri="exec:cat > /dev/null")
        wait_for(vm, "completed")
        vm.observer.execute("cont")
        return int(vm.observer.look("query-migrate")["ram"]["transferred"])

    def keep(self, vm: VM | None) -> None:
        """The one that has the guest now, if it can be the next source."""
        if vm is not self._vm:
            self.close()
            self._vm = vm

    def close(self) -> None:
        if self._vm is not None:
            self._vm.close()
            self._vm = None


class Crossing:
    """One migration and what befalls it."""

    def __init__(self, sides: Sides, dice: random.Random) -> None:
        self.sides = sides
        self.source = sides.source()
        self.there = sides.start(sides.versions[1], incoming=True)
        place = dice.uniform(0, 1) if dice.random() < 0.5 else dice.uniform(0.95, 1.02)
        self.fault = Fault(dice.choice(KINDS), int(place * sides.size))
        self._named = dice.random() < 0.7
        """Whether the task names the destination's monitor."""
        self._warned = False
        """Whether a message has said that the guest may run twice."""
        self._whole = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """What has the guest is kept for the next one if all went well."""
        if not self._whole:
            self.sides.keep(None)
            self.there.close()
        elif self._running(self.source):
            self.there.close()
        elif self.there.version == self.sides.versions[0]:
            self.sides.keep(self.there)
        else:
            self.sides.keep(None)
            self.there.close()

    # -- the migration, and the user ---------------------------------------------

    def results(self) -> Iterator[dict[str, Any] | None]:
        """Of the first task, and of those that a user runs who does what he is told."""
        self._heard = {vm: len(vm.serial) for vm in (self.source, self.there)}
        uri = f"unix:{self.there.directory}/migrate"
        incoming(self.there, uri)
        task = Signalled()
        strike = {"dies": self.there.kill, "kill": task.kill, "term": task.term}.get(self.fault.kind)
        with Line(uri[len("unix:") :], self.fault.at, self.fault.kind, strike) as line:
            self._uri = line.uri
            with no_hang(TIMEOUT):
                result = task.run(self._migrate)
            yield result
            for _turn in range(4):
                if result is not None and not result.get("failed"):
                    return
                told = "run the task again" if result is None else result["msg"]
                self._warned |= "may run at the destination" in told or "has the guest" in told
                if self._stays(told):
                    assert self._state(self.there) != "running", "the guest runs at the destination, too"
                    return
                result = self._obey(told)
                yield result
        raise AssertionError(f"the user has done four times what he was told, and is still told: {told}")

    def _migrate(self) -> dict[str, Any]:
        more = {"destination_socket": self.there.qmp} if self._named else {}
        return self._run(self.source, "qemu_migrate", uri=self._uri, **more)

    def _run(self, vm: VM, module: str, **options: Any) -> dict[str, Any]:
        try:
            return run_module(vm, module, timeout=TIMEOUT, **options)
        except ModuleFailed as failed:
            return failed.result

    def _stays(self, told: str) -> bool:
        """Whether a message says that all is well: the guest is where it was."""
        return bool(re.search(r"guest is (still )?here, (and )?its status is running", told))

    def _obey(self, told: str) -> dict[str, Any]:
        """Do what a message says, having looked where it says to look."""
        there = self._state(self.there)
        if "has the guest" in told or ("where it runs, end this QEMU" in told and there == "running"):
            return self._run(self.source, "qemu_power", state="off")
        if "end that one" in told and there != "off":
            self._run(self.there, "qemu_power", state="off")
        if "qemu_command with migrate_cancel" in told:
            result = self._run(self.source, "qemu_command", commands=["migrate_cancel"])
            if result["commands"]:  # QEMU's answer comes before that
                until(lambda: self._state(self.source) != "finish-migrate")
            return result
        if "state=running and force=true" in told and there != "running":
            return self._run(self.source, "qemu_power", state="running", force=True)
        if "qemu_power with state=running" in told:
            return self._run(self.source, "qemu_power", state="running")
        if "It goes on here" in told:
            return {"what": "nothing is left to do"}
        if "run the task again" in told:
            return self._migrate()
        raise AssertionError(f"nothing says what to do: {told}")

    # -- where the guest is ---------------------------------------------------------

    def _state(self, vm: VM) -> str:
        try:
            return vm.observer.status() if vm.alive else "off"
        except (ConnectionError, EOFError):  # it has ended this moment
            return "off"

    def _running(self, vm: VM) -> bool:
        return self._state(vm) == "running"

    def runs_once(self) -> None:
        """Raise AssertionError unless it runs on one side, and no number was told by both."""
        states = {vm: self._state(vm) for vm in (self.source, self.there)}
        running = [vm for vm, state in states.items() if state == "running"]
        assert len(running) == 1, (
            f"the guest should run on one side: source and destination are {list(states.values())}"
        )
        here, other = running[0], self.there if running[0] is self.source else self.source
        before = self._numbers(other)
        mark, deadline = len(self._numbers(here)), time.monotonic() + _PATIENCE
        while len(self._numbers(here)) < mark + 2:
            assert time.monotonic() < deadline, "the guest runs, and does not count"
            time.sleep(0.05)
        assert self._numbers(other) == before, "the guest counts on both sides"
        both = set(self._numbers(self.source)) & set(self._numbers(self.there))
        assert not both or self._warned, f"nobody has said that the guest has told both sides {sorted(both)}"
        self._whole = True

    def _numbers(self, vm: VM) -> list[int]:
        """What the guest has told this side since the migration began."""
        return (
            [int(number) for number in _COUNT.findall(vm.serial[self._heard[vm] :])]
            if os.path.exists(vm.serial_log)
            else []
        )
