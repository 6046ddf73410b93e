# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_vm: a life, what it refuses, and what it leaves behind. Guests that boot are in extensions/molecule."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import run_module
from support.observer import Observer
from support.plays import PlayRun
from support.roles import RUN, Machines, image, kill, nothing_is_there
from support.timing import until
from support.vm import BED, VERSIONS, qemu_binary

MIB = 1 << 20
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces, and become somebody else")


@pytest.fixture
def vms() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def test_its_life(vms: Machines) -> None:
    has: dict[str, Any] = {
        "disk_size": "8M",
        "user_data": {"password": "hush"},
        "disks": [{"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}],
    }
    assert any(task.changed for task in vms.run(check=True, **has).tasks)
    nothing_is_there(vms)
    assert "hush" not in vms.done(True, **has).output
    pid = vms.processes()["vm1"]
    assert vms.files() == {"disk.qcow2", "data", "run/seed.iso", *RUN}
    with vms.observer() as observer:
        assert {"disk", "seed", "data", "agent0", "rp0", "rp7"} <= set(observer.devices())
        assert observer.execute("query-status")["status"] == "prelaunch"
    for path in (vms.base / "vm1", vms.base / "vm1" / "run"):
        assert path.stat().st_mode & 0o777 == 0o700
    for name in ("disk.qcow2", "data", "run/seed.iso"):
        assert (vms.base / "vm1" / name).stat().st_mode & 0o777 == 0o600
    for check in (True, False):
        vms.done(False, check=check, **has)

    # a process that was killed leaves its sockets and its pidfile
    kill(pid)
    assert vms.files() >= RUN
    vms.done(True, **has)
    pid = vms.processes()["vm1"]

    for check in (True, False):
        vms.done(True, check=check, state="stopped", **has)
        assert bool(vms.processes()) == check
    vms.done(False, state="stopped", **has)
    vms.done(True, **{**has, "disk_size": "16M"})
    with vms.observer() as observer:
        assert observer.execute("query-block")[0]["inserted"]["image"]["virtual-size"] == 16 * MIB
    vms.done(True, state="absent")
    assert vms.files() == {"disk.qcow2", "data"} and vms.processes() == {}
    vms.done(False, state="absent")
    vms.done(True, **{**has, "disk_size": "16M"}, power="running")
    vms.done(True, state="absent", remove_data=True)
    nothing_is_there(vms)
    vms.done(False, state="absent", remove_data="yes", shutdown_timeout="0")


@pytest.mark.parametrize("mode", ["control", "readline"])
def test_one_whose_monitors_are_objects(vms: Machines, mode: str) -> None:
    """Nothing is said of how they are made, and a machine that was started with -mon, which is deprecated now, is no other."""
    newest = {"binary": str(qemu_binary(VERSIONS[-1])), "monitor_mode": mode}
    assert not vms.done(True, **newest).tasks[-1].result["warnings"]
    kind = {"control": "monitor-qmp", "readline": "monitor-hmp"}[mode]
    with contextlib.closing(Observer(str(vms.base / "vm1" / "run" / "events"))) as observer:
        ours = {"vmm-qmp": "monitor-qmp", "vmm-events": "monitor-qmp", "monitor": kind}
        assert ours.items() <= observer.objects().items()
    for check in (True, False):
        assert not vms.done(False, check=check, **newest).tasks[-1].result["restart_required"]
    vms.done(True, state="stopped", **newest)
    vms.before = """
from ansible_collections.vmm.qemu.plugins.module_utils._host import process

def by_mon(argv, *others, launch=process.launch):
    old, modes = list(argv), {"-qmp": "control", "-monitor": "readline"}
    for at, text in enumerate(argv):
        if argv[at - 1] in modes and text.startswith("chardev:"):
            old[at - 1 : at + 1] = "-mon", f"chardev={text[8:]},mode={modes[argv[at - 1]]}"
    return launch(old, *others)

process.launch = by_mon
"""
    vms.done(True, **newest)
    vms.before = ""
    for check in (True, False):
        assert not vms.done(False, check=check, **newest).tasks[-1].result["restart_required"]


def test_cpus_up_to_all(vms: Machines) -> None:
    vms.done(True, vcpus=1, vcpus_max=2)
    pid = vms.processes()["vm1"]
    for most in (1, 2):
        assert "vcpus is 4" in vms.refused(vcpus=4, vcpus_max=most)
    for changed in (True, False):
        assert not vms.done(changed, vcpus=2, vcpus_max=2).tasks[-1].result["restart_required"]
    with vms.observer() as observer:
        assert len(observer.execute("query-cpus-fast")) == 2
    assert vms.processes() == {"vm1": pid}


def test_one_more_device_without_a_list(vms: Machines) -> None:
    vms.done(True, disk_size="1M", arguments={"device": {"driver": "virtio-keyboard-pci", "id": "kbd"}})
    with vms.observer() as observer:
        assert {"kbd", "disk", "rp0", "agent0"} <= set(observer.devices())


def test_a_disk_for_a_machine_that_runs_without_or_with_another(vms: Machines) -> None:
    vms.done(True)
    for changed in (True, False):  # its image is made
        assert vms.done(changed, disk_size="8M").tasks[-1].result["restart_required"]
    vms.done(True, disk_size="8M", restart_allowed=True)
    other = {"disk": f"{vms.base}/vm1/other.qcow2", "disk_size": "16M"}
    assert vms.done(True, **other).tasks[-1].result["restart_required"]
    with vms.observer() as observer:
        (disk,) = observer.execute("query-block")
    assert disk["inserted"]["image"]["virtual-size"] == 8 * MIB
    vms.done(False, disk_size="8M")


def test_an_installers_medium_that_the_next_run_takes_out_and_limits(vms: Machines) -> None:
    installer = vms.base / "installer.iso"
    installer.write_bytes(bytes(MIB))
    cd: dict[str, Any] = {
        "id": "cd",
        "driver": "scsi-cd",
        "bus": "scsi0.0",
        "filename": str(installer),
        "read_only": True,
    }
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0", "limits": {"iops": 50}}
    has: dict[str, Any] = {"disk_size": "1M", "devices": [{"id": "scsi0", "driver": "virtio-scsi", "bus": "rp1"}]}
    for medium in ("present", "absent"):
        disks = [{**cd, "medium": medium}, data]
        vms.done(True, check=True, disks=disks, **has)
        vms.done(True, disks=disks, **has)
        for check in (True, False):
            vms.done(False, check=check, disks=disks, **has)
        with vms.observer() as observer:
            drives = {drive["qdev"]: drive for drive in observer.execute("query-block")}
        assert ("inserted" in drives["cd"]) == (medium == "present")
        assert drives["/machine/peripheral/data/virtio-backend"]["inserted"]["iops"] == 50
    pid = vms.processes()["vm1"]
    vms.done(True, state="stopped", **has)
    vms.done(True, disks=disks, **has)
    assert vms.processes()["vm1"] != pid


def test_a_data_disk_that_is_named_present_and_values_that_are_empty(vms: Machines) -> None:
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0", "state": "present"}
    empty = dict.fromkeys(("user_data", "network_config", "image", "image_checksum", "disk_size"))
    vms.done(True, disks=[data], **empty)
    assert vms.files() == {"data", *RUN}


def test_a_disk_is_grown_if_it_is_the_one_that_it_runs_on(vms: Machines) -> None:
    has = {"disk": f"{vms.base}/vm1/disk.qcow2,old"}  # QEMU has the comma twice
    vms.done(True, **has, disk_size="8M")
    for variables, size in (({"disk_size": "16M"}, 8), ({**has, "disk_size": "16M"}, 16)):
        vms.done(True, **variables)
        with vms.observer() as observer:
            (disk,) = observer.execute("query-block")
        assert disk["inserted"]["image"]["virtual-size"] == size * MIB


def test_a_directory_that_is_a_link(vms: Machines) -> None:
    """All in a virtual machine's directory goes with it, and of a link only the link would."""
    (vms.base / "elsewhere").mkdir()
    (vms.base / "elsewhere" / "disk.qcow2").touch()
    (vms.base / "vm1").symlink_to("elsewhere")
    for variables in ({"disk_size": "1M"}, {"state": "absent", "remove_data": True}):
        assert "is a symbolic link" in vms.refused(**variables)
    nothing_is_there(vms, "vm1", "elsewhere")
    assert [path.name for path in (vms.base / "elsewhere").iterdir()] == ["disk.qcow2"]


def test_a_directory_that_is_not_a_machines(vms: Machines) -> None:
    """A virtual machine that is named as a directory of the host's own, and one whose data alone is left."""
    other = vms.base / "srv"
    (other / "run").mkdir(parents=True, mode=0o755)
    (other / "run" / "their.pid").touch()
    for state in ("running", "stopped", "absent"):
        for check in (True, False):
            said = vms.refused(name="srv", state=state, remove_data=True, check=check)
            assert f"directory: {other} has run, and nothing of a virtual machine's" in said
    assert vms.files("srv") == {"run", "run/their.pid"} and other.stat().st_mode & 0o777 == 0o755

    (vms.base / "vm1").mkdir()
    (vms.base / "vm1" / "kernel").touch()
    vms.done(True)
    vms.done(True, state="absent")
    assert vms.files() == {"kernel"}
    vms.refused(state="absent", remove_data=True)
    (vms.base / "vm1" / "sub").mkdir()
    disks = [{"id": "data", "filename": f"{vms.base}/vm1/sub/data", "size": "1M", "bus": "rp0"}]
    vms.refused(disks=disks)
    (vms.base / "vm1" / "sub").rmdir()
    vms.done(True, disks=[{**disks[0], "filename": f"{vms.base}/vm1/data"}])
    vms.done(True, state="absent")
    (vms.base / "vm1" / "sub").mkdir()
    vms.done(True, state="absent", remove_data=True, disks=[{**disks[0], "filename": f"{vms.base}/vm1/data"}])
    assert vms.files() == set()


@root_only
@pytest.mark.parametrize("what", ["run", "run/qemu.log", "run/console.log", "run/pid", "data"])
def test_what_its_user_puts_in_the_place_of_a_file(vms: Machines, what: str) -> None:
    """Root follows no link of the virtual machine's user's: what it leads to stays whose it is, and as it is."""
    has = {
        "user": "nobody",
        "disks": [{"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}],
    }
    vms.base.chmod(0o755)
    vms.done(True, **has)
    vms.done(True, **has, state="stopped")
    victim, path = vms.base / "victim", vms.base / "vm1" / what
    if what == "run":
        victim.mkdir(mode=0o755)
    else:
        victim.write_bytes(b"root's" * 200)
        victim.chmod(0o644)
    before = victim.stat()
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    os.lchown(path, 65534, 65534)
    assert "link" in vms.refused(**has)
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (0, before.st_mode, before.st_mtime_ns)
    assert vms.processes() == {}


@root_only
def test_to_qemus_user_belong_only_images_and_a_directory_for_sockets(vms: Machines) -> None:
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}
    port = {"id": "c0", "type": "socket", "path": f"{vms.base}/vm1/run/sockets/c0", "server": True}
    vms.base.chmod(0o755)
    vms.done(True, user="nobody", disk_size="1M", user_data="x", disks=[data], chardevs=[port])
    directory = vms.base / "vm1"
    own = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.lstat().st_uid != 0}
    assert own == {"disk.qcow2", "data", "run/seed.iso", "run/sockets", "run/sockets/c0"}
    assert [path.stat().st_mode & 0o777 for path in (directory, directory / "run", directory / "run/sockets")] == [
        0o710,
        0o710,
        0o700,
    ]
    vms.done(True, user="nobody", state="absent", remove_data=True)
    nothing_is_there(vms)


@root_only
@pytest.mark.parametrize("how", ["backing", "json", "data"])
def test_root_opens_nothing_that_an_image_names(vms: Machines, how: str) -> None:
    """Who runs as QEMU's user can write any name into the header of the disk."""
    has: dict[str, Any] = {"user": "nobody", "disk_size": "1M"}
    vms.base.chmod(0o755)
    vms.done(True, **has)
    vms.done(True, **has, state="stopped")
    disk, secret = vms.base / "vm1" / "disk.qcow2", vms.base / "secret"
    secret.write_bytes(b"root's" * 200000)
    secret.chmod(0o644 if how == "data" else 0o600)
    if how != "data":
        name = "json:" + json.dumps({"driver": "file", "filename": str(secret)}) if how == "json" else str(secret)
        names = ["rebase", "-u", "-f", "qcow2", "-b", name, "-F", "raw", str(disk)]
    else:
        names = ["create", "-q", "-f", "qcow2", "-o", f"data_file={secret}.data", str(disk), "1M"]
    subprocess.run(["qemu-img", *names], check=True)
    if how == "data":
        (vms.base / "secret.data").chmod(0o644)
    os.chown(disk, 65534, 65534)
    said = vms.refused(**has)
    assert "which nobody may not open" in said and "secret" in said
    assert vms.processes() == {}


def test_directories_that_others_can_pass(vms: Machines) -> None:
    directory = vms.base / "deep" / "vm1"
    vms.done(True, directory=str(directory))
    modes = [path.stat().st_mode & 0o777 for path in (directory.parent, directory, directory / "run")]
    assert modes == [0o711, 0o700, 0o700]
    directory.chmod(0o755)
    vms.done(True, directory=str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_restart_that_fails_brings_back_what_ran(vms: Machines) -> None:
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}
    has: dict[str, Any] = {"power": "running", "disk_size": "8M", "disks": [data]}
    vms.done(True, **has)
    before, files = vms.processes(), vms.files()
    again = "start as it was"
    said = vms.refused(**has, arguments={"nosuch": True}, restart_allowed=True)
    assert "-nosuch: invalid option" in said and again in said
    assert vms.processes() != before and vms.files() == files
    with vms.observer() as observer:
        assert observer.execute("query-status")["status"] == "running" and "data" in observer.devices()
    vms.done(False, **has)

    # the arguments are good, and a device is not: its guest is not shut down for that
    before = vms.processes()
    new = {"id": "new", "filename": f"{vms.base}/vm1/new", "size": "1M", "bus": "rp1"}
    bad = {"id": "bad", "filename": "/nonexistent.img", "bus": "rp2"}
    assert "/nonexistent.img" in vms.refused(**{**has, "disks": [data, new, bad]}, memory="96M", restart_allowed=True)
    assert vms.files() == files and vms.processes() == before
    # or it is found when it is plugged in: no disk that was made for it stays, and all that it had comes back
    junk = vms.base / "junk"
    junk.write_bytes(b"junk" * 1024)
    bad = {"id": "bad", "filename": str(junk), "format": "qcow2", "bus": "rp2"}
    said = vms.refused(**{**has, "disks": [data, new, bad]}, memory="96M", restart_allowed=True)
    assert "not in qcow2 format" in said and again in said
    assert vms.files() == files and vms.processes() != before
    with vms.observer() as observer:
        assert observer.execute("query-status")["status"] == "running"
        assert observer.execute("query-memory-size-summary")["base-memory"] == 64 * MIB
        assert "data" in observer.devices()
    vms.done(False, **has)


def test_a_restart_with_a_socket_that_it_listens_at(vms: Machines) -> None:
    """What the old one listens at is free when it has ended; what somebody else does is not."""
    path = vms.base / "vm1" / "run" / "c0"
    has: dict[str, Any] = {"chardevs": [{"id": "c0", "type": "socket", "path": str(path), "server": True}]}
    vms.done(True, **has)
    before = vms.processes()
    vms.done(True, **has, memory="96M", restart_allowed=True)
    assert vms.processes() != before
    with vms.observer() as observer:
        assert observer.chardevs()["c0"] == f"disconnected:unix:{path},server=on"
        observer.execute("chardev-remove", id="c0")
    before = vms.processes()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        for check in (True, False):
            assert "listens at" in vms.refused(**has, check=check, memory="64M", restart_allowed=True)
    assert vms.processes() == before


def claim(pid: int, words: list[str]) -> None:
    """Have a process say that this is its command line, as it can by itself."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = "\0".join(words).encode()
    assert len(text) < end - begin  # and the rest is zeros
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(text.ljust(end - begin, b"\0"))


@root_only
def test_root_runs_nothing_that_the_process_says_it_was_started_with(vms: Machines) -> None:
    """QEMU's user can write what it likes into the command line of its own process."""
    hostile, trace = vms.base / "hostile", vms.base / "trace"
    hostile.write_text(f"#!/bin/sh\n: >{trace}\n")
    hostile.chmod(0o755)
    bad: dict[str, Any] = {"arguments": {"nosuch": True}, "restart_allowed": True}
    vms.done(True)
    before = vms.processes()
    words = Path(f"/proc/{before['vm1']}/cmdline").read_text().split("\0")[:-1]
    claim(before["vm1"], [str(hostile).rjust(len(words[0]), "/"), *words[1:]])
    assert "start as it was" in vms.refused(**bad)  # with the program that root started
    assert not trace.exists()
    before = vms.processes()
    claim(before["vm1"], [str(hostile), "-name", "vm1", "-D", str(vms.base)])
    for check in (True, False):
        assert "has another command line than" in vms.refused(check=check, **bad)
    assert not trace.exists() and vms.processes() == before
    vms.done(True, state="absent")
    assert not (vms.base / "vm1" / "vm.json").exists()


def test_what_runs_again_has_no_environment_of_the_operators(vms: Machines) -> None:
    vms.environment = {"VAULT_PASSWORD": "hunter2"}
    for again in (False, True):
        if again:
            assert "start as it was" in vms.refused(arguments={"nosuch": True}, restart_allowed=True)
        else:
            vms.done(True)
        assert b"hunter2" not in Path(f"/proc/{vms.processes()['vm1']}/environ").read_bytes()


@pytest.mark.parametrize("before", ["nothing", "stopped", "running"])
def test_a_guest_that_has_run_is_not_ended_by_an_undo(vms: Machines, before: str) -> None:
    """The last step needs a guest, and this one has no system to follow."""
    has: dict[str, Any] = {"power": "running", "memory": "128M", "disk_size": "8M"}
    late = {**has, "balloon": "96M", "plug_timeout": 2}
    if before != "nothing":
        vms.done(True, **has)
    if before == "stopped":
        vms.done(True, **has, state="stopped")
    if before == "running":
        late |= {"memory": "160M", "restart_allowed": True}
    run = vms.run(**late)
    result = run.tasks[-1].result
    said = result["msg"]
    assert run.rc != 0 and "balloon: size" in said and "its guest may have run, so QEMU is not ended" in said
    assert [step for step in result["commands"] if "execute" in step][-1]["execute"] == "cont"
    assert "stop" not in [step.get("execute") for step in result["rolled_back"]]
    assert {"disk.qcow2", "run/qmp"} <= vms.files() and list(vms.processes()) == ["vm1"]
    with vms.observer() as observer:
        assert observer.execute("query-status")["status"] == "running"
        assert (
            observer.execute("query-memory-size-summary")["base-memory"] == (160 if before == "running" else 128) * MIB
        )
    vms.done(False, **{**late, "balloon": ""})


def test_a_paused_guest_is_not_stopped_unless_that_is_said(vms: Machines) -> None:
    vms.done(True, power="running")
    vms.done(True, power="paused")
    before = vms.processes()
    for variables in ({"state": "stopped"}, {"state": "absent"}, {"memory": "96M", "restart_allowed": True}):
        assert "its status is paused" in vms.refused(**variables, shutdown_timeout=5)
        assert vms.processes() == before
    vms.done(True, state="stopped", shutdown_timeout=0)
    assert vms.processes() == {}


@pytest.mark.parametrize("how", ["has left", "was being moved"])
def test_a_guest_that_may_run_elsewhere_is_not_started_anew(vms: Machines, how: str) -> None:
    has: dict[str, Any] = {"restart_allowed": True, "shutdown_timeout": 1}
    vms.done(True, power="running", **has)
    before, moving = vms.processes(), vms.base / "vm1" / "moving"
    if how == "has left":
        with vms.observer() as observer:
            observer.execute("migrate", uri="exec:cat >/dev/null")
            until(lambda: observer.execute("query-status")["status"] == "postmigrate")
    else:
        moving.touch()
    for check in (True, False):
        said = vms.run(check=check, power="running", memory="96M", **has)
        assert said.rc != 0 and "may run there" in said.output and vms.processes() == before


def test_that_a_guest_may_run_elsewhere_is_not_forgotten_by_a_start_that_fails(vms: Machines) -> None:
    vms.done(True)
    vms.done(True, state="stopped")
    moving = vms.base / "vm1" / "moving"
    moving.touch()
    vms.refused(incoming=True, arguments={"nosuch": True})
    assert moving.exists()
    vms.done(True, incoming=True)
    assert not moving.exists()


@contextlib.contextmanager
def another_play(vms: Machines, **wanted: Any) -> Iterator[list[PlayRun]]:
    """A play that has looked at the machine, and starts it when the block is over; then its end is in the list."""
    going, go, tools = vms.base / "going", vms.base / "go", vms.base / "tools"
    tools.mkdir()
    program = tools / "qemu-img"
    real = shutil.which("qemu-img")
    program.write_text(f'#!/bin/sh\n: >{going}\nwhile [ ! -e {go} ]; do sleep 0.1; done\nexec {real} "$@"\n')
    program.chmod(0o755)
    second, runs = Machines(), list[PlayRun]()
    second.environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    wanted["directory"] = f"{vms.base}/vm1"
    thread = threading.Thread(target=lambda: runs.append(second.run(**wanted)))
    thread.start()
    try:
        while not going.exists():
            assert thread.is_alive()
            time.sleep(0.1)
        yield runs
    finally:
        go.touch()
        thread.join()
        second.close()


def test_an_undo_leaves_a_machine_that_another_play_started(vms: Machines) -> None:
    """The other one starts it between this one's look and its start."""
    bad = {"id": "d0", "filename": "/nonexistent.img", "bus": "rp0"}
    new = {"id": "new", "filename": f"{vms.base}/vm1/new", "size": "1M", "bus": "rp1"}
    with another_play(vms, disks=[new, bad]) as runs:
        vms.done(True)
        before = vms.processes()
    assert runs[0].rc != 0 and "/nonexistent.img" in runs[0].output
    result = runs[0].tasks[-1].result
    assert "rmdir" not in json.dumps(result.get("rolled_back", [])), result
    assert vms.processes() == before and vms.files() >= RUN
    vms.done(False)


def test_a_machine_that_another_play_started_with_other_arguments(vms: Machines) -> None:
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}
    with another_play(vms, disks=[data], memory="96M", restart_allowed=True) as runs:
        vms.done(True)
        before = vms.processes()
    assert runs[0].rc == 0, runs[0].output
    assert runs[0].tasks[-1].result["restart_required"]
    assert vms.processes() == before


def test_check_mode_on_a_machine_that_runs(vms: Machines) -> None:
    """What check mode neither makes, starts nor ends is no reason to fail."""
    vms.done(True, disk_size="8M")
    before, files = vms.processes(), vms.files()
    disk = {"id": "d0", "filename": f"{vms.base}/vm1/d0", "size": "1M"}
    ported: dict[str, Any] = {"root_ports": 10, "restart_allowed": True, "disks": [{**disk, "bus": "rp9"}]}
    vms.done(True, check=True, disk_size="8M", disks=[{**disk, "bus": "rp0"}])
    vms.done(True, check=True, disk_size="8M", **ported)
    vms.done(True, check=True, disk_size="8M", state="absent", remove_data=True)
    assert vms.processes() == before and vms.files() == files
    vms.done(True, disk_size="8M", **ported)
    vms.done(True, state="absent", remove_data=True)
    nothing_is_there(vms)


def test_a_balloon_of_a_guest_that_does_not_run(vms: Machines) -> None:
    vms.done(True, balloon="32M")
    vms.done(False, balloon="32M")
    vms.done(True, name="vm2", balloon="32M", power="running", incoming=True)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"name": "../vm1"}, "A name has at most 64 letters"),
        ({"name": "vm1\n"}, "A name has at most 64 letters"),
        ({"directory": "/etc"}, "ends in the name"),
        ({"directory": "/tmp/x/../vm1"}, "absolute path"),
        ({"directory": "/tmp/" + "x" * 100 + "/vm1"}, "more than the 107 bytes"),
        ({"binary": "/nonexistent/qemu"}, "there is no /nonexistent/qemu"),
        ({"user": "nosuchuser"}, "no user nosuchuser"),
        ({"firmware": "uefi", "uefi_code": "/nonexistent.fd"}, "no /nonexistent.fd"),
        ({"firmware": "uefi", "uefi_vars": "/nonexistent.fd"}, "uefi_vars is /nonexistent.fd"),
        ({"arguments": {"drive": "file=/nonexistent.img"}}, "Could not open '/nonexistent.img'"),
        ({"arguments": {"nosuch": True}, "disk_size": "1M"}, "-nosuch: invalid option"),
        (
            {"disks": [{"id": "d0", "filename": "/nonexistent.img", "bus": "rp0"}], "disk_size": "1M"},
            "/nonexistent.img",
        ),
        ({"nics": [{"id": "n0", "nonsense": 1}], "disk_size": "1M"}, "unknown option nonsense"),
        ({"disk_size": "1Q"}, "1Q"),
    ],
)
def test_a_first_run_that_fails_leaves_nothing(vms: Machines, variables: dict[str, Any], words: str) -> None:
    assert words in vms.refused(**variables)
    nothing_is_there(vms)


