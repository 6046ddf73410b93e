# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that grow: QEMU's word on their size counts, before anything uses them, and nothing is ever cut."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

MIB = 1 << 20


class Elsewhere:
    """A QEMU to which a path means another file than to a task: it has a mount namespace of its own, as in a container."""

    def __init__(self, version: str, here: int, there: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.tcp = f"127.0.0.1:{free.getsockname()[1]}"
        self.vm = VM(version, start=False, scsi=True, args=["-qmp", f"tcp:{self.tcp},server=on,wait=off"])
        self.path = self.vm.directory / "data.raw"
        self.path.write_bytes(bytes(here))
        self.behind = self.vm.directory / "behind.raw"
        self.behind.write_bytes(os.urandom(there))
        enter = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        self.vm.command[:0] = ["unshare", "-m", "sh", "-c", enter, "sh", str(self.behind), str(self.path)]

    def disk(self, size: str, monitor: str = "tcp", **how: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "id": "d0",
            "driver": "scsi-hd",
            "bus": "scsi0.0",
            "filename": str(self.path),
            "size": size,
        }
        return run_module(self.tcp if monitor == "tcp" else self.vm.qmp, "qemu_disk", **options, **how)

    def sizes(self) -> tuple[int, int]:
        return self.path.stat().st_size, self.behind.stat().st_size


@pytest.fixture
def elsewhere(qemu_version: str, request: pytest.FixtureRequest) -> Any:
    def start(here: int, there: int) -> Elsewhere:
        made = Elsewhere(qemu_version, here, there)
        request.addfinalizer(made.vm.close)
        made.vm.start()
        return made

    return start


@pytest.mark.parametrize("monitor", ["tcp", "unix"])
def test_a_disk_that_is_larger_where_qemu_sees_it_is_not_cut(elsewhere: Callable[..., Elsewhere], monitor: str) -> None:
    other = elsewhere(here=1 * MIB, there=10 * MIB)
    content = other.behind.read_bytes()
    before = other.vm.fingerprint()
    with pytest.raises(ModuleFailed) as failed:
        other.disk("5M", monitor)
    for word in (
        "never shrunk",
        str(10 * MIB),
        str(5 * MIB),
        *(["taken back: blockdev-del"] if monitor == "tcp" else []),
    ):
        assert word in failed.value.result["msg"]
    assert other.behind.read_bytes() == content
    assert other.vm.fingerprint() == before


@pytest.mark.parametrize("monitor", ["tcp", "unix"])
def test_a_disk_that_is_smaller_where_qemu_sees_it_grows(elsewhere: Callable[..., Elsewhere], monitor: str) -> None:
    other = elsewhere(here=4 * MIB, there=1 * MIB)
    done = other.disk("4M", monitor)
    assert names(done) == ["blockdev-add", "block_resize", "device_add"]
    assert other.sizes() == (4 * MIB, 4 * MIB)
    assert other.vm.observer.node("d0-node")["image"]["virtual-size"] == 4 * MIB
    assert not other.disk("4M", monitor)["changed"]


def test_what_qemu_sees_is_foretold_where_it_can_be_looked_at(elsewhere: Callable[..., Elsewhere]) -> None:
    other = elsewhere(here=1 * MIB, there=4 * MIB)
    with pytest.raises(ModuleFailed, match=f"has {4 * MIB} bytes.*never shrunk"):
        other.disk("2M", "unix", check=True)
    assert names(other.disk("4M", "unix", check=True)) == ["blockdev-add", "device_add"]
    assert names(other.disk("4M", "unix")) == ["blockdev-add", "device_add"]


def test_an_image_that_only_qemu_sees(qemu_version: str, request: pytest.FixtureRequest) -> None:
    """In a container's directory, say. By its other name it is the same one, and a qcow2 image is not taken for a raw one."""
    vm = VM(qemu_version, start=False, scsi=True)
    request.addfinalizer(vm.close)
    here, there = vm.directory / "here", vm.directory / "there"
    here.mkdir()
    there.mkdir()
    vm.image("there/a.raw", "1M")
    vm.image("there/b.qcow2", "1M", "qcow2")
    (there / "c.raw").symlink_to("a.raw")
    enter = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    vm.command[:0] = ["unshare", "-m", "sh", "-c", enter, "sh", str(there), str(here)]
    vm.start()
    disk = Lifecycle(vm, "qemu_disk")
    of: dict[str, Any] = {"driver": "scsi-hd", "bus": "scsi0.0"}
    assert names(disk.step(id="d0", filename=f"{here}/a.raw", size="2M", **of))[1] == "block_resize"
    assert (there / "a.raw").stat().st_size == 2 * MIB
    disk.same(id="d0", filename=f"{here}/c.raw", **of)
    disk.refused("begins as a qcow2 image does", id="d1", filename=f"{here}/b.qcow2", **of)
    disk.refused("cannot use", "No such file", id="d1", filename=f"{here}/nosuch", **of)


def test_what_only_qemu_can_tell_is_warned_of_in_check_mode(elsewhere: Callable[..., Elsewhere]) -> None:
    other = elsewhere(here=1 * MIB, there=4 * MIB)
    foretold = other.disk("4M", check=True)
    assert names(foretold) == ["blockdev-add", "block_resize", "device_add"]
    assert "only QEMU can tell" in foretold["warnings"][0]
    done = other.disk("4M")
    assert (names(done), done["warnings"]) == (["blockdev-add", "device_add"], [])
    assert other.sizes() == (1 * MIB, 4 * MIB)
    assert names(other.disk("6M")) == ["block_resize"]
    assert other.sizes() == (1 * MIB, 6 * MIB)


def test_a_disk_that_can_not_grow_is_never_plugged(paused_vm: VM) -> None:
    """A stopped guest could not give it back."""
    path = f"{paused_vm.directory}/old.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "16M"]
    subprocess.run(make, check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "s1", path], check=True)
    image = Path(path).read_bytes()
    result = Lifecycle(paused_vm, "qemu_disk").refused(
        "block_resize",
        "taken back: blockdev-del",
        foretold=False,
        id="x",
        bus="rp0",
        filename=path,
        format="qcow2",
        size="32M",
    )
    assert "not_rolled_back" not in result and not result["changed"]
    assert not [event for event in paused_vm.observer.events if event["event"] == "DEVICE_DELETED"]
    assert Path(path).read_bytes() == image


