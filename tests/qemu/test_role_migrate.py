# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.migrate, between two hosts that are both this machine. A guest that moves is in extensions/molecule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.plays import PlayRun, run_playbook
from support.roles import SMALL, Roles
from support.vm import qemu_binary


class Hosts(Roles):
    """Two hosts, a and b, with a directory each, and one below which both have the disk of the virtual machine g."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("a", "b", "shared"):
            (self.base / name).mkdir()
        self.variables: dict[str, Any] = {
            **SMALL,
            "vm_name": "g",
            "vm_directory": f"{self.base}/{{{{ inventory_hostname }}}}/g",
            "vm_user": "",
            "vm_binary": str(qemu_binary("7.2")),
            "vm_disk": f"{self.base}/shared/disk.qcow2",
            "vm_disk_size": "8M",
            "migrate_from": "a",
            "migrate_to": "b",
            "migrate_uri": f"unix:{self.base}/move",
            "migrate_timeout": 120,
        }

    def play(self, role: str, hosts: str, **extra: Any) -> PlayRun:
        """A role on one host or both, with the variables of the inventory; `extra` are given with -e."""
        inventory = self.home / "inventory.json"
        inventory.write_text(json.dumps({"all": {"vars": self.variables, "hosts": {"a": {}, "b": {}}}}))
        play = [{"hosts": hosts, "gather_facts": False, "roles": [{"role": f"vmm.qemu.{role}"}]}]
        limit = ("-i", str(inventory), "--limit", "a,b")
        return run_playbook(play, self.home, *limit, variables=extra, here=True)

    def make(self) -> None:
        """The virtual machine, at a."""
        run = self.play("vm", "a")
        assert run.rc == 0, run.output

    def move(self, **extra: Any) -> PlayRun:
        """From a to b."""
        return self.play("migrate", "a:b", **extra)

    def status(self) -> dict[str, str]:
        """Where there is one, and its run state."""
        found = {}
        for host in ("a", "b"):
            if (self.base / host / "g" / "run" / "monitor").exists():
                with self.observer(f"{host}/g") as observer:
                    found[host] = observer.status()
        return found


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


# What one writes into the file of a virtual machine and gives with -e, where it beats what a role says.
EXTRA: dict[str, Any] = {"vm_state": "running", "vm_remove_data": True, "vm_shutdown_timeout": 60}


def test_a_move_with_extra_variables(hosts: Hosts) -> None:
    hosts.variables["vm_power"] = "running"
    hosts.make()
    (hosts.base / "a" / "g" / "notes").write_text("mine")
    for changed in (True, False):
        run = hosts.move(**EXTRA)
        assert run.rc == 0, run.output
        assert any(task.changed for task in run.tasks) == changed, run.output
        assert hosts.status() == {"b": "running"}
    assert hosts.files("a/g") == {"notes"} and (hosts.base / "shared" / "disk.qcow2").exists()


def test_a_failed_move_with_extra_variables(hosts: Hosts) -> None:
    hosts.make()
    (hosts.base / "b" / "g").mkdir()
    (hosts.base / "b" / "g" / "notes").write_text("mine")
    for extra in ({"migrate_uri": "unix:/nonexistent/x"}, {"vm_incoming": False}):
        run = hosts.move(**EXTRA, **extra)
        assert run.rc != 0 and "Traceback" not in run.output
        assert hosts.status() == {"a": "prelaunch"}
        assert hosts.files("b/g") == {"notes"} and (hosts.base / "shared" / "disk.qcow2").exists()


def test_a_guest_that_never_ran_moves(hosts: Hosts) -> None:
    hosts.make()
    assert hosts.status() == {"a": "prelaunch"}
    run = hosts.move()
    assert run.rc == 0, run.output
    assert set(hosts.status()) == {"b"} and set(hosts.status().values()) <= {"prelaunch", "paused"}
