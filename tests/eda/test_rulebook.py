# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's rulebook, by a real ansible-rulebook: a virtual machine is killed, fills its disk, and has a job that fails.

`scripts/test eda` makes the virtual environment that it runs in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.observer import Observer, ObserverError
from support.plays import ansible_environment
from support.vm import BED, qemu_binary

EDA = Path(os.environ.get("EDA_VENV", BED / "eda"))
MIB = 1 << 20
SECONDS = 180  # Java and plays, on a busy machine


class Fleet:
    """One virtual machine in an inventory, and a rulebook that watches it."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="eda-", dir="/tmp"))
        self.run = self.home / "vms" / "web1" / "run"
        java = Path(shutil.which("java") or "/nonexistent").resolve()
        self.environment = {**ansible_environment(self.home), "JAVA_HOME": str(java.parents[1])}
        self.environment["PATH"] = f"{EDA}/bin:{self.environment['PATH']}"
        self.log = self.home / "log"
        self.told = 0  # how much of the log was there before
        self.rulebook: subprocess.Popen[bytes] | None = None
        disk = {"id": "data", "filename": f"{self.home}/data.qcow2", "format": "qcow2", "bus": "rp0"}
        host = {
            "vm_disks": [{**disk, "size": "8M", "write_threshold": "2M"}],
            **{"vm_user": "", "vm_service": "daemon", "vm_accel": "tcg", "vm_memory": "64M", "vm_power": "paused"},
            **{"vm_shutdown_timeout": 0, "vm_binary": str(qemu_binary("10.0")), "vm_directory": str(self.run.parent)},
            **{"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable},
            **{"grow_disk_by": "4M", "grow_disk_to": "16M"},
        }
        (self.home / "ansible.cfg").touch()
        self.inventory = self.home / "inventory.json"
        self.inventory.write_text(json.dumps({"all": {"hosts": {"web1": host}}}))
        (self.home / "vars.json").write_text(json.dumps({"qemu_events_sockets": [f"{self.home}/vms/*/run/events"]}))

    def command(self, *words: str) -> list[str]:
        return [f"{EDA}/bin/{words[0]}", *words[1:], "-i", str(self.inventory)]

    def start(self) -> None:
        made = subprocess.run(
            self.command("ansible-playbook", "vmm.qemu.fleet"),
            env=self.environment,
            cwd=self.home,
            check=False,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        words = self.command("ansible-rulebook", "--rulebook", "vmm.qemu.watch", "--vars", str(self.home / "vars.json"))
        with self.log.open("wb") as log:
            self.rulebook = subprocess.Popen(words, env=self.environment, cwd=self.home, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        return int((self.run / "pid").read_text())

    def ask(self, command: str, **arguments: Any) -> Any:
        observer = Observer(str(self.run / "qmp"))
        try:
            return observer.execute(command, **arguments)
        finally:
            observer.close()

    def until(self, what: Callable[[], Any]) -> None:
        """Wait until it is so; what is not there yet is not so."""
        end = time.monotonic() + SECONDS
        while True:
            assert self.rulebook is not None and self.rulebook.poll() is None, self.log.read_text()
            try:
                if what():
                    return
            except (OSError, ValueError, EOFError, ObserverError):
                pass
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def tells_of_a_job(self) -> bool:
        """Have a job fail, for whoever listens, and see whether an earlier one was told: what came before the source is lost."""
        if not any(node["node-name"] == "full" for node in self.ask("query-named-block-nodes")):
            device = {"driver": "null-co", "size": 8 * MIB, "read-zeroes": True}
            fault = {"event": "none", "errno": 28, "once": False}
            node = {"driver": "blkdebug", "node-name": "full", "image": device, "inject-error": [fault]}
            self.ask("blockdev-add", **node)
        job = {"device": "data-node", "target": "full", "sync": "full", "job-id": "nightly"}
        self.ask("blockdev-backup", **job)
        return "web1: the job nightly (backup) has failed: No space left on device" in self.log.read_text()[self.told :]

    def is_watched(self) -> bool:
        """Whether a client has the monitor for events."""
        (name,) = (one["filename"] for one in self.ask("query-chardev") if one["label"] == "vmm-events")
        return not name.startswith("disconnected:")

    def node(self, name: str) -> dict[str, Any]:
        (found,) = (node for node in self.ask("query-named-block-nodes") if node["node-name"] == name)
        return dict(found)

    def close(self) -> None:
        if self.rulebook is not None and self.rulebook.poll() is None:
            self.rulebook.kill()
            self.rulebook.wait()
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


def test_what_the_rulebook_does(fleet: Fleet) -> None:
    fleet.start()
    fleet.until(fleet.tells_of_a_job)
    before = fleet.pid

    os.kill(before, signal.SIGKILL)
    fleet.until(lambda: fleet.pid != before and fleet.node("data-node-file")["write_threshold"] == 2 * MIB)
    fleet.told = len(fleet.log.read_text())
    fleet.until(fleet.tells_of_a_job)

    disk = "/machine/peripheral/data/virtio-backend"
    fleet.ask("human-monitor-command", **{"command-line": f'qemu-io -d {disk} "write 0 3M"'})
    fleet.until(lambda: fleet.node("data-node")["image"]["virtual-size"] == 12 * MIB)
    fleet.until(lambda: fleet.node("data-node-file")["write_threshold"] == 6 * MIB)

    rulebook = fleet.rulebook
    assert rulebook is not None
    rulebook.send_signal(signal.SIGTERM)
    rulebook.wait(SECONDS)
    assert "Traceback" not in fleet.log.read_text(), fleet.log.read_text()
    assert not fleet.is_watched()
