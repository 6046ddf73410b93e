# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm: a life, what it refuses, and what it leaves behind. Guests that boot are in extensions/molecule."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.plays import PlayRun
from support.roles import Roles
from support.vm import BED, process_exists

MIB = 1 << 20
RUN = {"run", "run/agent", "run/console", "run/console.log", "run/monitor", "run/pid", "run/qemu.log", "run/qmp"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces, and become somebody else")


@pytest.fixture
def roles() -> Iterator[Roles]:
    made = Roles()
    yield made
    made.close()


def image(roles: Roles, name: str = "base.qcow2", size: str = "8M") -> tuple[str, str]:
    """A new image, and its checksum."""
    path = roles.base / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return str(path), f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def nothing_is_there(roles: Roles, *but: str) -> None:
    assert roles.processes() == {}
    assert {path.name for path in roles.base.iterdir()} - {"home"} == set(but)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while process_exists(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_its_life(roles: Roles) -> None:
    has: dict[str, Any] = {
        "disk_size": "8M",
        "user_data": {"password": "hush"},
        "disks": [{"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0"}],
    }
    assert any(task.changed for task in roles.run(check=True, **has).tasks)
    nothing_is_there(roles)
    assert "hush" not in roles.done(True, **has).output
    pid = roles.processes()["vm1"]
    assert roles.files() == {"disk.qcow2", "data", "run/seed.iso", *RUN}
    with roles.observer() as observer:
        assert {"disk", "seed", "data", "agent0", "rp0", "rp7"} <= set(observer.devices())
        assert observer.execute("query-status")["status"] == "prelaunch"
    for path in (roles.base / "vm1", roles.base / "vm1" / "run"):
        assert path.stat().st_mode & 0o777 == 0o700
    for name in ("disk.qcow2", "data", "run/seed.iso"):
        assert (roles.base / "vm1" / name).stat().st_mode & 0o777 == 0o600
    for check in (True, False):
        roles.done(False, check=check, **has)

    # a process that was killed leaves its sockets and its pidfile
    kill(pid)
    assert roles.files() >= RUN
    roles.done(True, **has)
    pid = roles.processes()["vm1"]

    for check in (True, False):
        roles.done(True, check=check, state="stopped", **has)
        assert bool(roles.processes()) == check
    roles.done(False, state="stopped", **has)
    roles.done(True, **{**has, "disk_size": "16M"})
    with roles.observer() as observer:
        assert observer.execute("query-block")[0]["inserted"]["image"]["virtual-size"] == 16 * MIB
    roles.done(True, state="absent")
    assert roles.files() == {"disk.qcow2", "data"} and roles.processes() == {}
    roles.done(False, state="absent")
    roles.done(True, **{**has, "disk_size": "16M"}, power="running")
    roles.done(True, state="absent", remove_data=True)
    nothing_is_there(roles)
    roles.done(False, state="absent", remove_data="yes", shutdown_timeout="0")


def test_a_restart_is_told_and_done_when_allowed(roles: Roles) -> None:
    roles.done(True)
    pid = roles.processes()["vm1"]
    for check in (True, False):
        told = roles.done(False, check=check, memory="96M")
        assert "vm1 runs with other arguments" in str(told["vmm.qemu.vm : Report what a restart would change"].result)
    roles.done(True, check=True, memory="96M", restart_allowed=True)
    assert roles.processes() == {"vm1": pid}
    roles.done(True, memory="96M", restart_allowed="yes")  # as -e has it
    assert roles.processes()["vm1"] != pid
    roles.done(False, memory="96M")


def test_cpus_up_to_all(roles: Roles) -> None:
    roles.done(True, vcpus=1, vcpus_max=2)
    pid = roles.processes()["vm1"]
    for most in (1, 2):
        assert "vm_vcpus is 4" in roles.refused(vcpus=4, vcpus_max=most)
    for changed in (True, False):
        assert "vm1 runs with" not in roles.done(changed, vcpus=2, vcpus_max=2).output
    with roles.observer() as observer:
        assert len(observer.execute("query-cpus-fast")) == 2
    assert roles.processes() == {"vm1": pid}


def test_one_more_device_without_a_list(roles: Roles) -> None:
    roles.done(True, disk_size="1M", arguments={"device": {"driver": "virtio-keyboard-pci", "id": "kbd"}})
    with roles.observer() as observer:
        assert {"kbd", "disk", "rp0", "agent0"} <= set(observer.devices())


def test_a_disk_for_a_machine_that_runs_without_or_with_another(roles: Roles) -> None:
    roles.done(True)
    for changed in (True, False):  # its image is made
        assert "vm1 runs with other arguments" in roles.done(changed, disk_size="8M").output
    roles.done(True, disk_size="8M", restart_allowed=True)
    other = {"disk": f"{roles.base}/vm1/other.qcow2", "disk_size": "16M"}
    assert "vm1 runs with other arguments" in roles.done(True, **other).output
    with roles.observer() as observer:
        (disk,) = observer.execute("query-block")
    assert disk["inserted"]["image"]["virtual-size"] == 8 * MIB
    roles.done(False, disk_size="8M")


def test_a_data_disk_that_is_named_present_and_values_that_are_empty(roles: Roles) -> None:
    data = {"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0", "state": "present"}
    empty = dict.fromkeys(("user_data", "network_config", "image", "image_checksum", "disk_size"))
    roles.done(True, disks=[data], **empty)
    assert roles.files() == {"data", *RUN}


def test_a_disk_is_grown_if_it_is_the_one_that_it_runs_on(roles: Roles) -> None:
    has = {"disk": f"{roles.base}/vm1/disk.qcow2,old"}  # QEMU has the comma twice
    roles.done(True, **has, disk_size="8M")
    for variables, size in (({"disk_size": "16M"}, 8), ({**has, "disk_size": "16M"}, 16)):
        roles.done(True, **variables)
        with roles.observer() as observer:
            (disk,) = observer.execute("query-block")
        assert disk["inserted"]["image"]["virtual-size"] == size * MIB


def test_a_directory_that_is_a_link(roles: Roles) -> None:
    """All in a virtual machine's directory goes with it, and of a link only the link would."""
    (roles.base / "elsewhere").mkdir()
    (roles.base / "elsewhere" / "disk.qcow2").touch()
    (roles.base / "vm1").symlink_to("elsewhere")
    for variables in ({"disk_size": "1M"}, {"state": "absent", "remove_data": True}):
        assert "no symbolic link" in roles.refused(**variables)
    nothing_is_there(roles, "vm1", "elsewhere")
    assert [path.name for path in (roles.base / "elsewhere").iterdir()] == ["disk.qcow2"]


@root_only
@pytest.mark.parametrize("what", ["run", "run/qemu.log", "run/console.log", "run/pid", "data"])
def test_what_its_user_puts_in_the_place_of_a_file(roles: Roles, what: str) -> None:
    """Root follows no link of the virtual machine's user's: what it leads to stays whose it is, and as it is."""
    has = {
        "user": "nobody",
        "disks": [{"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0"}],
    }
    roles.base.chmod(0o755)
    roles.done(True, **has)
    roles.done(True, **has, state="stopped")
    victim, path = roles.base / "victim", roles.base / "vm1" / what
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
    assert "link" in roles.refused(**has)
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (0, before.st_mode, before.st_mtime_ns)
    assert roles.processes() == {}


def test_directories_that_others_can_pass(roles: Roles) -> None:
    directory = roles.base / "deep" / "vm1"
    roles.done(True, directory=str(directory))
    modes = [path.stat().st_mode & 0o777 for path in (directory.parent, directory, directory / "run")]
    assert modes == [0o711, 0o700, 0o700]
    directory.chmod(0o755)
    roles.done(True, directory=str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_restart_that_fails_brings_back_what_ran(roles: Roles) -> None:
    data = {"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0"}
    has: dict[str, Any] = {"power": "running", "disk_size": "8M", "disks": [data]}
    roles.done(True, **has)
    before, files = roles.processes(), roles.files()
    again = "it was started again with the arguments that it had"
    said = roles.refused(**has, arguments={"nosuch": True}, restart_allowed=True)
    assert "-nosuch: invalid option" in said and said.endswith(again)
    assert roles.processes() != before and roles.files() == files
    with roles.observer() as observer:
        assert observer.execute("query-status")["status"] == "running" and "data" in observer.devices()
    roles.done(False, **has)

    # the arguments are good, and a device is not: no disk that was made for it stays
    new = {"id": "new", "filename": f"{roles.base}/vm1/new", "size": "1M", "bus": "rp1"}
    bad = {"id": "bad", "filename": "/nonexistent.img", "bus": "rp2"}
    said = roles.refused(**{**has, "disks": [data, new, bad]}, memory="96M", restart_allowed=True)
    assert "/nonexistent.img" in said and f"{again}, and without what had been plugged in" in said
    assert roles.files() == files
    with roles.observer() as observer:
        assert observer.execute("query-status")["status"] == "running"
        assert observer.execute("query-memory-size-summary")["base-memory"] == 64 * MIB
    roles.done(True, **has)
    with roles.observer() as observer:
        assert "data" in observer.devices()


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
def test_root_runs_nothing_that_the_process_says_it_was_started_with(roles: Roles) -> None:
    """QEMU's user can write what it likes into the command line of its own process."""
    hostile, trace = roles.base / "hostile", roles.base / "trace"
    hostile.write_text(f"#!/bin/sh\n: >{trace}\n")
    hostile.chmod(0o755)
    bad: dict[str, Any] = {"arguments": {"nosuch": True}, "restart_allowed": True}
    roles.done(True)
    before = roles.processes()
    words = Path(f"/proc/{before['vm1']}/cmdline").read_text().split("\0")[:-1]
    claim(before["vm1"], [str(hostile).rjust(len(words[0]), "/"), *words[1:]])
    assert "it was started again" in roles.refused(**bad)  # with the program that root started
    assert not trace.exists()
    before = roles.processes()
    claim(before["vm1"], [str(hostile), "-name", "vm1", "-D", str(roles.base)])
    for check in (True, False):
        assert "has another command line than" in roles.refused(check=check, **bad)
    assert not trace.exists() and roles.processes() == before
    roles.done(True, state="absent")
    assert not roles.record().exists()


def test_what_runs_again_has_no_environment_of_the_operators(roles: Roles) -> None:
    roles.environment = {"VAULT_PASSWORD": "hunter2"}
    for again in (False, True):
        if again:
            assert "started again" in roles.refused(arguments={"nosuch": True}, restart_allowed=True)
        else:
            roles.done(True)
        assert b"hunter2" not in Path(f"/proc/{roles.processes()['vm1']}/environ").read_bytes()


@pytest.mark.parametrize("before", ["nothing", "stopped", "running"])
def test_a_guest_that_has_run_is_not_ended_by_an_undo(roles: Roles, before: str) -> None:
    """The last step needs a guest, and this one has no system to follow."""
    has: dict[str, Any] = {"power": "running", "memory": "128M", "disk_size": "8M"}
    late = {**has, "balloon": "96M", "plug_timeout": 2}
    if before != "nothing":
        roles.done(True, **has)
    if before == "stopped":
        roles.done(True, **has, state="stopped")
    if before == "running":
        late |= {"memory": "160M", "restart_allowed": True}
    said = roles.refused(**late)
    assert "balloon: size" in said and said.endswith("; its guest has run, so it was not ended")
    assert {"disk.qcow2", "run/qmp"} <= roles.files() and list(roles.processes()) == ["vm1"]
    with roles.observer() as observer:
        assert observer.execute("query-status")["status"] == "running"
        assert (
            observer.execute("query-memory-size-summary")["base-memory"] == (160 if before == "running" else 128) * MIB
        )
    roles.done(False, **{**late, "balloon": ""})


def test_a_paused_guest_is_not_stopped_unless_that_is_said(roles: Roles) -> None:
    roles.done(True, power="running")
    roles.done(True, power="paused")
    before = roles.processes()
    for variables in ({"state": "stopped"}, {"state": "absent"}, {"memory": "96M", "restart_allowed": True}):
        assert "its status is paused" in roles.refused(**variables, shutdown_timeout=5)
        assert roles.processes() == before
    roles.done(True, state="stopped", shutdown_timeout=0)
    assert roles.processes() == {}


@contextlib.contextmanager
def another_play(roles: Roles, **wanted: Any) -> Iterator[list[PlayRun]]:
    """A play that has looked at the machine, and starts it when the block is over; then its end is in the list."""
    going, go, tools = roles.base / "going", roles.base / "go", roles.base / "tools"
    tools.mkdir()
    program = tools / "qemu-img"
    real = shutil.which("qemu-img")
    program.write_text(f'#!/bin/sh\n: >{going}\nwhile [ ! -e {go} ]; do sleep 0.1; done\nexec {real} "$@"\n')
    program.chmod(0o755)
    second, runs = Roles(), list[PlayRun]()
    second.environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    wanted["directory"] = f"{roles.base}/vm1"
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


def test_an_undo_leaves_a_machine_that_another_play_started(roles: Roles) -> None:
    """The other one starts it between this one's look and its start."""
    bad = {"id": "d0", "filename": "/nonexistent.img", "bus": "rp0"}
    new = {"id": "new", "filename": f"{roles.base}/vm1/new", "size": "1M", "bus": "rp1"}
    with another_play(roles, disks=[new, bad]) as runs:
        roles.done(True)
        before = roles.processes()
    assert runs[0].rc != 0 and "/nonexistent.img" in runs[0].output
    assert roles.processes() == before and roles.files() >= RUN
    roles.done(False)


def test_a_machine_that_another_play_started_with_other_arguments(roles: Roles) -> None:
    data = {"id": "data", "filename": f"{roles.base}/vm1/data", "size": "1M", "bus": "rp0"}
    with another_play(roles, disks=[data], memory="96M", restart_allowed=True) as runs:
        roles.done(True)
        before = roles.processes()
    assert runs[0].rc == 0, runs[0].output
    assert "vm1 runs with other arguments" in runs[0].output
    assert roles.processes() == before


def test_check_mode_on_a_machine_that_runs(roles: Roles) -> None:
    """What check mode neither makes, starts nor ends is no reason to fail."""
    roles.done(True, disk_size="8M")
    before, files = roles.processes(), roles.files()
    disk = {"id": "d0", "filename": f"{roles.base}/vm1/d0", "size": "1M"}
    ported: dict[str, Any] = {"root_ports": 10, "restart_allowed": True, "disks": [{**disk, "bus": "rp9"}]}
    roles.done(True, check=True, disk_size="8M", disks=[{**disk, "bus": "rp0"}])
    roles.done(True, check=True, disk_size="8M", **ported)
    roles.done(True, check=True, disk_size="8M", state="absent", remove_data=True)
    assert roles.processes() == before and roles.files() == files
    roles.done(True, disk_size="8M", **ported)
    roles.done(True, state="absent", remove_data=True)
    nothing_is_there(roles)


def test_a_balloon_of_a_guest_that_does_not_run(roles: Roles) -> None:
    roles.done(True, balloon="32M")
    roles.done(False, balloon="32M")
    roles.done(True, name="vm2", balloon="32M", power="running", incoming=True)


def test_a_changed_seed_asks_for_a_restart_only_with_another_instance_id(roles: Roles) -> None:
    """cloud-init reads a seed once for each."""
    was: dict[str, Any] = {"user_data": {"packages": ["old"]}}
    new: dict[str, Any] = {"user_data": {"packages": ["new"]}}
    unread, other = "vm1 has a new seed, and its guest does not read it", "vm1 runs with other arguments"
    assert unread not in roles.done(True, **was).output
    pid = roles.processes()["vm1"]
    for check in (True, False):
        said = roles.done(True, check=check, **new, restart_allowed=True).output
        assert unread in said and "that is still vm1" in said and other not in said
    assert unread not in roles.done(False, **new, restart_allowed=True).output
    assert roles.processes() == {"vm1": pid}
    new["meta_data"] = {"instance-id": "vm1-second"}
    for changed in (True, False):
        said = roles.done(changed, **new).output
        assert other in said and unread not in said
    assert roles.processes() == {"vm1": pid}
    roles.done(True, **new, restart_allowed=True)
    assert roles.processes()["vm1"] != pid
    said = roles.done(False, **new).output
    assert other not in said and unread not in said


def test_a_disk_stands_on_an_image(roles: Roles) -> None:
    base, checksum = image(roles)
    before = Path(base).read_bytes()
    fetched = {"image": f"file://{base}", "image_checksum": checksum, "disk_size": "16M"}
    roles.done(True, **fetched)
    (kept,) = (roles.base / ".images").iterdir()
    assert kept.read_bytes() == before
    roles.done(True, name="vm2", image=base, image_checksum=checksum)
    for name, size, stands_on in (("vm1", 16, str(kept)), ("vm2", 8, base)):
        with roles.observer(name) as observer:
            (disk,) = observer.execute("query-block")
        assert disk["inserted"]["image"]["virtual-size"] == size * MIB
        assert disk["inserted"]["backing_file"] == stands_on
    roles.done(False, name="vm2", image=base, image_checksum="sha256:" + "0" * 64)  # it has its disk
    assert Path(base).read_bytes() == before


def test_what_a_disk_stands_on_never_changes(roles: Roles) -> None:
    """A newer image under the URL of an older one, another URL with the same last part, and a list of checksums."""
    base, checksum = image(roles)
    published = roles.base / "published"
    others = roles.base / "other"
    sums = roles.base / "SUMS"
    for directory in (published, others):
        directory.mkdir()
    (published / "disk.qcow2").write_bytes(Path(base).read_bytes())
    sums.write_text(f"{checksum.removeprefix('sha256:')}  disk.qcow2\n")
    first = {"image": f"file://{published}/disk.qcow2"}
    listed = {**first, "image_checksum": f"sha256:file://{sums}"}
    roles.done(True, **first)
    roles.done(True, name="vm2", **listed)
    kept = {path: path.read_bytes() for path in (roles.base / ".images").iterdir()}
    assert set(kept.values()) == {Path(base).read_bytes()} and len(kept) == 2

    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(others / "disk.qcow2"), "16M"], check=True)
    newer = (others / "disk.qcow2").read_bytes()
    (published / "disk.qcow2").write_bytes(newer)
    sums.write_text(f"{hashlib.sha256(newer).hexdigest()}  disk.qcow2\n")
    later = time.time() + 3600
    os.utime(published / "disk.qcow2", (later, later))
    for number, variables in enumerate((first, listed, {"image": f"file://{others}/disk.qcow2"}), 3):
        roles.done(True, name=f"vm{number}", **variables)
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((roles.base / ".images").iterdir())) == 3
    (fetched,) = [path for path in (roles.base / ".images").iterdir() if path not in kept]
    assert fetched.read_bytes() == newer
    said = roles.refused(name="vm6", image=f"file://{base}", image_checksum=checksum.removeprefix("sha256:"))
    assert "write it as sha256:HEX" in said