def test_a_disk_smaller_than_its_image(vms: Machines) -> None:
    base, _checksum = image(vms)
    assert "cut off" in vms.refused(image=base, disk_size="4M")
    nothing_is_there(vms, "base.qcow2")


def test_an_image_that_another_uses(vms: Machines) -> None:
    vms.done(True, disk_size="1M")
    disk = {"id": "d0", "filename": f"{vms.base}/vm1/disk.qcow2", "format": "qcow2", "bus": "rp0"}
    assert "lock" in vms.refused(name="vm2", disk_size="1M", disks=[disk])
    assert list(vms.processes()) == ["vm1"] and not (vms.base / "vm2").exists()


def test_what_is_anothers_does_not_go_with_the_directory(vms: Machines) -> None:
    vms.done(True, disk_size="1M")
    vms.done(True, name="inner", directory=f"{vms.base}/vm1/inner", disk_size="1M")
    for check in (True, False):
        refused = vms.refused(state="absent", remove_data=True, check=check)
        assert "vm1/inner is another virtual machine's" in refused and set(vms.processes()) == {"vm1", "inner"}
    vms.done(True, name="inner", directory=f"{vms.base}/vm1/inner", state="absent", remove_data=True)
    vms.done(True, name="vm2", disk=f"{vms.base}/vm1/second.qcow2", disk_size="1M")
    for _again in range(2):
        refused = vms.refused(state="absent", remove_data=True)
        assert "vm1/second.qcow2 is in use" in refused and set(vms.processes()) == {"vm2"}
        assert {"disk.qcow2", "second.qcow2"} <= vms.files()
    vms.done(True, name="vm2", state="stopped")
    vms.done(True, state="absent", remove_data=True)
    assert not (vms.base / "vm1").exists()


