# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_block_job: copies that are the same bit for bit, jobs that are joined, and jobs that fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.observer import ObserverError
from support.plays import TaskResult
from support.vm import REPO, VM

SIZE = 4 << 20


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    """No guest. A disk `data` on the node `source`, full of noise."""
    machine = start_vm(scsi=True)
    path = Path(machine.image("source.raw", str(SIZE)))
    path.write_bytes(os.urandom(SIZE))
    node(machine, "source", path)
    machine.observer.execute("device_add", driver="scsi-hd", id="data", drive="source", bus="scsi0.0")
    return machine


def node(vm: VM, name: str, path: Path | str, driver: str = "raw", **more: Any) -> None:
    file = {"driver": "file", "filename": str(path)}
    vm.observer.execute("blockdev-add", **{"node-name": name, "driver": driver, "file": file, **more})


def target(vm: VM, name: str = "target") -> Path:
    path = Path(vm.image(f"{name}.raw", str(SIZE)))
    node(vm, name, path)
    return path


def job(vm: VM, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_block_job", check=check, diff=True, **{"id": "j0", **options})


def step(vm: VM, *commands: str, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves the VM alone, then the real run, which does what that said."""
    before = vm.fingerprint()
    foretold = job(vm, check=True, **options)
    assert vm.fingerprint() == before
    done = job(vm, **options)
    assert names(done) == names(foretold) == list(commands)
    assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
    assert done["changed"] == foretold["changed"] == bool(commands)
    assert (done["diff"]["before"] != done["diff"]["after"]) == bool(commands)
    return done


def same(vm: VM, **options: Any) -> None:
    for check in (True, False):
        again = job(vm, check=check, **options)
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]


def refused(vm: VM, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    before = vm.fingerprint()
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            job(vm, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
        assert vm.fingerprint() == before
    return failed.value.result


def of_device(vm: VM) -> str:
    """The node that the disk stands on."""
    return str(vm.observer.look("qom-get", path="/machine/peripheral/data", property="drive"))


def jobs(vm: VM) -> dict[str, Any]:
    return {item["id"]: item for item in vm.observer.look("query-jobs")}


def test_a_backup(vm: VM) -> None:
    path = target(vm)
    options: dict[str, Any] = {"operation": "backup", "device": "data", "target": "target"}
    done = step(vm, "blockdev-backup", "job-dismiss", **options)
    assert done["job"]["percent"] == 100.0 and done["job"]["status"] == "concluded"
    assert path.read_bytes() == (vm.directory / "source.raw").read_bytes()
    assert jobs(vm) == {} and of_device(vm) == "source"
    step(vm, "blockdev-backup", "job-dismiss", **options)  # always another one


def test_a_mirror(vm: VM) -> None:
    path = target(vm)
    options: dict[str, Any] = {"operation": "mirror", "device": "source", "target": "target"}
    step(vm, "blockdev-mirror", "job-complete", "job-dismiss", **options)
    assert path.read_bytes() == (vm.directory / "source.raw").read_bytes()
    assert of_device(vm) == "target" and jobs(vm) == {}
    same(vm, **options)


def test_a_mirror_that_is_left_ready(vm: VM) -> None:
    target(vm)
    options: dict[str, Any] = {"operation": "mirror", "device": "source", "target": "target"}
    ready = step(vm, "blockdev-mirror", complete=False, **options)
    assert ready["job"]["status"] == "ready" and of_device(vm) != "target"
    same(vm, complete=False, **options)
    step(vm, "job-complete", "job-dismiss", **options)
    assert of_device(vm) == "target"


def test_a_copy_of_what_is_written_meanwhile(vm: VM) -> None:
    """As fast as a guest can write: when the copy ends, all that was written before is in it, and the device stays."""
    path = target(vm)
    options: dict[str, Any] = {"operation": "mirror", "device": "data", "target": "target"}
    step(vm, "blockdev-mirror", complete=False, **options)
    job(vm, state="running", speed="64k")  # so that there is something left to copy at the end
    vm.observer.hmp('qemu-io -d data "write -P 77 0 2M"')
    vm.observer.hmp('qemu-io -d data "write -P 78 3M 512k"')
    done = step(vm, "block-job-set-speed", "block-job-cancel", "job-dismiss", speed=0, complete="copy")
    assert done["job"]["status"] == "concluded" and "error" not in done["job"]
    assert of_device(vm) == "source" and jobs(vm) == {}
    compared = ["qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", str(vm.directory / "source.raw"), str(path)]
    assert subprocess.run(compared, check=True, stdout=subprocess.PIPE, text=True).stdout.startswith(
        "Images are identical"
    )
    assert path.read_bytes()[:2] == b"MM"
    step(vm, "blockdev-mirror", "block-job-cancel", "job-dismiss", complete="copy", **options)  # always another one
    step(vm, "blockdev-mirror", "job-complete", "job-dismiss", **options)
    assert of_device(vm) == "target"
    refused(vm, "target is the source itself", complete="copy", **options)


def test_paused_and_running_again(vm: VM) -> None:
    path = target(vm)  # a mirror copies all of it in its first slice of time, whatever its speed, a backup does not
    options: dict[str, Any] = {"operation": "backup", "device": "data", "target": "target", "speed": "64k"}
    step(vm, "blockdev-backup", "job-pause", state="paused", **options)
    assert jobs(vm)["j0"]["status"] == "paused"
    same(vm, state="paused")
    step(vm, "job-resume", state="running")
    assert jobs(vm)["j0"]["status"] == "running"
    same(vm, state="running")
    step(vm, "block-job-set-speed", "job-pause", state="paused", speed="32k")
    step(vm, "block-job-set-speed", "job-resume", "job-dismiss", speed=0)
    assert jobs(vm) == {} and path.read_bytes() == (vm.directory / "source.raw").read_bytes()


def test_begun_joined_hurried_and_cancelled(vm: VM) -> None:
    target(vm)
    options: dict[str, Any] = {"operation": "backup", "device": "source", "target": "target"}
    begun = step(vm, "blockdev-backup", state="running", speed="64k", **options)
    assert begun["job"]["status"] == "running"
    same(vm, state="running", **options)
    same(vm, state="running", speed="64k", **options)
    # another one of that id
    refused(vm, "there is a job j0 already", "backup", id="j0", operation="mirror", device="source", target="target")
    late = refused_late(vm, "it goes on, and the next run joins it", timeout=2, **options)
    assert late["job"]["status"] == "running" and late["changed"] is False
    step(vm, "block-job-set-speed", state="running", speed=0, **options)
    done = job(vm, **options)
    assert names(done) == ["job-dismiss"] and jobs(vm) == {}
    step(vm, "blockdev-backup", state="running", speed="64k", **options)
    step(vm, "job-cancel", "job-dismiss", state="cancelled")
    assert jobs(vm) == {}
    same(vm, state="cancelled")


def refused_late(vm: VM, *words: str, **options: Any) -> dict[str, Any]:
    """A run that fails for want of time."""
    with pytest.raises(ModuleFailed) as failed:
        job(vm, **options)
    for word in words:
        assert word in failed.value.result["msg"]
    return failed.value.result


def test_cancelling_a_mirror_that_is_ready(vm: VM) -> None:
    target(vm)
    step(vm, "blockdev-mirror", operation="mirror", device="source", target="target", complete=False)
    step(vm, "job-cancel", "job-dismiss", state="cancelled")
    assert of_device(vm) == "source" and jobs(vm) == {}


def test_a_job_that_an_error_has_stopped(vm: VM) -> None:
    """It does not go on by itself."""
    image = {"driver": "file", "filename": vm.image("full.raw", str(SIZE))}
    fault = {"event": "none", "iotype": "write", "errno": 28, "once": True}
    file = {"driver": "blkdebug", "image": image, "inject-error": [fault]}
    vm.observer.execute("blockdev-add", node_name="full", driver="raw", file=file)
    options: dict[str, Any] = {"operation": "mirror", "device": "source", "target": "full", "complete": False}
    stops = {"on-target-error": "stop"}
    refused_late(
        vm, "stopped by an I/O error (nospace)", "run this again to let it go on", timeout=2, **options, options=stops
    )
    assert jobs(vm)["j0"]["status"] == "paused"
    job(vm, state="cancelled")
    assert jobs(vm) == {}


@pytest.fixture
def chain(start_vm: Callable[..., VM]) -> VM:
    """A disk `data` on `top`, which stands on `middle`, which stands on `base`: each has a mebibyte of its own."""
    machine = start_vm(scsi=True)
    paths = {name: machine.directory / f"{name}.qcow2" for name in ("base", "middle", "top")}
    over: list[str] = []
    for number, path in enumerate(paths.values()):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *over, str(path), str(SIZE)], check=True)
        write = f"write -P {number + 1} {number}M 1M"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, str(path)], check=True, stdout=subprocess.DEVNULL)
        over = ["-b", str(path), "-F", "qcow2"]
    below: dict[str, Any] = {}
    for name, path in paths.items():
        node(machine, name, path, "qcow2", **below)
        below = {"backing": name}
    machine.observer.execute("device_add", driver="scsi-hd", id="data", drive="top", bus="scsi0.0")
    return machine


def holds(vm: VM, name: str, patterns: dict[int, int]) -> None:
    """The image has these bytes in these mebibytes, by itself and what is below it. QEMU must have let it go."""
    for place, pattern in patterns.items():
        read = f"read -P {pattern} {place}M 1M"
        done = subprocess.run(
            ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", read, str(vm.directory / f"{name}.qcow2")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "Pattern verification failed" not in done.stdout


def below(vm: VM, name: str) -> str | None:
    """The image that one stands on, as its own header says."""
    nodes = {node["node-name"]: node for node in vm.observer.look("query-named-block-nodes", flat=True)}
    backing = nodes[name]["image"].get("backing-filename")
    return None if backing is None else str(backing)


def test_a_stream(chain: VM) -> None:
    step(chain, "block-stream", operation="stream", device="top", base_node="base")
    assert str(below(chain, "top")).endswith("base.qcow2")
    same(chain, operation="stream", device="top", base_node="base")
    step(chain, "block-stream", operation="stream", device="data")
    assert below(chain, "top") is None
    same(chain, operation="stream", device="data")
    refused(chain, "base_node", "none-such", operation="stream", device="top", base_node="none-such")
    run_module(chain, "qemu_power", state="off")  # what it has in memory of its images is written
    holds(chain, "top", {0: 1, 1: 2, 2: 3})


def test_a_commit_of_what_the_guest_writes_to(chain: VM) -> None:
    options: dict[str, Any] = {"operation": "commit", "device": "top"}
    step(chain, "block-commit", "job-complete", "job-dismiss", **options)
    assert of_device(chain) == "base"
    same(chain, **options)
    run_module(chain, "qemu_power", state="off")  # what it has in memory of its images is written
    holds(chain, "base", {0: 1, 1: 2, 2: 3})


def test_a_commit_of_what_is_below(chain: VM) -> None:
    options: dict[str, Any] = {"operation": "commit", "device": "top", "top_node": "middle", "base_node": "base"}
    step(chain, "block-commit", "job-dismiss", **options)
    assert of_device(chain) == "top" and str(below(chain, "top")).endswith("base.qcow2")
    same(chain, **options)
    run_module(chain, "qemu_power", state="off")  # what it has in memory of its images is written
    holds(chain, "top", {0: 1, 1: 2, 2: 3})


def test_what_another_disk_has_is_not_what_a_job_has_left(chain: VM) -> None:
    """A node that lies below what the guest writes to is still its own disk's, whatever the target is to another one."""
    node(chain, "other", chain.image("other.qcow2", str(SIZE), "qcow2"), "qcow2")
    chain.observer.execute("device_add", driver="scsi-hd", id="second", drive="other", bus="scsi0.0")
    refused(chain, "target", "in use by device second", operation="mirror", device="middle", target="other")
    committed = {"operation": "commit", "device": "other", "top_node": "middle"}
    refused(chain, "'middle'", foretold=False, **committed)


def test_a_job_that_somebody_else_began(vm: VM) -> None:
    """One that dismisses itself: its end is read from the event."""
    target(vm)
    vm.observer.execute(
        "blockdev-backup", **{"job-id": "j0", "device": "source", "target": "target", "sync": "full", "speed": 1 << 20}
    )
    done = job(vm, operation="backup")
    assert done["job"]["status"] == "concluded" and jobs(vm) == {}


def test_a_job_that_ended_while_nobody_looked(vm: VM) -> None:
    path = target(vm)
    options: dict[str, Any] = {"operation": "backup", "device": "source", "target": "target"}
    job(vm, state="running", **options)
    deadline = time.monotonic() + 20
    while jobs(vm)["j0"]["status"] != "concluded":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    step(vm, "job-dismiss", **options)
    assert path.read_bytes() == (vm.directory / "source.raw").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with a mebibyte of room."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_no_space_at_the_target(vm: VM, small_disk: Path) -> None:
    path = small_disk / "target.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(path), str(SIZE)], check=True)
    node(vm, "target", path)
    vm.observer.execute("cont")
    failed = refused(vm, "No space left", foretold=False, operation="backup", device="source", target="target")
    assert "No space left" in failed["error"]["desc"] and failed["job"]["error"]
    assert names(failed) == ["blockdev-backup", "job-dismiss"]
    assert vm.observer.status() == "running" and jobs(vm) == {}


def test_a_job_that_failed_while_nobody_looked(vm: VM, small_disk: Path) -> None:
    path = small_disk / "target.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(path), str(SIZE)], check=True)
    node(vm, "target", path)
    options: dict[str, Any] = {"operation": "backup", "device": "source", "target": "target"}
    job(vm, state="running", speed="64k", **options)  # slow, so that it does not fail while somebody looks
    vm.observer.execute("block-job-set-speed", device="j0", speed=0)
    deadline = time.monotonic() + 20
    while jobs(vm)["j0"]["status"] != "concluded":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="No space left") as failed:
            job(vm, check=check, **options)
        assert names(failed.value.result) == ["job-dismiss"]
        assert ("j0" in jobs(vm)) is check


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"operation": "backup", "device": "none", "target": "target"}, ("device", "'none'", "source")),
        ({"operation": "backup", "device": "source", "target": "none"}, ("target", "'none'", "source")),
        ({"operation": "backup", "device": "source", "target": "source"}, ("source itself",)),
        ({"operation": "backup", "device": "source", "target": "small"}, ("small has 1048576 bytes", "same size")),
        ({"operation": "mirror", "device": "source", "target": "fixed"}, ("fixed is read-only",)),
        ({"operation": "backup", "device": "source"}, ("target", "must be given")),
        ({"operation": "mirror", "target": "target"}, ("device", "must be given")),
        ({"device": "source"}, ("operation must be given",)),
        ({"operation": "stream", "device": "source", "target": "target"}, ("means nothing for stream",)),
        ({"operation": "backup", "device": "source", "target": "target", "speed": "fast"}, ("speed", "fast")),
        (
            {"operation": "backup", "device": "source", "target": "target", "options": {"speed": 1}},
            ("option of its own",),
        ),
        ({"operation": "backup", "device": "source", "target": "target", "options": {"x": 1}}, ("x",)),
        ({"operation": "backup", "device": "source", "target": "target", "sync": "all"}, ("sync", "all")),
        ({"id": "0j", "state": "cancelled"}, ("must start with a letter",)),
    ],
)
def test_what_can_not_be(vm: VM, options: dict[str, Any], words: tuple[str, ...]) -> None:
    target(vm)
    node(vm, "small", vm.image("small.raw", "1M"))
    node(vm, "fixed", vm.image("fixed.raw", str(SIZE)), **{"read-only": True})  # type: ignore[arg-type]
    refused(vm, *words, **options)