@pytest.mark.parametrize("checksum", ["sha256:0123...", "sha256:file:///nonexistent/SUMS"])
def test_a_checksum_that_could_not_be_checked(roles: Roles, checksum: str) -> None:
    base, _checksum = image(roles)
    assert "write it as sha256:HEX" in roles.refused(image=base, image_checksum=checksum)
    nothing_is_there(roles, "base.qcow2")


@pytest.mark.parametrize("where", ["url", "path"])
def test_a_wrong_checksum(roles: Roles, where: str) -> None:
    base, checksum = image(roles)
    wrong = "sha256:" + "0" * 64
    said = roles.refused(image=f"file://{base}" if where == "url" else base, image_checksum=wrong)
    assert "0" * 64 in said and checksum.removeprefix("sha256:") in said
    nothing_is_there(roles, "base.qcow2", *({".images"} if where == "url" else ()))
    assert where == "path" or list((roles.base / ".images").iterdir()) == []


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
        ({"firmware": "uefi", "uefi_vars": "/nonexistent.fd"}, "vm_uefi_vars is /nonexistent.fd"),
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
def test_a_first_run_that_fails_leaves_nothing(roles: Roles, variables: dict[str, Any], words: str) -> None:
    assert words in roles.refused(**variables)
    nothing_is_there(roles)