def test_a_later_run_that_fails_leaves_what_was_there(vms: Machines) -> None:
    vms.done(True, disk_size="8M")
    before, files = vms.processes(), vms.files()
    bad = [{"id": "d0", "filename": "/nonexistent.img", "bus": "rp0"}]
    new = [{"id": "new", "filename": f"{vms.base}/vm1/new", "size": "1M", "bus": "rp1"}]
    assert "/nonexistent.img" in vms.refused(disk_size="8M", disks=new + bad)
    assert vms.processes() == before and vms.files() == files
    assert "8388608" in vms.refused(disk_size="4M")
    assert vms.processes() == before and vms.files() == files
    vms.done(True, state="stopped")
    assert "/nonexistent.img" in vms.refused(disk_size="8M", disks=bad)
    assert vms.processes() == {} and "disk.qcow2" in vms.files()
    vms.done(True, disk_size="8M")


@root_only
def test_no_space(vms: Machines) -> None:
    small = vms.base / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=64k tmpfs "$0" && "$@"; code=$?; ls -A "$0" >"$0.left"; exit $code'
    vms.prefix = ["unshare", "--mount", "sh", "-c", script, str(small)]
    assert "No space left on device" in vms.refused(directory=f"{small}/vm1", disk_size="8M")
    assert (vms.base / "small.left").read_text() == "" and vms.processes() == {}


