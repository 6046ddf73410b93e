# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a migration is looked at that was called back when the task's own time is up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_collections.vmm.qemu.plugins.module_utils._migration.retreat import _MUTE, Trip, _yanked
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline


def trip(left: list[float], knows_yank: bool = True) -> Trip:
    """A task whose time is up; `left` gets the seconds that it gives QEMU for an answer and for the end."""
    up = Deadline(0.0)
    vm: Any = SimpleNamespace(deadline=up)

    def send(step: Any) -> None:
        left.append(vm.deadline.remaining())
        if not knows_yank:
            raise errors.CommandNotFound(step.execute, "CommandNotFound", "no yank")

    def watch(*_how: Any, **_more: Any) -> dict[str, str]:
        left.append(vm.deadline.remaining())
        return {"status": "failed"}

    run: Any = SimpleNamespace(vm=vm, task=SimpleNamespace(deadline=up, details={}), send=send, watch=watch)
    current: Any = SimpleNamespace(running=True, seen=False, status="none")
    return Trip(run, current)


def test_what_was_cut_off_is_seen_to_its_end_on_a_busy_host() -> None:
    """QEMU lets the guest go on here then, and nobody else would look whether it runs at the destination too."""
    left: list[float] = []
    assert _yanked(trip(left)) == {"status": "failed"}
    assert left[0] < 1 and _MUTE - 1 < left[1] <= _MUTE


def test_a_qemu_that_knows_no_yank_is_not_waited_for() -> None:
    left: list[float] = []
    assert _yanked(trip(left, knows_yank=False)) is None
    assert len(left) == 1
