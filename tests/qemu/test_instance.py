# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_instance: the life of a QEMU process."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply
from ansible_collections.vmm.qemu.plugins.module_utils._provision.instance import OPTIONS
from ansible_collections.vmm.qemu.plugins.module_utils._provision.instance import Instance as Process
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.architectures import HOST
from support.modules import ModuleFailed, run_module
from support.observer import Observer
from support.timing import no_hang
from support.vm import BED, CMDLINE, VM, is_since, process_exists, qemu_binary

QUIT = {"execute": "quit", "arguments": {}}
POWERDOWN = {"execute": "system_powerdown", "arguments": {}}
BARE = {"nodefaults": True, "no-user-config": True, "display": "none", "S": True}


class Instance:
    """A VM that the module starts in a directory of its own."""

    def __init__(self, version: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inst-", dir="/tmp"))
        self.socket = str(self.directory / "qmp")
        self.pidfile = self.directory / "qmp.pid"
        self.serial = self.directory / "serial.log"
        self.version = version
        self.binary = str(qemu_binary(version))

    def options(self, **options: Any) -> dict[str, Any]:
        return {"name": "inst", "socket": self.socket, "binary": self.binary, "arguments": BARE, **options}

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        return run_module(None, "qemu_instance", check=check, diff=True, **self.options(**options))

    def fail(self, check: bool = False, **options: Any) -> str:
        with pytest.raises(ModuleFailed) as failed:
            self.run(check, **options)
        return str(failed.value)

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}

    def processes(self) -> set[int]:
        """The processes whose command line names the directory."""
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self.directory).encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
        return found

    def guest(self) -> dict[str, Any]:
        """The arguments of a VM with a guest that answers the power button."""
        return {
            **{key: value for key, value in BARE.items() if key != "S"},
            "accel": "tcg",
            "m": 256,
            "machine": "q35",
            "kernel": f"{BED}/guest/vmlinuz",
            "initrd": f"{BED}/guest/initrd.gz",
            "append": CMDLINE,
            "serial": f"file:{self.serial}",
        }

    def wait_guest(self) -> None:
        end = time.monotonic() + 60
        while "GUEST-STATE" not in (self.serial.read_text(errors="replace") if self.serial.exists() else ""):
            assert time.monotonic() < end, "the guest is not up"
            time.sleep(0.05)


@pytest.fixture
def instance(qemu_version: str) -> Iterator[Instance]:
    made = Instance(qemu_version)
    yield made
    for pid in made.processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made.directory)


