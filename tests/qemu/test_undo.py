# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken is given back where a later step fails, or else not taken; and nobody waits for a guest that does not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.images import NBDServer, encrypted, long_chain
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

SCSI = {"driver": "scsi-hd", "bus": "scsi0.0"}


@pytest.fixture
def vm(start_vm: Any) -> VM:
    machine: VM = start_vm(scsi=True)
    machine.observer.send("object-add", {"qom-type": "secret", "id": "sec0", "data": "pw"})
    return machine


def bad(vm: VM) -> dict[str, Any]:
    """A disk of which only QEMU can tell that it can't be."""
    return {"id": "bad", **SCSI, "filename": vm.image("bad.raw"), "options": {"werror": "bogus"}}


def seen(vm: VM) -> Any:
    """The disks as QEMU has them, without the numbers that it gives."""
    drives = vm.observer.look("query-block")
    return [(drive["qdev"], drive["inserted"]["node-name"], drive["inserted"]["image"]["format"]) for drive in drives]


@pytest.mark.parametrize("name", ["lun", "vendor"])
def test_a_text_that_looks_like_other_properties_is_not_taken_for_them(vm: VM, name: str) -> None:
    """QEMU prints what a device is like with the line breaks in it."""
    vm.observer.execute("blockdev-add", **{"node-name": "n0", "driver": "null-co"})
    begin = " " * 16
    text = f'evil"\n{begin}lun = 9 (0x9)\n{begin}vendor = "HACK'
    odd = {"driver": "scsi-hd", "id": "d", "bus": "scsi0.0", "drive": "n0", "lun": 3, "device_id": text}
    vm.observer.send("device_add", odd)
    before = vm.observer.execute("qom-get", path="/machine/peripheral/d", property=name)
    with pytest.raises(ModuleFailed, match="taken back"):
        run_module(vm, "qemu_machine", devices=[{"id": "d", "state": "absent"}], disks=[bad(vm)])
    assert vm.observer.execute("qom-get", path="/machine/peripheral/d", property=name) == before


@pytest.fixture
def servers(vm: VM) -> Iterator[dict[str, NBDServer]]:
    made = {
        "unix": NBDServer(vm.image("one.raw"), "e1", path=f"{vm.directory}/one"),
        "inet": NBDServer(vm.image("two.raw"), "e2"),
    }
    yield made
    for server in made.values():
        server.close()


def executed(steps: list[dict[str, Any]]) -> list[str]:
    return [step["execute"] for step in steps]


@pytest.mark.parametrize("what", ["qcow2", "luks", "unix", "inet", "layers", "chain"])
def test_a_disk_that_goes_comes_back_when_another_one_fails(vm: VM, servers: dict[str, NBDServer], what: str) -> None:
    given: dict[str, Any] = {"id": "d", **SCSI}
    if what == "qcow2":
        encrypt = {"format": "luks", "key-secret": "sec0"}
        given.update(filename=encrypted(vm, "e"), format=what, blockdev={"encrypt": encrypt})
    elif what == "luks":
        given.update(filename=encrypted(vm, "e", what), format=what, blockdev={"key-secret": "sec0"})
    elif what == "chain":
        given.update(node_name="n23", filename=long_chain(vm), format="qcow2")
    elif what == "layers":
        file = {"driver": "file", "filename": vm.image("l.qcow2", "8M", "qcow2")}
        given.update(format="copy-on-read", blockdev={"file": {"driver": "qcow2", "file": file}})
    else:
        given.update(blockdev={"file": servers[what].layer})
    name = given.get("node_name", "d-node")
    run_module(vm, "qemu_disk", **given)
    before, told = seen(vm), vm.observer.node(name)
    other = {"id": "d", "node_name": name, "filename": vm.image("p.raw"), "format": "raw"}
    for module, options in (
        ("qemu_machine", {"purge": True, "disks": [bad(vm)], "blockdevs": []}),
        ("qemu_disk", {**other, "recreate": True, "options": {"werror": "bogus"}}),
    ):
        with pytest.raises(ModuleFailed) as failed:
            run_module(vm, module, **options)
        assert {"blockdev-add", "device_add"} <= set(executed(failed.value.result["rolled_back"]))
        assert "not_rolled_back" not in failed.value.result and not failed.value.result["changed"]
        assert (seen(vm), vm.observer.node(name)) == (before, told)
    Lifecycle(vm, "qemu_disk").same(**given)


def untold(vm: VM) -> None:
    """The node `r0`, of which QEMU can't tell all: it stands on too long a chain."""
    long_chain(vm)
    vm.observer.send("blockdev-add", {"node-name": "r0", "driver": "raw", "file": "n23"})


def test_what_can_not_be_given_back_goes_last(vm: VM) -> None:
    untold(vm)
    vm.observer.send("blockdev-add", {"node-name": "z0", "driver": "null-co"})
    before = vm.fingerprint()
    result = Lifecycle(vm, "qemu_machine").refused(
        "taken back", foretold=False, purge=True, disks=[bad(vm)], blockdevs=[{"node_name": f"n{n}"} for n in range(24)]
    )
    assert vm.fingerprint() == before
    assert "not_rolled_back" not in result and "blockdev-add" in executed(result["rolled_back"])
    listed = [{"node_name": f"n{n}"} for n in range(24)]
    done = run_module(vm, "qemu_machine", purge=True, blockdevs=listed)
    assert [step["arguments"]["node-name"] for step in done["commands"]] == ["z0", "r0"]
    assert not {"z0", "r0"} & vm.observer.nodes()