def test_a_disk_smaller_than_its_image(roles: Roles) -> None:
    base, _checksum = image(roles)
    assert "cut off" in roles.refused(image=base, disk_size="4M")
    nothing_is_there(roles, "base.qcow2")


def test_an_image_that_another_uses(roles: Roles) -> None:
    roles.done(True, disk_size="1M")
    disk = {"id": "d0", "filename": f"{roles.base}/vm1/disk.qcow2", "format": "qcow2", "bus": "rp0"}
    assert "lock" in roles.refused(name="vm2", disk_size="1M", disks=[disk])
    assert list(roles.processes()) == ["vm1"] and not (roles.base / "vm2").exists()


def test_a_later_run_that_fails_leaves_what_was_there(roles: Roles) -> None:
    roles.done(True, disk_size="8M")
    before, files = roles.processes(), roles.files()
    bad = [{"id": "d0", "filename": "/nonexistent.img", "bus": "rp0"}]
    new = [{"id": "new", "filename": f"{roles.base}/vm1/new", "size": "1M", "bus": "rp1"}]
    assert "/nonexistent.img" in roles.refused(disk_size="8M", disks=new + bad)
    assert roles.processes() == before and roles.files() == files
    assert "8388608" in roles.refused(disk_size="4M")
    assert roles.processes() == before and roles.files() == files
    roles.done(True, state="stopped")
    assert "/nonexistent.img" in roles.refused(disk_size="8M", disks=bad)
    assert roles.processes() == {} and "disk.qcow2" in roles.files()
    roles.done(True, disk_size="8M")


