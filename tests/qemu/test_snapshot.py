# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_snapshot: taken, loaded and deleted, half-made ones, jobs that an earlier run left, and loads that fail."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._engine.operation import Run
from ansible_collections.vmm.qemu.plugins.module_utils._operations.snapshot import job_id
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.vm import OLDEST, VM


def node(vm: VM, name: str, driver: str = "qcow2", **more: Any) -> list[str]:
    path = f"{vm.directory}/{name}"
    return [
        "-blockdev",
        json.dumps({"driver": driver, "node-name": name, **more, "file": {"driver": "file", "filename": path}}),
    ]


def disk(name: str, port: int) -> list[str]:
    return ["-device", f"virtio-blk-pci,id=disk-{name},drive={name},bus=rp{port}"]


@pytest.fixture
def disks(qemu_version: str) -> Any:
    """A VM without a guest: qcow2 disks `a` and `b`, a raw node `r` that no device has, and a read-only one `o`."""
    vm = VM(qemu_version, start=False)
    for port, (name, driver) in enumerate((("a", "qcow2"), ("b", "qcow2"), ("r", "raw"))):
        vm.image(name, "4M", driver)
        vm.command += node(vm, name, driver) + (disk(name, port) if name != "r" else [])
    vm.image("o", "4M", "qcow2")
    vm.command += node(vm, "o", **{"read-only": True})  # type: ignore[arg-type]
    with vm:
        yield vm.start()


def tags(vm: VM) -> dict[str, list[str]]:
    """What the second monitor sees: snapshots by node."""
    listed = vm.observer.look("query-named-block-nodes", flat=True)
    return {
        one["node-name"]: [found["name"] for found in one["image"].get("snapshots", ())]
        for one in listed
        if one["drv"] == "qcow2" and one["node-name"] != "o"
    }


def write(vm: VM, disk: str, pattern: int) -> None:
    assert "failed" not in vm.observer.hmp(f'qemu-io {disk} "write -P {pattern} 0 64k"')


def holds(vm: VM, disk: str, pattern: int) -> bool:
    answer = vm.observer.hmp(f'qemu-io {disk} "read -P {pattern} 0 64k"')
    return "verification failed" not in answer and "error" not in answer.lower()


def job(vm: VM, command: str, ident: str, **arguments: Any) -> dict[str, Any]:
    """A job as a run that was killed would have left it: concluded."""
    vm.observer.execute(command, job_id=ident, **arguments)
    return ended(vm, ident)


