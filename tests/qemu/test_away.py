# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks whose guest is elsewhere: on its way here, or gone. QEMU 7.2 ends itself when it is told to write to one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from support.migration import incoming, migrate
from support.modules import ModuleFailed, run_module
from support.timing import until
from support.vm import VM, is_since

MIB = 1 << 20
SCSI: dict[str, Any] = {"driver": "scsi-hd", "bus": "scsi0.0"}


@pytest.fixture(params=["inmigrate", "postmigrate"])
def away(request: pytest.FixtureRequest, start_vm: Callable[..., VM]) -> VM:
    """A VM whose guest is elsewhere, with a disk `d0` on an overlay of 16 MiB, and a node `copy` of that size."""
    waits = ["-incoming", "defer"] if request.param == "inmigrate" else []
    vm = start_vm(scsi=True, args=waits)
    base, overlay = vm.image("base.qcow2", fmt="qcow2"), f"{vm.directory}/d0.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay]
    subprocess.run(make, check=True)
    run_module(vm, "qemu_disk", id="d0", filename=overlay, format="qcow2", **SCSI)
    run_module(vm, "qemu_blockdev", node_name="copy", filename=vm.image("copy.raw"), driver="raw")
    if not waits:
        migrate(vm, uri=f"exec:cat > {vm.directory}/state")
    assert vm.observer.status() == request.param
    return vm


def refused(vm: VM, module: str, **options: Any) -> None:
    """In check mode and for real, with nothing sent."""
    before = vm.fingerprint()
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=vm.observer.status()) as failed:
            run_module(vm, module, check=check, **options)
        assert not failed.value.result["changed"]
    assert vm.alive and vm.fingerprint() == before


def test_a_disk_does_not_grow_while_its_guest_is_elsewhere(away: VM) -> None:
    disk: dict[str, Any] = {"id": "d0", "size": "32M"}
    refused(away, "qemu_disk", **disk)
    refused(away, "qemu_blockdev", node_name="d0-node", size="32M")
    refused(away, "qemu_machine", disks=[disk])
    assert away.observer.node("d0-node")["image"]["virtual-size"] == 16 * MIB
    assert not run_module(away, "qemu_disk", id="d0", size="16M")["changed"]


def test_a_new_disk_grows_where_qemu_may_write_to_it(away: VM) -> None:
    disk: dict[str, Any] = {"id": "d1", "filename": away.image("d1.raw"), "size": "32M", **SCSI}
    if away.observer.status() == "inmigrate":
        refused(away, "qemu_disk", **disk)
        return
    run_module(away, "qemu_disk", **disk)
    assert away.observer.node("d1-node")["image"]["virtual-size"] == 32 * MIB


@pytest.mark.parametrize("operation", ["mirror", "backup", "commit", "stream"])
def test_no_block_job_begins_while_the_guest_is_elsewhere(away: VM, operation: str) -> None:
    target = {"target": "copy"} if operation in ("mirror", "backup") else {}
    refused(away, "qemu_block_job", id="j", operation=operation, device="d0", **target)


