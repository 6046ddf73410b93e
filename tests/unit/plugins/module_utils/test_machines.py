# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many VMs in one task: what each takes, what is wrong with it, what comes of all of them, and their end by a signal."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils import _machines
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step, Wait
from ansible_collections.vmm.qemu.plugins.module_utils._core.task import CONNECTION, Task
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply
from ansible_collections.vmm.qemu.plugins.module_utils._machines import AT_A_TIME, of_each
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import OPTIONS as VM_OPTIONS
from ansible_collections.vmm.qemu.plugins.modules.qemu_machine import MODULE as QEMU_MACHINE
from ansible_collections.vmm.qemu.plugins.modules.qemu_vm import MODULE as QEMU_VM
from ansible_collections.vmm.qemu.plugins.plugin_utils._progress_lines import line
from support.fakeqmp import FakeQMP, Peer

OPTIONS = {
    **CONNECTION,
    "state": Option("str", choices=["running", "paused"], required=True),
    "force": Option("bool", default=False),
    "force_after": Option("float"),
    "key": Option("str", no_log=True),
}
OUTSIDE = {"state": None, "force": False, "timeout": 5.0, "connect_timeout": 10.0, "socket": None}


def each(machines: Any, **outside: Any) -> dict[str, dict[str, Any]]:
    constraints = {"required_if": [("force", True, ["force_after"])]}
    return of_each({**OUTSIDE, **outside, "machines": machines}, OPTIONS, constraints)


def test_what_all_share_and_what_each_says_itself() -> None:
    own = {"web1": {"socket": "/1"}, "web2": {"socket": "/2", "state": "paused", "timeout": "7", "force": None}}
    found = each(own, state="running", force=True, force_after=3.0, socket="/from/the/environment")
    assert [found["web1"][name] for name in ("socket", "state", "timeout", "force")] == ["/1", "running", 5.0, True]
    assert [found["web2"][name] for name in ("socket", "state", "timeout", "force")] == ["/2", "paused", 7.0, False]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"a": 5}, "machines.a: this is not a dictionary of options, but of type int"),
    ({"a": None}, "machines.a: missing required arguments: socket, state"),
    ({"a": {"socket": "/1", "state": "of"}}, "machines.a: value of state must be one of: running, paused, got: of"),
    (
        {"a": {"socket": "/1", "state": "paused", "sokcet": "/2"}},
        "machines.a: unknown option sokcet (did you mean 'socket'?)",
    ),
    ({"a": {"socket": "/1", "state": "paused", "machines": {}}}, "machines.a: unknown option machines. There are: "),
    ({"a": {"socket": "/1", "state": "paused", "force": True}}, "machines.a: force is True but all of the following "),
    ({"a": {"socket": "/1", "state": "paused", "tls": {"ca": "x"}}}, "machines.a: unknown option tls.ca"),
    (dict.fromkeys("abcde", 1), "machines.c: this is not a dictionary of options, but of type int; and 2 more"),
    (
        {"a": {"socket": "/tmp/1", "state": "paused"}, "b": {"socket": "unix:/tmp/../tmp/1", "state": "paused"}},
        "machines.b: socket unix:/tmp/../tmp/1 is that of machines.a, too: each needs one of its own",
    ),
]


@pytest.mark.parametrize(("machines", "message"), WRONG, ids=[message[:40] for _machines, message in WRONG])
def test_what_is_wrong_is_told_before_anything_starts(machines: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        each(machines)
    assert message in str(refusal.value)


def test_the_name_is_the_key_where_the_module_has_names() -> None:
    options = {"name": Option("str", required=True), "size": Option("str")}
    found = of_each({"name": None, "machines": {"a": {}, "b": {"name": "c"}}}, options, {})
    assert [params["name"] for params in found.values()] == ["a", "c"]
    with pytest.raises(Refusal, match=r"machines\.b: name a is that of machines.a, too"):
        of_each({"machines": {"a": {}, "b": {"name": "a"}}}, options, {})


def test_a_task_without_machines_needs_what_it_always_did() -> None:
    module = Module(
        {"state": OPTIONS["state"]}, lambda task: {"changed": False}, many=True, required_by={"tls": "socket"}
    )
    assert module.run({**OUTSIDE, "machines": None})["msg"] == "missing required arguments: socket, state"
    assert "msg" not in module.run({**OUTSIDE, "socket": "/x", "state": "paused", "machines": None})
    assert module.run({**OUTSIDE, "machines": {}}) == {
        **{"changed": False, "machines": {}, "warnings": [], "msg": "0 changed, 0 unchanged"},
        **{"diff": {"before": {}, "after": {}}},
    }


def run(work: Any, machines: dict[str, Any], **how: Any) -> dict[str, Any]:
    module = Module({"state": Option("str"), "key": OPTIONS["key"]}, work, many=True)
    defaults = {name: option.fields.get("default") for name, option in module.options.items()}
    return module.run({**defaults, "machines": machines}, **how)


def test_one_fails_and_the_others_are_finished() -> None:
    def work(task: Task) -> dict[str, Any]:
        if task.params["state"] == "bad":
            raise Refusal("vm1: it can't be done" if task.params["socket"] == "/1" else "it can't be done")
        if task.params["state"] == "worse":
            raise KeyError("x")
        changed = task.params["state"] == "changed"
        diff = {"before": {"a": 1}, "after": {"a": 2 if changed else 1}}
        return {"changed": changed, "commands": [], "warnings": ["odd"] * changed, "diff": diff}

    states = ["changed", "bad", "same", "worse", "changed", *["bad"] * 12]
    result = run(
        work, {f"vm{n}": {"socket": f"/{n}", "state": state} for n, state in enumerate(states)}, diff_mode=True
    )
    assert list(result["machines"]) == [f"vm{n}" for n in range(len(states))]
    assert result["msg"] == (
        "2 changed, 1 unchanged, 14 failed: vm1: it can't be done; vm3: unexpected KeyError in machines.vm3: 'x'. "
        "This is a bug of the collection; vm5: it can't be done; and 11 more"
    )
    assert result["failed"] and result["changed"]
    assert result["machines"]["vm0"] == {"changed": True, "commands": []}
    assert result["machines"]["vm1"]["failed"] and result["machines"]["vm1"]["msg"] == "vm1: it can't be done"
    assert result["warnings"] == ["vm0: odd", "vm4: odd"]
    assert result["diff"] == {"before": {"vm0": {"a": 1}, "vm4": {"a": 1}}, "after": {"vm0": {"a": 2}, "vm4": {"a": 2}}}


def test_eight_at_a_time_each_with_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machines, "SILENT", -1.0)
    together = threading.Barrier(AT_A_TIME)
    names = {threading.get_ident(): "main"}
    told: list[tuple[str, str]] = []

    def work(task: Task) -> dict[str, Any]:
        task.on_progress(Progress("copy", "active"))
        together.wait(20)
        return {"changed": task.check_mode}

    def on_progress(progress: Progress) -> None:
        told.append((names[threading.get_ident()], line(progress, 0.0)))

    machines = {f"vm{n}": {"socket": f"/{n}"} for n in range(2 * AT_A_TIME)}
    assert run(work, machines, check_mode=True, on_progress=on_progress)["msg"] == "16 changed, 0 unchanged"
    assert {thread for thread, _progress in told} == {"main"}
    assert sorted(text for _thread, text in told) == sorted(
        [f"{name}: copy: active" for name in machines] + [f"machines: {n + 1} of 16 done" for n in range(16)]
    )


