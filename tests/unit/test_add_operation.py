# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An operation takes one class: the skeleton that CONTRIBUTING shows, through the whole pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._engine.operation import Operation, Params, Run
from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation
from support.fakeqmp import FakeQMP, Peer

CONTRIBUTING = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
STEP = {"execute": "calc-dirty-rate", "arguments": {"calc-time": 2}}


class DirtyRate(Operation):
    """Measure how fast the guest writes to its memory, or join the measurement that is under way."""

    options = {"seconds": Option("int", default=1)}

    def check(self, params: Params) -> Params:
        """Raise Refusal for a time that no QEMU takes."""
        if not 1 <= params["seconds"] <= 60:
            raise Refusal(f"seconds: {params['seconds']} is not between 1 and 60")
        return params

    def read(self, vm: VM, params: Params) -> dict[str, Any]:
        """Return what QEMU knows of the last measurement."""
        return dict(vm.ask("query-dirty-rate"))

    def plan(self, current: dict[str, Any], params: Params) -> Plan:
        """Return the command that begins a measurement, or no command where one is under way."""
        before, after = {"status": current["status"]}, {"status": "measured"}
        if current["status"] == "measuring":
            return Plan(follows=True, before=before, after=after)
        return Plan(later=[Step("calc-dirty-rate", {"calc-time": params["seconds"]})], before=before, after=after)

    def follow(self, run: Run, current: dict[str, Any], params: Params) -> dict[str, Any]:
        """Send the command, and watch until the rate is known."""
        super().follow(run, current, params)

        def look() -> tuple[dict[str, Any], bool, Progress]:
            found = run.vm.ask("query-dirty-rate")
            return found, found["status"] == "measured", Progress("dirty rate", found["status"])

        try:
            return run.watch(look)
        except NotDoneInTime as exc:
            raise NotDoneInTime("the rate is not known in time: QEMU goes on, and the next run joins it") from exc

    def describe(self, current: Any, params: Params, plan: Plan, end: dict[str, Any] | None) -> dict[str, Any]:
        """Return ``rate``: MiB a second; None in check mode, where nothing was measured."""
        return {"rate": end and end["dirty-rate"]}


MODULE = operation(DirtyRate())


class Guest:
    """A scripted QEMU that measures. ``looks``: how often it has to be asked until it knows."""

    def __init__(self) -> None:
        self.status, self.left, self.looks, self.refuses = "unstarted", 0, 2, False
        self.sent: list[str] = []

    def __call__(self, peer: Peer) -> None:
        peer.negotiate()
        while True:
            command = peer.command()
            self.sent.append(command["execute"])
            if command["execute"] == "calc-dirty-rate" and self.refuses:
                peer.error(command, desc="the guest is elsewhere")
                continue
            if command["execute"] == "calc-dirty-rate":
                self.status, self.left = "measuring", self.looks
            elif self.status == "measuring":
                self.left -= 1
                self.status = "measuring" if self.left > 0 else "measured"
            peer.reply(command, {"status": self.status, "dirty-rate": 7})


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.fixture
def socket(guest: Guest) -> Iterator[str]:
    with FakeQMP(guest) as fake:
        yield fake.address


def measure(socket: str, check: bool = False, timeout: float = 10.0, seconds: int = 2) -> dict[str, Any]:
    connection = {"socket": socket, "timeout": timeout, "connect_timeout": 5.0, "tls": None}
    return MODULE.run({**connection, "seconds": seconds}, check_mode=check, diff_mode=True)


def test_check_mode_tells_what_the_run_sends(guest: Guest, socket: str) -> None:
    foretold = measure(socket, check=True)
    assert (foretold["changed"], foretold["commands"], foretold["rate"]) == (True, [STEP], None)
    assert guest.sent == ["query-dirty-rate"]
    done = measure(socket)
    assert (done["changed"], done["commands"], done["rate"]) == (True, [STEP], 7)
    assert done["diff"] == foretold["diff"] == {"before": {"status": "unstarted"}, "after": {"status": "measured"}}
    again = measure(socket)
    assert (again["commands"], again["diff"]["before"]) == ([STEP], {"status": "measured"})


def test_one_that_is_under_way_is_joined(guest: Guest, socket: str) -> None:
    guest.status, guest.left = "measuring", 3
    joined = measure(socket)
    assert (joined["changed"], joined["commands"], joined["rate"]) == (False, [], 7)


def test_failures_tell_what_was_sent(guest: Guest, socket: str) -> None:
    failed = measure(socket, seconds=61)
    assert (failed["failed"], failed["changed"], failed["commands"], guest.sent) == (True, False, [], [])
    guest.refuses = True
    failed = measure(socket)
    assert (failed["changed"], failed["commands"]) == (False, [])
    assert failed["error"] == {"class": "GenericError", "desc": "the guest is elsewhere"}
    guest.refuses, guest.looks = False, 1000
    failed = measure(socket, timeout=0.5)
    assert (failed["changed"], failed["commands"]) == (True, [STEP])
    assert "the next run joins it" in failed["msg"]


def test_only_planned_steps_are_sent(guest: Guest, socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirtyRate, "follow", lambda self, run, current, params: run.send(Step("stop")))
    with pytest.raises(AssertionError, match="stop is not in the plan"):
        measure(socket)
    assert "stop" not in guest.sent


def test_contributing_shows_this_very_class() -> None:
    source = inspect.getsource(DirtyRate)
    assert len(source.splitlines()) <= 60
    assert source in CONTRIBUTING.read_text()
