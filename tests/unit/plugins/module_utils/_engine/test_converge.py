# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine makes of items and of what there is, on things of a stub kind."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import NotReadBack
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step, Wait
from ansible_collections.vmm.qemu.plugins.module_utils._engine.comparison import Item
from ansible_collections.vmm.qemu.plugins.module_utils._engine.converge import Outcome, converge
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from support.stub import StubKind, StubQEMU, stub_vm

KIND = StubKind()


def item(ident: str, present: bool = True, **options: Any) -> Item:
    return Item(KIND, {"id": ident, **options}, present, f"things {ident}")


def gone(ident: str) -> Item:
    return item(ident, present=False)


def run(things: dict[str, Any], *items: Item, **how: Any) -> tuple[Outcome, StubQEMU]:
    vm, qemu = stub_vm(things)
    return converge(vm, items, **{"recreate": True, "check_mode": False, **how}), qemu


def commands(outcome: Outcome) -> list[str]:
    return [f"{step.execute.partition('-')[2]} {step.arguments['id']}" for step in outcome.plan.steps]


TABLE: list[tuple[str, dict[str, Any], list[Item], str, dict[str, Any]]] = [
    ("nothing, and nothing there", {}, [gone("a")], "", {}),
    ("present as it is", {"a": {"size": 1}}, [item("a", size=1)], "", {"a": {"size": 1}}),
    ("another type of the same value", {"a": {"size": 1}}, [item("a", size="1")], "", {"a": {"size": 1}}),
    ("absent", {"a": {"size": 1}}, [gone("a")], "del a", {}),
    ("new", {}, [item("a", size=1)], "add a", {"a": {"size": 1}}),
    ("a live change", {"a": {"size": 1}}, [item("a", size=2)], "set a", {"a": {"size": 2}}),
    (
        "what is not live takes its removal, and what was not named stays",
        {"a": {"size": 1, "color": "red"}},
        [item("a", color="blue")],
        "del a, add a",
        {"a": {"size": 1, "color": "blue"}},
    ),
    ("in the given order", {}, [item("a"), item("b", on="a")], "add a, add b", {"a": {}, "b": {"on": "a"}}),
    ("and backwards when they go", {"a": {}, "b": {"on": "a"}}, [gone("a"), gone("b")], "del b, del a", {}),
    (
        "by what they stand on, not by the order",
        {"a": {"on": "b"}, "b": {}},
        [gone("a"), gone("b")],
        "del a, del b",
        {},
    ),
    (
        "what stands on a recreated thing is recreated with it",
        {"a": {"color": "red"}, "b": {"on": "a", "size": 7}},
        [item("a", color="blue"), item("b", on="a")],
        "del b, del a, add a, add b",
        {"a": {"color": "blue"}, "b": {"on": "a", "size": 7}},
    ),
    (
        "what is made again comes before what is new, for it has its place again",
        {"b": {"color": "red"}},
        [item("a"), item("b", color="blue")],
        "del b, add b, add a",
        {"a": {}, "b": {"color": "blue"}},
    ),
    (
        "and before what is made again as something else, of which nothing is kept",
        {"a": {"color": "red"}, "b": {"color": "red", "size": 7}},
        [item("a", color="blue"), item("b", color="blue")],
        "del b, del a, add b, add a",
        {"a": {"color": "blue"}, "b": {"color": "blue", "size": 7}},
    ),
    (
        "but not before what it shall stand on",
        {"b": {"color": "red"}},
        [item("c"), item("a"), item("b", color="blue", on="a")],
        "del b, add a, add b, add c",
        {"a": {}, "b": {"color": "blue", "on": "a"}, "c": {}},
    ),
    (
        "and what stands on that",
        {"a": {"color": "red"}, "b": {"on": "a"}, "c": {"on": "b"}},
        [item("a", color="blue"), item("b"), item("c")],
        "del c, del b, del a, add a, add b, add c",
        {"a": {"color": "blue"}, "b": {"on": "a"}, "c": {"on": "b"}},
    ),
    (
        "moved off what goes",
        {"a": {}, "c": {"on": "a"}},
        [gone("a"), item("b"), item("c", on="b")],
        "del c, del a, add b, add c",
        {"b": {}, "c": {"on": "b"}},
    ),
]