def wait_dead(pid: int) -> None:
    end = time.monotonic() + 10
    while process_exists(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_restart_that_ends_qemu_and_does_not_start_it_says_what_was_sent(instance: Instance) -> None:
    pid = instance.run()["pid"]
    with pytest.raises(ModuleFailed, match="no-such-device") as failed:
        instance.run(state="restarted", arguments={**BARE, "device": "no-such-device"})
    wait_dead(pid)
    assert (failed.value.result["changed"], failed.value.result["commands"]) == (True, [QUIT])


def test_its_life(instance: Instance) -> None:
    foretold = instance.run(check=True)
    assert instance.files == set() and instance.processes() == set()
    started = instance.run()
    for result in (foretold, started):
        assert result["changed"] and result["commands"] == [] and not result["restart_required"]
        assert result["instance"]["state"] == "started"
    assert foretold["command_line"] == started["command_line"]
    assert foretold["diff"] == started["diff"]
    assert started["diff"]["before"] == {"state": "stopped"}
    assert started["diff"]["after"]["arguments"][:2] == ["-name", "inst"]
    pid = started["pid"]
    assert instance.processes() == {pid} == {int(instance.pidfile.read_text())}
    assert started["instance"]["status"] == "prelaunch"

    for check in (True, False):
        again = instance.run(check=check)
        assert not again["changed"] and again["pid"] == pid and not again["restart_required"]
        assert again["diff"]["before"] == again["diff"]["after"]

    foretold = instance.run(check=True, state="restarted")
    assert process_exists(pid)
    restarted = instance.run(state="restarted")
    for result in (foretold, restarted):
        assert result["changed"] and result["commands"] == [QUIT]
    assert not process_exists(pid) and restarted["pid"] != pid
    assert instance.processes() == {restarted["pid"]}

    foretold = instance.run(check=True, state="stopped")
    assert process_exists(restarted["pid"])
    stopped = instance.run(state="stopped")
    for result in (foretold, stopped):
        assert result["changed"] and result["commands"] == [QUIT] and result["pid"] is None
        assert result["diff"]["after"] == {"state": "stopped"}
    assert instance.processes() == set() and instance.files == set()
    for check in (True, False):
        gone = instance.run(check=check, state="stopped")
        assert not gone["changed"] and gone["commands"] == []

    assert instance.run(state="restarted")["changed"]
    assert len(instance.processes()) == 1


def test_no_qemu_warns_of_how_its_monitors_are_made(instance: Instance) -> None:
    """QEMU 11.1 warns of -mon at every start. By which option a monitor is made, is no difference."""
    started = instance.run(events_socket=f"{instance.directory}/events")
    assert started["warnings"] == []
    line = started["instance"]["command_line"]
    for check in (True, False):
        again = instance.run(check=check, events_socket=f"{instance.directory}/events")
        assert not again["changed"] and not again["restart_required"]
    # as it was started by an earlier version
    instance.run(state="stopped")
    before = line
    for ident in ("vmm-qmp", "vmm-events"):
        at = before.index(f"chardev:{ident}")
        before = [*before[: at - 1], "-mon", f"chardev={ident},mode=control", *before[at + 1 :]]
    subprocess.run(before, check=True, stderr=subprocess.DEVNULL)
    again = instance.run(events_socket=f"{instance.directory}/events")
    assert not again["changed"] and not again["restart_required"] and "-mon" in again["instance"]["command_line"]
    # who reads the diff of a restart sees what is another
    restarted = instance.run(
        state="restarted", arguments={**BARE, "m": 96}, events_socket=f"{instance.directory}/events"
    )
    before, after = (restarted["diff"][side]["arguments"] for side in ("before", "after"))
    assert [text for text in after if text not in before] == ["-m", "96"] and set(before) < set(after)


def test_a_monitor_for_events(instance: Instance) -> None:
    """One that runs without it is given it where QEMU can do that, else with its next start; what is left of it goes."""
    events = instance.directory / "events"
    instance.run()
    live = is_since(instance.version, "11.1")
    for check, changed in ((True, live), (False, live), (True, False), (False, False)):
        again = instance.run(check=check, events_socket=str(events))
        assert again["changed"] == changed and not again["restart_required"]
        assert [one["execute"] for one in again["commands"]] == ["chardev-add", "object-add"] * changed
        added = {"events_socket": str(events)} if changed else {}
        assert {**again["diff"]["before"], **added} == again["diff"]["after"]
    assert instance.files == {"qmp", "qmp.pid", *(["events"] if live else [])}
    assert instance.run(events_socket=str(events), arguments={**BARE, "m": 64})["restart_required"]
    pid = instance.run(state="restarted", events_socket=str(events))["pid"]
    with contextlib.closing(Observer(str(events))):
        for again in (instance.run(), instance.run(events_socket=str(events))):
            assert (again["changed"], again["restart_required"], again["pid"]) == (False, False, pid)
        os.kill(pid, signal.SIGKILL)
        wait_dead(pid)
    assert events.exists()
    instance.run(state="stopped", events_socket=str(events))
    assert instance.files == set()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(events))
        other.listen()
        for check in (True, False):
            assert "something listens at" in instance.fail(check, events_socket=str(events))
        assert instance.files == {"events"}


def test_changed_arguments_are_reported_and_not_applied(instance: Instance) -> None:
    pid = instance.run(arguments={**BARE, "m": 128})["pid"]
    for arguments in ({**BARE, "m": 256}, BARE, {**BARE, "m": 128, "smp": 2}, {"m": 128, **BARE}):
        for check in (True, False):
            result = instance.run(check=check, arguments=arguments)
            assert not result["changed"] and result["restart_required"] and result["pid"] == pid
            assert result["instance"]["restart_required"]
    assert not instance.run(arguments={**BARE, "m": "128"})["restart_required"]
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", 128]
    assert not instance.run(arguments=words)["restart_required"]
    begins_otherwise = {"m": 128, **{key: value for key, value in BARE.items() if key != "S"}, "incoming": "defer"}
    instance.run(state="restarted", arguments=begins_otherwise)
    assert instance.run(arguments={"m": 129, **BARE})["restart_required"]
    assert not instance.run(arguments={"m": 128, **BARE})["restart_required"]
    changed = instance.run(state="restarted", arguments={**BARE, "m": 256})
    assert changed["diff"]["before"]["arguments"] != changed["diff"]["after"]["arguments"]
    assert not instance.run(arguments={**BARE, "m": 256})["restart_required"]


