# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook vmm.qemu.report, on a fleet of which only a part answers."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.collection import REPO
from support.inventory import write
from support.modules import run_module
from support.plays import PlayRun, run_playbook
from support.report import data_of
from support.roles import Machines
from support.vm import VM

PARTS = (
    "-smp",
    "1,maxcpus=4",
    "-device",
    "virtio-balloon-pci,id=bal",
    "-device",
    "qemu-xhci,id=usb",
    "-device",
    "usb-tablet,id=tab",
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="rep-", dir="/tmp") as directory:
        yield Path(directory)


def report(home: Path, sources: list[Path], *arguments: str, **variables: Any) -> PlayRun:
    """A finished run, on localhost and its monitors as these sources of the inventory have them."""
    local = home / "local.json"
    given = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    local.write_text(json.dumps({"all": {"hosts": {"localhost": given}}}))
    paths = [word for source in (local, *sources) for word in ("-i", str(source))]
    free = {"ansible_connection": None, "ansible_python_interpreter": None}
    play = REPO / "playbooks" / "report.yml"
    return run_playbook(play, home, *paths, *arguments, variables={**free, **variables}, here=True)


def shown(path: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in data_of(path.read_text())["machines"]}


def test_a_fleet_of_which_a_part_answers(start_vm: Callable[..., VM], place: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    name = "vm{{ lookup('pipe',, 'touch " + str(done) + "') }}<script>alert(1)</script>"
    web, hostile, held = start_vm(name="web1", args=PARTS, scsi=True), start_vm(name=name), start_vm(name="held")
    furnish(web)
    for link, vm in (("a", web), ("b", hostile), ("c", held)):
        (place / f"{link}.qmp").symlink_to(vm.qmp)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "gone.qmp"))
    list_backup(place / "backup" / "web1", web)
    down = tmp_path / "down.json"
    lost = {"qemu_hypervisor": "hv2", "qemu_socket": "/run/lost.qmp", "qemu_status": "running"}
    hv2 = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    down.write_text(json.dumps({"kvm": {"hosts": {"hv2": hv2}}, "qemu": {"hosts": {"lost": lost}}}))
    fleet = [down, write(tmp_path, sockets=[f"{place}/*.qmp"], timeout=240, connect_timeout=5)]
    path = tmp_path / "fleet.html"
    given = {"report_path": str(path), "backup_directory": str(place / "backup"), "report_connect_timeout": 5}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(held.qmp)
        assert client.recv(10)
        foretold = report(tmp_path, fleet, "--check", **given)
        assert foretold.rc == 0 and not path.exists(), foretold.output
        run = report(tmp_path, fleet, **given)
    assert run.rc == 0 and "localhost" not in {task.host for task in run.tasks}, run.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    machines = shown(path)
    assert {one: told["state"] for one, told in machines.items()} == {
        **{"web1": "prelaunch", "b": "prelaunch", "c": "busy", "gone": "unreachable", "lost": "unreachable"}
    }
    assert "nothing listens there" in machines["gone"]["reason"] and "127.0.0.1" in machines["lost"]["reason"]
    assert machines["lost"]["hypervisor"] == "hv2" and machines["lost"]["backup"] is None
    assert machines["b"]["own_name"] == name.replace(",,", ",") and not done.exists()
    assert "<script>alert" not in path.read_text()
    check_furniture(web, machines["web1"])
    backup = machines["web1"]["backup"]
    assert backup == {"time": "2020-01-02T03:04:05Z", "level": "full", "old": True}
    assert machines["b"]["backup"] == {"time": "", "level": "", "old": True}
    # a part of it, without what others have registered, and without backups
    run = report(tmp_path, fleet, "--limit", "web1", report_path=str(path))
    assert run.rc == 0 and set(shown(path)) == {"web1"}, run.output
    assert shown(path)["web1"]["backup"] is None


def furnish(vm: VM) -> None:
    """A disk on two images with limits, one more by SCSI, a network card, memory and a job."""
    base, top = vm.image("base.qcow2", "64M", "qcow2"), f"{vm.directory}/top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    limits = {"bps": 1_000_000, "iops_wr": 100}
    run_module(vm, "qemu_disk", id="data", filename=top, format="qcow2", bus="rp0", limits=limits)
    run_module(
        vm, "qemu_disk", id="cd", filename=vm.image("cd.raw", "8M"), driver="scsi-cd", read_only=True, bus="scsi0.0"
    )
    run_module(vm, "qemu_nic", id="nic0", netdev={"type": "user"}, mac="52:54:00:00:00:07", bus="rp1")
    vm.observer.execute(
        "blockdev-create", job_id="made", options={"driver": "file", "filename": "/no/where", "size": 1}
    )


