# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps start, stop and restart a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
from ansible_collections.vmm.qemu.plugins.module_utils._provision.instance import OPTIONS, Instance, Running
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession

WANTED = ["/usr/bin/qemu", "-name", "vm1", "-object", "secret,id=s0,data=hush", "-daemonize"]


def instance(directory: Path, state: str, **params: Any) -> Instance:
    given = {
        **dict.fromkeys(OPTIONS),
        "name": "vm1",
        "socket": f"{directory}/qmp",
        "timeout": 60.0,
        "state": state,
        **params,
    }
    return Instance(Task(given, True, QMPSession.connect, lambda progress: None))


def steps(directory: Path, state: str, status: str, **params: Any) -> tuple[str, bool]:
    """The steps, those on the host by what they are for, and whether something changes."""
    made = instance(directory, state, **params)
    plan = made.plan(Running(None, [], status) if status else None, WANTED if state != "stopped" else [])
    names = [step.execute or ("start" if step.command_lines else "clear") for step in plan.steps]
    assert plan.commands == [{"execute": name, "arguments": {}} for name in names if name not in ("start", "clear")]
    assert "hush" not in str([step.command_lines for step in plan.steps])
    return " ".join(names), plan.changed


@pytest.mark.parametrize(
    ("status", "started", "stopped", "restarted"),
    [
        ("", "clear start", "clear", "clear start"),
        ("running", "", "system_powerdown quit clear", "system_powerdown quit clear start"),
        (
            "suspended",
            "",
            "system_wakeup system_powerdown quit clear",
            "system_wakeup system_powerdown quit clear start",
        ),
        ("prelaunch", "", "quit clear", "quit clear start"),
    ],
)
def test_plans(tmp_path: Path, status: str, started: str, stopped: str, restarted: str) -> None:
    assert steps(tmp_path, "started", status) == (started, bool(started))
    assert steps(tmp_path, "stopped", status) == (stopped, stopped != "clear")
    assert steps(tmp_path, "restarted", status) == (restarted, True)


def test_a_paused_guest(tmp_path: Path) -> None:
    assert steps(tmp_path, "started", "paused") == ("", False)
    for state in ("stopped", "restarted"):
        with pytest.raises(Refusal, match="its status is paused"):
            steps(tmp_path, state, "paused")
    assert steps(tmp_path, "stopped", "paused", shutdown_timeout=0.0) == ("quit clear", True)


@pytest.mark.parametrize(
    ("params", "seconds"),
    [
        ({}, 30),
        ({"timeout": 20.0}, 10),
        ({"shutdown_timeout": 5.0}, 5),
        ({"shutdown_timeout": 59.9}, 59),
        ({"shutdown_timeout": 1.9, "timeout": 2.0}, 1),
    ],
)
def test_how_long_a_guest_has(tmp_path: Path, params: dict[str, Any], seconds: float) -> None:
    press = instance(tmp_path, "stopped", **params).plan(Running(None, [], "running"), []).steps[0]
    assert press.wait is not None and press.wait.seconds == pytest.approx(seconds, abs=0.2)
