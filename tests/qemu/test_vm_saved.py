# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_vm with a guest that what systemd runs has saved. With systemd itself: test_hypervisor.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._vm import service
from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import Place
from support.killed import Broken, killed
from support.modules import run_module
from support.roles import Machines
from support.timing import until
from support.vm import qemu_binary

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has units of systemd")


class Saving(Machines):
    """One VM, and what its unit would run."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = self.base / "vm1"
        self.base.chmod(0o755)
        data = {"id": "data", "filename": f"{self.directory}/data.qcow2", "format": "qcow2", "size": "8M", "bus": "rp1"}
        self.has: dict[str, Any] = {"autostart": True, "power": "running", "on_host_shutdown": "save", "disks": [data]}
        self.command: list[str] = []

    def make(self) -> None:
        self.command = self.done(True, **self.has).tasks[-1].result["start_command"]

    def act(self, verb: str, status: int = 0) -> str:
        """Start or stop it as its unit does; what that says."""
        *line, _start, where = self.command
        done = subprocess.run([*line, verb, where], stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stderr

    def status(self) -> str:
        with self.observer() as observer:
            assert "data" in observer.devices()
            return observer.status()

    def upgrade_killed(self, where: str, name: str) -> None:
        """Replace QEMU 7.2 by 10.0, and begin to move the guest to that, in a task that is killed."""
        binary = self.base / "qemu"
        binary.symlink_to(qemu_binary("7.2"))
        self.has["binary"] = str(binary)
        self.make()
        binary.unlink()
        binary.symlink_to(qemu_binary("10.0"))
        self.before = Broken(where, name).broken("kill")
        assert self.run(**self.has, upgrade="migrate").rc == -signal.SIGKILL
        self.before = ""
        assert self.files() & {"run.old", "run.new"}

    def pids(self) -> set[int]:
        """All QEMUs of it."""
        socket = f"path={self.directory}/run/qmp,"
        found = subprocess.run(["pgrep", "-f", socket], stdout=subprocess.PIPE, text=True, check=False).stdout
        return {int(pid) for pid in found.split()}

    @property
    def saved(self) -> set[str]:
        return {name for name in self.files() if name.startswith("saved")}


@pytest.fixture
def vms() -> Iterator[Saving]:
    made = Saving()
    yield made
    made.close()


@root_only
def test_a_stop_and_a_start(vms: Saving) -> None:
    vms.make()
    assert vms.act("stop") == "" and vms.processes() == {} and vms.saved == {"saved"}
    assert vms.act("start") == "" and vms.status() == "running" and vms.saved == set()
    vms.done(False, **vms.has)

    vms.act("stop")
    foretold = vms.done(True, check=True, **vms.has).tasks[-1].result
    assert vms.saved == {"saved"} and vms.processes() == {}
    done = vms.done(True, **vms.has).tasks[-1].result
    assert done["commands"] == foretold["commands"]
    assert [command.get("action") or command.get("execute") for command in done["commands"]] == [
        *(None, "load", "blockdev-add", "device_add")
    ]
    assert vms.status() == "running" and vms.saved == set()
    vms.done(False, **vms.has)

    # a task that was killed when the process that it had started waited for the guest
    vms.act("stop")
    begin = Path(service.begin_file(Place(str(vms.directory), None)))
    begin.touch()
    vms.act("start")
    with vms.observer() as observer:
        assert observer.status() == "inmigrate"
    vms.done(True, **vms.has)
    assert vms.status() == "running" and vms.saved == set()
    vms.done(False, **vms.has)

    # one that was paused stays so, and runs where a task says so
    with vms.observer() as observer:
        observer.execute("stop")
    vms.act("stop")
    vms.act("start")
    assert vms.status() == "paused"
    vms.act("stop")
    vms.done(True, **vms.has)
    assert vms.status() == "running"


def test_what_is_saved_is_never_passed_over_in_silence(vms: Saving) -> None:
    vms.make()
    vms.act("stop")
    assert "its guest is saved in" in vms.refused(**{**vms.has, "memory": "96M"})
    assert "none comes from elsewhere" in vms.refused(**vms.has, incoming=True)
    stopped = vms.done(False, state="stopped", **vms.has).tasks[-1].result
    assert "it goes on from there" in stopped["warnings"][0] and vms.saved == {"saved"}

    os.utime(vms.directory / "data.qcow2")
    assert "data.qcow2 has changed since" in vms.refused(**vms.has)
    assert vms.saved == {"saved"} and vms.processes() == {}
    said = vms.act("start")
    assert "data.qcow2 has changed since" in said and "started anew" in said
    assert vms.status() == "running" and vms.saved == {"saved.old"}
    vms.done(True, state="absent")
    assert vms.files() == {"data.qcow2"}


def test_a_file_that_can_not_be_loaded(vms: Saving) -> None:
    vms.make()
    vms.act("stop")
    saved = vms.directory / "saved"
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert "can't be loaded" in vms.refused(**vms.has) and vms.processes() == {} and vms.saved == {"saved"}
    assert "started anew" in vms.act("start")
    assert vms.status() == "running" and vms.saved == {"saved.old"}
    vms.done(False, **vms.has)


def test_a_guest_that_can_not_be_saved_is_shut_down(vms: Saving) -> None:
    vms.has["shutdown_timeout"] = 0
    vms.make()
    (vms.directory / "saved").write_text("mine")
    assert "its guest is not saved, and is shut down" in vms.act("stop")
    assert vms.processes() == {} and (vms.directory / "saved").read_text() == "mine"


def test_a_guest_that_is_saved_and_not_ended(vms: Saving) -> None:
    """A task that was killed between the two."""
    vms.make()

    def ends() -> Any:
        return run_module(f"{vms.directory}/run/qmp", "qemu_save", path=str(vms.directory / "saved"))

    assert killed(ends, lambda number, step: step.execute == "quit")
    assert vms.saved == {"saved"} and vms.status() == "postmigrate"
    for more in ({}, {"restart_allowed": True, "memory": "96M"}):
        assert "its QEMU was not ended" in vms.refused(**{**vms.has, **more})
    vms.done(True, state="stopped", **vms.has)
    vms.done(True, **vms.has)
    assert vms.status() == "running" and vms.saved == set()


@root_only
def test_options_that_wait_for_a_restart(vms: Saving) -> None:
    """The guest goes on as it was, and they go on waiting."""
    vms.make()
    vms.has["memory"] = "96M"
    assert vms.done(False, **vms.has).tasks[-1].result["restart_required"]
    vms.act("stop")
    assert vms.act("start") == "" and vms.status() == "running" and vms.saved == set()
    vms.act("stop")
    assert vms.done(True, **vms.has).tasks[-1].result["restart_required"]
    assert vms.status() == "running" and vms.saved == set()
    assert vms.done(False, **vms.has).tasks[-1].result["restart_required"]
    assert not vms.done(True, **vms.has, restart_allowed=True).tasks[-1].result["restart_required"]
    vms.done(False, **vms.has)


@root_only
@pytest.mark.parametrize("upgraded", [False, True])
def test_a_newer_qemu_goes_on(vms: Saving, upgraded: bool) -> None:
    """To it q35 is another machine than it was to the guest."""
    binary = vms.base / "qemu"
    binary.symlink_to(qemu_binary("7.2"))
    vms.has["binary"] = str(binary)
    vms.make()
    if not upgraded:
        vms.act("stop")
    binary.unlink()
    binary.symlink_to(qemu_binary("10.0"))
    if upgraded:
        vms.done(True, **vms.has, upgrade="migrate")
        vms.act("stop")
    assert vms.act("start") == "" and vms.status() == "running" and vms.saved == set()
    vms.act("stop")
    vms.done(True, **vms.has)
    with vms.observer() as observer:
        assert observer.execute("query-version")["qemu"]["major"] == 10
        assert observer.execute("qom-get", path="/machine", property="type") == "pc-q35-7.2-machine"
    assert not vms.done(False, **vms.has).tasks[-1].result["restart_required"]


@root_only
@pytest.mark.parametrize(
    "where, name",
    [
        *[("upgrade_launch", "Launch._plug"), ("upgrade", "Upgrade._await_running")],
        *[("upgrade", "Upgrade._migrate"), ("beside", "Beside.keep_new")],
    ],
)
def test_a_stop_amid_an_upgrade(vms: Saving, where: str, name: str) -> None:
    """Whichever QEMU has the guest, it is saved, and nothing of the other one is left."""
    vms.upgrade_killed(where, name)
    assert vms.act("stop") == "" and vms.pids() == set()
    assert not {name for name in vms.files() if name.startswith("run.")} and vms.saved == {"saved"}
    assert vms.act("start") == "" and vms.status() == "running" and vms.saved == set()
    assert not vms.done(False, **vms.has).tasks[-1].result["restart_required"]


@root_only
def test_a_power_failure_amid_an_upgrade(vms: Saving) -> None:
    vms.upgrade_killed("upgrade_launch", "Launch._plug")
    for pid in vms.pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: vms.pids() == set())
    shutil.copytree(
        vms.directory / "run.old",
        vms.base / "left",
        ignore=lambda where, names: [name for name in names if Path(where, name).is_socket()],
    )
    assert "does not run" in vms.done(False, check=True, **vms.has, upgrade="migrate").tasks[-1].result["msg"]
    assert "was begun" in vms.refused(check=True, **vms.has)
    vms.has["binary"] = str(qemu_binary("7.2"))
    vms.done(True, **vms.has)
    assert not {name for name in vms.files() if name.startswith("run.")} and vms.status() == "running"

    # as whatever starts it, and does not look, would leave it
    shutil.copytree(vms.base / "left", vms.directory / "run.old")
    vms.has["binary"] = str(vms.base / "qemu")
    done = vms.done(True, **vms.has, upgrade="migrate").tasks[-1].result
    assert done["upgrade"]["to"].startswith("10.0") and "has moved" in done["msg"]
    with vms.observer() as observer:
        assert observer.execute("query-version")["qemu"]["major"] == 10
    assert json.loads((vms.directory / "vm.json").read_text())["started"][0] == vms.has["binary"]
    assert not {name for name in vms.files() if name.startswith("run.")}