@root_only
def test_no_space(roles: Roles) -> None:
    small = roles.base / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=64k tmpfs "$0" && "$@"; code=$?; ls -A "$0" >"$0.left"; exit $code'
    roles.prefix = ["unshare", "--mount", "sh", "-c", script, str(small)]
    assert "No space left on device" in roles.refused(directory=f"{small}/vm1", disk_size="8M")
    assert (roles.base / "small.left").read_text() == "" and roles.processes() == {}


@root_only
def test_taps_come_and_go(roles: Roles) -> None:
    script = "mount -t sysfs sysfs /sys && ip link add br0 type bridge && echo ready && exec sleep 600"
    with subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
            roles.prefix = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", f"--mount=/proc/{holder.pid}/ns/mnt"]
            taps_come_and_go(roles)
        finally:
            holder.kill()


def taps_come_and_go(roles: Roles) -> None:
    def links() -> dict[str, str]:
        done = subprocess.run([*roles.prefix, "ip", "-brief", "link"], check=True, stdout=subprocess.PIPE, text=True)
        return {line.split()[0]: line for line in done.stdout.splitlines() if not line.startswith("lo")}

    nic = {"netdev": {"type": "tap", "ifname": "vm1-0", "script": "no", "downscript": "no"}, "bus": "rp1"}
    has: dict[str, Any] = {
        "taps": [{"name": "vm1-0", "bridge": "br0"}, {"name": "vm1-1"}],
        "nics": [{"id": "net0", **nic}],
    }
    assert "nosuchbridge" in roles.refused(taps=[{"name": "vm1-0", "bridge": "nosuchbridge"}])
    nothing_is_there(roles)
    assert set(links()) == {"br0"}
    assert any(task.changed for task in roles.run(check=True, **has).tasks)
    assert set(links()) == {"br0"}
    roles.done(True, **has)
    assert set(links()) == {"br0", "vm1-0", "vm1-1"} and "UP" in links()["vm1-0"]
    roles.done(False, **has)
    with roles.observer() as observer:
        assert "net0" in observer.devices()
    roles.done(True, **has, state="absent")
    assert set(links()) == {"br0"}
    nothing_is_there(roles)

    # what has the name and is not a tap, or is one that another made
    for check in (True, False):
        assert "names br0, which is there and is not a tap but a bridge" in roles.refused(
            check=check, taps=[{"name": "br0"}]
        )
    subprocess.run([*roles.prefix, "ip", "tuntap", "add", "dev", "vm1-1", "mode", "tap"], check=True)
    for taps in ([{"name": "br0"}], has["taps"]):
        roles.run(taps=taps)
        roles.run(taps=taps, state="absent")
    assert set(links()) == {"br0", "vm1-1"} and roles.processes() == {}