def test_a_new_disk_whose_size_only_qemu_can_tell(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(scsi=True, args=["-incoming", "defer"])
    part: dict[str, Any] = {"id": "d1", "filename": vm.image("d1.raw"), "blockdev": {"options": {"offset": 0}}, **SCSI}
    with pytest.raises(ModuleFailed, match="inmigrate"):
        run_module(vm, "qemu_disk", size="32M", **part)
    assert vm.alive and "d1-node" not in vm.observer.nodes()
    run_module(vm, "qemu_disk", size="16M", **part)
    assert vm.plugged() == {"d1": "scsi-hd"}


def test_a_guest_that_arrived_paused_has_its_disks_once_it_runs(start_vm: Callable[..., VM], qemu_version: str) -> None:
    source = start_vm(scsi=True)
    path = source.image("d0.qcow2", fmt="qcow2")
    disk: dict[str, Any] = {"id": "d0", "filename": path, "format": "qcow2", **SCSI}
    there = start_vm(scsi=True, args=["-incoming", "defer"])
    for vm in (there, source):
        run_module(vm, "qemu_disk", **disk)
    incoming(there, f"unix:{source.directory}/m")
    migrate(source, uri=f"unix:{source.directory}/m", destination_socket=there.qmp)
    assert there.observer.status() == "prelaunch"
    if is_since(qemu_version, "10.0"):
        with pytest.raises(ModuleFailed, match="let it run first"):
            run_module(there, "qemu_disk", check=True, size="32M", **disk)
        run_module(there, "qemu_power", state="running")
    assert run_module(there, "qemu_disk", size="32M", **disk)["changed"]
    assert there.observer.node("d0-node")["image"]["virtual-size"] == 32 * MIB


def job(vm: VM, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_block_job", **options)


@pytest.fixture
def leaving(start_vm: Callable[..., VM]) -> VM:
    """A VM whose guest is on its way for as long as one looks, with disk `d0` over a snapshot `s0`, a mirror, and CD drives."""
    vm = start_vm(scsi=True)
    for name in ("d0", "d1"):
        run_module(vm, "qemu_disk", id=name, filename=vm.image(f"{name}.qcow2", fmt="qcow2"), format="qcow2", **SCSI)
    run_module(vm, "qemu_blockdev", node_name="copy", filename=vm.image("copy.raw"), driver="raw")
    run_module(vm, "qemu_disk_snapshot", name="s0", disks=["d0"])
    job(vm, id="m", operation="mirror", device="d1", target="copy", state="running")
    for name, image in (("full", vm.image("full.iso")), ("empty", "")):
        run_module(vm, "qemu_disk", id=name, driver="scsi-cd", bus="scsi0.0", filename=image)
    vm.observer.execute("migrate-set-parameters", max_bandwidth=2000)
    vm.observer.execute("migrate", uri="exec:cat > /dev/null")
    until(lambda: vm.observer.execute("query-migrate")["status"] == "active")
    return vm


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("qemu_disk_snapshot", {"name": "s1", "disks": ["d0"]}),
        ("qemu_disk_snapshot", {"name": "s0", "disks": ["d0"], "state": "absent"}),
        ("qemu_disk_snapshot", {"name": "s0", "disks": ["d0"], "state": "reverted"}),
        ("qemu_block_job", {"id": "j", "operation": "commit", "device": "d0"}),
        ("qemu_block_job", {"id": "j", "operation": "stream", "device": "d0", "state": "running"}),
        ("qemu_block_job", {"id": "m", "operation": "mirror", "device": "d1", "target": "copy", "state": "finished"}),
        ("qemu_disk", {"id": "full", "filename": ""}),
        ("qemu_disk", {"id": "empty", "filename": "full.iso"}),
        ("qemu_backup", {"name": "b", "path": "backups"}),
        ("qemu_qom", {"property": "drive", "value": "full-node"}),
        ("qemu_dump", {"path": "dump"}),
        ("qemu_snapshot", {"name": "n", "devices": ["d0.s0"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("state", ""),
)
def test_the_disks_stay_as_they_are_while_the_guest_is_on_its_way(
    leaving: VM, module: str, options: dict[str, Any]
) -> None:
    """The destination has them as they were when it began."""
    paths = ("path", "filename")
    given: dict[str, Any] = {
        key: f"{leaving.directory}/{text}" if key in paths and text else text for key, text in options.items()
    }
    if module == "qemu_qom":
        given["path"] = "/machine/peripheral/d0"
    before = leaving.fingerprint()
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"is being migrated \(active\).*wait for its end") as failed:
            run_module(leaving, module, check=check, **given)
        assert not failed.value.result["changed"]
    assert leaving.fingerprint() == before
    assert leaving.observer.execute("query-migrate")["status"] == "active"


def test_a_job_that_moves_no_disk_may_end_while_the_guest_is_on_its_way(leaving: VM) -> None:
    run_module(leaving, "qemu_block_job", id="m", state="cancelled")
    assert leaving.observer.execute("query-block-jobs") == []


def test_what_is_as_it_shall_be_while_the_guest_is_on_its_way(leaving: VM) -> None:
    same: list[tuple[str, dict[str, Any]]] = [
        ("qemu_disk_snapshot", {"name": "s0", "disks": ["d0"]}),
        ("qemu_disk_snapshot", {"name": "s9", "disks": ["d0"], "state": "absent"}),
        ("qemu_disk", {"id": "empty", "filename": ""}),
        ("qemu_block_job", {"id": "m", "operation": "mirror", "device": "d1", "target": "copy", "state": "running"}),
        ("qemu_qom", {"path": "/machine/peripheral/full", "property": "drive", "value": "full-node"}),
    ]
    for module, options in same:
        assert not run_module(leaving, module, **options)["changed"], module


def test_a_medium_comes_into_a_drive_that_waits_for_its_guest(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(scsi=True, args=["-device", "scsi-cd,id=cd,bus=scsi0.0", "-incoming", "tcp:127.0.0.1:0"])
    run_module(vm, "qemu_disk", id="cd", filename=vm.image("m.iso"), read_only=True)
    assert vm.observer.node("cd-node")["ro"]
