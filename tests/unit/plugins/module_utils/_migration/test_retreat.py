# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a migration is called back: what is cut first, what that proves, and how long it is looked at when the time is up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration.retreat import (
    _MUTE,
    CUT,
    Trip,
    _hang_up,
    _yanked,
    may_have_gone,
)
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


@pytest.mark.parametrize("going", [True, False])
def test_the_line_of_the_guest_is_cut_before_those_of_its_disks(going: bool) -> None:
    """Whatever becomes of it: those of the disks would keep QEMU from answering."""
    of_disk, of_leftover, sent = Step("yank", {"instances": [1]}), Step("yank", {"instances": [2]}), []

    def send(step: Step) -> None:
        sent.append(step)
        if not going:
            raise errors.CommandError(step.execute, "GenericError", "Instance not found")

    made = trip([])
    current: Any = SimpleNamespace(copies=[SimpleNamespace(cut=of_disk)], left=[of_leftover, Step("blockdev-del")])
    made.run, made.current = SimpleNamespace(send=send), current  # type: ignore[assignment]
    assert _hang_up(made) is going
    assert [step is one for step, one in zip(sent, (CUT, of_disk, of_leftover))] == [True] * 3 and len(sent) == 3


@pytest.mark.parametrize(
    ("cut", "status", "told", "sent", "gone"),
    [
        (False, "active", "pre-switchover", [], False),
        (False, "active", "device", [], True),  # somebody has let it go on
        (True, "active", "device", [], False),  # QEMU has, when it was cancelled
        (False, "active", "pre-switchover", [{"execute": "migrate-continue"}], True),
        (False, "device", "completed", [], True),
        (False, "cancelling", "cancelled", [], True),
    ],
)
def test_when_a_guest_that_waits_may_have_gone(
    cut: bool, status: str, told: str, sent: list[dict[str, str]], gone: bool
) -> None:
    made = trip([])
    vm: Any = made.vm
    vm.session = SimpleNamespace(events=[SimpleNamespace(name="MIGRATION", data={"status": told})])
    vm.account = SimpleNamespace(commands=sent)
    made.cut, made.current = cut, SimpleNamespace(status=status)  # type: ignore[assignment]
    assert may_have_gone(made) is gone