@root_only
def test_taps_come_and_go(vms: Machines) -> None:
    script = "mount -t sysfs sysfs /sys && ip link add br0 type bridge && echo ready && exec sleep 600"
    with subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
            vms.prefix = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", f"--mount=/proc/{holder.pid}/ns/mnt"]
            taps_come_and_go(vms)
        finally:
            holder.kill()


def taps_come_and_go(vms: Machines) -> None:
    def links() -> dict[str, str]:
        done = subprocess.run([*vms.prefix, "ip", "-brief", "link"], check=True, stdout=subprocess.PIPE, text=True)
        return {line.split()[0]: line for line in done.stdout.splitlines() if not line.startswith("lo")}

    nic = {"netdev": {"type": "tap", "ifname": "vm1-0", "script": "no", "downscript": "no"}, "bus": "rp1"}
    has: dict[str, Any] = {
        "taps": [{"name": "vm1-0", "bridge": "br0"}, {"name": "vm1-1"}],
        "nics": [{"id": "net0", **nic}],
    }
    assert "nosuchbridge" in vms.refused(taps=[{"name": "vm1-0", "bridge": "nosuchbridge"}])
    nothing_is_there(vms)
    assert set(links()) == {"br0"}
    assert any(task.changed for task in vms.run(check=True, **has).tasks)
    assert set(links()) == {"br0"}
    vms.done(True, **has)
    assert set(links()) == {"br0", "vm1-0", "vm1-1"} and "UP" in links()["vm1-0"]
    vms.done(False, **has)
    with vms.observer() as observer:
        assert "net0" in observer.devices()
    vms.done(True, **has, state="absent")
    assert set(links()) == {"br0"}
    nothing_is_there(vms)

    # what has the name and is not a tap, or is one that another made
    for check in (True, False):
        assert "br0 is there and is not a tap but a bridge" in vms.refused(check=check, taps=[{"name": "br0"}])
    subprocess.run([*vms.prefix, "ip", "tuntap", "add", "dev", "vm1-1", "mode", "tap"], check=True)
    for taps in ([{"name": "br0"}], has["taps"]):
        vms.run(taps=taps)
        vms.run(taps=taps, state="absent")
    assert set(links()) == {"br0", "vm1-1"} and vms.processes() == {}


