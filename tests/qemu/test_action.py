# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: the same results in the task's own process as in one of the module's, and lines while it works."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.collection import REPO
from support.plays import PlayRun, compare
from support.timing import until
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


def every_module(vm: VM) -> dict[str, dict[str, Any]]:
    """For each module something to ask of it that a paused VM without a guest can answer."""
    here = str(vm.directory)
    return {
        "qemu_backup": {"name": "daily", "path": f"{here}/backup", "disks": ["none"]},
        "qemu_balloon": {"size": "128M"},
        "qemu_bitmap": {"node": "none", "name": "b0"},
        "qemu_block_job": {"id": "j0", "operation": "backup", "device": "none", "target": "none"},
        "qemu_blockdev": {"node_name": "n0", "filename": vm.image("n0.raw"), "read_only": "yes"},
        "qemu_chardev": {"id": "c0", "type": "null"},
        "qemu_command": {"commands": ["query-name", {"execute": "system_reset"}]},
        "qemu_console": {
            "from": "screen",
            "keys": ["nosuch"],
            "expect": [{"text": "login:", "secret": True, "answer": "hunter22"}],
        },
        "qemu_cpu_hotplug": {"vcpus": 9},
        "qemu_device": {"id": "r0", "driver": "virtio-rng-pci", "bus": "rp0"},
        "qemu_disk": {"id": "d0", "filename": vm.image("d0.raw"), "bus": "rp1", "size": "32M"},
        "qemu_disk_snapshot": {"name": "s1", "disks": ["none"]},
        "qemu_dump": {"path": f"{here}/dump"},
        "qemu_export": {"id": "x0", "node": "none"},
        "qemu_guest_exec": {"argv": ["true"]},
        "qemu_guest_info": {"gather_subset": ["users"]},
        "qemu_image": {"path": f"{here}/new.qcow2", "format": "qcow2", "size": "1M"},
        "qemu_info": {"gather_subset": ["status", "devices", "objects"]},
        "qemu_instance": {"name": "bed", "state": "started", "arguments": {"m": 64}},
        "qemu_machine": {"objects": [{"id": "s0", "qom_type": "secret", "options": {"data": "hunter22"}}]},
        "qemu_memory_hotplug": {"id": "m0", "size": "64M"},
        "qemu_migrate": {"uri": "bogus:1"},
        "qemu_migrate_incoming": {"uri": "unix:/nowhere"},
        "qemu_netdev": {"id": "u0", "type": "user", "options": {"restrict": "on"}},
        "qemu_nic": {"id": "e0", "netdev": {"type": "user"}, "bus": "rp2", "mac": "52:54:00:00:00:01"},
        "qemu_object": {"id": "s1", "qom_type": "secret", "options": {"data": "hunter22"}},
        "qemu_power": {"state": "running"},
        "qemu_qom": {"path": "/machine", "property": "type"},
        "qemu_save": {"path": f"{here}/none/vm"},
        "qemu_screendump": {"path": f"{here}/screen.png"},
        "qemu_seed": {"path": f"{here}/seed.iso", "meta_data": "instance-id: i1\n", "user_data": ""},
        "qemu_serial_port": {"id": "p0", "chardev": {"type": "null"}, "bus": "none.0"},
        "qemu_snapshot": {"name": "s0"},
        "qemu_vfio": {"id": "v0", "host": "0000:00:1f.7"},
        "qemu_vhost_user": {"id": "h0", "driver": "vhost-user-blk-pci", "path": f"{here}/none"},
        "qemu_vm": {"name": "none", "directory": f"{here}/none", "user": "", "state": "stopped"},
        "qemu_vsock": {"id": "k0", "guest_cid": 3, "vhostfd": f"{here}/none"},
        "qemu_wait": {"status": ["prelaunch", "running"]},
    }


def test_the_same_result_both_ways(playbook: Playbook) -> None:
    with VM("10.0") as vm:
        _the_same(vm, playbook)


def _the_same(vm: VM, playbook: Playbook) -> None:
    asked = every_module(vm)
    assert set(asked) == {path.stem for path in (REPO / "plugins" / "modules").glob("qemu_*.py")}
    tasks = [
        {f"vmm.qemu.{name}": options, "check_mode": check, "diff": True}
        for name, options in asked.items()
        for check in (True, False)
        if check or name not in ("qemu_instance", "qemu_dump")
    ]
    some = list(asked.items())[::6]  # each is a process, and what they say of options that are wrong is one code
    wrong: list[dict[str, Any]] = [
        {f"vmm.qemu.{name}": {**options, "no_such": 1}, "diff": True} for name, options in some
    ]
    wrong += [
        {"vmm.qemu.qemu_disk": {"id": "d0", "timeout": "soon"}},
        {"vmm.qemu.qemu_disk": {"id": "d0", "socket": f"{vm.directory}/none"}},
        {"vmm.qemu.qemu_disk": {}},
        {"vmm.qemu.qemu_wait": {"status": ["debug"], "timeout": 1}},
    ]
    before = vm.fingerprint()
    foretold = [task for task in tasks if task["check_mode"]]
    here, there = both(playbook, play(vm, *foretold, *wrong))
    assert vm.fingerprint() == before
    compare(here, there)
    assert {task.status for task in here.tasks[len(foretold) :]} == {"failed"}
    # what one way has made is there for the other. Each is a process, and what the action makes of a result is one code
    done = [task for task in tasks if not task["check_mode"]][::3]
    playbook(play(vm, *done), here=True)
    here, there = both(playbook, play(vm, *done))
    compare(here, there)