def test_secrets_are_known_wherever_they_are() -> None:
    secret = {"id": "s", "qom_type": "secret", "options": {"data": "hunter22"}}
    url = {"filename": "https://me:pass77@host/x"}
    params = {"machines": {"a": {"objects": [secret]}, "b": {"blockdevs": [url]}, "c": "soon"}, "objects": None}
    assert {"hunter22", "pass77"} <= set(QEMU_MACHINE.secrets(params))
    told = run(lambda task: {}, {"a": {"socket": "/1", "key": "hunter22", "state": {"x": "hunter22"}, "no": 1}})
    assert told["failed"] and "hunter22" not in str(told)


class Never(Wait):
    """An end that does not come."""


def work_for_ever(task: Task) -> dict[str, Any]:
    steps = [
        Step("first", undo=[Step("undo-first")]),
        Step("second", undo=[Step("undo-second")], wait=Never()),
    ]
    apply(Plan(steps), task.connect())
    return {}


@pytest.mark.parametrize(
    "objects",
    [
        [{"id": "s0", "qom_type": "secret", "options": '{"data": "hunter22"}'}],
        [{"id": "s0", "qom_type": "secret", "options": "data=hunter22"}],
        ['{"id": "s0", "qom_type": "secret", "options": {"data": "hunter22"}}'],
        {"id": "s0", "qom_type": "secret", "options": {"data": "hunter22"}},
        {"s0": {"options": {"data": "hunter22"}}},
        json.dumps([{"options": {"data": "hunter22"}}]),
    ],
)
def test_secrets_are_known_in_text_and_in_the_wrong_place(objects: Any) -> None:
    for module in (QEMU_MACHINE, QEMU_VM):
        for own in ({"objects": objects}, json.dumps({"objects": objects})):
            assert "hunter22" in module.secrets({"machines": {"a": own}})
        assert "hunter22" in module.secrets({"objects": objects})


def test_text_that_is_not_a_dictionary_has_no_secrets() -> None:
    for text in ("=" * 10_000, "[" * 10_000, "{" * 10_000, 'data="x', "{x"):
        assert QEMU_MACHINE.secrets({"machines": {"a": text}}) == []


def test_a_signal_takes_back_what_each_has_done() -> None:
    """Also of a VM that QEMU's answer, or even its greeting, never comes from."""
    begun: list[dict[str, Any]] = []

    def begin(command: dict[str, Any]) -> None:
        begun.append(command)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def works(peer: Peer) -> None:
        peer.negotiate()
        peer.serve(second=begin, query_status={"status": "running", "running": True})

    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with ExitStack() as stack:
            one, other = (stack.enter_context(FakeQMP(works)) for _number in range(2))
            silent = stack.enter_context(FakeQMP(lambda peer: peer.closed()))
            machines = {server.address: {"socket": server.address} for server in (one, silent, other)}
            with pytest.raises(KeyboardInterrupt), interruptible():
                run(work_for_ever, machines)
            for server in (one, other):
                sent = [command["execute"] for command in server.peers[0].received]
                assert sent[1:3] == ["first", "second"] and sent[-2:] == ["undo-second", "undo-first"]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("option", ["disk", "directory", "taps"])
def test_no_two_have_the_same(option: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one: dict[str, Any] = {"disk": f"{tmp_path}/d", "directory": f"{tmp_path}/d", "taps": [{"name": "t0"}]}
    two: dict[str, Any] = {"disk": f"{tmp_path}/link/d", "directory": f"{tmp_path}/link/d", "taps": [{"name": "t0"}]}
    with pytest.raises(Refusal, match=f"machines.b: {option.rstrip('s')} .* is that of machines.a, too"):
        of_each({"machines": {"a": {option: one[option]}, "b": {option: two[option]}}}, VM_OPTIONS, {})
    of_each({"machines": {"a": {option: one[option]}, "b": {}}}, VM_OPTIONS, {})
