# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_disk_snapshot: what the guest's disks hold after each state, and what is left where one is not reached."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._engine import apply
from ansible_collections.vmm.qemu.plugins.module_utils._operations.snapshot import job_id
from support.fake_agent import FakeAgent
from support.killed import killed_before
from support.lifecycle import Lifecycle
from support.modules import ModuleFailed, run_module
from support.vm import VM

SIZE = 8 << 20
LIVE_VM = {"scsi": True}


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    """No guest, not started. `a` is a raw scsi-hd, `b` a qcow2 virtio-blk; both are full of 1."""
    machine = start_vm(scsi=True)
    for name, driver, fmt, bus in (("a", "scsi-hd", "raw", "scsi0.0"), ("b", "virtio-blk-pci", "qcow2", "rp0")):
        path = machine.image(f"{name}.img", str(SIZE), fmt)
        run_module(machine, "qemu_disk", id=name, driver=driver, filename=path, format=fmt, bus=bus)
        write(machine, name, 1)
    return machine


def write(vm: VM, disk: str, pattern: int) -> None:
    """As the guest would, through the device."""
    said = vm.observer.hmp(f'qemu-io -d {device(disk)} "write -P {pattern} 0 1M"')
    assert "wrote" in said or said == "", said
    holds(vm, disk, pattern)


def holds(vm: VM, disk: str, pattern: int) -> None:
    """What the guest would read is this."""
    said = vm.observer.hmp(f'qemu-io -d {device(disk)} "read -P {pattern} 0 1M"')
    assert "failed" not in said, said


def device(disk: str) -> str:
    return f"/machine/peripheral/{disk}/virtio-backend" if disk in ("b", "c") else disk


def chain(vm: VM, disk: str) -> list[str]:
    """The files of a disk from the top down, by what the headers of the images say; QEMU itself has the top."""
    (drive,) = (item for item in vm.observer.look("query-block") if item["qdev"] == device(disk))
    top = drive["inserted"]["image"]["filename"]
    command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", top]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    of_headers = [os.path.basename(image["filename"]) for image in told]
    of_qemu, image = [], drive["inserted"]["image"]
    while image:
        of_qemu.append(os.path.basename(image["filename"]))
        image = image.get("backing-image")
    assert of_headers == of_qemu
    return of_qemu


def files(vm: VM) -> list[str]:
    return sorted(path.name for path in vm.directory.iterdir() if "@" in path.name or "part" in path.name)