def test_another_binary_is_a_changed_argument(instance: Instance, qemu_version: str) -> None:
    instance.run()
    other = "/usr/bin/qemu-system-x86_64"
    assert instance.run(binary=other)["restart_required"] == (qemu_version != HOST)


def test_suboptions_arrive_as_they_were_written(instance: Instance) -> None:
    image = instance.directory / "a,b.img"
    image.write_bytes(bytes(1 << 20))
    arguments = {
        **BARE,
        "blockdev": [
            {"driver": "raw", "node-name": "n0", "read-only": True, "file": {"driver": "file", "filename": str(image)}}
        ],
        "device": [{"driver": "pcie-root-port", "id": "rp0"}, "virtio-rng-pci,id=rng0,bus=rp0"],
        "machine": {"type": "q35", "hpet": False},
        "no-reboot": None,
        "snapshot": False,
        "object": {"qom-type": "secret", "id": "s0", "data": "hush,hush"},
    }
    result = instance.run(arguments=arguments)
    assert "hush" not in str(result)
    assert "hush,,hush" in Path(f"/proc/{result['pid']}/cmdline").read_text()
    line = result["command_line"]
    assert "-no-reboot" in line and "-snapshot" not in line and "type=q35,hpet=off" in line
    (node,) = (run_module(instance.socket, "qemu_blockdev", node_name="n0", read_only=True)["blockdev"],)
    assert node
    assert not instance.run(arguments=arguments)["restart_required"]


def test_a_failed_start_says_why_and_leaves_nothing(instance: Instance) -> None:
    for log in (None, str(instance.directory / "log")):
        said = instance.fail(arguments={**BARE, "drive": "file=/nonexistent.img"}, log=log)
        assert "Could not open '/nonexistent.img'" in said and "status 1: " in said
        assert said.count("Could not open") == 1 and "said nothing" not in said
        assert instance.files <= {"log"} and instance.processes() == set()
        said = instance.fail(arguments={**BARE, "nosuch": True}, log=log)
        assert "-nosuch: invalid option" in said and said.count("nonexistent") == 0
    assert instance.files <= {"log"} and instance.processes() == set()


@pytest.mark.parametrize(
    "option",
    [
        "secret,id=s0,data=hu,,sh,format=nosuch",
        '{"qom-type": "secret", "id": "s0", "data": "hu,sh", "format": "nosuch"}',
        {"qom-type": "secret", "id": "s0", "data": "hu,sh", "format": "nosuch"},
    ],
    ids=["text", "json", "dict"],
)
def test_qemus_words_about_a_secret_do_not_show_it(instance: Instance, option: Any) -> None:
    """QEMU begins its message with the option that it does not like."""
    said = instance.fail(arguments={**BARE, "object": option})
    assert "nosuch" in said and "s0" in said
    assert "hu,sh" not in said and "hu,,sh" not in said
    said = instance.fail(arguments={**BARE, "vnc": "none,password=hush,password-secret=s9"})
    assert "hush" not in said and "s9" in said


def test_a_secret_in_what_ansible_tells_of_the_task(instance: Instance, playbook: Any) -> None:
    secret = {"qom-type": "secret", "id": "s0", "data": "c0rrect,h0rse"}
    tasks = [
        {"vmm.qemu.qemu_instance": instance.options(arguments={**BARE, "object": [objects]}), "ignore_errors": True}
        for objects in (secret, {**secret, "format": "nosuch"})
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], "-vvv")
    assert [task.failed for task in run.tasks] == [False, False]
    assert run.tasks[1].result["restart_required"] is True
    assert "c0rrect" not in run.output


