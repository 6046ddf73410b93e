# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm and a cloud image: an overlay that is grown, a NoCloud seed, a boot from the disk to login and agent.

The image is Debian with cloud-init (tests/support/image). What became of the guest, its own agent says.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from support.agent import Agent
from support.modules import run_module
from support.plays import run_playbook
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


def test_boots_from_a_grown_overlay_to_login_and_agent(tmp_path: Path) -> None:
    """On one QEMU: it takes one to three minutes, and what differs between versions is tested elsewhere."""
    roles = Roles()
    try:
        # of all that cpu=max adds an emulated guest makes little, and slowly
        roles.done(True, name="web1", binary=str(qemu_binary("10.0")), cpu="qemu64", power="running", **MACHINE)
        run = roles.base / "web1" / "run"
        run_module(str(run / "qmp"), "qemu_wait", guest_agent=str(run / "agent"), timeout=600)
        with Agent(str(run / "agent")) as agent:
            assert "status: done" in agent.run("cloud-init", "status", "--wait", timeout=1200)
            check_what_the_seed_said(agent)
            (root,) = (fs for fs in agent.execute("guest-get-fsinfo") if fs["mountpoint"] == "/")
            assert root["type"] == "ext4" and 2.5 * GIB < root["total-bytes"] < 3 * GIB
        frozen_for_a_snapshot(run)
        told_and_done_by_modules(str(run / "agent"))
        a_play_in_the_guest(str(run / "agent"), tmp_path)
        end = time.monotonic() + 900
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


def told_and_done_by_modules(agent: str) -> None:
    told = run_module(agent, "qemu_guest_info", gather_subset=["all"])
    assert told["guest"]["hostname"] == "web1" and "192.0.2.7" in told["addresses"]
    assert "/" in {fs["mountpoint"] for fs in told["guest"]["filesystems"]} and told["guest"]["frozen"] is False
    options: dict[str, Any] = {"cmd": "id -un; echo $HOME; cat >/root/made", "stdin": "in", "creates": "/root/ma*"}
    ran = run_module(agent, "qemu_guest_exec", **options)
    assert ran["changed"] and ran["stdout_lines"] == ["root", "/root"]
    assert not run_module(agent, "qemu_guest_exec", **options)["changed"]
    with Agent(agent) as witness:
        assert witness.read("/root/made") == "in\n"


def a_play_in_the_guest(agent: str, tmp_path: Path) -> None:
    """What else a play does is tested with the same agent on this host: an emulated guest makes a module in some seconds."""
    size = 4 << 20  # of what is fetched; what is put takes the agent four times as long
    data = tmp_path / "data"
    data.write_bytes(os.urandom(1 << 20))
    as_ada = {"become": True, "become_user": "ada", "become_method": "ansible.builtin.su"}
    tasks: list[dict[str, Any]] = [
        {"copy": {"src": str(data), "dest": "/root/data", "mode": "0600"}},
        {"raw": f"head -c {size} /dev/urandom >/root/large"},
        {"fetch": {"src": "/root/large", "dest": str(tmp_path / "fetched"), "flat": True}},
        {"raw": "id -un", **as_ada},
    ]
    variables = {
        "ansible_connection": "vmm.qemu.guest_agent",
        "ansible_guest_agent_socket": agent,
        "ansible_guest_agent_connect_timeout": 60,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_remote_tmp": "/root/.ansible/tmp",
        "ansible_pipelining": True,
    }
    named = [{"name": f"task {number}", **task} for number, task in enumerate(tasks)]
    play = [{"hosts": "all", "gather_facts": False, "tasks": named}]
    run = run_playbook(play, tmp_path, variables=variables, timeout=1200)
    assert run.rc == 0, run.output
    assert run["task 3"].result["stdout_lines"] == ["ada"]
    with Agent(agent) as witness:
        for path, copy in (("/root/data", data), ("/root/large", tmp_path / "fetched")):
            assert witness.run("sha256sum", path).split()[0] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert (
            witness.run("stat", "-c", "%a", "/root/data") == "600\n" and (tmp_path / "fetched").stat().st_size == size
        )
        assert not witness.run("ls", "/root/.ansible/tmp")


def check_what_the_seed_said(agent: Agent) -> None:
    assert agent.execute("guest-get-host-name") == {"host-name": "web1"}
    assert f"ada:{PASSWORD}:" in agent.read("/etc/shadow")
    assert agent.read("/home/ada/.ssh/authorized_keys").strip().endswith(KEY)
    assert agent.read("/etc/motd") == "made by its seed\n"
    assert agent.run("stat", "-c", "%F", "/var/lib/seed-ran") == "regular empty file\n"
    (lan,) = (nic for nic in agent.execute("guest-network-get-interfaces") if nic["name"] == "lan0")
    assert lan["hardware-address"] == MAC
    assert "192.0.2.7" in [at["ip-address"] for at in lan["ip-addresses"]]