def snapshot(vm: VM, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_disk_snapshot", **{"name": "s1", **options})


def names(result: dict[str, Any]) -> list[str]:
    return [
        command["execute"] if isinstance(command, dict) else Path(command[0]).name for command in result["commands"]
    ]


@pytest.fixture
def life(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_disk_snapshot")


def test_present(life: Lifecycle) -> None:
    vm = life.vm
    done = life.step(name="s1")
    where = vm.directory
    assert done["snapshot"] == {
        "disks": {
            "a": {"overlay": f"{where}/a@s1.qcow2", "base": f"{where}/a.img"},
            "b": {"overlay": f"{where}/b@s1.qcow2", "base": f"{where}/b.img"},
        },
        "frozen_ms": None,
    }
    assert names(done)[-1] == "transaction"
    assert (chain(vm, "a"), chain(vm, "b")) == (["a@s1.qcow2", "a.img"], ["b@s1.qcow2", "b.img"])
    assert (where / "a@s1.qcow2").stat().st_mode & 0o777 == 0o600
    for disk in ("a", "b"):
        write(vm, disk, 2)
    assert set((where / "a.img").read_bytes()[: 1 << 20]) == {1}
    life.step(name="s2", disks=["a"])
    assert chain(vm, "a") == ["a@s2.qcow2", "a@s1.qcow2", "a.img"]
    life.same(name="s1")
    life.refused("snapshot s2 is on a, and not on b", name="s2")
    for disk, fmt, driver, bus in (("a", "raw", "scsi-hd", "scsi0.0"), ("b", "qcow2", "virtio-blk-pci", "rp0")):
        given: dict[str, Any] = {"driver": driver, "filename": f"{where}/{disk}.img", "format": fmt, "bus": bus}
        Lifecycle(vm, "qemu_disk").same(id=disk, **given)
    run_module(vm, "qemu_disk", id="a", state="absent")
    assert not [node for node in vm.observer.nodes() if node.startswith("a")]


def test_a_virtual_machine_that_is_started_anew_from_its_overlays(life: Lifecycle, start_vm: Callable[..., VM]) -> None:
    vm = life.vm
    life.step(name="s1")
    write(vm, "a", 2)
    run_module(vm, "qemu_power", state="off")
    vm.wait_exit()
    anew = start_vm(scsi=True)
    given: dict[str, Any] = {
        "driver": "scsi-hd",
        "filename": f"{vm.directory}/a@s1.qcow2",
        "format": "qcow2",
        "bus": "scsi0.0",
    }
    run_module(anew, "qemu_disk", id="a", **given)
    holds(anew, "a", 2)
    Lifecycle(anew, "qemu_disk_snapshot").same(name="s1")


def test_bad_input(life: Lifecycle, tmp_path: Path) -> None:
    vm = life.vm
    for name in ("", "..", "a/b", "-x", "x" * 65):
        life.refused("is not a valid name", name=name)
    life.refused("there is no disk 'c'; there are: a, b", name="s1", disks=["c"])
    life.refused("disks: the list is empty", name="s1", disks=[])
    life.refused("'here' is not an absolute path", name="s1", directory="here")
    life.refused("there is no directory", name="s1", directory=f"{tmp_path}/none")
    life.refused("qemu_img: there is no program", name="s1", qemu_img="no-such-img")
    vm.image("a@s1.qcow2", "1M", "qcow2")
    life.refused("a@s1.qcow2", "belongs to something else", name="s1")
    fixed: dict[str, Any] = {"driver": "scsi-hd", "filename": vm.image("c.img"), "bus": "scsi0.0", "read_only": True}
    run_module(vm, "qemu_disk", id="c", **fixed)
    life.refused("c is read-only", name="s1", disks=["c"])
    vm.observer.execute("blockdev-add", node_name="t", driver="file", filename=vm.image("t.img", str(SIZE)))
    vm.observer.execute("blockdev-mirror", job_id="m", device="b-node", target="t", sync="full")
    vm.observer.wait_event("BLOCK_JOB_READY", device="m")
    life.refused("block job m works on b", name="s9")


Meddle = Callable[[str, Callable[[], None]], None]


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    """`meddle("transaction", do)`: something happens right before that command is sent."""
    sent = apply._send

    def before(command: str, do: Callable[[], None]) -> None:
        def send(step: Any, vm: Any, deadline: Any) -> None:
            if step.execute == command:
                monkeypatch.undo()
                do()
            sent(step, vm, deadline)

        monkeypatch.setattr(apply, "_send", send)

    return before


def test_monitors_over_the_network_and_disks_of_a_guest_that_is_elsewhere(start_vm: Callable[..., VM]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    network = f"socket,id=net,host=127.0.0.1,port={port},server=on,wait=off"
    vm = start_vm(scsi=True, args=["-chardev", network, "-mon", "chardev=net,mode=control", "-incoming", "defer"])
    path = vm.image("a.img", str(SIZE))
    file = {"driver": "file", "filename": path}
    vm.observer.send("blockdev-add", {"node-name": "a-node", "driver": "raw", "file": file})
    vm.observer.execute("device_add", driver="scsi-hd", id="a", drive="a-node", bus="scsi0.0")
    with pytest.raises(ModuleFailed, match="is a monitor over the network"):
        run_module(f"127.0.0.1:{port}", "qemu_disk_snapshot", name="s1")
    Lifecycle(vm, "qemu_disk_snapshot").refused("it waits for its incoming migration", name="s1")
    assert files(vm) == []


def test_the_second_disk_fails(life: Lifecycle, meddle: Meddle) -> None:
    """QEMU refuses the transaction as a whole: no overlay is on, no file is left."""
    vm = life.vm
    before, seen = files(vm), vm.fingerprint()
    meddle("transaction", lambda: vm.observer.execute("blockdev-del", node_name="b.s1"))
    with pytest.raises(ModuleFailed) as failed:
        snapshot(vm)
    assert "b.s1" in failed.value.result["error"]["desc"] and failed.value.result["commands"] == []
    assert files(vm) == before and vm.fingerprint() == seen
    assert chain(vm, "a") == ["a.img"]
    life.step(name="s1")


def snapshot_killed_before(vm: VM, step: int, **options: Any) -> bool:
    """Take s1 by a task that is killed before its step of that number; False where it had fewer, and came to its end."""
    return killed_before(step, lambda: run_module(vm, "qemu_disk_snapshot", name="s1", **options))


def test_killed_at_any_step(life: Lifecycle, tmp_path: Path) -> None:
    vm, step = life.vm, 0
    with FakeAgent(tmp_path / "qga") as agent:
        quiesce = {"agent": agent.path}
        while snapshot_killed_before(vm, step, quiesce=quiesce):
            done = life.step(name="s1", quiesce=quiesce)
            assert not agent.frozen
            assert chain(vm, "a") == ["a@s1.qcow2", "a.img"] and chain(vm, "b") == ["b@s1.qcow2", "b.img"]
            assert files(vm) == ["a@s1.qcow2", "b@s1.qcow2"], (step, names(done))
            back(vm)
            step += 1
    assert step == 7


def back(vm: VM) -> None:
    """The disks on their images again, as another tool would do it."""
    for disk in ("a", "b"):
        (drive,) = (item for item in vm.observer.look("query-block") if item["qdev"] == device(disk))
        overlay = drive["inserted"]["node-name"]
        vm.observer.execute("block-commit", job_id="c", device=overlay, base_node=f"{disk}-node")
        vm.observer.wait_event("BLOCK_JOB_READY", device="c")
        vm.observer.execute("job-complete", id="c")
        vm.observer.wait_event("BLOCK_JOB_COMPLETED", device="c")
        vm.observer.execute("blockdev-del", node_name=overlay)
        (vm.directory / f"{disk}@s1.qcow2").unlink()


FREEZE, THAW = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"


def test_quiesce(life: Lifecycle, tmp_path: Path) -> None:
    with FakeAgent(tmp_path / "qga") as agent:
        done = life.step(name="s1", quiesce={"agent": agent.path})
        assert names(done)[-3:] == [FREEZE, "transaction", THAW]
        asked = [command for command in agent.asked if "status" not in command]
        assert asked == [FREEZE, THAW] and not agent.frozen
        assert done["snapshot"]["frozen_ms"] >= 0
        agent.frozen = True  # by a task that was killed
        again = life.step(name="s1", quiesce={"agent": agent.path})
        assert names(again) == [THAW] and not agent.frozen


@pytest.mark.parametrize("how", ["silent", "refuses", "deaf", "nobody"])
def test_an_agent_that_does_not_freeze(life: Lifecycle, tmp_path: Path, how: str) -> None:
    vm, before = life.vm, files(life.vm)
    faults: dict[str, dict[str, Any]] = {
        "silent": {"silent": (FREEZE,)},
        "refuses": {"errors": {FREEZE: "no file system can be frozen"}},
        "deaf": {"silent": ("guest-sync-delimited",)},
        "nobody": {},
    }
    with FakeAgent(tmp_path / "qga", **faults[how]) as agent:
        path = f"{tmp_path}/none" if how == "nobody" else agent.path
        quiesce: dict[str, Any] = {"agent": path, "timeout": 1}
        life.refused("quiesce", foretold=how in ("deaf", "nobody"), name="s1", quiesce=quiesce)
        assert files(vm) == before and not agent.frozen
        done = snapshot(vm, quiesce={**quiesce, "required": False})
        assert chain(vm, "a") == ["a@s1.qcow2", "a.img"] and not agent.frozen
        assert "quiesce" in " ".join(done["warnings"])


def test_a_guest_that_thaws_by_itself(life: Lifecycle, tmp_path: Path) -> None:
    """Windows does, after ten seconds, and refuses to be thawed then. What was taken may not be whole."""

    class Windows(FakeAgent):
        def _answer(self, asked: dict[str, Any]) -> bytes:
            if asked["execute"] == THAW:
                self.frozen = False
            return super()._answer(asked)

    with Windows(tmp_path / "qga", errors={THAW: "fsfreeze is limited up to 10 seconds"}) as agent:
        done = snapshot(life.vm, quiesce={"agent": agent.path})
        assert done["changed"] and not agent.frozen
        assert "something else has thawed the guest before this task" in " ".join(done["warnings"])
        life.same(name="s1", quiesce={"agent": agent.path})


def test_a_guest_of_which_nothing_can_be_frozen(life: Lifecycle, tmp_path: Path) -> None:
    vm, before = life.vm, files(life.vm)
    with FakeAgent(tmp_path / "qga", answers={FREEZE: 0}) as agent:
        quiesce: dict[str, Any] = {"agent": agent.path}
        life.refused("no file system that its agent could freeze", foretold=False, name="s1", quiesce=quiesce)
        assert files(vm) == before and not agent.frozen
        done = snapshot(vm, quiesce={**quiesce, "required": False})
        assert "no file system that its agent could freeze" in " ".join(done["warnings"]) and not agent.frozen


def test_an_agent_that_still_freezes_when_the_task_has_given_up(life: Lifecycle, tmp_path: Path) -> None:
    """It can't be asked before it is done with that. The command that thaws the guest waits for it."""
    vm, before, done = life.vm, files(life.vm), threading.Event()
    with FakeAgent(tmp_path / "qga", slow={FREEZE: done}) as agent:
        with pytest.raises(ModuleFailed, match=r"could not be frozen: .*may come to be frozen yet, and is then thawed"):
            snapshot(vm, quiesce={"agent": agent.path, "timeout": 1})
        assert files(vm) == before and THAW not in agent.asked
        done.set()
        for _try in range(2000):
            if THAW not in agent.asked:
                time.sleep(0.01)
        assert THAW in agent.asked and not agent.frozen
        life.step(name="s1", quiesce={"agent": agent.path})


def test_a_guest_that_another_thaws_too_early(vm: VM, tmp_path: Path, meddle: Meddle) -> None:
    """The snapshot is there, and the task tells that the file systems may not be whole in it."""
    with FakeAgent(tmp_path / "qga") as agent:
        meddle("transaction", lambda: setattr(agent, "frozen", False))
        done = snapshot(vm, quiesce={"agent": agent.path})
    assert "something else has thawed the guest" in " ".join(done["warnings"])
    assert chain(vm, "a") == ["a@s1.qcow2", "a.img"]


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("told", ["refused", "stopped"])
def test_a_guest_is_thawed_when_the_snapshot_fails(life: Lifecycle, tmp_path: Path, meddle: Meddle, told: str) -> None:
    vm, before = life.vm, files(life.vm)
    with FakeAgent(tmp_path / "qga") as agent:
        gone = partial(vm.observer.execute, "blockdev-del", node_name="b.s1")
        meddle("transaction", gone if told == "refused" else stop)
        with pytest.raises((ModuleFailed, KeyboardInterrupt)):
            snapshot(vm, quiesce={"agent": agent.path})
        assert not agent.frozen and files(vm) == before
        assert [command for command in agent.asked if "status" not in command] == [FREEZE, THAW]


def test_qemu_does_not_answer_while_the_guest_is_frozen(life: Lifecycle, tmp_path: Path, meddle: Meddle) -> None:
    """The guest is thawed, no file goes that QEMU may be about to use, and the next run finds what came of it."""
    vm = life.vm

    def hang() -> None:
        os.kill(vm.pid, signal.SIGSTOP)
        vm.wait_stopped()

    with FakeAgent(tmp_path / "qga") as agent:
        meddle("transaction", hang)
        with pytest.raises(ModuleFailed) as failed:
            snapshot(vm, quiesce={"agent": agent.path}, timeout=2)
        assert not agent.frozen and agent.asked[-1] == THAW
        os.kill(vm.pid, signal.SIGCONT)
    assert files(vm) == ["a@s1.qcow2", "b@s1.qcow2"] and failed.value.result["not_rolled_back"]
    snapshot(vm)
    assert (chain(vm, "a"), chain(vm, "b")) == (["a@s1.qcow2", "a.img"], ["b@s1.qcow2", "b.img"])
    life.same(name="s1")


def test_qemu_of_another_user(start_vm: Callable[..., VM], qemu_version: str) -> None:
    """The overlays are its user's, who alone can open them."""
    drops = ["-runas", "nobody"] if qemu_version == "7.2" else ["-run-with", "user=nobody"]
    vm, nobody = start_vm(scsi=True, args=drops), pwd.getpwnam("nobody").pw_uid
    path = vm.image("a.img", str(SIZE))
    os.chown(vm.directory, nobody, -1)
    os.chmod(path, 0o666)  # root's
    run_module(vm, "qemu_disk", id="a", driver="scsi-hd", filename=path, bus="scsi0.0")
    done = Lifecycle(vm, "qemu_disk_snapshot").step(name="s1")
    overlay = (vm.directory / "a@s1.qcow2").stat()
    assert (overlay.st_uid, overlay.st_mode & 0o777) == (nobody, 0o600)
    assert ["chown", str(nobody), f"{vm.directory}/a@s1.qcow2"] in done["commands"]


# -- absent --------------------------------------------------------------------


def test_absent(life: Lifecycle) -> None:
    """Of three snapshots the one in the middle, the topmost, and the last."""
    vm = life.vm
    for number, name in enumerate(("s1", "s2", "s3"), start=2):
        life.step(name=name)
        for disk in ("a", "b"):
            write(vm, disk, number)
    done = life.step(name="s2", state="absent")
    assert names(done) == 2 * ["touch", "block-commit", "rm", "job-dismiss", "blockdev-del"]
    assert done["snapshot"] == {"disks": {}, "frozen_ms": None}
    assert (chain(vm, "a"), chain(vm, "b")) == (
        ["a@s3.qcow2", "a@s1.qcow2", "a.img"],
        ["b@s3.qcow2", "b@s1.qcow2", "b.img"],
    )
    done = life.step(name="s3", state="absent")
    assert names(done) == 2 * ["touch", "block-commit", "job-complete", "rm", "job-dismiss", "blockdev-del"]
    life.step(name="s1", state="absent", keep_file=True)
    assert (chain(vm, "a"), chain(vm, "b")) == (["a.img"], ["b.img"])
    assert files(vm) == ["a@s1.qcow2", "b@s1.qcow2"]
    for disk in ("a", "b"):
        holds(vm, disk, 4)
    kept = snapshot(vm, state="absent")
    assert not kept["changed"] and "it is left" in " ".join(kept["warnings"])
    assert set((vm.directory / "a.img").read_bytes()[: 1 << 20]) == {4}
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}


def test_absent_under_another_tools_overlay(life: Lifecycle) -> None:
    vm = life.vm
    life.step(name="s1", disks=["a"])
    other = vm.image("other.qcow2", str(SIZE), "qcow2")
    file = {"driver": "file", "filename": other}
    vm.observer.send("blockdev-add", {"node-name": "other", "driver": "qcow2", "file": file, "backing": None})
    vm.observer.execute("blockdev-snapshot", node="a.s1", overlay="other")
    write(vm, "a", 3)
    life.step(name="s1", disks=["a"], state="absent")
    (drive,) = (item for item in vm.observer.look("query-block") if item["qdev"] == "a")
    assert drive["inserted"]["node-name"] == "other" and files(vm) == []
    holds(vm, "a", 3)
    run_module(vm, "qemu_disk", id="a", state="absent")
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"b-node"}


def test_absent_below_a_throttle_filter(life: Lifecycle) -> None:
    """The filter that the user has put over the disk stays over it."""
    vm = life.vm
    vm.observer.send("object-add", {"qom-type": "throttle-group", "id": "tg"})
    vm.observer.send(
        "blockdev-add", {"node-name": "over", "driver": "throttle", "throttle-group": "tg", "file": "a-node"}
    )
    vm.observer.send("qom-set", {"path": "/machine/peripheral/a", "property": "drive", "value": "over"})
    for state in ("present", "absent"):
        life.step(name="s1", disks=["a"], state=state)
        assert vm.observer.look("qom-get", path="/machine/peripheral/a", property="drive") == "over"
        holds(vm, "a", 1)
    assert files(vm) == []


def test_absent_killed_at_any_step(life: Lifecycle) -> None:
    vm, step, going = life.vm, 0, True
    while going:
        life.step(name="s1")
        for disk in ("a", "b"):
            write(vm, disk, 3)
        going = snapshot_killed_before(vm, step, state="absent")
        left = run_module(vm, "qemu_disk_snapshot", name="s1", state="absent")
        assert left["changed"] is going, (step, left)
        life.same(name="s1", state="absent")
        assert (chain(vm, "a"), chain(vm, "b")) == (["a.img"], ["b.img"]), (step, left)
        assert files(vm) == [] and vm.observer.look("query-jobs") == []
        for disk in ("a", "b"):
            holds(vm, disk, 3)
        step += 1
    assert step == 13


def test_what_a_killed_snapshot_has_left_is_removed(life: Lifecycle) -> None:
    vm, step, going = life.vm, 0, True
    while going:
        going = snapshot_killed_before(vm, step)
        run_module(vm, "qemu_disk_snapshot", name="s1", state="absent")
        assert files(vm) == [] and chain(vm, "a") == ["a.img"], step
        assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}
        step += 1