@pytest.mark.parametrize("runs", [False, True])
def test_a_start_is_taken_back_unless_the_guest_has_run(instance: Instance, runs: bool) -> None:
    """As the engine does it where a later step of the same plan fails."""
    arguments = {key: value for key, value in BARE.items() if key != "S" or not runs}
    params = {**dict.fromkeys(OPTIONS), "timeout": 30.0, "connect_timeout": 5.0, "state": "started"}
    task = Task({**params, **instance.options(arguments=arguments)}, False, QMPSession.connect, lambda progress: None)
    process = Process(task)
    plan, host = process.plan(None, process.command_line()), cast(Any, task.host())

    def fail(deadline: Deadline) -> None:
        raise OperationFailed("later")

    plan.steps.append(Step(do=fail, command_lines=[["false"]]))
    with pytest.raises(PlanFailed, match="later") as failed:
        apply(plan, host)
    task.close()
    assert len(instance.processes()) == runs and instance.files == ({"qmp", "qmp.pid"} if runs else set())
    left = "kill inst (inst: its guest may have run, so QEMU is not ended)"
    assert (failed.value.rolled_back, failed.value.stuck) == (([], [left]) if runs else ([["kill", "inst"]], []))


def test_an_image_in_use(instance: Instance) -> None:
    image = str(instance.directory / "disk.img")
    Path(image).write_bytes(bytes(1 << 20))
    drive = {
        **BARE,
        "drive": {"file": image, "format": "raw", "if": "none", "id": "d0"},
        "device": "virtio-blk-pci,drive=d0",
    }
    instance.run(arguments=drive)
    said = instance.fail(name="second", socket=f"{instance.directory}/second", arguments=drive)
    assert 'Failed to get "write" lock' in said
    assert instance.files == {"disk.img", "qmp", "qmp.pid"}


def test_a_failed_restart_names_the_reason_before_it_stops_anything(instance: Instance) -> None:
    pid = instance.run()["pid"]
    assert "there is no /nonexistent/qemu here" in instance.fail(state="restarted", binary="/nonexistent/qemu")
    assert process_exists(pid)
    assert "Could not open" in instance.fail(state="restarted", arguments={**BARE, "drive": "file=/nonexistent.img"})
    assert instance.files == set() and instance.processes() == set()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"binary": "/nonexistent/qemu"}, "there is no /nonexistent/qemu here"),
        ({"binary": "qemu-system-nosuch"}, "no qemu-system-nosuch here in the search path"),
        ({"binary": "/etc/passwd"}, "can't be run"),
        ({"binary": "/tmp"}, "can't be run"),
        ({"socket": "/tmp/" + "x" * 110}, "115 bytes long, more than the 107"),
        ({"socket": "/etc/passwd"}, "is not a socket"),
        ({"events_socket": "/etc/passwd"}, "events_socket: /etc/passwd is there and is not a socket"),
        ({"events_socket": "/tmp/" + "x" * 110}, "events_socket: /tmp/"),
        ({"events_socket": "nonsense"}, "not a valid monitor address"),
        ({"socket": "/tmp/both", "events_socket": "unix:/tmp/both"}, "the one of the option socket"),
        ({"socket": "nonsense"}, "not a valid monitor address"),
        ({"pidfile": "/etc/passwd"}, "holds no process id"),
        ({"name": ""}, "not a valid name for a VM"),
        ({"name": "a,process=b"}, "not a valid name for a VM"),
        ({"name": "-S"}, "not a valid name for a VM"),
        ({"arguments": "-m 128"}, "write a list"),
        ({"arguments": ["-m", None]}, "is None, which is not a string"),
        ({"arguments": ["-machine", True]}, "quote on, off"),
        ({"arguments": ["-daemonize"]}, "sets itself"),
        ({"arguments": {"pidfile": "/x"}}, "use the option pidfile"),
        ({"arguments": {"name": "other"}}, "use the option name"),
        ({"arguments": {"a b": 1}}, "not a valid name of a QEMU option"),
        ({"arguments": {"device": [["x"]]}}, "which is not a string"),
        ({"arguments": ["-D", "/x"], "log": "/y"}, "use the option log"),
        ({"socket": "127.0.0.1:1", "tls": {"ca_path": "/x"}}, "TLS"),
    ],
)
def test_bad_requests(instance: Instance, options: dict[str, Any], words: str, check: bool) -> None:
    passwd = Path("/etc/passwd").read_bytes()
    assert words.lower() in instance.fail(check, **options).lower()
    assert instance.files == set() and instance.processes() == set()
    assert Path("/etc/passwd").read_bytes() == passwd