# -- systemd -----------------------------------------------------------------------------------------------------------

# What the module has systemd do, done by hand: a real systemd is in test_hypervisor.py. It reads the unit as
# systemd.service(5) says, and starts what that names.
SYSTEMCTL = """#!{python}
import os, re, subprocess, sys
verb, *rest = [word for word in sys.argv[1:] if not word.startswith("-")]
unit = os.path.join("{units}", rest[0]) if rest else ""
wants = os.path.join("{units}/multi-user.target.wants", os.path.basename(unit))
with open("{units}/log", "a") as log: log.write(" ".join([verb, *rest]) + "\\n")
if verb == "daemon-reload" and os.path.exists("{units}/breaks") and "start " in open("{units}/log").read():
    sys.exit("systemd is broken")
elif verb == "enable":
    os.makedirs(os.path.dirname(wants), exist_ok=True)
    os.symlink(unit, wants)
elif verb == "disable":
    os.unlink(wants)
elif verb == "start":
    line = re.findall(r"^ExecStart=(.*)$", open(unit).read(), re.M)[0]
    words = [re.sub(r"\\\\(.)", r"\\1", quoted or bare) for quoted, bare in re.findall(r'"((?:[^"\\\\]|\\\\.)*)"|(\\S+)', line)]
    words = [word.replace("%%", "%").replace("$$", "$") for word in words]
    sys.exit(subprocess.run(words, cwd="/", env=dict(PATH="/usr/sbin:/usr/bin:/sbin:/bin")).returncode)
"""