# -- systemd -----------------------------------------------------------------------------------------------------------

# What the role has systemd do, done by hand: systemd itself runs in no test bed. It reads the unit as systemd.service(5)
# and systemd.exec(5) say, and starts what that names.
SYSTEMCTL = """#!{python}
import os, re, shlex, subprocess, sys
verb, *rest = [word for word in sys.argv[1:] if not word.startswith("-")]
unit = os.path.join("{units}", rest[0]) if rest else ""
def entries(name): return re.findall(rf"^{{name}}=(.*)$", open(unit).read(), re.M)
with open("{units}/log", "a") as log: log.write(" ".join([verb, *rest]) + "\\n")
if verb == "show":
    pid = entries("PIDFile")[0] if os.path.exists(unit) else ""
    runs = bool(pid) and os.path.exists(pid) and os.path.exists("/proc/" + open(pid).read().strip())
    print("LoadState=" + ("loaded" if os.path.exists(unit) else "not-found"))
    print("ActiveState=" + ("active" if runs else "inactive"))
elif verb == "is-enabled":
    print("disabled"); sys.exit(1)
elif verb == "daemon-reload" and os.path.exists("{units}/breaks") and "start " in open("{units}/log").read():
    sys.exit("systemd is broken")
elif verb == "start":
    given = dict(os.environ)
    for path in entries("EnvironmentFile"):
        if os.path.exists(path.lstrip("-")):
            given.update(line.strip().split("=", 1) for line in open(path.lstrip("-")))
    words = []
    for quoted, name in re.findall(r'"((?:[^"\\\\]|\\\\.)*)"|[$]([A-Z_]+)', entries("ExecStart")[0]):
        word = re.sub(r"\\\\(.)", lambda found: dict(n="\\n").get(found[1], found[1]), quoted)
        words += given.get(name, "").split() if name else [word.replace("%%", "%").replace("$$", "$")]
    sys.exit(subprocess.run(words, cwd="/").returncode)
"""


