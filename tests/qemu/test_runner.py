# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks by the code that a host keeps: the results of the module's own process, and nothing is run twice or as another user."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.collection import REPO
from support.plays import PlayRun, compare
from support.sshd import Sshd
from support.vm import VM

Playbook = Callable[..., PlayRun]
SUPPORT = REPO / "tests" / "support"


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture(scope="module")
def vm() -> Iterator[VM]:
    with VM("10.0") as machine:
        yield machine


def play(*tasks: dict[str, Any], **keywords: Any) -> list[dict[str, Any]]:
    named = [{"name": f"task {number}", **task} for number, task in enumerate(tasks)]
    return [{"hosts": "all", "gather_facts": False, "ignore_errors": True, "tasks": named, **keywords}]


def kept(home: Path) -> list[Path]:
    """What the host keeps for this user, besides the sockets of those that wait."""
    return list(home.glob(f"remote/vmm.qemu-{os.geteuid()}/[!.]*"))


def test_the_same_result_three_ways(vm: VM, playbook: Playbook, sshd: Sshd, tmp_path: Path) -> None:
    node = {"node_name": "n0", "filename": vm.image("n0.raw")}
    secret = {"id": "s0", "qom_type": "secret", "options": {"data": "hunter22"}}
    environment = {"QEMU_QMP_SOCKET": vm.qmp, "BED_HOME": str(tmp_path)}
    tasks: list[dict[str, Any]] = [
        {"vmm.qemu.qemu_blockdev": node, "check_mode": True, "diff": True},
        {"vmm.qemu.qemu_blockdev": node, "diff": True},
        {"vmm.qemu.qemu_blockdev": node},
        {"vmm.qemu.qemu_blockdev": {**node, "state": "absent"}},
        {"vmm.qemu.qemu_blockdev": {**node, "filename": "/none"}},
        {"vmm.qemu.qemu_blockdev": {**node, "no_such": "x"}},
        {"vmm.qemu.qemu_blockdev": {**node, "socket": "/none", "connect_timeout": 0.1}},
        {"vmm.qemu.qemu_machine": {"objects": [secret]}},
        {"vmm.qemu.qemu_machine": {"objects": [{**secret, "state": "absent", "no_such": 1}]}},
        {"vmm.qemu.qemu_object": {"id": "s0", "qom_type": "secret", "state": "absent"}},
        {
            "vmm.qemu.qemu_seed": {"path": "$BED_HOME/s.iso", "meta_data": "", "user_data": "hunter22"},
            "check_mode": True,
        },
        {"vmm.qemu.qemu_image": {"path": "$BED_HOME/i.raw", "format": "raw", "size": "1M"}, "check_mode": True},
        {"vmm.qemu.qemu_wait": {"status": ["debug"], "timeout": 1}},
    ]
    before = vm.fingerprint()
    runs = {}
    for way in ("here", "module", "runner"):
        how = {"variables": {**sshd.variables, "vmm_qemu_runner": way == "runner"}} if way != "here" else {"here": True}
        runs[way] = playbook(play(*tasks, environment=environment), "-vvv", **how)
        assert ("AnsiballZ_" in runs[way].output) == (way == "module")
        assert vm.fingerprint() == before
    compare(runs["here"], runs["module"])
    compare(runs["module"], runs["runner"])
    changed = [task.status + "+" * task.changed for task in runs["runner"].tasks]
    assert changed == ["ok+", "ok+", "ok", "ok+", *["failed"] * 3, "ok+", "failed", "ok+", "ok+", "ok+", "failed"]
    assert runs["runner"].tasks[11].result["invocation"]["module_args"]["path"] == f"{tmp_path}/i.raw"
    assert "hunter22" not in runs["runner"].output
    (pack,) = kept(tmp_path)
    assert b"hunter22" not in pack.read_bytes()
    assert [path.is_socket() for path in pack.parent.glob(".*")] == [
        True
    ]  # of the process that ran all tasks but the first


def test_no_process_stays_where_none_shall(vm: VM, playbook: Playbook, sshd: Sshd, tmp_path: Path) -> None:
    tasks = [{"vmm.qemu.qemu_qom": {"socket": vm.qmp, "path": "/machine", "property": "type"}}] * 2
    run = playbook(play(*tasks), variables={**sshd.variables, "vmm_qemu_runner": True, "vmm_qemu_runner_idle": 0})
    assert [task.status for task in run.tasks] == ["ok"] * 2
    (pack,) = kept(tmp_path)
    assert list(pack.parent.iterdir()) == [pack]
    run = playbook(play(*tasks), variables={**sshd.variables, "vmm_qemu_runner": True, "vmm_qemu_runner_idle": "soon"})
    assert run["task 0"].failed and "vmm_qemu_runner_idle: 'soon'" in run["task 0"].result["msg"]


def test_the_interpreter_is_looked_for_once(vm: VM, playbook: Playbook, sshd: Sshd) -> None:
    tasks = [{"vmm.qemu.qemu_qom": {"socket": vm.qmp, "path": "/machine", "property": "type"}}] * 2
    variables = {**sshd.variables, "vmm_qemu_runner": True, "ansible_python_interpreter": None}
    run = playbook(play(*tasks, {"ping": {}}), "-vvv", variables=variables)
    assert [task.status for task in run.tasks] == ["ok"] * 3
    assert run.output.count("interpreter discovery") == 1 and run.output.count("AnsiballZ_ping") > 0
    assert "AnsiballZ_qemu" not in run.output


def test_a_line_that_is_cut(vm: VM, playbook: Playbook) -> None:
    """What was begun goes on to its end, once."""
    vm.observer.forget_events()
    cut = {"ANSIBLE_CONNECTION_PLUGINS": str(SUPPORT / "connection"), "BED_CUT": "qemu_command"}
    reset = {"vmm.qemu.qemu_command": {"socket": vm.qmp, "commands": ["system_reset"]}}
    look = {"vmm.qemu.qemu_qom": {"socket": vm.qmp, "path": "/machine", "property": "type"}}
    variables = {"ansible_connection": "bed_cut", "vmm_qemu_runner": True, "ansible_python_interpreter": sys.executable}
    run = playbook(play(look, reset), "-vvv", variables=variables, environment=cut)
    assert [task.status for task in run.tasks] == ["ok", "unreachable"], run.output
    assert "AnsiballZ_" not in run.output
    vm.observer.wait_event("RESET")
    vm.observer.execute("query-status")
    assert not [event for event in vm.observer.events if event["event"] == "RESET"]


def test_under_mitogen(vm: VM, playbook: Playbook) -> None:
    found = find_spec("ansible_mitogen")
    assert found is not None
    strategies = Path(str(found.origin)).parent / "plugins" / "strategy"
    tasks = [{"vmm.qemu.qemu_qom": {"socket": vm.qmp, "path": "/machine", "property": "type"}}] * 2
    run = playbook(
        play(*tasks, strategy="mitogen_linear"),
        "-vvv",
        environment={"ANSIBLE_STRATEGY_PLUGINS": str(strategies)},
        variables={"vmm_qemu_runner": True},
    )
    assert [task.status for task in run.tasks] == ["ok", "ok"], run.output
    assert run["task 0"].result["value"] == run["task 1"].result["value"]
    assert "AnsiballZ_" not in run.output and "mitogen" in run.output