class Systemd:
    """A host that systemd runs."""

    def __init__(self, vms: Machines) -> None:
        self.units = vms.base / "units"
        self.systemctl = self.units / "bin" / "systemctl"
        self.systemctl.parent.mkdir(parents=True)
        self.systemctl.write_text(SYSTEMCTL.format(python=sys.executable, units=self.units))
        self.systemctl.chmod(0o755)
        self.unit = self.units / "vmm-qemu-vm1.service"
        vms.environment = {"PATH": f"{self.systemctl.parent}:{os.environ['PATH']}"}
        mount = 'mount --bind "$0" /etc/systemd/system && exec "$@"'
        vms.prefix = ["unshare", "--mount", "sh", "-c", mount, str(self.units)]

    def left(self) -> set[str]:
        """What is there beside this stand-in."""
        return {path.name for path in self.units.iterdir()} - {"bin", "log"}

    def line(self, name: str) -> list[str]:
        """One of the unit's command lines."""
        return shlex.split(re.findall(f"^{name}=-?(.*)$", self.unit.read_text(), re.M)[0])

    def start(self) -> subprocess.CompletedProcess[str]:
        """Start it as systemd does when the host does."""
        return subprocess.run([self.systemctl, "start", self.unit.name], check=False, capture_output=True, text=True)


