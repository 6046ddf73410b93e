# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM from a cloud image: an overlay that is grown, a NoCloud seed, and a boot from the disk to login and agent.

The image is Debian with cloud-init (tests/support/image). What became of the guest, its own agent says.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support.agent import Agent
from support.modules import run_module
from support.vm import BED, VM

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


def seed(directory: Path) -> str:
    """An ISO image that cloud-init takes for its NoCloud seed; gives its path."""
    content = directory / "seed"
    content.mkdir()
    (content / "user-data").write_text(f"#cloud-config\n{json.dumps(USER)}\n")
    (content / "meta-data").write_text(json.dumps(META))
    (content / "network-config").write_text(json.dumps(NETWORK))
    path = str(directory / "seed.iso")
    subprocess.run(["xorrisofs", "-quiet", "-V", "cidata", "-J", "-R", "-o", path, str(content)], check=True)
    return path


def drive(name: str, path: str, fmt: str, *, read_only: bool = False) -> list[str]:
    only = "on" if read_only else "off"
    node = f"driver={fmt},node-name={name},read-only={only},file.driver=file,file.filename={path}"
    return ["-blockdev", node, "-device", f"virtio-blk-pci,drive={name},id={name}-disk"]


def command_line(disk: str, seed_iso: str) -> list[str]:
    """What a VM has beside its machine: two disks, a NIC, and an agent behind the socket `qga` in its directory."""
    return [
        *drive("system", disk, "qcow2"),
        *drive("seed", seed_iso, "raw", read_only=True),
        *("-netdev", "user,id=lan,restrict=on", "-device", f"virtio-net-pci,netdev=lan,mac={MAC}"),
        *("-device", "virtio-serial-pci", "-chardev", "socket,id=qga,path=qga,server=on,wait=off"),
        *("-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"),
    ]


def test_boots_from_a_grown_overlay_to_login_and_agent(tmp_path: Path) -> None:
    """On one QEMU: it takes half a minute, and what differs between versions is tested elsewhere."""
    disk = str(tmp_path / "web1.qcow2")
    base = str(BED / "image" / "cloud.qcow2")
    run_module(None, "qemu_image", path=disk, size="3G", backing_file=base, backing_format="qcow2")
    with VM("10.0", boot=True, memory="512", args=command_line(disk, seed(tmp_path))) as vm:
        address = f"{vm.directory}/qga"
        run_module(vm, "qemu_wait", guest_agent=address, timeout=600)
        vm.wait_serial("web1 login: ", timeout=300, whole=False)
        with Agent(address) as agent:
            assert "status: done" in agent.run("cloud-init", "status", "--wait", timeout=300)
            check_what_the_seed_said(agent)
            (root,) = (fs for fs in agent.execute("guest-get-fsinfo") if fs["mountpoint"] == "/")
            assert root["type"] == "ext4" and 2.5 * GIB < root["total-bytes"] < 3 * GIB


def check_what_the_seed_said(agent: Agent) -> None:
    assert agent.execute("guest-get-host-name") == {"host-name": "web1"}
    assert f"ada:{PASSWORD}:" in agent.read("/etc/shadow")
    assert agent.read("/home/ada/.ssh/authorized_keys").strip().endswith(KEY)
    assert agent.read("/etc/motd") == "made by its seed\n"
    assert agent.run("stat", "-c", "%F", "/var/lib/seed-ran") == "regular empty file\n"
    (lan,) = (nic for nic in agent.execute("guest-network-get-interfaces") if nic["name"] == "lan0")
    assert lan["hardware-address"] == MAC
    assert "192.0.2.7" in [at["ip-address"] for at in lan["ip-addresses"]]
