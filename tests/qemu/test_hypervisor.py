# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.vm on a host with systemd, over SSH: what a VM has outlives the host's reboot and QEMU's crash.

The VM has firmware only, or a guest that counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from typing import Any

import pytest

from support.hypervisor import Hypervisor
from support.vm import BED, CMDLINE

UNIT = "vmm-qemu-vm1.service"
DIRECTORY = "/var/lib/vmm-qemu/vm1"
TAP = {"type": "tap", "ifname": "tap1", "script": "no", "downscript": "no"}
VM1: dict[str, Any] = {
    "vm_name": "vm1",
    "vm_service": "systemd",
    "vm_autostart": True,
    "vm_accel": "tcg",
    "vm_cpu": "qemu64",
    "vm_memory": "64M",
    "vm_root_ports": 2,
    "vm_shutdown_timeout": 0,
    "vm_taps": [{"name": "tap1", "bridge": "br0"}],
    "vm_nics": [{"id": "lan", "netdev": TAP, "bus": "rp0", "mac": "52:54:00:12:34:56", "romfile": ""}],
    "vm_disks": [{"id": "data", "filename": f"{DIRECTORY}/data.qcow2", "format": "qcow2", "size": "8M", "bus": "rp1"}],
}


def provision(host: Hypervisor, changed: bool, variables: dict[str, Any] | None = None) -> None:
    """Run the role: it must work, and change something or nothing."""
    role = {"role": "vmm.qemu.vm", "vars": variables or VM1}
    run = host.play([{"hosts": "hypervisors", "gather_facts": False, "roles": [role]}])
    assert run.rc == 0, run.output
    assert any(task.changed for task in run.tasks) == changed, run.output


def pid_of_qemu(host: Hypervisor) -> int:
    """The process of the unit, or 0."""
    return int(host.run("systemctl", "show", "--property", "MainPID", "--value", UNIT))


def is_whole(host: Hypervisor) -> None:
    """The VM runs, with all that it was given, and QEMU holds the tap on the bridge."""
    assert host.run("systemctl", "show", "--property", "ActiveState", "--value", UNIT) == "active", host.journal(UNIT)
    with contextlib.closing(host.observer(f"{DIRECTORY}/run/monitor")) as observer:
        assert {"lan": "virtio-net-pci", "data": "virtio-blk-pci"}.items() <= observer.devices().items()
        assert "data-node" in observer.nodes()
        assert observer.status() == "running"
    (tap,) = json.loads(host.run("ip", "-json", "link", "show", "tap1"))
    assert tap["master"] == "br0" and "LOWER_UP" in tap["flags"]


def crash(host: Hypervisor) -> None:
    """Kill QEMU, and wait until systemd has started another."""
    pid = pid_of_qemu(host)
    host.run("kill", "-9", str(pid))
    end = time.monotonic() + 60
    while pid_of_qemu(host) in (0, pid):
        assert time.monotonic() < end, host.journal(UNIT)
        time.sleep(0.5)
    host.run("systemctl", "start", UNIT)  # waits until it has started


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such namespaces")
def test_what_a_vm_has_outlives_a_reboot_and_a_crash() -> None:
    with Hypervisor() as host:
        provision(host, changed=True)
        is_whole(host)
        provision(host, changed=False)

        host.reboot()
        is_whole(host)
        provision(host, changed=False)

        crash(host)
        is_whole(host)


GUEST: dict[str, Any] = {
    **VM1,
    "vm_on_host_shutdown": "save",
    "vm_memory": "128M",
    "vm_kernel": "/root/vmlinuz",
    "vm_initrd": "/root/initrd.gz",
    "vm_append": f"{CMDLINE} bed.count",
}


def counted(host: Hypervisor) -> int:
    """The last number that the guest has told; waits for another one. It has booted once."""
    console = host.root / f"{DIRECTORY}/run/console.log".lstrip("/")
    size, end = len(console.read_text(errors="replace")), time.monotonic() + 120
    while "GUEST-COUNT" not in (text := console.read_text(errors="replace"))[size:].rpartition("\n")[0]:
        assert time.monotonic() < end, text[-500:]
        time.sleep(0.2)
    assert text.count("GUEST-UP") == 1
    return int(re.findall(r"GUEST-COUNT (\d+)\r?\n", text)[-1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such namespaces")
def test_a_reboot_is_a_pause_for_the_guest() -> None:
    with Hypervisor() as host:
        for name in ("vmlinuz", "initrd.gz"):
            shutil.copyfile(BED / "guest" / name, host.root / "root" / name)
        provision(host, changed=True, variables=GUEST)
        before = counted(host)

        host.reboot()
        is_whole(host)
        after = counted(host)
        assert after > before, host.journal(UNIT)
        directory = host.root / DIRECTORY.lstrip("/")
        assert not [name for name in os.listdir(directory) if name.startswith("saved")]
        provision(host, changed=False, variables=GUEST)

        # a disk that was written to meanwhile
        host.run("systemctl", "stop", UNIT)
        assert (directory / "saved").stat().st_mode & 0o777 == 0o600
        host.run("touch", f"{DIRECTORY}/data.qcow2")
        host.run("systemctl", "start", UNIT)
        assert "data.qcow2 has changed since" in host.journal(UNIT) and "is started anew" in host.journal(UNIT)
        is_whole(host)
        assert (directory / "saved.old").exists() and not (directory / "saved").exists()


def upgrade(host: Hypervisor, changed: bool) -> None:
    """Run the role upgrade: it must work, and change something or nothing."""
    role = {"role": "vmm.qemu.upgrade", "vars": VM1}
    run = host.play([{"hosts": "hypervisors", "gather_facts": False, "roles": [role]}])
    assert run.rc == 0, run.output
    assert any(task.changed for task in run.tasks) == changed, run.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such namespaces")
def test_a_unit_moves_to_another_qemu_that_is_then_its_own() -> None:
    with Hypervisor() as host:
        provision(host, changed=True)
        upgrade(host, changed=False)
        pid = pid_of_qemu(host)
        qemu = host.run("readlink", f"/proc/{pid}/exe")
        host.run("cp", qemu, f"{qemu}.new")
        host.run("mv", f"{qemu}.new", qemu)

        upgrade(host, changed=True)
        now = pid_of_qemu(host)
        assert now not in (0, pid) and host.run("pgrep", "-f", "qemu-system") == str(now)
        assert UNIT in host.run("cat", f"/proc/{now}/cgroup")
        assert host.run("readlink", f"/proc/{now}/exe") == qemu
        is_whole(host)
        assert "vq" not in host.run("ip", "-brief", "link", "show")
        upgrade(host, changed=False)
        provision(host, changed=False)

        crash(host)  # systemd has noticed that the process is its own
        is_whole(host)