def test_keys_that_yaml_reads_as_something_else_than_text(playbook: Playbook, tmp_path: Path) -> None:
    """Numbers and truth values as keys are text in the module's process, since JSON has no other, and so they are here."""
    with VM("10.0") as vm:
        play = tmp_path / "keys.yml"
        play.write_text(f"""
- hosts: all
  gather_facts: false
  tasks:
  - name: t
    vmm.qemu.qemu_device:
      {{socket: {vm.qmp}, id: r0, driver: virtio-rng-pci, bus: rp0, options: {{on: 1, 2: 3}}}}
""")
        here, there = playbook(play, here=True), playbook(play)
        compare(here, there)
        assert "no property 'true'" in here["t"].result["msg"]


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


def test_the_interpreter_of_the_host_that_a_task_is_delegated_to(playbook: Playbook, tmp_path: Path) -> None:
    chosen = tmp_path / "python"
    hosts = {"plain": sys.executable, "own": str(chosen)}
    add = [{"add_host": {"name": name, "ansible_python_interpreter": python}} for name, python in hosts.items()]
    with VM("10.0") as vm:
        both(playbook, play(vm, {"vmm.qemu.qemu_qom": {"path": "/machine", "property": "type"}}))  # makes `chosen`, too
        for host, delegate in (("own", "plain"), ("plain", "own")):
            task = {"vmm.qemu.qemu_qom": {"path": "/machine", "property": "type"}, "delegate_to": delegate}
            plays = [{"hosts": "localhost", "gather_facts": False, "tasks": add}, *play(vm, task, hosts=host)]
            run = playbook(plays, "-vvv", variables={"ansible_python_interpreter": None})
            assert run["task 0"].status == "ok", run.output
            assert ("AnsiballZ_" in run.output) == (delegate == "own")


@pytest.fixture
def balloon_vm() -> Iterator[VM]:
    """One that has a balloon, and no guest that would answer it. What it is asked is traced."""
    with VM("10.0", args=["-device", "virtio-balloon-pci,bus=rp7", "-trace", "virtio_balloon_to_target"]) as vm:
        vm.observer.execute("cont")  # where nothing runs, nothing is waited for
        yield vm


def waiting(vm: VM) -> dict[str, Any]:
    """A document that is not done before its timeout: what is quickly made and taken back, and then the balloon."""
    return {
        "objects": [{"id": "io0", "qom_type": "iothread"}],
        "blockdevs": [{"node_name": "x", "filename": vm.image("x.raw")}],
        "balloon": "128M",
        "timeout": 120,
    }


def targets(vm: VM) -> list[int]:
    """What the balloon was asked for, in MiB."""
    return [int(size, 16) >> 20 for size in re.findall(r"balloon target: *(?:0x)?([0-9a-f]+)", vm.stderr)]


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_task_that_is_told_to_stop_takes_back_what_it_did(
    balloon_vm: VM, playbook: Playbook, tmp_path: Path, number: signal.Signals, here: bool
) -> None:
    vm = balloon_vm
    before = vm.fingerprint()

    def stop() -> None:
        until(lambda: targets(vm) == [128])
        os.killpg(int((tmp_path / "pid").read_text()), number)

    leader = ("setsid", "sh", "-c", f'echo $$ >{tmp_path}/pid; exec "$@"', "sh")
    stopper = threading.Thread(target=stop)
    stopper.start()
    run = playbook(play(vm, {"vmm.qemu.qemu_machine": waiting(vm)}), here=here, prefix=leader)
    stopper.join()
    assert run.rc and not run.tasks, run.output
    until(lambda: not vm.attended())  # Ansible may end before its task does
    assert vm.fingerprint() == before
    assert targets(vm) == [128, 256]


def test_a_tasks_own_timeout(balloon_vm: VM, playbook: Playbook) -> None:
    before = balloon_vm.fingerprint()
    run = playbook(play(balloon_vm, {"vmm.qemu.qemu_machine": waiting(balloon_vm), "timeout": 3}), here=True)
    assert run["task 0"].status == "failed" and run["task 0"].result["timedout"], run.output
    assert balloon_vm.fingerprint() == before


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