def test_debug_threads_may_be_added_to_the_name(instance: Instance) -> None:
    instance.run(arguments={**BARE, "name": "debug-threads=on"})
    assert not instance.run(arguments={**BARE, "name": "debug-threads=on"})["changed"]


def test_killed_and_started_again(instance: Instance) -> None:
    pid = instance.run()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_dead(pid)
    assert instance.files == {"qmp", "qmp.pid"}
    assert instance.run(check=True)["changed"]
    assert instance.files == {"qmp", "qmp.pid"}
    started = instance.run()
    assert started["changed"] and started["pid"] != pid

    os.kill(started["pid"], signal.SIGKILL)
    wait_dead(started["pid"])
    assert not instance.run(state="stopped")["changed"]
    assert instance.files == set()


def test_a_pidfile_with_a_strangers_pid(instance: Instance) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            instance.pidfile.write_text(f"{stranger.pid}\n")
            assert not instance.run(state="stopped")["changed"]
            assert not instance.pidfile.exists()
            instance.pidfile.write_text(f"{stranger.pid}\n")
            assert instance.run()["pid"] != stranger.pid
            instance.pidfile.write_text(f"{stranger.pid}\n")
            assert instance.run()["pid"] in instance.processes()
            assert instance.run(state="stopped")["changed"]
            assert instance.processes() == set()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_another_vms_socket_is_refused(instance: Instance, start_vm: Callable[..., VM]) -> None:
    other = start_vm(name="other")
    for state in ("started", "restarted", "stopped"):
        for check in (True, False):
            assert "is the monitor of the VM other, not of inst" in instance.fail(check, socket=other.qmp, state=state)
    assert other.alive and other.observer.status() == "prelaunch"


def test_a_socket_that_somebody_else_listens_at(instance: Instance) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(instance.socket)
        listener.listen(5)
        with no_hang(0.5):
            assert "no greeting" in instance.fail(connect_timeout=0.5)
        assert instance.files == {"qmp"}


def test_a_vm_whose_socket_was_deleted(instance: Instance) -> None:
    pid = instance.run()["pid"]
    os.unlink(instance.socket)
    for state in ("started", "stopped", "restarted"):
        assert f"runs as process {pid}" in instance.fail(state=state)
    assert process_exists(pid) and instance.pidfile.exists()


def test_a_vm_whose_socket_and_pidfile_were_deleted(instance: Instance) -> None:
    """Nothing but the kernel's list of sockets knows of it."""
    pid = instance.run()["pid"]
    for path in (instance.socket, instance.pidfile):
        os.unlink(path)
    for check in (True, False):
        for state in ("started", "stopped", "restarted"):
            said = instance.fail(check, state=state)
            assert f"process {pid} (" in said and "file was deleted" in said
    assert instance.processes() == {pid} and instance.files == set()


def test_a_vm_that_was_started_by_hand(instance: Instance, start_vm: Callable[..., VM]) -> None:
    other = start_vm(name="inst")
    result = instance.run(socket=other.qmp)
    assert not result["changed"] and result["restart_required"] and result["pid"] == other.pid
    assert instance.run(socket=other.qmp, state="stopped")["commands"] == [QUIT]
    other.wait_exit()


def test_a_qemu_that_hangs_at_the_start_is_ended(instance: Instance) -> None:
    waits = {**BARE, "serial": f"unix:{instance.directory}/serial,server=on,wait=on"}
    with no_hang(2):
        assert "was not ready within 2 s" in instance.fail(arguments=waits, timeout=2)
    assert instance.processes() == set()
    assert instance.files <= {"serial"}


def test_a_binary_that_is_no_qemu(instance: Instance) -> None:
    assert instance.fail(binary="/bin/true")
    assert "is the virtual machine running" in instance.fail(binary="/bin/true")
    assert "said nothing" in instance.fail(binary="/bin/false")
    assert instance.files == set()


