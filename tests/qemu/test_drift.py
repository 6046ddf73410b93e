# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a virtual machine that runs differs in from what qemu_vm last made true, by its record: qemu_info's subset document."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import run_module
from support.roles import Machines
from support.vm import VERSIONS, VM, qemu_binary

NOTHING = {
    "differences": [],
    "restart_required": False,
    "arguments": {"before": [], "after": []},
    "reason": "",
}


class Kept(Machines):
    """vm1, with a disk that has a limit, a network card, an I/O thread and a character device."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.base.chmod(0o755)
        self.own = {"binary": str(qemu_binary(version)), "user": "nobody" if os.geteuid() == 0 else ""}
        directory = self.base / "vm1"
        self.record = directory / "vm.json"
        self.data = directory / "data"
        port = {"id": "c0", "type": "socket", "path": f"{directory}/run/c0", "server": True}
        if self.own["user"]:
            port["path"] = f"{directory}/run/sockets/c0"
        self.has: dict[str, Any] = {
            "disk_size": "8M",
            "vcpus_max": 2,
            "disks": [
                {"id": "data", "filename": str(self.data), "size": "1M", "bus": "rp0", "limits": {"iops": 50}},
            ],
            "nics": [{"id": "net0", "netdev": {"type": "user"}, "mac": "52:54:00:00:00:01", "bus": "rp1"}],
            "objects": [{"id": "io0", "qom_type": "iothread", "options": {"poll-max-ns": 1000}}],
            "chardevs": [port],
        }
        self.done(True)

    def run(self, check: bool = False, diff: bool = False, **variables: Any) -> Any:
        return super().run(check, diff, **{**self.own, **self.has, **variables})

    def told(self, monitor: str = "qmp") -> dict[str, Any]:
        """What is told of it; nothing else in the virtual machine, or beside it, is changed by that."""
        socket = str(self.base / "vm1" / "run" / monitor)
        before = self.files()
        result = run_module(socket, "qemu_info", gather_subset=["document"])
        assert (result["changed"], result["commands"], self.files()) == (False, [], before)
        found: dict[str, Any] = result["vm"]["document"]
        return found

    def differences(self) -> set[tuple[str, str, str]]:
        told = self.told()
        assert not told["reason"]
        return {(one["action"], one["kind"], one["id"]) for one in told["differences"]}


@pytest.fixture(params=VERSIONS)
def vms(request: pytest.FixtureRequest) -> Iterator[Kept]:
    made = Kept(request.param)
    yield made
    made.close()


def test_what_somebody_else_has_changed(vms: Kept) -> None:
    assert vms.told() == vms.told("events") == NOTHING
    with vms.observer() as observer:
        observer.send(
            "block_set_io_throttle",
            {
                "id": "/machine/peripheral/data/virtio-backend",
                **dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0),
                "iops": 70,
            },
        )
        observer.execute("qom-set", path="/objects/io0", property="poll-max-ns", value=5)
        observer.execute("chardev-remove", id="c0")
        observer.execute("object-add", **{"qom-type": "iothread", "id": "more"})
        observer.execute("cont")
        told = vms.told()
        assert observer.execute("query-status")["running"] and "c0" not in observer.chardevs()
    assert told["differences"] == [
        {
            "action": "change",
            "kind": "object",
            "id": "io0",
            "changes": {"options.poll-max-ns": {"before": 5, "after": 1000}},
        },
        {"action": "add", "kind": "chardev", "id": "c0", "changes": {}},
        {"action": "change", "kind": "disk", "id": "data", "changes": {"limits.iops": {"before": 70, "after": 50}}},
        {
            "action": "change",
            "kind": "power",
            "id": "power",
            "changes": {"status": {"before": "running", "after": "paused"}},
        },
    ]
    assert (told["restart_required"], told["reason"]) == (False, "")
    # a run says the same, and then there is nothing left
    foretold = vms.done(True, check=True).tasks[-1].result["plan"]
    assert sorted(foretold, key=str) == sorted(told["differences"], key=str)
    vms.done(True)
    assert vms.told() == NOTHING


def test_what_is_there_and_nobody_named(vms: Kept) -> None:
    """It is the virtual machine's owner's, unless the document says that nothing else shall be there."""
    with vms.observer() as observer:
        observer.execute("object-add", **{"qom-type": "iothread", "id": "more"})
    assert vms.differences() == set()
    vms.done(True, purge=True)
    with vms.observer() as observer:
        assert "more" not in observer.objects()
        observer.execute("object-add", **{"qom-type": "iothread", "id": "more"})
    assert vms.differences() == {("remove", "object", "more")}


def test_what_takes_a_restart(vms: Kept) -> None:
    assert vms.done(False, memory="96M").tasks[-1].result["restart_required"]
    told = vms.told()
    assert told["restart_required"] and told["differences"] == []
    assert told["arguments"] == {"before": ["-m size=64M"], "after": ["-m size=96M"]}
    vms.done(True, memory="96M", restart_allowed=True)
    assert vms.told() == NOTHING
    # and back, while another program is to run it
    other = vms.base / "other-qemu"
    os.link(os.readlink(f"/proc/{vms.processes()['vm1']}/exe"), other)
    kept = json.loads(vms.record.read_text())
    kept["command_line"][0] = str(other)
    vms.record.write_text(json.dumps(kept))
    running = os.readlink(f"/proc/{vms.processes()['vm1']}/exe")
    assert vms.told()["arguments"] == {"before": [running], "after": [str(other)]}


def test_an_image_that_is_gone_and_what_can_t_be_made_so(vms: Kept) -> None:
    vms.data.unlink()
    with vms.observer() as observer:
        observer.execute("block_resize", node_name="disk-node", size=16 << 20)  # no document says how large it is
        observer.execute("block_resize", node_name="data-node", size=2 << 20)  # and this can't be made smaller
    told = vms.told()
    assert {(one["action"], one["kind"], one["id"]) for one in told["differences"]} == {
        ("add", "image", str(vms.data)),
        ("change", "disk", "data"),
    }
    assert "shrunk" in vms.refused() or "not there" in vms.refused()


def damaged(vms: Kept) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Ways in which a record is not to be followed, with what is said of each."""
    text = vms.record.read_text()
    kept = json.loads(text)

    def written(**members: Any) -> Callable[[], Any]:
        return lambda: vms.record.write_text(json.dumps({**kept, **members}))

    yield "is damaged", lambda: vms.record.write_text("{")
    yield "is damaged", lambda: vms.record.write_text("[" * 200_000)
    yield "is damaged", lambda: vms.record.write_bytes(os.urandom(64))
    yield "another version", written(version=2)
    yield "is damaged", written(more=1)
    yield "is damaged", written(document=[])
    yield "disks", written(document={"disks": 7})
    yield "disks", written(document={"disks": ["data"]})
    yield "document", written(document={"nosuch": []})
    yield "the record of vm2", written(name="vm2")
    yield "taps", written(taps=[{"name": "a/b"}])
    yield "name", written(taps=[{}])
    yield "others than who runs the task can write it", lambda: vms.record.chmod(0o602)
    if os.geteuid() == 0:
        yield "others than who runs the task can write it", lambda: os.chown(vms.record, 65534, 65534)
    yield "a symbolic link", lambda: replace(vms.record, lambda: vms.record.symlink_to("/etc/shadow"))
    yield "not a regular file", lambda: replace(vms.record, lambda: os.mkfifo(vms.record))
    yield "not a regular file", lambda: replace(vms.record, vms.record.mkdir)


