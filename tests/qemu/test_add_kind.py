# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What "Adding a kind" in CONTRIBUTING promises: a kind in 75 lines, with all that the engine does for it.

It is a plain dirty bitmap, here called a mark. The real one, which guards what it has recorded, is ``_kinds/bitmap.py``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Dict, FrozenSet, List, Set

import pytest

# -- the kind ------------------------------------------------------------------
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, Want
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Draft, Thing
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import nodes
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Change, Kind, State


class Mark(Kind):
    """A dirty bitmap: which parts of a block node were written to since it was made."""

    name = "mark"
    section = "marks"
    keys = ("node", "name")
    options = {
        "node": Option("str", required=True),
        "name": Option("str", required=True),
        "granularity": Option("int"),
        "persistent": Option("bool"),
        "disabled": Option("bool"),
    }

    def read(self, vm: VM, want: Want) -> State | None:
        """Return all that ``query-named-block-nodes`` tells of it."""
        for bitmap in nodes(vm).get(want["node"], {}).get("dirty-bitmaps", []):
            if bitmap.get("name") == want["name"]:
                told = {key: bitmap[key] for key in ("name", "granularity", "persistent")}
                return {"node": want["node"], **told, "disabled": not bitmap["recording"]}
        return None

    def list(self, vm: VM) -> List[Want]:
        """Return node and name of each one that has a name."""
        all_ = ((node, bitmap) for node, entry in nodes(vm).items() for bitmap in entry.get("dirty-bitmaps", []))
        return [{"node": node, "name": bitmap["name"]} for node, bitmap in all_ if bitmap.get("name")]

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return what goes on and off."""
        return frozenset(["disabled"])

    def wanted_dependencies(self, want: Want) -> Set[Thing]:
        """Return its node."""
        return {("blockdev", want["node"])}

    def current_dependencies(self, vm: VM, want: Want) -> Set[Thing]:
        """Return its node."""
        return self.wanted_dependencies(want)

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-dirty-bitmap-add``. Raise Refusal where there is no such node."""
        if want["node"] not in nodes(vm) and ("blockdev", want["node"]) not in draft.adding:
            raise Refusal(f"node: there is no block node {want['node']!r}")
        undo = [Step("block-dirty-bitmap-remove", _where(want), removes=True)]
        return [Step("block-dirty-bitmap-add", vm.schema.coerce("block-dirty-bitmap-add", want), undo=undo)]

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the step that lets it record, or not."""
        off, on = (Step(f"block-dirty-bitmap-{word}", _where(want)) for word in ("disable", "enable"))
        return [off.replace(undo=[on]) if want["disabled"] else on.replace(undo=[off])]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-dirty-bitmap-remove``. What takes it back makes an empty one."""
        self.check_unused(vm, want, draft)
        again = Step("block-dirty-bitmap-add", self.read(vm, want) or {})
        step = Step("block-dirty-bitmap-remove", _where(want), undo=[again], removes=True)
        return [step.replace(still_needed=lambda vm: self.read(vm, want) is not None)]


def _where(want: Want) -> Dict[str, Any]:
    return {"node": want["node"], "name": want["name"]}


MARK = Mark()
# -- as a module of its own: modules/qemu_mark.py, and as a section: a line in _kinds/sections.py ---------------------------

from ansible_collections.vmm.qemu.plugins.module_utils._kinds import sections
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource
from support.lifecycle import Lifecycle, names
from support.modules import run_module
from support.vm import VM as QEMU

MODULES = "ansible_collections.vmm.qemu.plugins.modules"
REST = ("ansible_collections.vmm.qemu.plugins.module_utils._machine.machine", f"{MODULES}.qemu_machine")


@pytest.fixture
def mark(paused_vm: QEMU, monkeypatch: pytest.MonkeyPatch) -> Lifecycle:
    module = ModuleType("qemu_mark")
    module.MODULE = resource(MARK)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"{MODULES}.qemu_mark", module)
    paused_vm.observer.send("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": 1 << 30})
    return Lifecycle(paused_vm, "qemu_mark")


