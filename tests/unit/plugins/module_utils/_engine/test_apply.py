# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a plan's steps are done, and how those that were done are taken back, on things of a stub kind."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Pending, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step, Wait
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.errors import (
    CommandError,
    CommandTimeout,
    Disconnected,
    QMPError,
)
from support.stub import StubQEMU, stub_vm

REFUSED = CommandError("thing-add", desc="no")


def add(ident: str, needs: str = "", **more: Any) -> Step:
    undo = [Step("thing-del", {"id": ident}, removes=True, still_needed=lambda vm: ident in vm.ask("query-things"))]
    on = frozenset({("thing", needs)} if needs else ())
    return Step("thing-add", {"id": ident}, undo=undo, about=("thing", ident), needs=on)._replace(**more)


def delete(ident: str, **more: Any) -> Step:
    again = [Step("thing-add", {"id": ident})]
    return Step("thing-del", {"id": ident}, undo=again, removes=True, about=("thing", ident))._replace(**more)


def fail(vm: VM, *steps: Step) -> PlanFailed:
    with pytest.raises(PlanFailed) as failed:
        apply(Plan(steps), vm)
    return failed.value


def account(vm: VM) -> list[str]:
    return [f"{command['execute'].partition('-')[2]} {command['arguments']['id']}" for command in vm.account.commands]


def test_steps_are_done_in_their_order() -> None:
    vm, qemu = stub_vm({"old": {}})
    apply(Plan([delete("old"), add("a"), add("b")]), vm)
    assert qemu.sent == ["del old", "add a", "add b"] == account(vm)


def test_what_was_done_is_taken_back_newest_first() -> None:
    vm, qemu = stub_vm({"old": {}})
    qemu.refuse["thing-add", "c"] = REFUSED
    failed = fail(vm, delete("old"), add("a"), add("b"), add("c"), add("d"))
    assert qemu.sent == ["del old", "add a", "add b", "add c", "del b", "del a", "add old"]
    assert (failed.step.arguments["id"], failed.cause, failed.stuck) == ("c", REFUSED, [])
    assert [command["arguments"]["id"] for command in failed.rolled_back] == ["b", "a", "old"]
    assert (set(qemu.things), account(vm)) == ({"old"}, [])


def test_what_a_stuck_thing_stands_on_stays() -> None:
    """A netdev is not pulled from under a NIC that the guest keeps; what nothing stuck stands on goes."""
    vm, qemu = stub_vm()
    qemu.refuse = {("thing-add", "d"): REFUSED, ("thing-del", "b"): CommandError("thing-del", desc="kept")}
    failed = fail(vm, add("a"), add("b", needs="a"), add("c"), add("d"))
    assert qemu.sent[-2:] == ["del c", "del b"]
    assert set(qemu.things) == {"a", "b"}
    assert failed.stuck == ["thing-del b (thing-del failed: kept (GenericError))", "thing-del a"]
    assert account(vm) == ["add a", "add b"], "the result tells what is left"


def test_what_nothing_takes_back_is_told() -> None:
    vm, qemu = stub_vm()
    qemu.refuse["thing-add", "b"] = REFUSED
    failed = fail(vm, add("a", undo=()), add("b"))
    assert (failed.rolled_back, failed.stuck, account(vm)) == ([], ["thing-add a"], ["add a"])


def test_a_condition_leaves_a_step_out() -> None:
    vm, qemu = stub_vm()
    plan = Plan([add("a"), add("b", condition=lambda vm: "a" not in vm.ask("query-things")), add("c")])
    apply(plan, vm)
    assert qemu.sent == ["add a", "add c"]
    assert [command["arguments"]["id"] for command in plan.commands] == ["a", "c"]


def test_a_condition_that_refuses_takes_back_what_was_done() -> None:
    def refuse(_vm: VM) -> bool:
        raise Refusal("it has gone")

    vm, qemu = stub_vm()
    failed = fail(vm, add("a"), add("b", condition=refuse))
    assert (qemu.sent, str(failed)) == (["add a", "del a"], "it has gone")


UNKNOWN: list[QMPError] = [
    Disconnected("gone", "x", outcome_unknown=True),
    CommandTimeout("x", "reply", 1.0),
]