@pytest.fixture
def systemd(vms: Machines) -> Systemd:
    return Systemd(vms)


ON_SYSTEMD: dict[str, Any] = {"service": "systemd", "disk_size": "1M"}


@root_only
def test_a_unit(vms: Machines, systemd: Systemd) -> None:
    has = {**ON_SYSTEMD, "append": 'a "quoted" 100% $HOME \\ word', "kernel": f"{BED}/guest/vmlinuz"}
    nowhere = {"blockdev": [{"driver": "file", "node-name": "n0", "filename": "/nonexistent.img"}]}
    assert "/nonexistent.img" in vms.refused(**has, arguments=nowhere)
    nothing_is_there(vms, "units")
    assert systemd.left() == set()
    assert any(task.changed for task in vms.run(check=True, **has).tasks)
    assert not systemd.unit.exists()
    vms.done(True, **has)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(systemd.unit)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = Path(f"/proc/{vms.processes()['vm1']}/cmdline").read_text().split("\0")
    assert words[words.index("-append") + 1] == has["append"]
    vms.done(False, **has)
    vms.done(True, **has, autostart=True)
    assert systemd.left() == {systemd.unit.name, "multi-user.target.wants"}
    assert "Restart=on-failure" in systemd.unit.read_text()
    vms.done(True, **has)
    assert os.listdir(systemd.units / "multi-user.target.wants") == []
    vms.done(True, **has, state="absent", remove_data=True)
    nothing_is_there(vms, "units")
    assert systemd.left() == {"multi-user.target.wants"}