@pytest.fixture
def machine(mark: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lifecycle]:
    """Documents of the whole machine with a section for them."""
    with monkeypatch.context() as patch:
        for name, section in sections.of_kind(MARK).items():
            patch.setitem(sections.SECTIONS, name, section)
        for module in REST:
            importlib.reload(importlib.import_module(module))
        yield Lifecycle(mark.vm, "qemu_machine")
    for module in REST:
        importlib.reload(importlib.import_module(module))


def recorded(vm: QEMU, node: str = "n0") -> dict[str, tuple[int, bool]]:
    """Granularity by name, and whether it records: by the second monitor."""
    entry = next(item for item in vm.observer.look("query-named-block-nodes") if item["node-name"] == node)
    return {item["name"]: (item["granularity"], item["recording"]) for item in entry.get("dirty-bitmaps", [])}


def test_a_whole_life(mark: Lifecycle) -> None:
    vm = mark.vm
    given: dict[str, Any] = {"node": "n0", "name": "b0", "granularity": 65536}
    mark.refused("node: there is no block node 'n1'", node="n1", name="b0")
    mark.refused("name: '0'", node="n0", name="0")
    made = mark.step(**given, disabled=True)
    assert names(made) == ["block-dirty-bitmap-add"] and recorded(vm) == {"b0": (65536, False)}
    assert made["mark"] == {**given, "persistent": False, "disabled": True}
    mark.same(**given)

    vm.observer.send("block-dirty-bitmap-enable", {"node": "n0", "name": "b0"})
    assert names(mark.step(**given, disabled=True)) == ["block-dirty-bitmap-disable"], "drift is brought back"

    mark.refused("granularity is 65536, wanted 4096", "recreate", node="n0", name="b0", granularity=4096)
    again = mark.step(node="n0", name="b0", granularity=4096, recreate=True)
    assert names(again) == ["block-dirty-bitmap-remove", "block-dirty-bitmap-add"]
    assert recorded(vm) == {"b0": (4096, False)}, "what was not named stays"

    assert names(mark.step(node="n0", name="b0", state="absent")) == ["block-dirty-bitmap-remove"]
    assert recorded(vm) == {}
    mark.same(node="n0", name="b0", state="absent")


def test_a_failure_takes_back(machine: Lifecycle) -> None:
    """The second bitmap can't be kept in an image that is none; the first one goes again."""
    vm = machine.vm
    marks = [{"node": "n0", "name": "b0"}, {"node": "n0", "name": "b1", "persistent": True}]
    failed = machine.refused("marks[1] n0 b1", foretold=False, marks=marks)
    assert [command["execute"] for command in failed["rolled_back"]] == ["block-dirty-bitmap-remove"]
    assert recorded(vm) == {}


def test_a_section_of_a_document(machine: Lifecycle) -> None:
    vm = machine.vm
    node = {"node_name": "n1", "driver": "null-co", "options": {"size": 1 << 20}}
    document: dict[str, Any] = {
        "marks": [{"node": "n1", "name": "b0", "disabled": True}, {"node": "n0", "name": "b0"}],
        "blockdevs": [node],
    }
    done = machine.step(**document)
    assert {(entry["kind"], entry["id"]) for entry in done["plan"]} == {
        ("blockdev", "n1"),
        ("mark", "n1/b0"),
        ("mark", "n0/b0"),
    }
    assert names(done)[0] == "blockdev-add", "what it stands on comes first"
    told = run_module(vm, "qemu_info", gather_subset=["marks"])["vm"]["marks"]
    assert told.keys() == {"n0/b0", "n1/b0"} and told["n1/b0"]["disabled"] is True
    machine.refused("marks[1] n0 b0", "already", marks=[{"node": "n0", "name": "b0"}] * 2)

    changed = {**node, "driver": "null-aio"}
    again = machine.step(**{**document, "blockdevs": [changed]}, recreate=True)
    assert names(again)[0] == "block-dirty-bitmap-remove" and recorded(vm, "n1")["b0"][1] is False

    purged = machine.step(marks=[{"node": "n0", "name": "b0"}], purge=True)
    assert [(entry["action"], entry["id"]) for entry in purged["plan"]] == [("remove", "n1/b0")]
