# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook vmm.qemu.backup, on an inventory of which only a part can be backed up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.collection import REPO
from support.modules import run_module
from support.plays import PlayRun, run_playbook
from support.vm import VM


class Fleet:
    """`web1` runs, `gone` does not, and nobody answers at the hypervisor of `lost`."""

    def __init__(self, vm: VM, home: Path) -> None:
        self.vm, self.home = vm, home
        (vm.directory / "run").symlink_to(".")
        run_module(
            vm, "qemu_disk", id="data", filename=vm.image("data.qcow2", "8M", "qcow2"), format="qcow2", bus="rp0"
        )
        self.directory = home / "backups"
        self.directory.mkdir()
        self.hosts: dict[str, dict[str, Any]] = {
            "web1": {"vm_directory": str(vm.directory)},
            "gone": {"vm_directory": str(home / "gone")},
            "lost": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
        }

    def run(self, *arguments: str, **variables: Any) -> PlayRun:
        inventory = self.home / "inventory.json"
        given = {
            "backup_directory": str(self.directory),
            "ansible_become": False,
            "ansible_connection": "local",
            **variables,
        }
        inventory.write_text(json.dumps({"all": {"vars": given, "hosts": self.hosts}}))
        play = REPO / "playbooks" / "backup.yml"
        command = ("-i", str(inventory), "--limit", ",".join(self.hosts), *arguments)
        return run_playbook(play, self.home, *command, variables={"ansible_connection": None}, here=True)

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.directory / "web1" / "chain.json").read_text())["backups"]
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with VM("10.0") as vm:
        yield Fleet(vm, tmp_path)


def outcome(run: PlayRun) -> dict[str, str]:
    assert "localhost" not in run.output
    return {task.host: task.status for task in run.tasks if task.task == "Fail where one is old"}


def test_what_can_be_is_backed_up_and_what_is_old_is_told(fleet: Fleet) -> None:
    run = fleet.run()
    assert [backup["level"] for backup in fleet.listed()] == ["full"], run.output
    assert outcome(run) == {"web1": "ok", "gone": "failed", "lost": "failed"} and run.rc
    report = run["Report"].result["msg"]
    assert report["web1"] == {"newest": fleet.listed()[0]["time"], "level": "full", "old": False, "trouble": ""}
    assert (report["gone"]["newest"], report["gone"]["old"]) == ("none", True)
    assert "No such file" in report["gone"]["trouble"] and "127.0.0.1" in report["lost"]["trouble"]
    # none is due, and what is old by another measure is told without one that could be taken
    fleet.hosts = {"web1": fleet.hosts["web1"]}
    run = fleet.run()
    assert run.rc == 0 and len(fleet.listed()) == 1 and not run["Take those that are due"].changed


def test_virtual_machines_as_data_of_their_hypervisor(fleet: Fleet) -> None:
    machines = {"web1": {"directory": str(fleet.vm.directory)}, "gone": None}
    fleet.hosts = {"hypervisor": {"vm_machines": machines}}
    foretold = fleet.run("--check")
    assert not (fleet.directory / "web1").exists(), foretold.output
    run = fleet.run(backup_level="copy", backup_verify=True)
    assert [backup["level"] for backup in fleet.listed()] == ["copy"], run.output
    assert outcome(run) == {"hypervisor": "failed"}
    assert run["Fail where one is old"].result["msg"] == "gone: no backup is younger than 23h"
