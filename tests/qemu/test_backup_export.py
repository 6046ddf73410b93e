# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_backup, state exported: what an NBD client finds while the guest writes on, and what is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.killed import killed_before
from support.lifecycle import Lifecycle
from support.modules import ModuleFailed, run_module
from support.nbd import Client, listed
from support.proxy import Proxy
from support.timing import until
from support.vm import VM

SIZE = 8 << 20
DISKS = (("a", "scsi-hd", "raw", "scsi0.0"), ("b", "virtio-blk-pci", "qcow2", "rp0"))


@pytest.fixture
def vm(start_vm: Callable[..., VM], tmp_path: Path) -> VM:
    """No guest, running, with another monitor. `a` is a raw scsi-hd, `b` a qcow2 virtio-blk."""
    second = ["-chardev", "socket,id=second,path=second,server=on,wait=off", "-mon", "chardev=second,mode=control"]
    machine = start_vm(scsi=True, args=second)
    for name, driver, fmt, bus in DISKS:
        path = machine.image(f"{name}.img", str(SIZE), fmt)
        run_module(machine, "qemu_disk", id=name, driver=driver, filename=path, format=fmt, bus=bus)
    machine.observer.execute("cont")
    (machine.directory / "scratch").mkdir()
    return machine


def write(vm: VM, pattern: int, at: str, size: str) -> None:
    for disk in ("a", "/machine/peripheral/b/virtio-backend"):
        for line in (f"write -P {pattern} {at} {size}", "flush"):
            vm.observer.hmp(f'qemu-io -d {disk} "{line}"')


def given(vm: VM, **options: Any) -> dict[str, Any]:
    listen = {} if options.get("state") == "absent" else {"listen": f"{vm.directory}/nbd"}
    return {"name": "pull", "path": f"{vm.directory}/scratch", "state": "exported", **listen, **options}


def tidy(vm: VM) -> None:
    assert vm.observer.execute("query-block-exports") == []
    # a task that was killed right after its start leaves the server, with nothing in it
    assert listed("-k", f"{vm.directory}/nbd") in ("", "exports available: 0\n")
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node"}
    assert os.listdir(vm.directory / "scratch") == [] and vm.observer.status() == "running"


def test_exported(vm: VM, tmp_path: Path) -> None:
    life = Lifecycle(vm, "qemu_backup")
    write(vm, 1, "0", "8M")
    for disk in "ab":
        run_module(vm, "qemu_bitmap", node=disk, name="last")
    write(vm, 2, "1M", "64k")
    truths = {disk: shutil.copy(f"{vm.directory}/{disk}.img", f"{tmp_path}/{disk}") for disk in "ab"}
    before = vm.fingerprint()
    done = life.step(**given(vm, bitmaps=["last"]))
    write(vm, 3, "0", "4M")
    for (disk, _driver, fmt, _bus), truth in zip(DISKS, truths.values()):
        uri = done["backup"]["disks"][disk]["uri"]
        command = ["qemu-img", "compare", "-f", "raw", "-F", fmt, uri, truth]
        assert "identical" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
        server = f"driver=nbd,export=pull/{disk},server.type=unix,server.path={vm.directory}/nbd"
        image = f"{server},x-dirty-bitmap=qemu:dirty-bitmap:last"
        told = subprocess.run(
            ["qemu-img", "map", "--output=json", "--image-opts", image], check=True, capture_output=True
        )
        dirty = [(part["start"], part["length"]) for part in json.loads(told.stdout) if not part["data"]]
        assert dirty == [(1 << 20, 64 << 10)]
    again = life.same(**given(vm, bitmaps=["last"]))
    assert again["unverifiable"] == ["listen", "bitmaps"]
    life.refused("a, b is exported as pull, and not a", **given(vm, disks=["a"]))
    life.refused("is exported as pull (state=exported)", **given(vm, state="present"))
    stays = pytest.raises(ModuleFailed, match="it has clients that are connected")
    with Client(f"{vm.directory}/nbd", "pull/a"), stays:
        run_module(vm, "qemu_backup", timeout=3, **given(vm, state="absent"))
    run_module(vm, "qemu_backup", **given(vm))
    life.step(**given(vm, state="absent"))
    tidy(vm)
    assert vm.fingerprint() == before