def systemd(roles: Roles) -> tuple[Path, dict[str, Any]]:
    """The directory of this systemd's units, and what the role must be told to use it."""
    units = roles.base / "units"
    systemctl = units / "bin" / "systemctl"
    systemctl.parent.mkdir(parents=True)
    systemctl.write_text(SYSTEMCTL.format(python=sys.executable, units=units))
    systemctl.chmod(0o755)
    roles.environment = {"PATH": f"{systemctl.parent}:{os.environ['PATH']}"}
    own = {"__vm_unit_directory": str(units), "__vm_unit_environment": f"{units}/begin.env"}
    return units, {"service": "systemd", "disk_size": "1M", **own}


def test_a_unit(roles: Roles) -> None:
    units, has = systemd(roles)
    has |= {"append": 'a "quoted" 100% $HOME \\ word\nExecStart=\\n', "kernel": f"{BED}/guest/vmlinuz"}
    unit = units / "vmm-qemu-vm1.service"
    nowhere = {"blockdev": [{"driver": "file", "node-name": "n0", "filename": "/nonexistent.img"}]}
    assert "/nonexistent.img" in roles.refused(**has, arguments=nowhere)
    nothing_is_there(roles, "units")
    assert {path.name for path in units.iterdir()} == {"bin", "log"}
    assert any(task.changed for task in roles.run(check=True, **has).tasks)
    assert not unit.exists()
    roles.done(True, **has)
    assert unit.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = unit.read_text()
    assert "TimeoutStartSec=60\nTimeoutStopSec=1\n" in text  # 0 would be no limit
    words = Path(f"/proc/{roles.processes()['vm1']}/cmdline").read_text().split("\0")
    assert words[-2] == "-S" and words[words.index("-append") + 1] == has["append"]
    assert not (units / "begin.env").exists()
    assert (units / "log").read_text().splitlines().count("start vmm-qemu-vm1.service") == 2
    roles.done(False, **has)

    # without the role its guest runs at once, and systemd's way to stop it is the power button
    roles.done(True, **has, state="stopped")
    subprocess.run([units / "bin" / "systemctl", "start", unit.name], check=True)
    with roles.observer() as observer:
        assert observer.execute("query-status")["status"] == "running"
        command = [word.replace("%%", "%") for word in shlex.split(re.findall("^ExecStop=-(.*)$", text, re.M)[0])]
        stopping = subprocess.Popen(command)
        observer.wait_event("POWERDOWN")
        assert stopping.poll() is None
        observer.execute("quit")
    assert stopping.wait(30) == 0
    # systemd runs it also when QEMU has ended by itself
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

    roles.done(True, **has)
    roles.done(True, **has, state="absent", remove_data=True)
    nothing_is_there(roles, "units")
    assert {path.name for path in units.iterdir()} == {"bin", "log"}