def test_growth_that_stays_is_told(paused_vm: VM) -> None:
    """The image has grown when the device is refused: the node goes, the size stays."""
    path = paused_vm.image("a.img", "1M")
    with pytest.raises(ModuleFailed) as failed:
        run_module(
            paused_vm, "qemu_disk", id="x", bus="rp0", filename=path, size="2M", options={"discard_granularity": 3}
        )
    assert failed.value.result["not_rolled_back"] == ["block_resize x-node"] and failed.value.result["changed"]
    assert names(failed.value.result) == ["block_resize"]
    assert os.path.getsize(path) == 2 * MIB
    assert "x-node" not in paused_vm.observer.nodes()


def test_a_part_of_an_image_is_measured_by_qemu(paused_vm: VM) -> None:
    node = Lifecycle(paused_vm, "qemu_blockdev")
    given: dict[str, Any] = {"node_name": "n0", "filename": paused_vm.image("a.img"), "options": {"offset": 4096}}
    done = run_module(paused_vm, "qemu_blockdev", **given, size=16 * MIB - 4096)
    assert names(done) == ["blockdev-add"]
    node.same(**given, size=16 * MIB - 4096)


def job(vm: VM, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_block_job", **options)


def test_a_node_below_the_filter_of_a_job_does_not_grow(paused_vm: VM) -> None:
    """A backup holds the filter that it has put over the node, and not the node itself."""
    node = Lifecycle(paused_vm, "qemu_blockdev")
    disk: dict[str, Any] = {"id": "d0", "bus": "rp0", "filename": paused_vm.image("a.img")}
    run_module(paused_vm, "qemu_disk", **disk)
    node.step(node_name="copy", driver="raw", filename=paused_vm.image("copy.img"))
    job(paused_vm, id="j", operation="backup", device="d0", target="copy", speed="1", state="running")
    node.refused("size: block job j works on", node_name="d0-node", size="32M")
    Lifecycle(paused_vm, "qemu_disk").refused("size: block job j works on", id="d0", size="32M")


def test_an_exported_disk_does_not_grow(paused_vm: VM) -> None:
    disk = Lifecycle(paused_vm, "qemu_disk")
    disk.step(id="d0", bus="rp0", filename=paused_vm.image("a.img"))
    run_module(paused_vm, "qemu_export", id="e", device="d0", type="nbd", listen=f"{paused_vm.directory}/nbd")
    disk.refused("does not let it grow, such as an NBD export", foretold=False, id="d0", size="32M")
    run_module(paused_vm, "qemu_export", id="e", state="absent")
    disk.step(id="d0", size="32M")
