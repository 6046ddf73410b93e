# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM without QEMU, made of things of one kind: what tests of the engine work on.

vm, qemu = stub_vm({"a": {"size": 1}, "b": {"on": "a"}})
qemu.refuse["thing-del", "a"] = CommandError("thing-del")      # what QEMU answers instead
qemu.things, qemu.sent                                         # what is there now, what changed it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, List

from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, Want
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Draft
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Change, Kind, State
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline


class StubQEMU:
    """A session with a QEMU that has things: ``thing-add``, ``thing-del`` and ``thing-set``."""

    def __init__(self, things: dict[str, dict[str, Any]]) -> None:
        self.things = things
        self.sent: list[str] = []
        self.refuse: dict[tuple[str, str], Exception] = {}
        """What a command about a thing raises; it is carried out all the same where that is no refusal."""
        self.events: list[Any] = []
        self.status = "running"
        self.closed = False
        self.asked = 0

    @property
    def event_count(self) -> int:
        return len(self.events)

    def execute(self, name: str, arguments: dict[str, Any] | None = None, **_how: Any) -> Any:
        if name == "query-things":
            self.asked += 1
            return {ident: dict(thing) for ident, thing in self.things.items()}
        if name == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        given = dict(arguments or {})
        ident = given.pop("id")
        self.sent.append(f"{name.partition('-')[2]} {ident}")
        error = self.refuse.get((name, ident))
        if not isinstance(error, errors.CommandError):
            self._carry_out(name, ident, given)
        if error is not None:
            raise error
        return {}

    def _carry_out(self, name: str, ident: str, given: dict[str, Any]) -> None:
        if name == "thing-add":
            self.things[ident] = given
        elif ident not in self.things:
            raise errors.DeviceNotFound(name, "DeviceNotFound", f"no {ident}")
        elif name == "thing-del":
            del self.things[ident]
        else:
            self.things[ident].update(given)

    def wait_event(self, is_end: Callable[[Any], bool], *, since: int, timeout: float, deadline: Deadline) -> Any:
        for event in self.events[since:]:
            if is_end(event):
                return event
        time.sleep(0.002)
        raise errors.CommandTimeout(None, "event", timeout)


class StubKind(Kind):
    """A thing: its size can change while it is there, its color can't, and it may stand on another thing."""

    name = "thing"
    section = "things"
    options = {
        "id": Option("str", required=True),
        "size": Option("int"),
        "color": Option("str"),
        "on": Option("str"),
    }

    def read(self, vm: VM, want: Want) -> State | None:
        thing = vm.ask("query-things").get(want["id"])
        return None if thing is None else {"id": want["id"], **thing}

    def changeable(self, vm: VM, have: State) -> frozenset[str]:
        return frozenset(["size"])

    def recreate_refusal(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        return "it is the last of its color" if have.get("color") == "unique" else ""

    def wanted_dependencies(self, want: Want) -> set[tuple[str, str]]:
        return {("thing", want["on"])} if "on" in want else set()

    def current_dependencies(self, vm: VM, want: Want) -> set[tuple[str, str]]:
        return self.wanted_dependencies(vm.ask("query-things")[want["id"]])

    def list(self, vm: VM) -> List[Want]:
        return [{"id": ident} for ident in vm.ask("query-things")]

    def users(self, vm: VM, want: Want) -> List[tuple[str, str]]:
        return [("thing", ident) for ident, thing in vm.ask("query-things").items() if thing.get("on") == want["id"]]

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        return [Step("thing-add", dict(want), undo=[Step("thing-del", {"id": want["id"]}, removes=True)])]

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        back = Step("thing-set", {"id": want["id"], "size": have["size"]})
        return [Step("thing-set", {"id": want["id"], "size": want["size"]}, undo=[back])]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        self.check_unused(vm, want, draft)
        again = Step("thing-add", {"id": want["id"], **vm.ask("query-things")[want["id"]]})
        return [Step("thing-del", {"id": want["id"]}, undo=[again], removes=True)]


def stub_vm(things: dict[str, dict[str, Any]] | None = None, seconds: float = 30.0) -> tuple[VM, StubQEMU]:
    """Return a VM of these things, with a deadline, and the QEMU behind it."""
    qemu: Any = StubQEMU(things or {})
    return VM(qemu, Deadline(seconds), local=True, reopen=lambda _seconds: qemu), qemu
