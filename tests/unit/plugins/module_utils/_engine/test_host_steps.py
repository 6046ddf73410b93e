# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that work on the host: alone, and in one plan with QEMU's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed, TaskError
from ansible_collections.vmm.qemu.plugins.module_utils._core.failure import plan_failure
from ansible_collections.vmm.qemu.plugins.module_utils._core.host import Host
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.errors import CommandError, Disconnected
from support.stub import stub_vm


def mkdir(path: Path, **more: Any) -> Step:
    undo = [Step(do=lambda deadline: path.rmdir(), command_lines=[["rmdir", str(path)]])]
    return Step(do=lambda deadline: path.mkdir(), command_lines=[["mkdir", str(path)]], undo=undo)._replace(**more)


def broken(deadline: Deadline) -> None:
    raise OperationFailed("no room")


BROKEN = Step(do=broken, command_lines=[["cp", "a", "b"]])


def add(ident: str) -> Step:
    return Step("thing-add", {"id": ident}, undo=[Step("thing-del", {"id": ident}, removes=True)])


def fail(host: Any, *steps: Step) -> PlanFailed:
    with pytest.raises(PlanFailed) as failed:
        apply(Plan(steps), host)
    return failed.value


def test_they_are_done_and_undone_without_a_monitor(tmp_path: Path) -> None:
    host: Any = Host(Deadline(5.0))
    a, b = tmp_path / "a", tmp_path / "a" / "b"
    plan = Plan([mkdir(a), mkdir(b), mkdir(tmp_path / "c", hidden=True)])
    assert plan.commands == [["mkdir", str(a)], ["mkdir", str(b)]]
    apply(plan, host)
    assert b.is_dir() and host.account.commands == plan.commands
    host.account.drop(plan.steps[0])
    host.account.drop(plan.steps[1])
    failed = fail(host, mkdir(b / "x"), mkdir(b / "x" / "y"), BROKEN)
    assert failed.rolled_back == [["rmdir", f"{b}/x/y"], ["rmdir", f"{b}/x"]]
    assert (list(b.iterdir()), host.account.commands) == ([], [])


def test_both_sorts_in_one_plan(tmp_path: Path) -> None:
    vm, qemu = stub_vm()
    a = tmp_path / "a"
    plan = Plan([mkdir(a), add("x"), mkdir(a / "b")])
    apply(plan, vm)
    shown = [["mkdir", str(a)], {"execute": "thing-add", "arguments": {"id": "x"}}, ["mkdir", f"{a}/b"]]
    assert plan.commands == vm.account.commands == shown and qemu.sent == ["add x"]


def test_both_sorts_are_taken_back(tmp_path: Path) -> None:
    vm, qemu = stub_vm()
    a = tmp_path / "a"
    qemu.refuse["thing-add", "y"] = CommandError("thing-add", desc="no")
    failed = fail(vm, mkdir(a), add("x"), mkdir(a / "b"), add("y"))
    assert qemu.sent == ["add x", "add y", "del x"] and not a.exists()
    assert failed.rolled_back[0] == ["rmdir", f"{a}/b"] and failed.rolled_back[2] == ["rmdir", str(a)]
    assert (
        "taken back: rmdir " in plan_failure(failed, None)["msg"]
        and ", thing-del, rmdir" in plan_failure(failed, None)["msg"]
    )


def test_what_is_on_the_host_is_taken_back_when_qemu_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, qemu = stub_vm()

    def gone(deadline: Deadline) -> None:
        vm.session.closed = True  # type: ignore[misc]
        raise OperationFailed("it died")

    def refuse(seconds: float) -> Any:
        raise Disconnected("nobody there")

    vm.reopen = refuse
    failed = fail(vm, mkdir(tmp_path / "a"), add("x"), Step(do=gone, command_lines=[["true"]]))
    assert not (tmp_path / "a").exists() and qemu.sent == ["add x"]
    assert failed.stuck == ["thing-del x (nobody there)"]
    assert [command["arguments"] for command in vm.account.commands] == [{"id": "x"}]


def test_what_nothing_takes_back_is_told(tmp_path: Path) -> None:
    host: Any = Host(Deadline(5.0))
    failed = fail(host, mkdir(tmp_path / "a", undo=()), BROKEN)
    assert failed.stuck == [f"mkdir {tmp_path}/a"] and isinstance(failed.cause, TaskError)
    assert host.account.commands == [["mkdir", f"{tmp_path}/a"]]
