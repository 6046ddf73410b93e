# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest moves to the QEMU that is installed: qemu_vm with upgrade, and the role vmm.qemu.upgrade, with guests that count."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.killed import Broken
from support.modules import run_module
from support.observer import Observer
from support.plays import PlayRun
from support.roles import RUN, WITHOUT_EVENTS, Machines
from support.timing import until
from support.vm import BED, CMDLINE, qemu_binary

NIC = {"id": "lan", "netdev": {"type": "user"}, "bus": "rp0", "romfile": ""}
GUEST: dict[str, Any] = {
    "kernel": f"{BED}/guest/vmlinuz",
    "initrd": f"{BED}/guest/initrd.gz",
    "append": f"{CMDLINE} bed.count",
    "memory": "256M",
    "root_ports": 2,
    "power": "running",
    "disk_size": "8M",
    "nics": [NIC],
}


# one of the bed's own, which can hand memory over; Debian 13's 10.0 is the host's
UNPACKED = next(version for version in ("10.0", "11.1") if (BED / f"qemu-{version}").exists())
LONG = bool(os.environ.get("VMM_QEMU_LONG"))


def path(qemu: str) -> str:
    """A QEMU: the bed's of a version, or the one at a path."""
    return qemu if qemu.startswith("/") else str(qemu_binary(qemu))