def test_a_commit_that_takes_too_long_or_fails(life: Lifecycle) -> None:
    vm = life.vm
    life.step(name="s1")
    write(vm, "a", 2)

    job = job_id("commit", "a@s1")
    vm.observer.send(
        "block-commit",
        {"job-id": job, "device": "a.s1", "base-node": "a-node", "auto-dismiss": False, "speed": 65536},
    )
    with pytest.raises(ModuleFailed) as failed:
        snapshot(vm, state="absent", disks=["a"], timeout=2)
    assert "the next run joins it" in failed.value.result["msg"]
    assert chain(vm, "a") == ["a@s1.qcow2", "a.img"] and "a@s1.qcow2" in files(vm)
    vm.observer.execute("block-job-cancel", device=job, force=True)
    vm.observer.wait_event("BLOCK_JOB_CANCELLED", device=job)
    with pytest.raises(ModuleFailed, match=r"commit of .*a@s1.qcow2 into .*a.img: .*run the task again"):
        snapshot(vm, state="absent", disks=["a"])
    holds(vm, "a", 2)
    life.step(name="s1", state="absent")
    holds(vm, "a", 2)


def test_nothing_goes_back_to_an_image_that_a_commit_has_written_to(life: Lifecycle, tmp_path: Path) -> None:
    """A commit that fails leaves some of what was written since in the image below."""
    vm, small = life.vm, tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        path = f"{small}/c.img"
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", path, str(SIZE)], check=True)
        run_module(vm, "qemu_disk", id="c", driver="scsi-hd", filename=path, bus="scsi0.0")
        snapshot(vm, disks=["c"], directory=str(tmp_path))
        vm.observer.hmp('qemu-io -d c "write -P 4 0 4M"')
        with pytest.raises(ModuleFailed, match=r"No space left.*can't go back to the snapshot any more"):
            snapshot(vm, disks=["c"], state="absent")
        assert 4 in Path(path).read_bytes()
        life.refused("c@s1.qcow2 into", "was begun", name="s1", state="reverted")
        holds(vm, "c", 4)
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        snapshot(vm, disks=["c"], state="absent")
        holds(vm, "c", 4)
        assert os.listdir(tmp_path) == ["small"] and os.listdir(small) == ["c.img"]
        run_module(vm, "qemu_disk", id="c", state="absent")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