def ended(vm: VM, ident: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        found: dict[str, Any] = {one["id"]: one for one in vm.observer.look("query-jobs")}[ident]
        if found["status"] == "concluded":
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def snapshot(vm: VM, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_snapshot", check=check, diff=True, **options)


def both(vm: VM, **options: Any) -> dict[str, Any]:
    """Check mode, which alters nothing, and the real run, which does what that said."""
    before, had = vm.fingerprint(), tags(vm)
    foretold = snapshot(vm, check=True, **options)
    assert (vm.fingerprint(), tags(vm)) == (before, had)
    done = snapshot(vm, **options)
    for key in ("changed", "commands", "diff"):
        assert done[key] == foretold[key]
    return done


# -- its life ------------------------------------------------------------------


def test_taken_loaded_deleted(disks: VM) -> None:
    vm = disks
    life = Lifecycle(vm, "qemu_snapshot")
    for name in ("a", "b"):
        write(vm, name, 1)
    vm.observer.execute("cont")
    done = life.step(name="s1")
    assert names(done) == ["snapshot-save", "job-dismiss"]
    assert done["commands"][0]["arguments"]["devices"] == ["a", "b"]
    assert tags(vm) == {"a": ["s1"], "b": ["s1"]}
    assert done["diff"] == {"before": {"snapshots": {}}, "after": {"snapshots": {"s1": ["a", "b"]}}}
    [shown] = done["snapshots"]
    assert (shown["name"], shown["devices"], shown["vmstate"]) == ("s1", ["a", "b"], "a")
    assert shown["vm_state_size"] > 0
    life.same(name="s1", devices=["disk-b", "a"], vmstate="a")

    vm.observer.execute("stop")
    for name in ("a", "b", "r"):
        write(vm, name, 2)
    for status, command in (("paused", "query-status"), ("running", "cont")):
        vm.observer.execute(command)
        done = both(vm, name="s1", state="loaded")
        assert names(done) == ["snapshot-load", "job-dismiss"]
        assert done["diff"]["after"]["loaded"] == "s1"
        assert vm.observer.status() == status  # as before, though it ran when the snapshot was taken
    vm.observer.execute("stop")
    assert holds(vm, "a", 1)
    assert holds(vm, "b", 1)
    assert holds(vm, "r", 2)

    done = life.step(name="s1", state="absent")
    assert names(done) == ["snapshot-delete", "job-dismiss"]
    assert tags(vm) == {"a": [], "b": []}
    assert done["snapshots"] == []


def test_memory_never_goes_back_without_all_writable_disks_unless_told(disks: VM) -> None:
    """A device has the raw node: QEMU's own savevm refuses that, too."""
    vm = disks
    vm.observer.send("device_add", {"driver": "virtio-blk-pci", "id": "disk-r", "drive": "r", "bus": "rp2"})
    assert "does not support snapshots" in vm.observer.hmp("savevm x")
    life = Lifecycle(vm, "qemu_snapshot")
    life.refused("devices: r can't hold", "devices=['a', 'b']", name="s")
    assert tags(vm) == {"a": [], "b": []}
    life.step(name="s", devices=["a", "b"])
    write(vm, "r", 2)
    life.refused("devices: r can't hold", name="s", state="loaded")
    assert holds(vm, "r", 2)
    done = both(vm, name="s", state="loaded", devices=["a", "b"])
    assert any("r does not go back" in warning for warning in done["warnings"])
    life.step(name="s", state="absent")


def test_the_guests_memory_goes_back(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True)
    path = vm.image("a", "64M", "qcow2")
    vm.observer.send(
        "blockdev-add", {"driver": "qcow2", "node-name": "a", "file": {"driver": "file", "filename": path}}
    )
    vm.run_in_guest("echo old > /tmp/word")
    both(vm, name="with memory: 1")
    vm.run_in_guest("echo new > /tmp/word")
    both(vm, name="with memory: 1", state="loaded")
    assert vm.observer.status() == "running"
    assert vm.run_in_guest("cat /tmp/word").strip() == "old"


def test_devices_and_vmstate(disks: VM) -> None:
    life = Lifecycle(disks, "qemu_snapshot")
    done = life.step(name="s", devices=["b", "a"], vmstate="a")
    assert done["commands"][0]["arguments"]["vmstate"] == "a"
    life.same(name="s")
    life.refused("vmstate", "on a", name="s", vmstate="b", state="loaded")
    life.refused("on a", "not on b", "absent", name="s", vmstate="b")
    done = life.step(name="only-b", devices=["disk-b"])
    assert tags(disks) == {"a": ["s"], "b": ["s", "only-b"]}
    life.refused("only-b", "not on a", "absent", name="only-b")
    life.refused("s is on", "also on b", name="s", devices=["a"])
    life.refused("no snapshot only-b on a", name="only-b", state="loaded")
    done = both(disks, name="only-b", state="loaded", devices=["b"])
    assert disks.observer.status() == "prelaunch"
    done = life.step(name="s", state="absent", devices=["b"])
    assert done["diff"]["after"]["snapshots"] == {"s": ["a"], "only-b": ["b"]}
    assert tags(disks) == {"a": ["s"], "b": ["only-b"]}


def test_what_is_refused_before_it_is_sent(disks: VM) -> None:
    vm = disks
    life = Lifecycle(vm, "qemu_snapshot")
    vm.observer.execute("cont")
    life.refused("no snapshot nope", "there are: none", name="nope", state="loaded")
    assert vm.observer.status() == "running"
    life.refused("zz", "there are: a, b, o, r", name="s", devices=["a", "zz"])
    life.refused("r can't hold", name="s", devices=["a", "r"])
    life.refused("read-only", name="s", devices=["o"])
    life.refused("vmstate: b", name="s", devices=["a"], vmstate="b")
    life.refused("empty", name="s", devices=[])
    life.refused("name", name="")
    life.refused("256 bytes", name="x" * 256)
    life.refused("number", name="12")
    life.same(name="nope", state="absent")


def test_no_disk_for_it(paused_vm: VM) -> None:
    Lifecycle(paused_vm, "qemu_snapshot").refused("no writable disk", name="s")
    assert not snapshot(paused_vm, name="s", state="absent")["changed"]


def test_a_number_that_is_another_ones_id(disks: VM) -> None:
    vm = disks
    snapshot(vm, name="s1")
    job(vm, "snapshot-save", "by-hand", tag="1", vmstate="a", devices=["a", "b"])
    vm.observer.execute("job-dismiss", id="by-hand")
    Lifecycle(vm, "qemu_snapshot").refused("id of snapshot s1", name="1", state="loaded")
    both(vm, name="1", state="absent")
    assert tags(vm) == {"a": ["s1"], "b": ["s1"]}


def test_the_oldest_qemu_says_so(start_vm: Callable[..., VM], qemu_version: str) -> None:
    vm = start_vm(version=OLDEST)
    Lifecycle(vm, "qemu_snapshot").refused("snapshot-save", "6.0", name="s")


# -- what earlier runs left ----------------------------------------------------


def test_half_made_on_one_disk(disks: VM) -> None:
    vm = disks
    life = Lifecycle(vm, "qemu_snapshot")
    job(vm, "snapshot-save", "by-hand", tag="s", vmstate="a", devices=["a"])
    vm.observer.execute("job-dismiss", id="by-hand")
    life.refused("s is on a", "not on b", "absent", name="s")
    assert names(life.step(name="s", state="absent")) == ["snapshot-delete", "job-dismiss"]
    life.step(name="s")
    assert tags(vm) == {"a": ["s"], "b": ["s"]}


def test_jobs_that_were_left_concluded(disks: VM) -> None:
    vm = disks
    ident = job_id("save", "s")
    job(vm, "snapshot-save", ident, tag="s", vmstate="a", devices=["a", "b"])
    done = both(vm, name="s")
    assert done["commands"] == [{"execute": "job-dismiss", "arguments": {"id": ident}}]
    assert done["diff"]["before"]["jobs"] == [ident]
    Lifecycle(vm, "qemu_snapshot").same(name="s")

    left = job(vm, "snapshot-save", ident, tag="s", vmstate="a", devices=["a", "b"])
    both(vm, name="s", state="absent")
    left = job(vm, "snapshot-save", ident, tag="s", vmstate="r", devices=["r"])
    done = both(vm, name="s")
    assert names(done) == ["job-dismiss", "snapshot-save", "job-dismiss"]
    assert any(left["error"] in warning for warning in done["warnings"])
    assert tags(vm) == {"a": ["s"], "b": ["s"]}
    assert vm.observer.look("query-jobs") == []


def test_a_load_that_failed_when_nobody_watched(disks: VM) -> None:
    """The run that began it was killed before it could let the guest run again."""
    vm = disks
    vm.observer.execute("cont")
    snapshot(vm, name="good")
    ident = job_id("load-running", "gone")
    job(vm, "snapshot-load", ident, tag="gone", vmstate="a", devices=["a", "b"])
    assert vm.observer.status() == "restore-vm"
    done = both(vm, name="gone")
    assert names(done) == ["job-dismiss", "cont", "snapshot-save", "job-dismiss"]
    assert vm.observer.status() == "running"
    assert "gone" in tags(vm)["a"]

    job(vm, "snapshot-load", "by-hand", tag="never", vmstate="a", devices=["a"])
    vm.observer.execute("job-dismiss", id="by-hand")
    done = both(vm, name="good", state="loaded")
    assert any("stays stopped" in warning for warning in done["warnings"])
    assert vm.observer.status() == "restore-vm"


def test_a_load_that_fails(disks: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot goes away between the look and the load: nothing was loaded, and the guest runs on."""
    vm = disks
    vm.observer.execute("cont")
    snapshot(vm, name="s")
    send = Run.send

    def meddle(run: Run, step: Any) -> None:
        if step.execute == "snapshot-load":
            job(vm, "snapshot-delete", "by-hand", tag="s", devices=["b"])
            vm.observer.execute("job-dismiss", id="by-hand")
        send(run, step)

    monkeypatch.setattr(Run, "send", meddle)
    with pytest.raises(ModuleFailed) as failed:
        snapshot(vm, name="s", state="loaded")
    result = failed.value.result
    assert "continued, and is running" in result["msg"]
    assert result["error"]["desc"] in result["msg"]
    assert (result["changed"], names(result)) == (True, ["snapshot-load", "job-dismiss", "cont"])
    assert vm.observer.status() == "running"
    assert vm.observer.look("query-jobs") == []


def test_a_load_that_fails_half_way(start_vm: Callable[..., VM], qemu_version: str) -> None:
    """The snapshot is of a machine with one device more: the disk has gone back, so the guest must not run on."""
    with VM(qemu_version, start=False) as first:
        path = first.image("a", "4M", "qcow2")
        first.command += [*node(first, "a"), *disk("a", 0), "-device", "virtio-rng-pci,bus=rp5"]
        first.start()
        snapshot(first, name="s")
        first.kill()
        second = start_vm(args=[*node(first, "a"), *disk("a", 0)])
        second.observer.execute("cont")
        snapshot(second, name="fits")
        with pytest.raises(ModuleFailed) as failed:
            snapshot(second, name="s", state="loaded")
        result = failed.value.result
        assert path
        assert result["error"]["desc"] in result["msg"]
        assert "is stopped (restore-vm)" in result["msg"]
        assert (result["changed"], names(result)) == (True, ["snapshot-load", "job-dismiss"])
        assert second.observer.status() == "restore-vm"
        snapshot(second, name="fits", state="loaded")
        run_module(second, "qemu_power", state="running")
        assert second.observer.status() == "running"


def test_a_qemu_that_answers_too_late(disks: VM) -> None:
    """QEMU may not answer while it copies memory: the run gives up, the job goes on, and the next run joins it."""
    with Proxy(disks.qmp, "stall", "snapshot-save") as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_snapshot", name="s", timeout=4)
    assert "joins" in failed.value.result["msg"]
    assert names(failed.value.result) == ["snapshot-save"] and failed.value.result["changed"]
    done = snapshot(disks, name="s")
    assert names(done) == ["job-dismiss"]
    assert not snapshot(disks, name="s")["changed"]
    assert disks.observer.look("query-jobs") == [] and tags(disks) == {"a": ["s"], "b": ["s"]}


def test_by_real_ansible(disks: VM, playbook: Callable[..., Any]) -> None:
    task = {"vmm.qemu.qemu_snapshot": {"socket": disks.qmp, "name": "s"}}
    gone = {"vmm.qemu.qemu_snapshot": {"socket": disks.qmp, "name": "s", "state": "absent"}}
    tasks = [
        {"name": "foretold", "check_mode": True, **task},
        {"name": "done", **task},
        {"name": "again", **task},
        {"name": "gone", **gone},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], diff=True)
    assert run.rc == 0, run.output
    assert run["foretold"].result["commands"] == run["done"].result["commands"]
    assert [run[name].changed for name in ("foretold", "done", "again", "gone")] == [True, True, False, True]
    assert tags(disks) == {"a": [], "b": []}
