# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps end a VM, and what they do about a guest that does not obey."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.process import Process
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._host.shutdown import stop_steps
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors


class VM:
    """Answers with one run state, or not at all."""

    def __init__(self, status: str) -> None:
        self._status = status

    @property
    def status(self) -> str:
        if not self._status:
            raise errors.Disconnected("gone", "query-status")
        return self._status


def stop(status: str, seconds: float = 30.0, warnings: list[str] | None = None) -> list[Step]:
    return stop_steps("vm1", status, Process(None), seconds, ([] if warnings is None else warnings).append)


@pytest.mark.parametrize(
    ("status", "commands"),
    [
        ("running", "system_powerdown quit"),
        ("suspended", "system_wakeup system_powerdown quit"),
        ("prelaunch", "quit"),
        ("inmigrate", "quit"),
        ("postmigrate", "quit"),
        ("shutdown", "quit"),
        ("guest-panicked", "quit"),
        ("paused", None),
        ("io-error", None),
        ("save-vm", None),
    ],
)
def test_steps(status: str, commands: str | None) -> None:
    assert [step.execute for step in stop(status, seconds=0)] == ["quit"]
    if commands is None:
        with pytest.raises(Refusal, match=f"its status is {status}.*shutdown_timeout to 0"):
            stop(status)
    else:
        assert " ".join(step.execute for step in stop(status)) == commands


@pytest.mark.parametrize(
    ("status", "warned"), [("running", True), ("suspended", True), ("shutdown", False), ("", False), ("paused", None)]
)
def test_what_became_of_a_guest_that_was_asked(status: str, warned: bool | None) -> None:
    warnings: list[str] = []
    end = stop("running", 5, warnings)[-1]
    vm: Any = VM(status)
    assert end.condition is not None
    if warned is None:
        with pytest.raises(Refusal, match="its status is paused"):
            end.condition(vm)
    else:
        assert end.condition(vm)
    assert warnings == (["vm1: the guest did not shut down within 5 s, so QEMU was ended"] if warned else [])
