# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands lead from each run state to each state that can be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._operations.power import decide


def commands(status: str, state: str, **options: Any) -> str:
    params = {"state": state, "wait": True, "force": False, "force_after": None, "timeout": 60.0, **options}
    plan = decide({"status": status, "running": status == "running"}, params)
    return " ".join(step.execute for step in plan.later)


@pytest.mark.parametrize(
    ("status", "running", "paused", "shutdown", "reset"),
    [
        ("running", "", "stop", "system_powerdown", "system_reset"),
        ("paused", "cont", "", None, "system_reset"),
        ("prelaunch", "cont", "", None, "system_reset"),
        ("io-error", "cont", "", None, "system_reset"),
        ("guest-panicked", "cont", "", None, "system_reset"),
        ("restore-vm", "cont", "", None, "system_reset"),
        ("suspended", "system_wakeup", "", "system_powerdown", "system_reset"),
        ("shutdown", None, "", "", "system_reset"),
        ("internal-error", None, "", None, "system_reset"),
        ("postmigrate", None, "", None, None),
        ("inmigrate", None, "", None, "system_reset"),
        ("save-vm", None, None, None, None),
        ("finish-migrate", None, None, None, None),
    ],
)
def test_moves(status: str, running: str | None, paused: str | None, shutdown: str | None, reset: str | None) -> None:
    wanted = {"running": running, "paused": paused, "shutdown": shutdown, "reset": reset, "off": "quit"}
    for state, expected in wanted.items():
        if expected is None:
            with pytest.raises(
                Refusal, match="incoming migration" if status == "inmigrate" and state == "running" else status
            ):
                commands(status, state)
        else:
            assert commands(status, state) == expected, state


def test_force() -> None:
    assert commands("shutdown", "running", force=True) == "system_reset cont"
    assert commands("internal-error", "running", force=True) == "system_reset cont"
    assert commands("postmigrate", "running", force=True) == "cont"
    assert commands("postmigrate", "reset", force=True) == "system_reset"
    with pytest.raises(Refusal):
        commands("inmigrate", "running", force=True)
    for status in ("running", "paused"):
        assert commands(status, "shutdown", force_after=5.0) == "system_powerdown quit"
    assert commands("shutdown", "shutdown", force_after=5.0) == ""
