# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A failed task's `changed` and `commands`: what was sent, or done on the host, and has not been taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply, execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

REFUSED = errors.CommandError("x", desc="no")
UNANSWERED = errors.CommandTimeout("x", "reply", 1.0)
UNSENT = errors.CommandTimeout("x", "queue", 1.0)
LOST = errors.Disconnected("gone", command="x", outcome_unknown=True)


class Session:
    """Answers each command with nothing, or raises what it was given for it."""

    def __init__(self, **outcomes: Exception) -> None:
        self.outcomes = outcomes
        self.version = (10, 0, 0)
        self.event_count = 0
        self.closed = False
        self.sent: list[str] = []

    def execute(self, name: str, arguments: Any = None, **how: Any) -> Any:
        self.sent.append(name)
        if name in self.outcomes:
            raise self.outcomes[name]
        return {}

    def close(self, grace: float = 0.0) -> None:
        self.closed = True


def run(work: Callable[[Task], dict[str, Any]], session: Session) -> dict[str, Any]:
    def opened(address: str, **how: Any) -> Any:
        return session

    params = {"socket": "/x", "timeout": 5.0, "connect_timeout": 1.0}
    return Module({}, work).run(params, open_session=opened)


def sends(*names: str, then: Exception | None = None) -> Callable[[Task], dict[str, Any]]:
    def work(task: Task) -> dict[str, Any]:
        vm = task.connect()
        for name in names:
            execute_step(Step(name), vm, task.deadline)
        if then is not None:
            raise then
        return {"changed": True}

    return work


@pytest.mark.parametrize(
    ("names", "outcomes", "then", "listed"),
    [
        (["a", "b"], {}, Refusal("too late"), ["a", "b"]),
        (["a", "b"], {}, LOST, ["a", "b"]),
        ([], {}, Refusal("nothing was sent"), []),
        (["a", "b"], {"b": REFUSED}, None, ["a"]),
        (["a", "b"], {"b": UNANSWERED}, None, ["a", "b"]),
        (["a", "b"], {"b": UNSENT}, None, ["a"]),
        (["a", "b"], {"b": LOST}, None, ["a", "b"]),
    ],
)
def test_a_failed_task_lists_what_was_sent(
    names: list[str], outcomes: dict[str, Exception], then: Exception | None, listed: list[str]
) -> None:
    result = run(sends(*names, then=then), Session(**outcomes))
    assert result["failed"]
    assert [command["execute"] for command in result["commands"]] == listed
    assert result["changed"] is bool(listed)


def test_what_was_done_on_the_host_is_listed_too() -> None:
    def work(task: Task) -> dict[str, Any]:
        task.account.add(task, ["chmod", "0600", "/x"])
        raise Refusal("the owner can't be changed")

    result = run(work, Session())
    assert (result["changed"], result["commands"]) == (True, [["chmod", "0600", "/x"]])


def applied(session: Session, *steps: Step) -> tuple[PlanFailed, list[str]]:
    stand_in: Any = session
    vm = VM(stand_in, Deadline(5.0), local=True, reopen=lambda seconds: stand_in)
    with pytest.raises(PlanFailed) as failed:
        apply(Plan(steps), vm)
    return failed.value, [command["execute"] for command in vm.account.commands]


def test_a_plan_that_was_taken_back_leaves_nothing_on_the_account() -> None:
    failed, listed = applied(Session(b=REFUSED), Step("a", undo=[Step("undo-a")]), Step("b"))
    assert [step["execute"] for step in failed.rolled_back] == ["undo-a"]
    assert listed == []


def test_a_step_that_nothing_takes_back_stays_on_the_account() -> None:
    _failed, listed = applied(Session(c=REFUSED), Step("a"), Step("b", undo=[Step("undo-b")]), Step("c"))
    assert listed == ["a"]


def test_a_step_whose_undo_is_refused_stays_on_the_account() -> None:
    session = Session(**{"c": REFUSED, "undo-a": REFUSED})
    failed, listed = applied(session, Step("a", undo=[Step("undo-a")]), Step("b", undo=[Step("undo-b")]), Step("c"))
    assert failed.stuck and listed == ["a"]


def test_a_step_that_is_taken_back_by_half_stays_on_the_account() -> None:
    session = Session(**{"b": REFUSED, "second": REFUSED})
    _failed, listed = applied(session, Step("a", undo=[Step("first"), Step("second")]), Step("b"))
    assert listed == ["a"]


def test_a_step_without_an_answer_is_taken_back_and_struck_out() -> None:
    _failed, listed = applied(Session(a=UNANSWERED), Step("a", undo=[Step("undo-a")]), Step("b"))
    assert listed == []


def test_hidden_steps_are_on_no_list() -> None:
    _failed, listed = applied(Session(b=REFUSED), Step("getfd", hidden=True), Step("b"))
    assert listed == []