def test_a_guest_is_asked_to_shut_down(instance: Instance) -> None:
    instance.run(arguments=instance.guest())
    instance.wait_guest()
    assert instance.run(check=True, state="stopped")["commands"] == [POWERDOWN, QUIT]
    stopped = instance.run(state="stopped")
    assert stopped["commands"] == [POWERDOWN, QUIT] and stopped["warnings"] == []
    assert instance.files == {"serial.log"}


def test_a_guest_that_ignores_it_is_ended(instance: Instance) -> None:
    running = {key: value for key, value in BARE.items() if key != "S"}
    instance.run(arguments=running)
    stopped = instance.run(state="stopped", shutdown_timeout=0.5)
    assert "did not shut down" in stopped["warnings"][0]
    assert instance.files == set()
    instance.run(arguments=running)
    assert instance.run(state="stopped", shutdown_timeout=0)["commands"] == [QUIT]
    instance.run(arguments=running)
    with no_hang(2):
        instance.run(state="stopped", timeout=2)


def test_a_paused_guest_is_not_power_cut_unless_that_is_said(instance: Instance) -> None:
    pid = instance.run(arguments={key: value for key, value in BARE.items() if key != "S"})["pid"]
    run_module(instance.socket, "qemu_power", state="paused")
    for check in (True, False):
        for state in ("stopped", "restarted"):
            said = instance.fail(check, state=state)
            assert "its status is paused" in said and "qemu_power" in said and "shutdown_timeout to 0" in said
    assert process_exists(pid) and run_module(instance.socket, "qemu_wait", status="paused", check=True)
    for check in (True, False):
        assert instance.run(check, state="stopped", shutdown_timeout=0)["commands"] == [QUIT]
    assert instance.files == set() and not process_exists(pid)


def test_a_guest_that_is_paused_while_it_shuts_down_is_not_power_cut(
    instance: Instance, start_vm: Callable[..., VM]
) -> None:
    """By QEMU, say, when its last writes find no space."""
    vm = start_vm(name="inst")
    vm.observer.execute("cont")

    def pause() -> None:
        vm.observer.wait_event("POWERDOWN")
        vm.observer.execute("stop")

    pausing = threading.Thread(target=pause)
    pausing.start()
    assert "its status is paused" in instance.fail(socket=vm.qmp, state="stopped", shutdown_timeout=1)
    pausing.join()
    assert vm.observer.execute("query-status")["status"] == "paused"
    assert instance.run(socket=vm.qmp, state="stopped", shutdown_timeout=0)["commands"] == [QUIT]
    vm.wait_exit()


def test_a_suspended_guest_is_woken_up_to_be_asked(instance: Instance, start_vm: Callable[..., VM]) -> None:
    """What the guest makes of it is not looked at: this one does not come back whole."""
    vm = start_vm(guest=True, name="inst")
    vm.run_in_guest("(sleep 1; echo mem >/sys/power/state) >/dev/null 2>&1 &")
    vm.observer.wait_event("SUSPEND")
    wakeup = {"execute": "system_wakeup", "arguments": {}}
    for check in (True, False):
        stopped = instance.run(check, socket=vm.qmp, state="stopped", shutdown_timeout=1)
        assert stopped["commands"] == [wakeup, POWERDOWN, QUIT]
    for event in ("WAKEUP", "POWERDOWN"):
        vm.observer.wait_event(event, 1)
    vm.wait_exit()


