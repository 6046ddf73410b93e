# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan under way may send: what check mode has shown, and what the plan says may follow a failure."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine import apply
from ansible_collections.vmm.qemu.plugins.module_utils._engine.operation import Run
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

BACK, LATER = Step("set", {"speed": 0}), Step("quit")
PLAN = Plan([Step("set", {"speed": 1}, undo=[BACK])], [LATER], on_failure=["stop"])


def test_only_what_is_planned_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Step, Any]] = []
    monkeypatch.setattr(apply, "execute_step", lambda step, vm, deadline: sent.append((step, vm)))
    own, other = Mock(), Mock()
    run = Run(Mock(), own, PLAN)
    run.send(LATER)
    run.send(BACK)
    run.send(Step("stop"), vm=other)
    assert [vm for _step, vm in sent] == [own, own, other]
    for step in (Step("quit"), Step("cont"), PLAN.steps[0]):
        with pytest.raises(AssertionError, match="not in the plan"):
            run.send(step)
    assert len(sent) == 3


@pytest.mark.parametrize(("phase", "raised"), [("reply", NotDoneInTime), ("write", errors.CommandTimeout)])
def test_what_was_sent_and_not_answered_goes_on(
    monkeypatch: pytest.MonkeyPatch, phase: str, raised: type[Exception]
) -> None:
    monkeypatch.setattr(apply, "execute_step", Mock(side_effect=errors.CommandTimeout("quit", phase, 1.0)))
    with pytest.raises(raised, match="quit timed out"):
        Run(Mock(), Mock(), PLAN).send(LATER)
