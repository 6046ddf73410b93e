# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_bitmap: what a bitmap has recorded is never lost by a task that did not ask for that.

The VMs are paused. `qemu-io` on the human monitor writes as the guest would: through the device.
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.timing import until
from support.vm import OLDEST, VERSIONS, VM

KB = 1 << 10


@pytest.fixture(scope="module", params=[OLDEST, *VERSIONS])
def qemu_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture
def vm(start_vm: Any) -> VM:
    """It has a disk `data` on a qcow2 image."""
    started: VM = start_vm(scsi=True)
    started.image("data.qcow2", "16M", "qcow2")
    attach(started)
    return started


@pytest.fixture
def bitmap(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_bitmap")


def attach(vm: VM) -> None:
    add(vm, "data-node", "data.qcow2", "qcow2")
    vm.observer.send("device_add", {"driver": "scsi-hd", "id": "data", "bus": "scsi0.0", "drive": "data-node"})


def add(vm: VM, node: str, image: str, driver: str, **more: Any) -> None:
    file = {"driver": "file", "filename": str(vm.directory / image)}
    vm.observer.send("blockdev-add", {"driver": driver, "node-name": node, "file": file, **more})


def write(vm: VM, where: str) -> None:
    assert vm.observer.hmp(f'qemu-io -d data "write {where}"') == ""


def there(vm: VM, node: str = "data-node") -> dict[str, tuple[int, bool]]:
    """How much each bitmap with a name has, and whether it records: by the second monitor."""
    told = vm.observer.node(node).get("dirty-bitmaps", [])
    return {item["name"]: (item["count"], item["recording"]) for item in told if "name" in item}


def test_a_whole_life(bitmap: Lifecycle) -> None:
    vm = bitmap.vm
    given: dict[str, Any] = {"node": "data", "name": "1 bk/ü", "granularity": "4k", "persistent": True}
    made = bitmap.step(**given)
    assert names(made) == ["block-dirty-bitmap-add"] and there(vm) == {"1 bk/ü": (0, True)}
    assert made["bitmap"] == {
        **{"node": "data-node", "name": "1 bk/ü", "granularity": 4096, "persistent": True},
        **{"count": 0, "recording": True, "busy": False, "inconsistent": False},
    }
    assert made["diff"]["after"]["bitmap"]["data-node/1 bk/ü"]["granularity"] == "4k"
    write(vm, "0 64k")
    assert names(bitmap.step(**given, enabled=False)) == ["block-dirty-bitmap-disable"]
    write(vm, "1M 64k")
    assert there(vm) == {"1 bk/ü": (64 * KB, False)}
    vm.observer.send("block-dirty-bitmap-enable", {"node": "data-node", "name": "1 bk/ü"})
    assert names(bitmap.step(**given, enabled=False)) == ["block-dirty-bitmap-disable"], "drift is brought back"

    document: dict[str, Any] = {"disks": [{"id": "data"}], "blockdevs": [], "purge": True}
    assert not run_module(vm, "qemu_machine", **document)["changed"], "what a document does not name is not its bitmaps"

    for options in ({"granularity": "64k"}, {"persistent": False}):
        for recreate in (False, True):
            bitmap.refused("its bits would be lost", "state=absent", **{**given, **options}, recreate=recreate)
    assert there(vm) == {"1 bk/ü": (64 * KB, False)}

    cleared = bitmap.step(**given, clear=True, enabled=True)
    assert names(cleared) == ["transaction"] and there(vm) == {"1 bk/ü": (0, True)}
    assert cleared["diff"]["before"]["bitmap"]["data-node/1 bk/ü"]["count"] == 64 * KB
    write(vm, "0 64k")
    assert names(bitmap.step(**given, clear=True)) == ["block-dirty-bitmap-clear"]
    assert names(bitmap.step(node="data", name="1 bk/ü", state="absent")) == ["block-dirty-bitmap-remove"]
    assert there(vm) == {}
    bitmap.same(node="nobody", name="1 bk/ü", state="absent")


def test_merging(bitmap: Lifecycle) -> None:
    vm = bitmap.vm
    for name, where in (("mon", "0 64k"), ("tue", "1M 128k"), ("wed", "")):
        bitmap.step(node="data-node", name=name, granularity="64k")
        if where:
            write(vm, where)
        bitmap.step(node="data-node", name=name, enabled=False)
    given: dict[str, Any] = {"node": "data", "name": "both", "enabled": False, "granularity": "64k"}
    bitmap.refused("merge_from", "data-node has no bitmap 'thu'", **given, merge_from=["mon", "thu"])
    assert "both" not in there(vm)
    run_module(vm, "qemu_bitmap", **given, merge_from=["wed"])
    bitmap.same(**given, merge_from=["wed"])
    asked = {**given, "merge_from": ["mon", {"node": "data", "name": "tue"}]}
    foretold = run_module(vm, "qemu_bitmap", check=True, **asked)
    assert there(vm)["both"] == (0, False)
    done = run_module(vm, "qemu_bitmap", **asked)
    assert names(done) == ["block-dirty-bitmap-merge"] and done["commands"] == foretold["commands"]
    assert there(vm)["both"] == (192 * KB, False) and there(vm)["mon"] == (64 * KB, False)
    again = run_module(vm, "qemu_bitmap", **asked)
    assert again["changed"], "nothing tells that it was merged before"
    renewed = run_module(vm, "qemu_bitmap", **given, clear=True, merge_from=["mon"])
    assert names(renewed) == ["transaction"] and there(vm)["both"] == (64 * KB, False)
    whole = run_module(vm, "qemu_bitmap", **{**asked, "name": "new"})
    assert names(whole) == ["transaction"] and there(vm)["new"] == (192 * KB, False)
    add(vm, "small", vm.image("small.qcow2", "1M", "qcow2"), "qcow2")
    run_module(vm, "qemu_bitmap", node="small", name="s")
    vm.observer.hmp('qemu-io small "write 0 64k"')
    before = there(vm)
    for name in ("both", "half"):
        source = {"node": "small", "name": "s"}
        bitmap.refused("small has 1048576 bytes and data-node", node="data", name=name, clear=True, merge_from=[source])
    assert there(vm) == before


def test_what_can_not_be(bitmap: Lifecycle) -> None:
    vm = bitmap.vm
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", vm.directory / "old", "1M"], check=True
    )
    add(vm, "old", "old", "qcow2")
    add(vm, "plain", vm.image("plain", "1M"), "raw")
    bitmap.refused("node: there is no block node 'none'; there are:", node="none", name="b")
    bitmap.refused("1 to 1023 bytes", node="old", name="ü" * 512)
    bitmap.refused("1 to 1023 bytes", node="old", name="")
    for wrong in (256, 1000, "4G", "many"):
        bitmap.refused("granularity:", str(wrong), "power of two", node="old", name="b", granularity=wrong)
    for source in (["x"], {"node": ["x"], "name": "b"}, {"node": "old", "name": 1}):
        bitmap.refused(f"merge_from: {source} is neither", node="old", name="b", merge_from=[source])
    bitmap.refused("persistent: old is a qcow2 image of version 2", node="old", name="b", persistent=True)
    bitmap.refused("persistent: only qcow2", "plain is of format raw", node="plain", name="b", persistent=True)
    bitmap.step(node="plain", name="b", granularity="2G")
    bitmap.step(node="old", name="b", granularity=512)

    bitmap.step(node="data", name="kept", persistent=True)
    bitmap.step(node="data", name="busy")
    write(vm, "0 4M")
    vm.observer.send("blockdev-add", {"driver": "null-co", "node-name": "target", "size": 16 << 20})
    job = {"job-id": "j0", "device": "data-node", "target": "target", "sync": "incremental", "bitmap": "busy"}
    vm.observer.send("blockdev-backup", {**job, "speed": 1})
    until(lambda: vm.observer.look("query-jobs")[0]["current-progress"] > 0)  # and stays so for hours
    assert any("name" not in item for item in vm.observer.node("data-node")["dirty-bitmaps"])
    bitmap.same(node="data", name="busy")
    in_use = "is in use by a job or an export"
    bitmap.refused(in_use, node="data", name="busy", clear=True)
    bitmap.refused(in_use, node="data", name="busy", state="absent")
    bitmap.refused(in_use, node="data", name="kept", merge_from=["busy"])
    vm.observer.send("block-job-cancel", {"device": "j0"})
    until(lambda: vm.observer.look("query-jobs") == [])

    vm.observer.send("device_del", {"id": "data"})
    vm.observer.wait_event("DEVICE_DELETED", device="data")
    vm.observer.send("blockdev-del", {"node-name": "data-node"})
    add(vm, "data-node", "data.qcow2", "qcow2", **{"read-only": True})
    assert there(vm) == {"kept": (4096 * KB, True)}, "it was kept in the image"
    read_only = "data-node, which is read-only"
    bitmap.refused(read_only, node="data-node", name="kept", clear=True)
    bitmap.refused(read_only, node="data-node", name="kept", state="absent")
    bitmap.refused(read_only, node="data-node", name="new", persistent=True)
    bitmap.step(node="data-node", name="new")