def test_a_shutdown_that_may_take_longer_than_the_task(instance: Instance) -> None:
    pid = instance.run(shutdown_timeout=300)["pid"]
    for check in (True, False):
        for seconds, whole in ((300, 60), (60, 60)):
            said = instance.fail(check, state="stopped", shutdown_timeout=seconds, timeout=whole)
            assert f"{seconds} s" in said and "timeout is 60 s" in said
        assert "not a number" in instance.fail(check, state="stopped", shutdown_timeout=-1)
    assert process_exists(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_runs_as_another_user(instance: Instance, qemu_version: str) -> None:
    result = instance.run(user="nobody")
    option = "-runas" if qemu_version == "7.2" else "-run-with"
    assert option in result["command_line"]
    status = Path(f"/proc/{result['pid']}/status").read_text()
    assert f"Uid:\t{pwd.getpwnam('nobody').pw_uid}\t" in status
    assert not instance.run(user="nobody")["restart_required"]
    assert instance.run()["restart_required"]
    assert instance.run(state="stopped")["changed"]
    assert instance.files == set()  # nobody could not have deleted them
    for check in (True, False):
        assert "no user nosuchuser" in instance.fail(check=check, user="nosuchuser")
    assert instance.files == set()


def test_the_log_gets_what_qemu_says_later(instance: Instance) -> None:
    log = instance.directory / "log"
    pid = instance.run(log=str(log))["pid"]
    assert not instance.run(log=str(log))["restart_required"]
    os.kill(pid, signal.SIGTERM)
    wait_dead(pid)
    assert "terminating on signal 15" in log.read_text()


def test_qemu_does_not_inherit_what_the_operator_has(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PASSWORD", "hunter2")
    pid = instance.run()["pid"]
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment and b"hunter2" not in environment and b"VAULT" not in environment
    assert len(environment.split(b"\0")) < 14


@pytest.mark.parametrize("option", ["pidfile", "log"])
@pytest.mark.parametrize("what", ["link", "dangling", "way", "fifo", "names"])
def test_what_qemu_would_write_to_is_a_file_of_its_own(instance: Instance, option: str, what: str) -> None:
    """A link could lead anywhere, and a FIFO would keep who reads it waiting for ever."""
    path, victim, made = instance.directory / "it", instance.directory / "victim", instance.directory / "made"
    victim.write_text("")
    if what == "fifo":
        os.mkfifo(path)
    elif what == "names":
        os.link(victim, path)
    elif what == "way":
        if os.geteuid() != 0:
            return  # only root can make links of somebody else's
        path.symlink_to(instance.directory)
        os.lchown(path, 65534, 65534)
        path = path / "it2"
    else:
        path.symlink_to(victim if what == "link" else made)
    words = {"fifo": "not a regular file", "names": "2 names"}.get(what, "symbolic link")
    for check in (True, False):
        for state in ("started", "restarted"):
            with no_hang(5):
                assert words in instance.fail(check, state=state, timeout=5, **{option: str(path)})
    assert victim.read_text() == "" and not made.exists() and instance.files == {"it", "victim"}
    assert instance.processes() == set()


def test_a_pidfile_that_becomes_a_fifo_while_it_runs(instance: Instance) -> None:
    pid = instance.run()["pid"]
    instance.pidfile.unlink()
    os.mkfifo(instance.pidfile)
    for check in (True, False):
        with no_hang(5):
            assert "not a regular file" in instance.fail(check, state="stopped", timeout=5)
    assert process_exists(pid)


@pytest.mark.parametrize("form", ["unix:{0}/qmp", "{0}/with,comma", "unix:@{0}", "127.0.0.1:{1}", "tcp:[::1]:{1}"])
def test_every_form_of_address(instance: Instance, form: str) -> None:
    with socket.socket(socket.AF_INET) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    where: dict[str, Any] = {
        "socket": form.format(instance.directory, port),
        "pidfile": str(instance.directory / "pid"),
    }
    pid = instance.run(**where)["pid"]
    assert instance.processes() == {pid}
    again = instance.run(**where)
    assert not again["changed"] and not again["restart_required"] and again["pid"] == pid
    assert instance.run(**where, state="stopped")["changed"]
    assert instance.processes() == set() and instance.files == set()


def test_by_ansible_itself(instance: Instance, ansible_task: Callable[..., Any]) -> None:
    arguments = {**BARE, "device": [{"driver": "pcie-root-port", "id": "rp0"}]}
    foretold = ansible_task("qemu_instance", instance.options(arguments=arguments), check=True, diff=True)
    assert foretold.changed and instance.processes() == set()
    started = ansible_task("qemu_instance", instance.options(arguments=arguments), diff=True)
    assert started.changed and instance.processes() == {started.result["pid"]}
    again = ansible_task("qemu_instance", instance.options(arguments=arguments))
    assert again.status == "ok" and not again.changed and not again.result["restart_required"]
    assert ansible_task("qemu_instance", instance.options(state="stopped")).changed
    assert not ansible_task("qemu_instance", instance.options(state="stopped")).changed
    failed = ansible_task("qemu_instance", instance.options(arguments={"nosuch": True}))
    assert failed.failed and "invalid option" in failed.result["msg"]
    assert instance.files == set()