def test_killed_and_joined(vm: VM) -> None:
    """A task that is killed in the middle leaves the job to the next one."""
    path = target(vm)
    options: dict[str, Any] = {"operation": "backup", "device": "source", "target": "target"}
    parameters = {"ANSIBLE_MODULE_ARGS": {"socket": vm.qmp, "id": "j0", "speed": "256k", **options}}
    module = "ansible_collections.vmm.qemu.plugins.modules.qemu_block_job"
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPO / ".bed" / "collections")},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(parameters).encode())
    process.stdin.close()
    deadline = time.monotonic() + 20
    while "j0" not in jobs(vm):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert jobs(vm)["j0"]["status"] == "running"
    done = job(vm, speed=0, **options)
    assert names(done) == ["block-job-set-speed", "job-dismiss"]
    assert path.read_bytes() == (vm.directory / "source.raw").read_bytes()


def test_as_ansible_runs_it(vm: VM, ansible_task: Callable[..., TaskResult]) -> None:
    path = target(vm)
    options = {"socket": vm.qmp, "id": "j0", "operation": "mirror", "device": "source", "target": "target"}
    assert ansible_task("qemu_block_job", options).changed
    assert path.read_bytes() == (vm.directory / "source.raw").read_bytes()
    assert not ansible_task("qemu_block_job", options).changed


def test_a_job_that_another_client_dismisses_has_ended_as_well(vm: VM) -> None:
    """Whoever is the first."""
    target(vm)

    def dismiss() -> None:
        vm.observer.wait_event("JOB_STATUS_CHANGE", id="j0", status="concluded")
        with contextlib.suppress(ObserverError):
            vm.observer.execute("job-dismiss", id="j0")

    for _round in range(3):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(dismiss)
            done = job(vm, operation="backup", device="data", target="target")
            other.result()
        assert done["job"]["status"] == "concluded" and vm.observer.look("query-jobs") == []