@pytest.mark.parametrize("error", UNKNOWN, ids=["lost", "late"])
def test_a_step_of_unknown_outcome_is_taken_back(error: QMPError) -> None:
    """It may have run, and it has; where it has not, its undo finds nothing to do."""
    for ran in (True, False):
        vm, qemu = stub_vm()
        qemu.refuse["thing-add", "b"] = error
        step = add("b") if ran else add("b").replace(arguments={"id": "b"})
        if not ran:
            qemu._carry_out = lambda *_args: None  # type: ignore[method-assign]
        fail(vm, step)
        assert qemu.sent == (["add b", "del b"] if ran else ["add b"])
        assert (qemu.things, account(vm)) == ({}, [])


def there(ident: str) -> Any:
    """A `still_needed` that looks for it."""
    return lambda vm: ident in vm.ask("query-things")


@pytest.mark.parametrize("error", UNKNOWN, ids=["lost", "late"])
def test_what_has_gone_though_nobody_said_so_has_gone(error: QMPError) -> None:
    vm, qemu = stub_vm({"a": {}})
    qemu.refuse["thing-del", "a"] = error
    qemu.closed = isinstance(error, Disconnected)
    apply(Plan([delete("a", still_needed=there("a")), add("b")]), vm)
    assert (qemu.sent, account(vm)) == (["del a", "add b"], ["del a", "add b"])


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "guest"])
@pytest.mark.parametrize("error", UNKNOWN, ids=["lost", "late"])
def test_what_is_there_after_an_answer_was_lost_stays(error: QMPError, waits: bool) -> None:
    """QEMU has not taken the command; but where it asks a guest, that may still give it back."""
    vm, qemu = stub_vm({"a": {}})
    qemu.refuse["thing-del", "a"] = error
    qemu._carry_out = lambda *_args: None  # type: ignore[method-assign]
    fail(vm, delete("a", still_needed=there("a"), wait=Gone() if waits else None))
    assert (qemu.sent, account(vm)) == (["del a"], ["del a"] if waits else [])


def test_a_removal_that_a_task_was_stopped_in_is_taken_back_where_it_has_gone() -> None:
    vm, qemu = stub_vm({"a": {}, "b": {}})
    qemu.refuse["thing-del", "b"] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        apply(Plan([delete("a"), delete("b", still_needed=there("b"))]), vm)
    assert (set(qemu.things), account(vm)) == ({"a", "b"}, [])