class Counting(Machines):
    """A virtual machine whose guest counts, and the QEMUs that it runs on."""

    def __init__(self) -> None:
        super().__init__()
        self.has = dict(GUEST)

    def make(self, version: str = "7.2", **more: Any) -> None:
        """The virtual machine, its disk among the arguments and a disk and a NIC plugged in; its guest counts."""
        disk = {"id": "data", "filename": f"{self.base}/vm1/data", "size": "1M", "bus": "rp1"}
        self.has.update(disks=[disk], binary=path(version), **more)
        self.done(True, **self.has)

    def own_qemu(self, version: str = UNPACKED) -> str:
        """A QEMU that can be replaced by another file of the same name, as an upgrade of its package does."""
        bed, own = (BED / f"qemu-{version}").resolve(), self.base / "qemu"
        own.mkdir(exist_ok=True)
        shutil.copy(bed / "usr/bin/qemu-system-x86_64", own / "new")
        (own / "new").rename(own / "program")
        text = (
            (BED / "bin" / f"qemu-{version}")
            .read_text()
            .replace('"$root/usr/bin/qemu-system-x86_64"', f'"{own}/program"')
        )
        assert str(own) in text
        (own / "qemu").write_text(text)
        (own / "qemu").chmod(0o755)
        return str(own / "qemu")

    def count(self) -> int:
        """The last number that the guest has told; waits for another one."""
        log = self.base / "vm1/run/console.log"
        before = log.stat().st_size
        found: list[str] = []

        def counted() -> bool:
            found[:] = re.findall(r"GUEST-COUNT (\d+)\r?\n", log.read_text(errors="replace")[before:])
            return bool(found)

        until(counted, 120)
        return int(found[-1])

    def upgrade(self, to: str = "10.0", method: str = "auto", **how: Any) -> PlayRun:
        """Move it to a QEMU: of the bed, or at a path."""
        self.has["binary"] = path(to)
        return self.run(**{**self.has, "upgrade": method, **how})

    def moved(self, by: str, **how: Any) -> dict[str, Any]:
        """Move it: it must have moved, and the guest counts on."""
        before, pid = self.count(), self.processes()["vm1"]
        run = self.upgrade(**how)
        assert run.rc == 0, run.output
        result = run.tasks[-1].result
        assert result["changed"] and result["upgrade"]["method"] == by, result
        assert self.count() > before
        self.is_whole()
        assert self.processes()["vm1"] == result["instance"]["pid"] != pid
        return result

    def binary(self) -> dict[str, Any]:
        """What qemu_info says of the QEMU that it runs on."""
        told: dict[str, Any] = run_module(f"{self.base}/vm1/run/qmp", "qemu_info", gather_subset=["binary"])["vm"][
            "binary"
        ]
        return told

    def pids(self) -> Iterator[int]:
        """All QEMUs of it."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"path={self.base}/vm1/run/qmp," in (entry / "cmdline").read_text():
                    yield int(entry.name)

    def is_whole(self) -> None:
        """One QEMU runs, with all that it shall have, at the usual paths; nothing else is there, and nothing is to be done."""
        assert self.files() == {"disk.qcow2", "data", *RUN}
        pids = list(self.pids())
        assert pids == [int((self.base / "vm1/run/pid").read_text())]
        with self.observer() as observer:
            assert {"lan", "data", "disk"} <= set(observer.devices()) and observer.status() == "running"
        again = self.done(False, **self.has).tasks[-1].result
        assert not again["restart_required"] and again["instance"]["pid"] == pids[0]


@pytest.fixture
def vms() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.close()


def test_a_migration_to_a_newer_one(vms: Counting) -> None:
    vms.make("7.2")
    with vms.observer() as observer:
        kind = observer.execute("qom-get", path="/machine", property="type")
    foretold = vms.upgrade(check=True).tasks[-1].result
    assert foretold["changed"] and foretold["upgrade"]["method"] == "migrate"
    vms.has["binary"] = str(qemu_binary("7.2"))
    vms.is_whole()
    done = vms.moved("migrate")
    assert done["commands"] == foretold["commands"]
    assert done["upgrade"]["from"].startswith("7.2") and done["upgrade"]["to"].startswith("10.0")
    with vms.observer() as observer:
        assert observer.execute("qom-get", path="/machine", property="type") == kind == "pc-q35-7.2-machine"
    for name in ("agent", "console"):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(f"{vms.base}/vm1/run/{name}")
    for check in (True, False):
        assert not vms.upgrade(check=check).tasks[-1].result["changed"]
    # what starts it the next time is the new one, too
    vms.done(True, **vms.has, state="stopped")
    again = vms.upgrade()
    assert again.rc == 0 and not again.tasks[-1].changed and "does not run" in again.tasks[-1].result["msg"]
    record = json.loads((vms.base / "vm1/vm.json").read_text())
    assert record["command_line"][0] == vms.has["binary"]


@contextlib.contextmanager
def silence(vms: Counting, told: dict[str, Any]) -> Iterator[None]:
    """`told["silence_ms"]`: the longest time in which a guest that never stops talking has said nothing."""
    over, longest = threading.Event(), 0.0

    def listen() -> None:
        nonlocal longest
        heard, last = -1, time.monotonic()
        while not over.wait(0.001):
            with contextlib.suppress(FileNotFoundError):  # a log of that name has just gone
                now, said = time.monotonic(), sum(log.stat().st_size for log in vms.base.glob("vm1/run*/console.log"))
                if said != heard:
                    longest, heard, last = max(longest, now - last), said, now

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()
    told["silence_ms"] = round(longest * 1000)


def test_memory_that_is_handed_over(vms: Counting) -> None:
    """Two in a row; twenty if VMM_QEMU_LONG is set, which tells what the guest has noticed."""
    binary = vms.own_qemu()
    vms.make(binary, upgradable=True)
    assert not vms.upgrade(binary).tasks[-1].result["changed"]
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"{vms.base}/vm1/run/console")
        line.sendall(b"talk while usleep 100000; do echo .; done\n")
    for turn in range(20 if LONG else 2):
        method = ("cpr", "migrate")[turn % 2]
        assert not vms.binary()["outdated"]
        vms.own_qemu()
        assert vms.binary()["outdated"] and vms.binary()["running"]["deleted"]
        told: dict[str, Any] = {}
        with silence(vms, told):
            told.update(vms.moved(method, to=binary, method="auto" if method == "cpr" else method)["upgrade"])
        print("move:", json.dumps(told))
        for name in ("agent", "console", "monitor", "qmp"):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"{vms.base}/vm1/run/{name}")


@pytest.mark.parametrize("method", ["migrate", "cpr"])
def test_a_monitor_for_events_that_was_added_as_it_ran(vms: Counting, method: str) -> None:
    """The new QEMU has it from its start."""
    binary = vms.own_qemu("11.1")
    vms.before = WITHOUT_EVENTS
    vms.make(binary, upgradable=True)
    vms.before = ""
    vms.done(True, **vms.has)
    for added in (True, False):
        with contextlib.closing(Observer(f"{vms.base}/vm1/run/events")) as observer:
            assert "vmm-events" in observer.objects()
        line = Path(f"/proc/{vms.processes()['vm1']}/cmdline").read_text()
        assert ("vmm-events" in line) != added
        if added:
            vms.own_qemu("11.1")
            vms.moved(method, to=binary, method=method)


POINTS = [
    Broken("beside", "Beside.prepare", after=True),
    Broken("beside", "Beside.turn_to_new", after=True),
    Broken("upgrade_launch", "Launch._plug"),
    Broken("beside", "Beside.turn_to_old", after=True),
    Broken("upgrade", "Upgrade._await_running"),
    Broken("beside", "Beside.keep_new"),
    Broken("record", "write"),
]


@pytest.mark.parametrize("method", ["migrate", "cpr"])
def test_a_task_that_is_killed(vms: Counting, method: str) -> None:
    binary = vms.own_qemu()
    vms.make(binary, upgradable=True)
    for point in POINTS if LONG else POINTS[1:6:2] if method == "migrate" else POINTS[2:3]:
        vms.own_qemu()
        before, pid = vms.count(), vms.processes()["vm1"]
        vms.before = point.broken("kill")
        assert vms.upgrade(binary, method).rc == -signal.SIGKILL, point
        vms.before = ""
        if point.name != "write":
            assert "upgrade of its QEMU was begun" in vms.refused(**vms.has)
        if point.name not in ("Beside.prepare", "write"):
            assert "upgrade of its QEMU was begun" in vms.refused(**vms.has, state="absent")
        run = vms.upgrade(binary, method)
        assert run.rc == 0, run.output
        assert run.tasks[-1].changed or point.name == "write", point
        assert vms.count() > before and vms.processes()["vm1"] != pid
        vms.is_whole()


@pytest.mark.parametrize("method", ["migrate", "cpr"])
def test_a_new_qemu_that_dies(vms: Counting, method: str) -> None:
    binary = vms.own_qemu()
    vms.make(binary, upgradable=True)
    vms.own_qemu()
    before, pid = vms.count(), vms.processes()["vm1"]
    vms.before = Broken("upgrade_launch", "Launch._plug", after=True).broken("end")
    failed = vms.upgrade(binary, method)
    assert failed.rc == 2 and "Traceback" not in failed.output
    vms.before = ""
    assert vms.count() > before and vms.processes()["vm1"] == pid
    vms.is_whole()
    vms.moved(method, to=binary, method=method)


def test_what_is_refused(vms: Counting) -> None:
    small = {"power": "paused", "memory": "64M", "kernel": None, "initrd": None, "append": None}
    vms.has = {**vms.has, **small, "vnc": f"unix:{vms.base}/vm1/run/vnc"}
    vms.make("10.0", machine="pc-q35-7.2")

    def refused(**how: Any) -> str:
        run = vms.upgrade(**how)
        assert run.rc == 2 and "Traceback" not in run.output and len(list(vms.pids())) == 1, run.output
        assert set(vms.files()) == {"disk.qcow2", "data", "run/vnc", *RUN}
        return str(run.tasks[-1].result["msg"])

    for check in (True, False):
        assert "older" in refused(to="7.2", check=check)
    vms.has["binary"] = str(qemu_binary("10.0"))
    vms.done(True, **vms.has, state="stopped")
    vms.done(True, **{**vms.has, "binary": str(qemu_binary("7.2"))})
    assert "handed over" in refused(method="cpr")
    assert "does not tell its version" in refused(to="/bin/true")
    with vms.observer() as observer:
        observer.execute("object-add", **{"qom-type": "iothread", "id": "io9"})
        assert "object io9 was plugged in by somebody else" in refused()
        observer.execute("object-del", id="io9")
        listens = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
        backend = {"type": "socket", "data": {"addr": listens, "server": True, "wait": False}}
        observer.execute("chardev-add", id="tcp0", backend=backend)
        assert "tcp0" in refused()
        observer.execute("chardev-remove", id="tcp0")
        observer.execute("blockdev-add", **{"driver": "null-co", "node-name": "n0", "size": 1 << 20})
        job = {"device": "data-node", "target": "n0", "sync": "full", "job-id": "j0", "speed": 1}
        observer.execute("blockdev-backup", **job)
        assert "j0" in refused()
        observer.execute("block-job-cancel", device="j0")
        until(lambda: not observer.execute("query-jobs"))
        observer.execute("blockdev-del", **{"node-name": "n0"})
    assert vms.upgrade().rc == 0