@root_only
def test_after_a_reboot_all_is_there_again(vms: Machines, systemd: Systemd) -> None:
    """What systemd starts has what was plugged in, and its guest runs. So after a crash."""
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "size": "1M", "bus": "rp0"}
    has = {
        **ON_SYSTEMD,
        "power": "running",
        "shutdown_timeout": 30,
        "disks": [data],
        "nics": [{"id": "net0", "netdev": {"type": "user"}, "bus": "rp1"}],
    }
    vms.done(True, **has)
    kill(vms.processes()["vm1"])
    assert systemd.start().returncode == 0
    with vms.observer() as observer:
        assert {"data", "net0", "disk"} <= set(observer.devices())
        assert observer.execute("query-status")["status"] == "running"
    vms.done(False, **has)

    # the host goes down: the power button, and then wait until QEMU has ended
    with vms.observer() as observer:
        stopping = subprocess.Popen(systemd.line("ExecStop"))
        observer.wait_event("POWERDOWN")
        assert stopping.poll() is None
        observer.execute("quit")
    assert stopping.wait(30) == 0
    # systemd runs it also when QEMU has ended by itself
    done = subprocess.run(systemd.line("ExecStop"), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

    # what can't be is a sentence, and nothing is left running
    (vms.base / "vm1" / "data").rename(vms.base / "vm1" / "elsewhere")
    done = systemd.start()
    assert done.returncode == 1 and vms.processes() == {}
    (said,) = done.stderr.splitlines()
    assert said.startswith("vm1: ") and f"{vms.base}/vm1/data" in said
    assert "is its storage mounted?" in vms.refused(**has)
    (vms.base / "vm1" / "elsewhere").rename(vms.base / "vm1" / "data")
    (vms.base / "vm1" / "moving").touch()
    done = systemd.start()
    assert "may run there" in done.stderr and vms.processes() == {}
    assert "may run there" in vms.refused(**has)
    (vms.base / "vm1" / "moving").unlink()

    record = vms.base / "vm1" / "vm.json"
    assert record.stat().st_mode & 0o777 == 0o600
    text = record.read_text()
    for bad, words in (("{", "is damaged"), (text.replace('"version": 1', '"version": 99'), "another version")):
        record.write_text(bad)
        assert words in systemd.start().stderr and words in vms.refused(**has)
    record.write_text(text)
    record.chmod(0o666)
    assert "others than who runs the task can write it" in systemd.start().stderr
    record.chmod(0o600)
    vms.done(True, **has)


def test_a_disk_among_what_goes_with_the_machine(vms: Machines) -> None:
    path = f"{vms.base}/vm1/run/../run/data"
    for has in ({"disk": path, "disk_size": "1M"}, {"disks": [{"id": "data", "filename": path, "size": "1M"}]}):
        assert "put it elsewhere" in vms.refused(**has)
    nothing_is_there(vms)


def test_a_record_whose_values_are_of_other_types(vms: Machines) -> None:
    others: list[dict[str, Any]] = [
        {"images": 5},
        {"taps": [5]},
        {"start_timeout": True},
        {"document": []},
        {"code": 1},
    ]
    vms.done(True)
    record = vms.base / "vm1" / "vm.json"
    kept = json.loads(record.read_text())
    for bad in others:
        record.write_text(json.dumps({**kept, **bad}))
        assert "is damaged" in vms.refused()
    vms.done(True, state="absent")
    nothing_is_there(vms)


@root_only
def test_the_code_of_a_machine_that_comes_while_another_goes(vms: Machines) -> None:
    vms.done(True, autostart=True)
    two = {
        "vm1": {"state": "absent", "directory": f"{vms.base}/vm1"},
        "vm2": {"directory": f"{vms.base}/vm2", "autostart": True},
    }
    vms.done(True, machines=two)
    assert os.path.isdir(json.loads((vms.base / "vm2" / "vm.json").read_text())["code"])


@root_only
def test_a_unit_that_is_not_ours(vms: Machines, systemd: Systemd) -> None:
    systemd.unit.write_text("[Service]\nExecStart=/bin/true\n")
    for state in ("running", "absent"):
        assert "has not made" in vms.refused(**ON_SYSTEMD, state=state)
    assert systemd.unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    systemd.unit.unlink()
    vms.base.chmod(0o777)
    assert f"others than root can write to {vms.base}" in vms.refused(**ON_SYSTEMD)
    nothing_is_there(vms, "units")


@root_only
def test_a_unit_whose_restart_fails(vms: Machines, systemd: Systemd) -> None:
    # a process can't tell of the script that the test bed starts it by
    has = {**ON_SYSTEMD, "binary": shutil.which("qemu-system-x86_64"), "power": "running"}
    vms.done(True, **has)
    text = systemd.unit.read_text()
    bad: dict[str, Any] = {"arguments": {"nosuch": True}, "restart_allowed": True}
    for first in ("as it was started", "with other arguments the next time"):
        if first != "as it was started":
            vms.done(False, **{**has, "memory": "96M"})
        before = vms.processes()
        said = vms.refused(**has, **bad)
        assert "-nosuch: invalid option" in said and "taken back: " in said
        assert vms.processes() != before and systemd.unit.read_text() == text
        with vms.observer() as observer:
            assert observer.execute("query-status")["status"] == "running"
        vms.done(False, **has)


@root_only
def test_an_undo_that_fails_does_not_hide_the_reason(vms: Machines, systemd: Systemd) -> None:
    (systemd.units / "breaks").touch()
    said = vms.refused(**ON_SYSTEMD, arguments={"nosuch": True})
    assert "-nosuch: invalid option" in said and "could not be taken back" in said and "systemd is broken" in said
    assert vms.processes() == {} and not systemd.unit.exists()


def test_secrets_are_given_as_files(vms: Machines) -> None:
    """What it has is kept on the host. A display's password is set later, and is none."""
    vms.done(True, vnc=f"unix:{vms.base}/vnc,password=on")
    secret = {"id": "sec0", "qom_type": "secret", "options": {"data": "hush"}}
    for has in ({"vnc": f"unix:{vms.base}/vnc2,password=hush"}, {"objects": [secret]}):
        said = vms.run(name="vm2", **has)
        assert said.rc != 0 and "in plain words" in said.output and "hush" not in said.output


def test_a_machine_does_not_start_from_below_a_snapshot(vms: Machines) -> None:
    """The guest would be in the past, and what it wrote since would not fit to its disks any more."""
    data = {"id": "data", "filename": f"{vms.base}/vm1/data", "format": "qcow2", "size": "1M", "bus": "rp0"}
    has: dict[str, Any] = {"disk_size": "1M", "disks": [data]}
    vms.done(True, **has)
    socket = str(vms.base / "vm1/run/qmp")
    run_module(socket, "qemu_disk_snapshot", name="before")
    vms.done(False, **has)
    files = vms.files()
    pid = vms.processes()["vm1"]
    below = f"lies below {vms.base}/vm1/disk@before.qcow2"
    for check in (True, False):
        assert below in vms.refused(**has, memory="96M", restart_allowed=True, check=check)
    assert vms.processes() == {"vm1": pid} and vms.files() == files
    vms.done(True, state="stopped")
    for check in (True, False):
        assert below in vms.refused(**has, check=check)
    (vms.base / "vm1/disk@before.qcow2").unlink()
    for check in (True, False):
        assert "disks[0]" in vms.refused(**has, check=check)
    assert vms.processes() == {}

    vms.done(True, disk_size="1M", disks=[{**data, "filename": f"{vms.base}/vm1/data@before.qcow2"}])
    run_module(socket, "qemu_disk_snapshot", name="before", state="absent", disks=["data"])
    vms.done(True, state="stopped")
    vms.done(True, **has)
    (vms.base / "elsewhere").mkdir()
    run_module(socket, "qemu_disk_snapshot", name="far", directory=str(vms.base / "elsewhere"))
    pid = vms.processes()["vm1"]
    far = f"lies below {vms.base}/elsewhere/disk@far.qcow2"
    for check in (True, False):
        assert far in vms.refused(**has, memory="96M", restart_allowed=True, check=check)
    assert vms.processes() == {"vm1": pid}
    assert far in str(vms.done(True, state="stopped", **has).tasks[0].result["warnings"])