def test_a_unit_whose_restart_fails(roles: Roles) -> None:
    units, has = systemd(roles)
    unit = units / "vmm-qemu-vm1.service"
    # a process can't tell of the script that the test bed starts it by
    has |= {"binary": shutil.which("qemu-system-x86_64"), "power": "running"}
    roles.done(True, **has)
    text = unit.read_text()
    bad: dict[str, Any] = {"arguments": {"nosuch": True}, "restart_allowed": True}
    for first in ("by the role", "by systemd", "by systemd, before the unit changed"):
        before = roles.processes()
        if first != "by the role":
            roles.record().unlink()  # as after a reboot
        if first == "by systemd, before the unit changed":
            roles.done(True, **{**has, "memory": "96M"})
            assert unit.read_text() != text
        said = roles.refused(**has, **bad)
        assert "-nosuch: invalid option" in said and "it was started again" in said
        assert roles.processes() != before and unit.read_text() == text
        with roles.observer() as observer:
            assert observer.execute("query-status")["status"] == "running"
        roles.done(False, **has)


def test_an_undo_that_fails_does_not_hide_the_reason(roles: Roles) -> None:
    units, has = systemd(roles)
    (units / "breaks").touch()
    said = roles.refused(**has, arguments={"nosuch": True})
    assert "-nosuch: invalid option" in said and "not all could be removed" in said and "systemd is broken" in said
    assert roles.processes() == {} and not (units / "vmm-qemu-vm1.service").exists()


def test_a_display_with_a_password_that_is_set_later(roles: Roles) -> None:
    _units, has = systemd(roles)
    roles.done(True, **has, vnc=f"unix:{roles.base}/vnc,password=on")
    assert "secret in plain words" in roles.refused(**has, name="vm2", vnc=f"unix:{roles.base}/vnc2,password=hush")


def test_systemd_is_for_root_only(roles: Roles) -> None:
    """Who can't write units has a daemon."""
    units, has = systemd(roles)
    has |= {"service": "auto", "__vm_service_manager": "systemd"}
    for uid, unit in ((0, True), (1000, False)):
        (units / "bin" / "id").write_text(f"#!/bin/sh\necho {uid}\n")
        (units / "bin" / "id").chmod(0o755)
        roles.done(True, **has)
        assert (units / "vmm-qemu-vm1.service").exists() == unit
        roles.done(True, **has, state="absent", remove_data=True)