def test_an_overlay_comes_while_the_filters_are_put_in(vm: VM) -> None:
    """What the guest has written to it is in the view, and in no bitmap that is exported with it."""
    for disk in "ab":
        run_module(vm, "qemu_bitmap", node=disk, name="last")

    def lay_over() -> None:
        overlay = {"snapshot-file": f"{vm.directory}/b.over", "snapshot-node-name": "b-over"}
        vm.observer.execute("blockdev-snapshot-sync", **{"node-name": "b-node"}, **overlay)

    changed = pytest.raises(ModuleFailed, match="b was on b-node, and is not any more: run the task again")
    with Proxy(vm.qmp, lay_over, "qom-set") as proxy, changed as failed:
        run_module(proxy.address, "qemu_backup", **given(vm, bitmaps=["last"]))
    assert "not_rolled_back" not in failed.value.result
    assert {node for node in vm.observer.nodes() if not node.startswith("#")} == {"a-node", "b-node", "b-over"}
    assert os.listdir(vm.directory / "scratch") == [] and vm.observer.status() == "running"


@pytest.mark.parametrize("name", ["pull", "pull-it"])
def test_a_disk_is_unplugged_while_it_is_exported(vm: VM, name: str) -> None:
    """What was made for it goes all the same."""
    run_module(vm, "qemu_backup", **given(vm, name=name))
    vm.observer.execute("device_del", id="a")
    until(lambda: all(drive.get("qdev", "").rpartition("/")[2] != "a" for drive in vm.observer.look("query-block")))
    assert run_module(vm, "qemu_backup", **given(vm, name=name, state="absent"))["changed"]
    assert not run_module(vm, "qemu_backup", **given(vm, name=name, state="absent"))["changed"]
    tidy(vm)


def test_beside_the_backups_of_that_name(vm: VM) -> None:
    """Scratch images lie in their directory for as long as the disks are exported."""
    path = f"{vm.directory}/bk"
    run_module(vm, "qemu_backup", name="daily", path=path)
    there = sorted(os.listdir(path))
    options = given(vm, name="daily", path=path)
    assert run_module(vm, "qemu_backup", **options)["changed"]
    assert not run_module(vm, "qemu_backup", **options)["changed"]
    run_module(vm, "qemu_backup", **{**options, "state": "absent", "listen": None})
    assert sorted(os.listdir(path)) == there and vm.observer.execute("query-block-exports") == []


def test_two_tasks_that_export_at_once(vm: VM) -> None:
    """The second one does not take what the first has made so far for what a killed one has left: QEMU would end of that."""

    def at_once() -> None:
        with pytest.raises(ModuleFailed, match=r"another task makes a backup in .*/scratch now"):
            run_module(f"{vm.directory}/second", "qemu_backup", **given(vm))

    with Proxy(vm.qmp, at_once, "qom-set") as proxy:
        assert run_module(proxy.address, "qemu_backup", **given(vm))["changed"]
    assert proxy.struck
    run_module(vm, "qemu_backup", **given(vm, state="absent"))
    tidy(vm)


def test_a_snapshot_while_disks_are_exported(vm: VM) -> None:
    """It can be taken; to commit it waits until the disk is not shown any more."""
    life = Lifecycle(vm, "qemu_disk_snapshot")
    run_module(vm, "qemu_backup", **given(vm))
    run_module(vm, "qemu_disk_snapshot", name="s1", disks=["b"])
    again: dict[str, Any] = {"name": "s1", "disks": ["b"], "state": "absent"}
    life.refused("s1 can't be committed while export vmm-backup-pull-b shows b as it was", **again)
    run_module(vm, "qemu_backup", **given(vm, state="absent"))
    run_module(vm, "qemu_disk_snapshot", **again)
    tidy(vm)


def test_bad_input(vm: VM, tmp_path: Path) -> None:
    life = Lifecycle(vm, "qemu_backup")
    life.refused("listen: no NBD server runs yet", **given(vm, listen=None))
    life.refused("listen: 'nowhere' is not a valid address", **given(vm, listen="nowhere"))
    life.refused("there is no directory", **given(vm, path=f"{tmp_path}/none"))
    life.refused("has no bitmap 'last'", **given(vm, bitmaps=["last"]))
    (tmp_path / "nbd").write_text("mine")
    life.refused("is there and is a file", **given(vm, listen=f"{tmp_path}/nbd"))
    tidy(vm)


def test_killed_at_any_step(vm: VM) -> None:
    """The next run has the disks as they are then; or takes away what there is."""
    step = 0
    while killed_before(step, lambda: run_module(vm, "qemu_backup", **given(vm))):
        if step % 2:
            run_module(vm, "qemu_backup", **given(vm))
        run_module(vm, "qemu_backup", **given(vm, state="absent"))
        tidy(vm)
        step += 1
    assert step > 15
