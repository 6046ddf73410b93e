# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams that are over: QEMU crashes when it is asked for its block nodes beside one that nobody has dismissed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.timing import until
from support.vm import VM


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    """A disk `data` whose image stands on another one."""
    machine = start_vm(scsi=True)
    base, top = machine.image("base.qcow2", "4M", "qcow2"), f"{machine.directory}/top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    fill = ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", base]
    subprocess.run(fill, check=True, stdout=subprocess.DEVNULL)
    run_module(machine, "qemu_disk", **disk(machine))
    run_module(machine, "qemu_object", id="o0", qom_type="throttle-group")
    return machine


def disk(vm: VM) -> dict[str, Any]:
    return {
        "id": "data",
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "filename": f"{vm.directory}/top.qcow2",
        "format": "qcow2",
    }


def stream(vm: VM, **options: Any) -> None:
    """Another client's stream, over, and kept by QEMU."""
    vm.observer.execute("block-stream", device="data-node", job_id="st", auto_dismiss=False, **options)
    vm.observer.wait_event("JOB_STATUS_CHANGE", id="st", status="concluded")


READERS: dict[str, tuple[str, Callable[[VM], dict[str, Any]]]] = {
    "qemu_disk": ("qemu_disk", disk),
    "qemu_blockdev": ("qemu_blockdev", lambda vm: {"node_name": "data-node"}),
    "qemu_blockdev absent": ("qemu_blockdev", lambda vm: {"node_name": "n9", "state": "absent"}),
    "qemu_machine": ("qemu_machine", lambda vm: {"disks": [disk(vm)], "purge": True}),
    "qemu_snapshot": ("qemu_snapshot", lambda vm: {"name": "s"}),
    "qemu_object absent": ("qemu_object", lambda vm: {"id": "o0", "state": "absent"}),
    "qemu_info": ("qemu_info", lambda vm: {"gather_subset": ["block_nodes"]}),
    "qemu_block_job": ("qemu_block_job", lambda vm: {"id": "j", "operation": "commit", "device": "data-node"}),
    "qemu_save": ("qemu_save", lambda vm: {"path": f"{vm.directory}/saved"}),
    "qemu_export": (
        "qemu_export",
        lambda vm: {"id": "e", "device": "data", "type": "nbd", "listen": f"{vm.directory}/e"},
    ),
    "qemu_bitmap": ("qemu_bitmap", lambda vm: {"node": "data-node", "name": "b"}),
    "qemu_disk_snapshot": ("qemu_disk_snapshot", lambda vm: {"name": "s"}),
    "qemu_backup": ("qemu_backup", lambda vm: {"name": "b", "path": f"{vm.directory}/backups"}),
    "qemu_command": ("qemu_command", lambda vm: {"commands": ["query-version", "query-named-block-nodes"]}),
    "qemu_command by the human monitor": (
        "qemu_command",
        lambda vm: {"commands": [{"execute": "human-monitor-command", "arguments": {"command-line": "info block -n"}}]},
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_nobody_asks_for_block_nodes_beside_a_stream_that_is_over(vm: VM, reader: str) -> None:
    stream(vm)
    module, options = READERS[reader]
    for check in (True, False):
        with pytest.raises(ModuleFailed) as failed:
            run_module(vm, module, check=check, **options(vm))
        assert vm.alive, failed.value.result
        for word in ("job st", "dismissed", "qemu_block_job"):
            assert word in failed.value.result["msg"]
        assert (failed.value.result["changed"], failed.value.result["commands"]) == (False, [])
    # and what it says helps
    assert names(run_module(vm, "qemu_block_job", id="st", state="finished")) == ["job-dismiss"]
    assert vm.observer.look("query-jobs") == []
    run_module(vm, "qemu_disk", **disk(vm))
    assert vm.alive


def test_a_stream_that_is_cancelled_or_still_runs_is_no_danger(vm: VM) -> None:
    vm.observer.execute("block-stream", device="data-node", job_id="st", auto_dismiss=False, speed=65536)
    for check in (True, False):
        assert not run_module(vm, "qemu_blockdev", check=check, node_name="data-node")["changed"]
    assert names(run_module(vm, "qemu_block_job", id="st", state="cancelled")) == ["job-cancel", "job-dismiss"]
    assert vm.observer.look("query-jobs") == [] and vm.alive


def test_a_stream_of_the_task_itself_leaves_nothing_that_is_over(vm: VM) -> None:
    """Begun and left alone: QEMU forgets it as soon as it is done, and what it has left is read from the chain."""
    started = run_module(vm, "qemu_block_job", id="st", operation="stream", device="data", state="running")
    assert names(started) == ["block-stream"]
    vm.observer.wait_event("BLOCK_JOB_COMPLETED", device="st")
    assert vm.observer.look("query-jobs") == []
    for module, options in READERS.values():
        if module not in ("qemu_snapshot", "qemu_object", "qemu_block_job"):
            run_module(vm, module, check=True, **options(vm))
    assert vm.alive
    again = run_module(vm, "qemu_block_job", id="st", operation="stream", device="data")
    assert (again["changed"], again["job"]) == (False, {})


def test_a_command_list_that_streams_and_then_looks_is_stopped_in_time(vm: VM) -> None:
    begin = {
        "execute": "block-stream",
        "arguments": {"device": "data-node", "job-id": "st", "auto-dismiss": False, "auto-finalize": True},
    }
    run_module(vm, "qemu_command", commands=["query-named-block-nodes"])
    run_module(vm, "qemu_command", commands=[begin])
    vm.observer.wait_event("JOB_STATUS_CHANGE", id="st", status="concluded")
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_command", commands=["stop", "query-named-block-nodes"])
    assert vm.alive
    assert "commands[1]" in failed.value.result["msg"] and names(failed.value.result) == ["stop"]


def test_a_stream_that_fails_tells_its_error(vm: VM) -> None:
    """QEMU keeps no job of it, so that the task reads the event that ends it."""
    path = f"{vm.directory}/broken.qcow2"
    base = vm.image("other.qcow2", "4M", "qcow2")
    fill = ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", base]
    subprocess.run(fill, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True)
    inner = {"driver": "blkdebug", "image": {"driver": "file", "filename": path}}
    fault = [{"event": "write_aio", "errno": 28, "once": False}]
    vm.observer.send(
        "blockdev-add",
        {
            "node-name": "broken",
            "driver": "qcow2",
            "backing": {"driver": "qcow2", "file": {"driver": "file", "filename": base}},
            "file": {**inner, "inject-error": fault},
        },
    )
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_block_job", id="st", operation="stream", device="broken")
    assert failed.value.result["error"]["desc"] and "No space left" in failed.value.result["msg"]
    assert names(failed.value.result) == ["block-stream"]
    assert vm.observer.look("query-jobs") == [] and vm.alive


def test_a_stream_that_another_client_cancels_has_failed(vm: VM) -> None:
    def cancel() -> None:
        vm.observer.wait_event("JOB_STATUS_CHANGE", id="st", status="running")
        vm.observer.execute("job-cancel", id="st")

    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(cancel)
        with pytest.raises(ModuleFailed, match="Operation canceled"):
            run_module(vm, "qemu_block_job", id="st", operation="stream", device="data", speed=65536)
        cancelled.result()
    assert vm.observer.look("query-jobs") == [] and vm.alive


def test_a_stream_of_another_client_that_ends_while_a_task_waits(vm: VM) -> None:
    """The task has looked before, and looks again when it has waited."""
    base, path = vm.image("other.qcow2", "1M", "qcow2"), f"{vm.directory}/over.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True)
    (vm.directory / "backups").mkdir()

    def meanwhile() -> None:
        begun = vm.observer.wait_event("JOB_STATUS_CHANGE", status="running")["data"]["id"]
        # a stream that ends between the task's look at jobs and its look at nodes is the end of QEMU: by then it only waits
        until(lambda: vm.observer.look("query-jobs")[0]["current-progress"] >= 3 * 65536)
        file = {"driver": "file", "filename": path}
        vm.observer.send("blockdev-add", {"node-name": "over", "driver": "qcow2", "file": file})
        vm.observer.execute("block-stream", device="over", job_id="st", auto_dismiss=False)
        vm.observer.wait_event("JOB_STATUS_CHANGE", id="st", status="concluded")
        vm.observer.execute("block-job-set-speed", device=begun, speed=0)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meanwhile)
        with pytest.raises(ModuleFailed, match="job st: this stream is over"):
            run_module(vm, "qemu_backup", name="b", path=f"{vm.directory}/backups", speed=65536)
        other.result()
    assert vm.alive
