# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm and a cloud image: an overlay that is grown, a NoCloud seed, a boot from the disk to login and agent.

The image is Debian with cloud-init (tests/support/image). What became of the guest, its own agent says.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from support.agent import Agent
from support.modules import run_module
from support.roles import Roles
from support.vm import BED, qemu_binary

GIB = 1 << 30
MAC = "52:54:00:12:34:56"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBedBedBedBedBedBedBedBedBedBedBedBedBedBedB ada@example.org"
PASSWORD = "$6$saltsalt$notthehashofanything"
USER = {
    "users": [{"name": "ada", "hashed_passwd": PASSWORD, "lock_passwd": False, "ssh_authorized_keys": [KEY]}],
    "write_files": [{"path": "/etc/motd", "content": "made by its seed\n"}],
    "runcmd": [["touch", "/var/lib/seed-ran"]],
}
META = {"instance-id": "web1-1", "local-hostname": "web1"}
NETWORK = {
    "version": 2,
    "ethernets": {"lan": {"match": {"macaddress": MAC}, "set-name": "lan0", "addresses": ["192.0.2.7/24"]}},
}
MACHINE: dict[str, Any] = {
    "memory": "512M",
    "image": str(BED / "image" / "cloud.qcow2"),
    "disk_size": "3G",
    "user_data": USER,
    "meta_data": META,
    "network_config": NETWORK,
    "nics": [{"id": "lan", "netdev": {"type": "user", "options": {"restrict": True}}, "bus": "rp0", "mac": MAC}],
}


def test_boots_from_a_grown_overlay_to_login_and_agent() -> None:
    """On one QEMU: it takes one to three minutes, and what differs between versions is tested elsewhere."""
    roles = Roles()
    try:
        # of all that cpu=max adds an emulated guest makes little, and slowly
        roles.done(True, name="web1", binary=str(qemu_binary("10.0")), cpu="qemu64", power="running", **MACHINE)
        run = roles.base / "web1" / "run"
        run_module(str(run / "qmp"), "qemu_wait", guest_agent=str(run / "agent"), timeout=600)
        with Agent(str(run / "agent")) as agent:
            assert "status: done" in agent.run("cloud-init", "status", "--wait", timeout=300)
            check_what_the_seed_said(agent)
            (root,) = (fs for fs in agent.execute("guest-get-fsinfo") if fs["mountpoint"] == "/")
            assert root["type"] == "ext4" and 2.5 * GIB < root["total-bytes"] < 3 * GIB
        frozen_for_a_snapshot(run)
        end = time.monotonic() + 300
        while "web1 login: " not in (run / "console.log").read_text(errors="replace"):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        roles.close()


def frozen_for_a_snapshot(run: Path) -> None:
    """Its own agent freezes the guest for the moment of a snapshot, and it goes on. The snapshot is given up again."""
    options: dict[str, Any] = {"name": "s1", "quiesce": {"agent": str(run / "agent"), "timeout": 60}, "timeout": 120}
    taken = run_module(str(run / "qmp"), "qemu_disk_snapshot", **options)
    assert taken["snapshot"]["frozen_ms"] > 0
    with Agent(str(run / "agent")) as agent:
        assert agent.execute("guest-fsfreeze-status") == "thawed"
        agent.run("sh", "-c", "echo after > /root/file; sync")
    run_module(str(run / "qmp"), "qemu_disk_snapshot", name="s1", state="absent", timeout=300)
    with Agent(str(run / "agent")) as agent:
        assert agent.read("/root/file") == "after\n"


def check_what_the_seed_said(agent: Agent) -> None:
    assert agent.execute("guest-get-host-name") == {"host-name": "web1"}
    assert f"ada:{PASSWORD}:" in agent.read("/etc/shadow")
    assert agent.read("/home/ada/.ssh/authorized_keys").strip().endswith(KEY)
    assert agent.read("/etc/motd") == "made by its seed\n"
    assert agent.run("stat", "-c", "%F", "/var/lib/seed-ran") == "regular empty file\n"
    (lan,) = (nic for nic in agent.execute("guest-network-get-interfaces") if nic["name"] == "lan0")
    assert lan["hardware-address"] == MAC
    assert "192.0.2.7" in [at["ip-address"] for at in lan["ip-addresses"]]