def test_a_signal_while_a_failed_plan_is_taken_back_cuts_nothing_short(monkeypatch: pytest.MonkeyPatch) -> None:
    vm, qemu = stub_vm({"old": {}})
    qemu.refuse["thing-add", "b"] = REFUSED
    execute, came = qemu.execute, []

    def stopped(name: str, *args: Any, **more: Any) -> Any:
        if name == "thing-del" and len(qemu.sent) == 3:  # the first that takes back
            signal.raise_signal(signal.SIGTERM)
        return execute(name, *args, **more)

    monkeypatch.setattr(qemu, "execute", stopped)
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with interruptible():
            failed = fail(vm, delete("old"), add("a"), add("b"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (set(qemu.things), failed.stuck, came) == ({"old"}, [], [signal.SIGTERM])


@pytest.mark.parametrize("error", UNKNOWN, ids=["lost", "late"])
def test_nothing_is_put_back_while_it_is_unknown_whether_it_went(error: QMPError) -> None:
    vm, qemu = stub_vm({"a": {}, "b": {}})
    qemu.refuse["thing-del", "b"] = error
    fail(vm, delete("a"), delete("b"))
    assert qemu.sent == ["del a", "del b", "add a"]
    assert account(vm) == ["del b"], "it may have gone"


def test_a_refused_removal_of_what_is_not_there_is_done() -> None:
    vm, qemu = stub_vm({"a": {}})
    qemu.refuse["thing-del", "b"] = CommandError("thing-del", desc="no such thing")
    apply(Plan([delete("b", still_needed=there("b")), delete("a")]), vm)
    assert qemu.things == {}


def test_a_refusal_that_passes_is_tried_again() -> None:
    vm, qemu = stub_vm()
    qemu.refuse["thing-add", "a"] = CommandError("thing-add", desc="busy")
    refused: list[CommandError] = []

    def passes(error: CommandError) -> bool:
        refused.append(error)
        if len(refused) == 2:
            qemu.refuse.clear()
        return True

    apply(Plan([add("a", retry=passes)]), vm)
    assert qemu.sent == ["add a"] * 3 and account(vm) == ["add a"]


@pytest.mark.parametrize("last", [True, False])
def test_the_undo_is_read_before_the_first_step(last: bool) -> None:
    """And not at all for the last step, which no other follows."""
    vm, qemu = stub_vm({"a": {"size": 7}, "b": {}})
    seen: list[dict[str, Any]] = []

    def capture(vm: VM) -> list[Step]:
        seen.append(vm.ask("query-things"))
        return [Step("thing-add", {"id": "a", **seen[-1]["a"]})]

    qemu.refuse["thing-add", "c"] = REFUSED
    captured = delete("a", undo=(), capture_undo=capture)
    fail(vm, *([add("c"), captured] if last else [delete("b"), captured, add("c")]))
    assert qemu.things == {"a": {"size": 7}, "b": {}}
    assert len(seen) == (0 if last else 1)


# -- what a step waits for -----------------------------------------------------


class Gone(Wait):
    """A removal that ends with an event: True, or the word of a guest that refuses."""

    poll_every = 0.01

    def __init__(self, looks: int = 1 << 30) -> None:
        self.looks = looks

    def is_end(self, event: Any) -> bool:
        return event in ("gone", "refused")

    def raise_if_refused(self, event: Any) -> None:
        if event == "refused":
            raise Refusal("the guest keeps it")

    def is_done(self, vm: VM) -> bool:
        self.looks -= 1
        return self.looks < 0

    def classify(self, error: CommandError) -> str:
        return {"asked": "pending", "nothing": "done"}.get(error.desc, "")

    def timeout_error(self, vm: VM) -> Exception:
        return Pending(f"the VM is {vm.status}")


def wait_for(qemu: StubQEMU, event: str, wait: Wait) -> Step:
    """A removal, during which the event comes."""
    carry_out = qemu._carry_out

    def with_event(name: str, ident: str, given: dict[str, Any]) -> None:
        qemu.events.append(event)
        if event != "refused":
            carry_out(name, ident, given)

    qemu._carry_out = with_event  # type: ignore[method-assign]
    return delete("a", wait=wait)


@pytest.mark.parametrize(("event", "looks"), [("gone", 1 << 30), ("another", 2)], ids=["event", "look"])
def test_a_wait_ends_by_its_event_or_by_a_look(event: str, looks: int) -> None:
    vm, qemu = stub_vm({"a": {}})
    apply(Plan([wait_for(qemu, event, Gone(looks))]), vm)
    assert (qemu.sent, account(vm)) == (["del a"], ["del a"])


def test_the_guest_refuses() -> None:
    vm, qemu = stub_vm({"a": {}})
    failed = fail(vm, wait_for(qemu, "refused", Gone()))
    assert (str(failed), qemu.sent, account(vm)) == ("the guest keeps it", ["del a"], []), "all is as it was"


def test_the_deadline_passes() -> None:
    vm, qemu = stub_vm({"a": {}, "b": {}}, seconds=0.05)
    failed = fail(vm, delete("b"), wait_for(qemu, "another", Gone()))
    assert isinstance(failed.cause, Pending) and str(failed) == "the VM is running"
    assert qemu.sent == ["del b", "del a", "add b"], "the rest is taken back; the guest may still give it back"
    assert account(vm) == ["del a"]


@pytest.mark.parametrize(("desc", "waits"), [("asked", True), ("nothing", False)])
def test_a_refusal_can_mean_that_it_was_asked_before_or_is_done(desc: str, waits: bool) -> None:
    vm, qemu = stub_vm({"a": {}})
    qemu.refuse["thing-del", "a"] = CommandError("thing-del", desc=desc)
    wait = Gone(looks=3)
    apply(Plan([delete("a", wait=wait)]), vm)
    assert (wait.looks < 3) == waits


def test_a_lost_request_is_made_again() -> None:
    class Impatient(Gone):
        resend_every = 0.001

    vm, qemu = stub_vm()
    apply(Plan([add("a", wait=Impatient(looks=3))]), vm)
    assert qemu.sent[:2] == ["add a", "add a"]