# -- reverted ------------------------------------------------------------------


def back_again(vm: VM, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves the VM alone, then the real run, which does what that said."""
    before, seen = vm.fingerprint(), files(vm)
    foretold = snapshot(vm, state="reverted", check=True, diff=True, **options)
    assert vm.fingerprint() == before and files(vm) == seen
    done = snapshot(vm, state="reverted", diff=True, **options)
    assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
    assert done["changed"] and foretold["changed"] and done["snapshot"] == foretold["snapshot"]
    return done


def test_reverted(life: Lifecycle) -> None:
    vm = life.vm
    life.step(name="s1")
    for number, name in enumerate(("s2", "s3"), start=2):
        for disk in ("a", "b"):
            write(vm, disk, number)
        life.step(name=name)
    vm.observer.execute("cont")
    vm.observer.forget_events()
    done = back_again(vm)
    assert done["snapshot"]["disks"]["a"]["overlay"].endswith("a@s1~1.qcow2")
    assert sum("a@s2.qcow2" in text and "goes, too" in text for text in done["warnings"]) == 1
    assert (chain(vm, "a"), chain(vm, "b")) == (["a@s1~1.qcow2", "a.img"], ["b@s1~1.qcow2", "b.img"])
    assert files(vm) == ["a@s1~1.qcow2", "b@s1~1.qcow2"] and vm.observer.status() == "running"
    assert [event["event"] for event in vm.observer.events if event["event"] in ("STOP", "RESET", "RESUME")][:3] == [
        "STOP",
        "RESET",
        "RESUME",
    ]
    for disk in ("a", "b"):
        holds(vm, disk, 1)
        write(vm, disk, 5)
    assert len([node for node in vm.observer.nodes() if not node.startswith("#")]) == 4
    life.same(name="s1")
    vm.observer.execute("stop")
    assert back_again(vm)["snapshot"]["disks"]["b"]["overlay"].endswith("b@s1.qcow2")
    assert vm.observer.status() != "running" and files(vm) == ["a@s1.qcow2", "b@s1.qcow2"]
    for disk in ("a", "b"):
        holds(vm, disk, 1)
    life.step(name="s1", state="absent")
    assert (chain(vm, "a"), chain(vm, "b"), files(vm)) == (["a.img"], ["b.img"], [])


def test_reverted_killed_at_any_step(life: Lifecycle) -> None:
    vm, step, going = life.vm, 0, True
    life.step(name="s1")
    vm.observer.execute("cont")
    while going:
        for disk in ("a", "b"):
            write(vm, disk, 3)
        going = snapshot_killed_before(vm, step, state="reverted")
        if going:
            snapshot(vm, state="reverted")
        for disk in ("a", "b"):
            holds(vm, disk, 1)
        assert vm.observer.status() == "running" and len(files(vm)) == 2, (step, files(vm))
        assert len([node for node in vm.observer.nodes() if not node.startswith("#")]) == 4, step
        step += 1
    assert step > 14


def test_reverted_fails_in_the_middle(life: Lifecycle, meddle: Meddle) -> None:
    """The second disk's device is gone: the guest has its old chain, and runs."""
    vm = life.vm
    life.step(name="s1")
    write(vm, "a", 2)
    vm.observer.execute("cont")
    before, seen = vm.fingerprint(), files(vm)
    taken: list[str] = []

    def take(step: Any, vm_: Any, deadline: Any, sent: Any = apply._send) -> None:
        if step.execute == "qom-set" and "/b/" in step.arguments["path"] and not taken:
            taken.append(step.execute)
            step = step.replace(arguments={**step.arguments, "value": "none"})
        sent(step, vm_, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "_send", take)
        with pytest.raises(ModuleFailed) as failed:
            snapshot(vm, state="reverted")
    assert failed.value.result["commands"] == [] and taken
    assert "not_rolled_back" not in failed.value.result
    assert vm.fingerprint() == before and files(vm) == seen
    holds(vm, "a", 2)


def test_what_can_not_go_back(life: Lifecycle) -> None:
    vm = life.vm
    life.refused("no disk has a snapshot s1", name="s1", state="reverted")
    life.step(name="s1", disks=["a"])
    life.refused("disk b has no snapshot s1", name="s1", state="reverted", disks=["a", "b"])
    sock = {"type": "unix", "data": {"path": f"{vm.directory}/nbd"}}
    vm.observer.send("nbd-server-start", {"addr": sock})
    vm.observer.send("block-export-add", {"type": "nbd", "id": "e0", "node-name": "a.s1"})
    life.refused("export e0 uses", name="s1", state="reverted")
    vm.observer.execute("nbd-server-stop")
    assert "disk b stays as it is" in " ".join(back_again(vm)["warnings"])


def test_drives_of_the_command_line(start_vm: Callable[..., VM]) -> None:
    """QEMU drops their nodes by itself. Started anew from the overlays, which have no node of ours, all goes on."""

    def start(first: str, second: str) -> VM:
        drives = [f"if=none,id=drv0,file={first}", f"if=virtio,file={second}"]
        device = "virtio-blk-pci,drive=drv0,id=vb,bus=rp0"
        return start_vm(args=["-drive", drives[0], "-device", device, "-drive", drives[1]])

    vm = start_vm()
    images = [f"{vm.image('c.qcow2', str(SIZE), 'qcow2')},format=qcow2", f"{vm.image('d.raw', str(SIZE))},format=raw"]
    for again in (False, True):
        if again:
            images = [f"{vm.directory}/{disk}@s1.qcow2,format=qcow2" for disk in ("vb", "virtio0")]
        drives = start(*images)
        assert snapshot(drives)["changed"] is not again
        back_again(drives)
        if again:
            snapshot(drives, state="absent")
            assert files(vm) == [] and not [node for node in drives.observer.nodes() if not node.startswith("#")]
        else:
            back_again(drives)  # which gives the overlay its first name again
        drives.kill()


# -- a guest -------------------------------------------------------------------


def test_a_guest_is_updated_and_taken_back(live_vm: VM) -> None:
    """The three tasks of the guide: take, let the guest write, go back. It boots anew, and has the disk as it was."""
    disk = {"driver": "scsi-hd", "bus": "scsi0.0", "filename": live_vm.image("a.img", str(SIZE))}
    run_module(live_vm, "qemu_disk", **{"id": "a", **disk})  # type: ignore[arg-type]
    live_vm.guest_sees(blk={"sda"})
    live_vm.run_in_guest("echo before | dd of=/dev/sda conv=fsync 2>/dev/null; sync")
    snapshot(live_vm, name="update")
    live_vm.run_in_guest("echo after! | dd of=/dev/sda conv=fsync 2>/dev/null; sync")
    assert live_vm.run_in_guest("head -n 1 /dev/sda") == "after!\n"
    booted = len(live_vm.serial)
    snapshot(live_vm, name="update", state="reverted")
    live_vm.wait_serial("GUEST-STATE", since=booted)
    live_vm.guest_sees(blk={"sda"})
    assert live_vm.run_in_guest("head -n 1 /dev/sda") == "before\n"
    live_vm.run_in_guest("echo again | dd of=/dev/sda conv=fsync 2>/dev/null; sync")
    snapshot(live_vm, name="update", state="absent")
    assert live_vm.run_in_guest("head -n 1 /dev/sda") == "again\n"
    assert (live_vm.directory / "a.img").read_bytes()[:5] == b"again"


TRIES = 5
NUMBERS = """n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); for disk in sda sdb; do
printf "%08d" $n | dd of=/dev/$disk bs=512 count=1 conv=sync oflag=direct 2>/dev/null; done; done &"""


def test_two_disks_are_of_one_moment(live_vm: VM) -> None:
    """A writer puts n on the one, then n on the other: in each snapshot they differ by 1 at the most."""
    for name in ("a", "b"):
        disk = {"driver": "scsi-hd", "bus": "scsi0.0", "filename": live_vm.image(f"{name}.img", str(SIZE))}
        run_module(live_vm, "qemu_disk", **{"id": name, **disk})  # type: ignore[arg-type]
        live_vm.guest_sees(blk={"sda"} if name == "a" else {"sda", "sdb"})
    live_vm.run_in_guest(NUMBERS.replace("\n", " "))
    seen = []
    for number in range(TRIES):
        taken = snapshot(live_vm, name=f"s{number}")["snapshot"]["disks"]
        pair = []
        for name in ("a", "b"):
            base = taken[name]["base"]
            fmt = "qcow2" if base.endswith("qcow2") else "raw"
            command = ["qemu-io", "-U", "-r", "-f", fmt, "-c", "read -v 0 512", base]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            pair.append(said.splitlines()[0].split()[-1].strip("."))
        seen.append((int(pair[0] or 0), int(pair[1] or 0)))
        time.sleep(0.1)
    live_vm.run_in_guest("touch /tmp/stop")
    assert all(one - other in (0, 1) for one, other in seen), seen
    assert len({one for one, _other in seen}) > 1, seen


def test_no_space_left(vm: VM, tmp_path: Path) -> None:
    """Nothing is left where an overlay can't be made; where a commit fails the snapshot stays, and the guest goes on."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(ModuleFailed, match="No space left"):
            snapshot(vm, directory=str(small))
        assert list(small.iterdir()) == [] and (chain(vm, "a"), chain(vm, "b")) == (["a.img"], ["b.img"])
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_no_space_left_for_a_commit(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    """What the guest wrote does not fit into the image below: it stays where it is, until there is room."""
    vm, small = start_vm(), tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        base = small / "b.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), str(SIZE)], check=True)
        run_module(vm, "qemu_disk", id="b", driver="virtio-blk-pci", filename=str(base), format="qcow2", bus="rp0")
        snapshot(vm, directory=str(tmp_path))
        write(vm, "b", 2)
        with pytest.raises(ModuleFailed, match="No space left") as failed:
            snapshot(vm, state="absent")
        assert "run the task again" in failed.value.result["msg"] and vm.observer.execute("query-jobs") == []
        assert chain(vm, "b") == ["b@s1.qcow2", "b.qcow2"]
        holds(vm, "b", 2)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        snapshot(vm, state="absent")
        assert chain(vm, "b") == ["b.qcow2"] and not list(tmp_path.glob("*.qcow2"))
        holds(vm, "b", 2)
        assert not snapshot(vm, state="absent")["changed"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_what_looks_like_a_snapshot_and_what_would_go_with_one(life: Lifecycle) -> None:
    """A user's own overlay of a common image is none of ours, and a bitmap on an overlay is not dropped."""
    vm = life.vm
    golden, own = vm.image("golden.qcow2", str(SIZE), "qcow2"), vm.directory / "c.prod.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", golden, "-F", "qcow2", str(own)], check=True)
    run_module(vm, "qemu_disk", id="c", filename=str(own), format="qcow2", bus="rp1")
    assert not snapshot(vm, name="prod", state="absent", disks=["c"])["changed"]
    life.refused("disk c has no snapshot prod", name="prod", state="reverted", disks=["c"])
    assert chain(vm, "c") == ["c.prod.qcow2", "golden.qcow2"]

    life.step(name="s1", disks=["b"])
    run_module(vm, "qemu_bitmap", node="b", name="daily")
    for state in ("absent", "reverted"):
        life.refused("has bitmap daily, which would be lost with it", name="s1", state=state, disks=["b"])
    run_module(vm, "qemu_bitmap", node="b", name="daily", state="absent")
    life.step(name="s1", state="absent", disks=["b"])
