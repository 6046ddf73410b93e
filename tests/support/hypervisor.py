# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of virtual machines: Debian with systemd, sshd and QEMU, in namespaces of its own, and rebooted.

with Hypervisor() as host:                # up, and reachable by SSH
    host.run("uname", "-r")               # what the command printed
    host.play([{"hosts": "hypervisors", ...}])  # by a real ansible-playbook, as root over SSH
    host.reboot()                         # as its administrator does; power_failure() as nobody wants
    host.observer(PATH)                   # a second monitor of a VM on it

Only the kernel is this machine's. Processes, mounts, network, cgroups and host name are the hypervisor's, so that what systemd
starts, and what a reboot takes away (processes, links, /run), is what it is on a machine. An emulated machine took two
minutes of a processor to start, and this takes a second. It takes root.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from support.observer import Observer
from support.plays import PlayRun, run_playbook
from support.vm import BED, BedError

NETWORK = {
    "br0.netdev": "[NetDev]\nName=br0\nKind=bridge\n",
    "br0.network": "[Match]\nName=br0\n\n[Network]\nConfigureWithoutCarrier=yes\nLinkLocalAddressing=no\n",
}
#: Run in a cgroup of its own: $1 is the tree. What is the kernel's own stays as it is: /sys, and /proc/sys but for the network.
INIT = r"""
set -e
cd "$1"
mount --make-rprivate /
mount --bind . "$1" && cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind proc/sys proc/sys && mount --bind proc/sys/net proc/sys/net && mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
for name in null zero full random urandom tty; do cp -a /dev/$name dev; done
mknod -m 666 dev/net/tun c 10 200
ln -s pts/ptmx dev/ptmx && ln -s /proc/self/fd dev/fd
exec chroot . /usr/bin/env -i container=bed PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init
"""


class Hypervisor:
    """The host, and the way there. Close it, or use it in a `with`. It ends with the thread that started it."""

    def __init__(self) -> None:
        tar = BED / "image" / "hypervisor.tar"
        if not tar.exists():
            raise BedError(f"there is no {tar}: run scripts/setup")
        self.directory = Path(tempfile.mkdtemp(prefix="host-", dir="/tmp"))
        self.root = self.directory / "root"
        self.home = self.directory / "home"
        self._init: subprocess.Popen[bytes] | None = None
        try:
            for directory in (self.root, self.home, self.directory / "cgroup"):
                directory.mkdir()
            extract = ["tar", "-x", "-p", "--numeric-owner", "--exclude=./dev/*", "-C", str(self.root), "-f", str(tar)]
            subprocess.run(extract, check=True)
            self._configure()
            self._write_inventory()
            self.start()
        except BaseException:
            self.close()
            raise

    # -- what it is made of ----------------------------------------------------

    def _configure(self) -> None:
        """Give it a name, a bridge, and a key that lets root in."""
        (self.root / "etc/hostname").write_text("hypervisor\n")
        for name, content in NETWORK.items():
            (self.root / "etc/systemd/network" / name).write_text(content)
        key = self.directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bed", "-f", str(key)], check=True)
        (self.root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(key.with_suffix(".pub"), self.root / "root/.ssh/authorized_keys")

    def _write_inventory(self) -> None:
        options = {
            "IdentityFile": self.directory / "key",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "ControlMaster": "auto",
            "ControlPersist": 60,
            # its network has no way out: the process id of its init leads there
            "ProxyCommand": f"nsenter -t $(cat {self.directory}/pid) -n socat - TCP4:127.0.0.1:22",
        }
        host = {
            "ansible_user": "root",
            "ansible_ssh_args": shlex.join(
                ["-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
            ),
            "ansible_pipelining": True,
            "ansible_remote_tmp": "/root/.ansible/tmp",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        (self.directory / "inventory.json").write_text(json.dumps({"hypervisors": {"hosts": {"hypervisor": host}}}))

    # -- its life --------------------------------------------------------------

    def start(self, timeout: float = 120.0) -> None:
        """Switch it on, and wait until systemd has started all."""
        cgroups = self.directory / "cgroup"
        enter = f'mount -t cgroup2 cgroup2 {cgroups}; mkdir -p "$0"; echo $$ >"$0/cgroup.procs"; exec "$@"'
        namespaces = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child"]
        inner = ["sh", "-c", INIT, "sh", str(self.root)]
        outer = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", enter]
        command = [*outer, str(cgroups / self.directory.name), *namespaces, *inner]
        with (self.directory / "log").open("ab") as log:
            self._init = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + timeout
        while not self._is_up():
            if self._init.poll() is not None or time.monotonic() > end:
                raise BedError(f"the hypervisor did not start: {(self.directory / 'log').read_text()}")
            time.sleep(0.05)

    def _is_up(self) -> bool:
        """Whether all has started. systemd is the only child of unshare, and its bus is there a little later."""
        assert self._init is not None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        if not children or not (Path("/proc") / children[0] / "root/run/systemd/private").exists():
            return False
        (self.directory / "pid").write_text(children[0])
        state = self.run("systemctl", "is-system-running", "--wait", check=False)
        return state in ("running", "degraded")  # the latter where a unit has failed

    def reboot(self, timeout: float = 120.0) -> None:
        """Reboot it in an orderly way, and wait until it is up again."""
        assert self._init is not None
        self.run("systemctl", "--no-block", "reboot")
        self._init.wait(timeout)
        self.start()

    def power_failure(self) -> None:
        """Kill all that runs on it at once, and start it again. What was written and not synced is there all the same."""
        self._kill()
        self.start()

    def _kill(self) -> None:
        """Kill its first process, which takes all others with it."""
        if self._init is None or self._init.poll() is not None:
            return
        os.kill(int((self.directory / "pid").read_text()), signal.SIGKILL)
        self._init.wait()

    def close(self) -> None:
        """End it, and remove what it has written."""
        self._kill()
        remove = 'mount -t cgroup2 cgroup2 "$0" && find "$0/$1" -depth -type d -exec rmdir {} +'
        cgroups = self.directory / "cgroup"
        subprocess.run(["unshare", "--mount", "sh", "-c", remove, str(cgroups), self.directory.name], check=False)
        shutil.rmtree(self.directory)

    def __enter__(self) -> Hypervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- what is done on it ------------------------------------------------------

    def run(self, *words: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run a command as root; gives what it printed. Raises CalledProcessError if it fails, unless not `check`."""
        inside = ["nsenter", "-t", (self.directory / "pid").read_text(), "--all", "--root", "--wd", *words]
        return subprocess.run(inside, check=check, stdout=subprocess.PIPE, text=True, timeout=timeout).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has said, before reboots too: to the journal all of them are one, as the kernel's id is."""
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager")

    def play(self, plays: Sequence[Mapping[str, Any]], *arguments: str, **how: Any) -> PlayRun:
        """Run plays on it, whose `hosts` are `hypervisors`; `how` is as in `run_playbook`."""
        local = {"ansible_connection": None, "ansible_python_interpreter": None}
        how["variables"] = {**local, **how.get("variables", {})}
        return run_playbook(plays, self.home, "-i", str(self.directory / "inventory.json"), *arguments, **how)

    def observer(self, path: str) -> Observer:
        """Another client of a monitor on it."""
        return Observer(f"{self.root}{path}")