def replace(path: Path, make: Callable[[], None]) -> None:
    path.unlink()
    make()


def test_a_record_that_is_not_to_be_followed(vms: Kept) -> None:
    text = vms.record.read_bytes()
    for said, harm in damaged(vms):
        harm()
        told = vms.told()
        assert said in told["reason"] and told["differences"] == [], (said, told)
        if vms.record.is_dir() and not vms.record.is_symlink():
            vms.record.rmdir()
        vms.record.unlink(missing_ok=True)
        vms.record.write_bytes(text)
        vms.record.chmod(0o600)
        assert vms.told() == NOTHING
    vms.record.unlink()
    assert vms.told() == {}


def test_a_link_to_a_monitor_is_followed_if_it_is_not_a_stranger_s(vms: Kept) -> None:
    link = vms.base / "web1.qmp"
    link.symlink_to(vms.base / "vm1" / "run" / "qmp")
    document = run_module(str(link), "qemu_info", gather_subset=["document"])["vm"]["document"]
    assert document == NOTHING
    if os.geteuid() == 0:
        os.lchown(link, 65534, 65534)
        document = run_module(str(link), "qemu_info", gather_subset=["document"])["vm"]["document"]
        assert "is a symbolic link that belongs to nobody" in document["reason"]


def test_a_secret_in_an_address_is_not_told(vms: Kept) -> None:
    kept = json.loads(vms.record.read_text())
    kept["document"]["disks"][0]["filename"] = "https://me:hunter2@example.org/data"
    vms.record.write_text(json.dumps(kept))
    told = json.dumps(vms.told())
    assert "example.org" in told and "hunter2" not in told


def test_one_that_is_not_kept(start_vm: Callable[..., VM]) -> None:
    vm = start_vm()
    assert run_module(vm, "qemu_info", gather_subset=["document"])["vm"]["document"] == {}
    assert run_module(vm, "qemu_info", check=True, gather_subset=["document"])["vm"]["document"] == {}