@pytest.mark.parametrize(
    ("things", "items", "expected", "then"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_is_done(things: dict[str, Any], items: list[Item], expected: str, then: dict[str, Any]) -> None:
    before = {ident: dict(thing) for ident, thing in things.items()}
    foretold, untouched = run(things, *items, check_mode=True)
    assert (untouched.sent, untouched.things) == ([], before), "check mode sends nothing"
    done, qemu = run(things, *items)
    assert ", ".join(qemu.sent) == ", ".join(commands(done)) == expected
    assert qemu.things == then
    assert (foretold.plan.commands, foretold.diff) == (done.plan.commands, done.diff)
    assert (done.diff["before"] != done.diff["after"]) == bool(expected)
    again, qemu = run(qemu.things, *items)
    assert (qemu.sent, again.plan.steps) == ([], []), "the second run has nothing to do"


REFUSED: list[tuple[str, dict[str, Any], list[Item], dict[str, Any], str]] = [
    (
        "not to be recreated",
        {"a": {"color": "red"}},
        [item("a", color="blue")],
        {"recreate": False},
        "things a: thing a: color is 'red', wanted 'blue'.*recreate=true",
    ),
    (
        "never to be recreated",
        {"a": {"color": "unique"}},
        [item("a", color="blue")],
        {},
        "color is 'unique'.*removed and added again: it is the last of its color",
    ),
    (
        "nor with what it stands on",
        {"a": {"color": "red"}, "b": {"on": "a", "color": "unique"}},
        [item("a", color="blue"), item("b")],
        {},
        "things b: thing b: it would have to be removed.*the last",
    ),
    (
        "what shall stay needs what shall go",
        {"a": {}, "b": {"on": "a"}},
        [gone("a"), item("b", on="a")],
        {},
        "things b: it needs thing a, which shall be absent: keep both, or remove both",
    ),
    ("nor can it come", {"a": {}}, [gone("a"), item("b", on="a")], {}, "things b: it needs thing a"),
    ("in use by what stays", {"a": {}, "b": {"on": "a"}}, [gone("a")], {}, "thing a is in use by thing b: remove"),
]


@pytest.mark.parametrize("check_mode", [True, False], ids=["check", "real"])
@pytest.mark.parametrize(
    ("things", "items", "how", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_refused(
    things: dict[str, Any], items: list[Item], how: dict[str, Any], words: str, check_mode: bool
) -> None:
    vm, qemu = stub_vm(things)
    with pytest.raises(Refusal, match=words):
        converge(vm, items, **{"recreate": True, "check_mode": check_mode, **how})
    assert qemu.sent == []


def test_the_diff_shows_what_was_named_and_what_changes() -> None:
    done, _qemu = run({"a": {"size": 1, "color": "red"}, "b": {"size": 2}}, item("a", size=3), gone("b"))
    assert done.diff == {
        "before": {"thing": {"a": {"size": 1, "id": "a"}, "b": {"id": "b", "size": 2}}},
        "after": {"thing": {"a": {"size": 3, "id": "a"}}},
    }
    assert done.states == {"thing": {"a": {"id": "a", "size": 3, "color": "red"}, "b": {}}}


def test_what_is_not_told_is_said_and_does_not_count() -> None:
    done, qemu = run({"a": {}}, item("a", color="red"))
    assert (done.unverifiable, qemu.sent) == (["color"], [])


class Last(StubKind):
    """Grows after all else, since nothing takes that back."""

    def change(self, *args: Any) -> list[Step]:
        return [step.replace(last=True, undo=()) for step in super().change(*args)]


def test_last_steps_come_last() -> None:
    grown = Item(Last(), {"id": "a", "size": 2})
    done, qemu = run({"a": {"size": 1}}, grown, item("b"), last=[Step("thing-add", {"id": "z"})])
    assert qemu.sent == ["add b", "set a", "add z"] == commands(done)


class Lasting(StubKind):
    """Can't be made again."""

    def remove(self, *args: Any) -> list[Step]:
        return [step.replace(irreversible="nobody knows how it was made") for step in super().remove(*args)]


def test_what_nothing_takes_back_is_done_last() -> None:
    _done, qemu = run({"a": {}, "b": {}}, Item(Lasting(), {"id": "a"}, False), gone("b"), item("c"))
    assert qemu.sent == ["del b", "add c", "del a"]
    vm, qemu = stub_vm({"a": {}, "b": {}})
    two = [Item(Lasting(), {"id": ident}, False, ident) for ident in "ab"]
    with pytest.raises(Refusal, match=r"b: thing b: nobody knows how it was made.*a task of its own"):
        converge(vm, two, recreate=True, check_mode=False)
    assert qemu.sent == []


class Asks(StubKind):
    """Goes, and comes, when the guest answers."""

    def create(self, *args: Any) -> list[Step]:
        return [step.replace(wait=_Guest()) for step in super().create(*args)]


class _Guest(Wait):
    needs_guest = True

    def is_done(self, vm: Any) -> bool:
        return True


def test_nobody_waits_for_a_guest_that_does_not_run() -> None:
    vm, qemu = stub_vm()
    qemu.status = "paused"
    with pytest.raises(Refusal, match=r"a: thing a: .*the VM is paused"):
        converge(vm, [Item(Asks(), {"id": "a"}, place="a")], recreate=False, check_mode=True)
    resume = Step("thing-add", {"id": "power"})
    converge(vm, [item("x"), Item(Asks(), {"id": "a"})], recreate=False, check_mode=False, last=[resume], runs=True)
    assert qemu.sent == ["add x", "add power", "add a"], "the guest runs before something waits for it"


def test_reading_back_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    vm, qemu = stub_vm()

    def describe(*asked: Any) -> Any:
        raise errors.Disconnected("gone")

    monkeypatch.setattr(KIND, "describe", describe)
    with pytest.raises(NotReadBack) as failed:
        converge(vm, [item("a")], recreate=False, check_mode=False)
    assert [step.execute for step in failed.value.plan.steps] == ["thing-add"] and qemu.sent == ["add a"]
