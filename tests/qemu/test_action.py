# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: the same results in the task's own process as in one of the module's, and lines while it works."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from support.plays import PlayRun
from support.vm import VM

Playbook = Callable[..., PlayRun]


def play(vm: VM, *tasks: dict[str, Any], **keywords: Any) -> list[dict[str, Any]]:
    """One play with these tasks, which name no socket; a failed one doesn't end it."""
    defaults = {"group/vmm.qemu.qemu": {"socket": vm.qmp}}
    return [
        {
            "hosts": "all",
            "gather_facts": False,
            "module_defaults": defaults,
            "ignore_errors": True,
            "tasks": [{"name": f"task {number}", **task} for number, task in enumerate(tasks)],
            **keywords,
        }
    ]


def both(playbook: Playbook, tasks: list[dict[str, Any]]) -> tuple[PlayRun, PlayRun]:
    """The play here, and with a process for each module. The worker's own leaves no file in the remote directory."""
    here = playbook(tasks, "-vvv", here=True)
    there = playbook(tasks, "-vvv")
    assert "AnsiballZ_" not in here.output and "AnsiballZ_" in there.output
    return here, there


def test_the_same_result_both_ways(start_vm: Callable[..., VM], playbook: Playbook) -> None:
    vm = start_vm()
    dump = str(vm.directory / "dump")
    tasks = play(
        vm,
        {"vmm.qemu.qemu_dump": {"path": dump}, "check_mode": True, "diff": True},
        {"vmm.qemu.qemu_dump": {"path": dump, "format": "no-such"}},
        {"vmm.qemu.qemu_dump": {"pathh": dump}},
        {"vmm.qemu.qemu_dump": {"path": dump, "timeout": "soon"}},
        {"vmm.qemu.qemu_dump": {"path": dump, "socket": f"{vm.directory}/none"}},
        {"vmm.qemu.qemu_dump": {}},
        {"vmm.qemu.qemu_snapshot": {"name": "s0"}},
        {"vmm.qemu.qemu_migrate": {"uri": "bogus:1"}},
        {"vmm.qemu.qemu_migrate_incoming": {"uri": "unix:/nowhere"}},
        {"vmm.qemu.qemu_block_job": {"id": "j0", "operation": "backup", "device": "none", "target": "none"}},
    )
    here, there = both(playbook, tasks)
    assert [task.status for task in here.tasks] == ["ok"] + ["failed"] * 9
    for one, other in zip(here.tasks, there.tasks):
        ours = {key: value for key, value in one.result.items() if key not in ("exception", "warnings")}
        theirs = {key: value for key, value in other.result.items() if key not in ("exception", "warnings")}
        assert ours == theirs
        assert [w for w in one.result.get("warnings", []) if "interpreter" not in w] == [
            w for w in other.result.get("warnings", []) if "interpreter" not in w
        ]


def test_the_socket_from_the_tasks_environment(start_vm: Callable[..., VM], playbook: Playbook) -> None:
    vm = start_vm()
    task = {"name": "t", "vmm.qemu.qemu_dump": {"path": str(vm.directory / "dump")}, "check_mode": True}
    run = playbook(
        [{"hosts": "all", "gather_facts": False, "environment": {"QEMU_QMP_SOCKET": vm.qmp}, "tasks": [task]}]
    )
    assert run["t"].status == "ok" and run["t"].changed


def test_async_goes_the_ordinary_way(start_vm: Callable[..., VM], playbook: Playbook) -> None:
    vm = start_vm()
    dump = vm.directory / "dump"
    run = playbook(play(vm, {"vmm.qemu.qemu_dump": {"path": str(dump)}, "async": 60, "poll": 1}), here=True)
    assert run["task 0"].changed, run.output
    assert dump.stat().st_size > 256 << 20


def test_lines_while_it_works(start_vm: Callable[..., VM], playbook: Playbook) -> None:
    vm = start_vm()
    source = vm.image("source.raw", "64M")
    target = vm.image("target.raw", "64M")
    for name, path in (("source", source), ("target", target)):
        file = {"driver": "file", "filename": path}
        vm.observer.execute("blockdev-add", **{"node-name": name, "driver": "raw", "file": file})
    job = {"id": "copy", "operation": "backup", "device": "source", "target": "target", "speed": "12M"}
    run = playbook(play(vm, {"vmm.qemu.qemu_block_job": job}), here=True)
    assert run["task 0"].changed, run.output
    lines = re.findall(r"^\[localhost\] backup copy: .*", run.output, re.MULTILINE)
    assert len(lines) >= 2, run.output
    assert re.search(r"\d+ %, .* of 64\.0 MiB, .*/s", lines[-1])