def test_after_a_kill(bitmap: Lifecycle) -> None:
    """What was being recorded can't be told any more: such a bitmap is no ground for a backup, and only goes."""
    vm = bitmap.vm
    given: dict[str, Any] = {"node": "data", "name": "bk", "persistent": True}
    bitmap.step(**given)
    vm.observer.execute("quit")
    vm.wait_exit()
    vm.start()
    attach(vm)
    bitmap.same(**given)
    vm.kill()
    vm.start()
    attach(vm)
    bitmap.refused("QEMU was killed while it recorded", "state=absent", "full backup", **given, recreate=True)
    bitmap.refused("bitmap data-node/bk is inconsistent", node="data", name="new", merge_from=["bk"])
    bitmap.step(node="data", name="bk", state="absent")
    assert bitmap.step(**given)["bitmap"]["inconsistent"] is False


def test_a_guest_that_has_left(bitmap: Lifecycle) -> None:
    """Its image is the destination's; QEMU 7.2 ends itself when it is told to remove a bitmap from there."""
    vm = bitmap.vm
    bitmap.step(node="data", name="bk", persistent=True)
    vm.observer.execute("cont")
    vm.observer.send("migrate", {"uri": "exec:cat >/dev/null"})
    until(lambda: vm.observer.status() == "postmigrate")
    for options in ({"name": "bk", "state": "absent"}, {"name": "bk", "enabled": False}, {"name": "new"}):
        with pytest.raises(ModuleFailed, match="is not possible now: the virtual machine is postmigrate"):
            run_module(vm, "qemu_bitmap", check=True, node="data-node", **options)
    assert vm.alive