def test_what_can_not_be_given_back_is_not_taken_among_others(vm: VM) -> None:
    untold(vm)
    node = Lifecycle(vm, "qemu_blockdev")
    node.refused(
        "does not tell how block node r0", "state=absent", node_name="r0", driver="copy-on-read", recreate=True
    )
    # the node below goes after it
    listed = [{"node_name": f"n{n}"} for n in range(23)]
    Lifecycle(vm, "qemu_machine").refused("r0", "state=absent", purge=True, blockdevs=listed)
    vm.observer.send("blockdev-add", {"node-name": "r1", "driver": "raw", "file": "n23", "read-only": True})
    listed.append({"node_name": "n23"})
    Lifecycle(vm, "qemu_machine").refused("blockdev r", "state=absent", purge=True, blockdevs=listed)
    assert names(node.step(node_name="r0", state="absent")) == ["blockdev-del"]


def test_a_device_that_can_be_written_to_is_not_made_read_only_under_its_guest(vm: VM) -> None:
    given: dict[str, Any] = {"id": "d", **SCSI, "filename": vm.image("a.raw")}
    disk = Lifecycle(vm, "qemu_disk")
    disk.step(**given)
    disk.refused("read_only", "False", "True", "recreate", **given, read_only=True)
    changed = disk.step(**given, read_only=True, recreate=True)
    assert names(changed) == ["device_del", "blockdev-del", "blockdev-add", "device_add"]
    assert vm.observer.node("d-node")["ro"] is True
    disk.refused("read_only", "recreate", **given, read_only=False)
    assert names(disk.step(**given, read_only=False, recreate=True, cache={"no_flush": True})) == names(changed)
    now = vm.observer.node("d-node")
    assert (now["ro"], now["cache"]["no-flush"]) == (False, True)


def test_a_throttled_image_is_not_made_read_only_under_its_guest(vm: VM) -> None:
    """The device has it by way of the node above."""
    vm.observer.send("object-add", {"qom-type": "throttle-group", "id": "tg0"})
    run_module(vm, "qemu_blockdev", node_name="n0", filename=vm.image("a.raw"))
    above: dict[str, Any] = {
        "node_name": "t0",
        "driver": "throttle",
        "options": {"throttle-group": "tg0", "file": "n0"},
    }
    run_module(vm, "qemu_blockdev", **above)
    node = Lifecycle(vm, "qemu_blockdev")
    vm.observer.execute("device_add", driver="scsi-hd", id="d", drive="t0", bus="scsi0.0")
    node.refused("read_only", "recreate", node_name="n0", read_only=True)
    node.refused("in use by blockdev t0", node_name="n0", read_only=True, recreate=True)


def test_what_takes_a_running_guest_is_refused_where_none_runs(start_vm: Any) -> None:
    vm = start_vm(memory="256,slots=4,maxmem=2G", args=["-device", "virtio-balloon-pci,id=b0,bus=rp7"])
    run_module(vm, "qemu_disk", id="d", bus="rp0", filename=vm.image("a.img"))
    result = Lifecycle(vm, "qemu_balloon").refused("balloon", "prelaunch", "let it run", size="128M")
    assert "rolled_back" not in result  # it was not tried
    memory = Lifecycle(vm, "qemu_memory_hotplug")
    memory.refused("prelaunch", "let it run", id="m0", kind="virtio-mem", size="64M", bus="rp1", requested_size="32M")
    again = {"id": "d", "bus": "rp0", "filename": vm.image("b.img"), "recreate": True}
    Lifecycle(vm, "qemu_disk").refused("device d", "prelaunch", "let it run", **again)
    assert vm.observer.look("query-balloon")["actual"] == 256 << 20
    # what asks no guest goes on
    quiet: dict[str, Any] = {
        "id": "m0",
        "kind": "virtio-mem",
        "size": "64M",
        "bus": "rp1",
        "requested_size": "32M",
        "wait": False,
    }
    assert names(run_module(vm, "qemu_memory_hotplug", **quiet))[-1] == "qom-set"


def test_a_removal_that_a_stopped_guest_can_not_answer_is_foretold(paused_vm: VM) -> None:
    run_module(paused_vm, "qemu_disk", id="d", bus="rp0", filename=paused_vm.image("a.img"))
    with pytest.raises(ModuleFailed) as failed:
        run_module(paused_vm, "qemu_disk", check=True, id="d", state="absent")
    assert failed.value.result["pending"] is True and "prelaunch" in failed.value.result["msg"]
    assert failed.value.result["changed"] is False
    with pytest.raises(ModuleFailed) as failed:
        run_module(paused_vm, "qemu_disk", id="d", state="absent", timeout=2.5)
    assert failed.value.result["pending"] is True and "d-node" in paused_vm.observer.nodes()


def test_a_disk_that_asks_no_guest_is_changed_while_none_runs(vm: VM) -> None:
    disk = Lifecycle(vm, "qemu_disk")
    given: dict[str, Any] = {"id": "d", **SCSI, "filename": vm.image("a.raw")}
    disk.step(**given)
    disk.step(**{**given, "filename": vm.image("b.raw")}, recreate=True)
    disk.step(id="d", state="absent")