def list_backup(directory: Path, vm: VM) -> None:
    directory.mkdir(parents=True)
    listed = {"number": 1, "level": "full", "time": "2020-01-02T03:04:05Z", "disks": {}}
    (directory / "chain.json").write_text(json.dumps({"version": 1, "vm": {"name": "web1"}, "backups": [listed]}))


def check_furniture(vm: VM, told: dict[str, Any]) -> None:
    version = vm.observer.execute("query-version")["qemu"]
    assert told["version"] == ".".join(str(version[part]) for part in ("major", "minor", "micro"))
    assert (told["cpus"], told["most_cpus"], told["memory"]) == (1, 4, 256 << 20)
    assert told["balloon"] == vm.observer.execute("query-balloon")["actual"]
    assert told["outdated"] is False and told["arch"] == "x86_64" and not told["kvm"]
    disks = {disk["id"]: disk for disk in told["disks"]}
    assert disks["data"]["files"] == [f"{vm.directory}/{name}.qcow2" for name in ("top", "base")]
    assert disks["data"]["limits"] == {"bps": 1_000_000, "iops_wr": 100} and disks["data"]["size"] == 64 << 20
    assert disks["cd"]["read_only"] and disks["cd"]["driver"] == "scsi-cd"
    (nic,) = told["nics"]
    assert (nic["mac"], nic["type"]) == ("52:54:00:00:00:07", "user")
    (job,) = told["jobs"]
    assert (job["id"], job["status"]) == ("made", "concluded") and "/no/where" in job["error"]
    root = next(bus for bus in told["buses"] if bus["name"] == "pcie.0")
    found = dict(walk(root, ()))
    assert found["data"] == ("pcie.0", "rp0") and found["tab"] == ("pcie.0", "usb.0")
    assert found["cd"] == ("pcie.0", "bed-scsi-port", "scsi0.0") and found["bal"] == ("pcie.0",)
    named = set(vm.observer.devices()) - {f"rp{number}" for number in range(2, 8)}
    assert named - set(found) == set()


def walk(bus: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each device that is in a picture, with the buses that lead to it."""
    here = (*above, bus["name"])
    for device in bus["devices"]:
        yield device["id"], here
        for below in device["buses"]:
            yield from walk(below, here)


@pytest.fixture
def kept() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.close()


def test_what_differs_from_the_document(kept: Machines, start_vm: Callable[..., VM], tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>{{ 7 * 7 }}"
    io = {"objects": [{"id": "io0", "qom_type": "iothread", "options": {"poll-max-ns": 1000}}]}
    for name in ("same", "drifts", "restarts", "damaged", "hostile"):
        kept.done(True, name=name, directory=str(kept.base / name), **io)
    with kept.observer("drifts") as observer:
        observer.execute("qom-set", path="/objects/io0", property="poll-max-ns", value=5)
    kept.done(False, name="restarts", directory=str(kept.base / "restarts"), memory="96M", **io)
    (kept.base / "damaged" / "vm.json").chmod(0o666)
    record = kept.base / "hostile" / "vm.json"
    told = json.loads(record.read_text())
    told["images"] = [f"/{hostile}"]
    record.write_text(json.dumps(told))
    other = start_vm(name="other")
    path = tmp_path / "fleet.html"
    sources = [write(tmp_path, sockets=[f"{kept.base}/*/run/qmp", other.qmp], timeout=240, connect_timeout=5)]
    before = {name: (kept.base / name / "vm.json").read_bytes() for name in ("same", "drifts", "restarts", "hostile")}
    run = report(tmp_path, sources, report_path=str(path))
    assert run.rc == 0 and not any(task.changed for task in run.tasks if task.task != "Write the page"), run.output
    drift = {name: one["drift"] for name, one in shown(path).items()}
    assert {name: one["says"] for name, one in drift.items()} == {
        "same": ["nothing differs"],
        "drifts": ["1 difference"],
        "restarts": ["needs a restart"],
        "damaged": ["could not be told"],
        "hostile": ["1 difference"],
        "other": ["not kept by qemu_vm"],
    }
    assert drift["drifts"]["lines"] == [
        {"what": "object io0", "option": "options.poll-max-ns", "wanted": "1000", "there": "5"}
    ]
    assert drift["restarts"]["lines"] == [
        {"what": "command line", "option": "", "wanted": "-m size=96M", "there": "-m size=64M"}
    ]
    assert drift["hostile"]["lines"][0]["what"] == f"image /{hostile}" and "<script>alert" not in path.read_text()
    assert "others than who runs the task can write it" in drift["damaged"]["reason"]
    # nothing was changed by that
    assert {name: (kept.base / name / "vm.json").read_bytes() for name in before} == before
    with kept.observer("drifts") as observer:
        assert observer.qom_get("/objects/io0", "poll-max-ns") == 5
