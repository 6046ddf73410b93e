# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block nodes in layers: what QEMU tells of each is compared, and what it does not tell is said to be unverifiable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support.images import NBDServer, encrypted, long_chain
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.observer import ObserverError
from support.vm import VM


@pytest.fixture
def vm(start_vm: Any) -> VM:
    machine: VM = start_vm(scsi=True)
    for ident in ("sec0", "sec1"):
        machine.observer.send("object-add", {"qom-type": "secret", "id": ident, "data": "pw"})
    for ident in ("tg0", "tg1"):
        machine.observer.send("object-add", {"qom-type": "throttle-group", "id": ident})
    return machine


@pytest.fixture
def node(vm: VM) -> Lifecycle:
    return Lifecycle(vm, "qemu_blockdev")


@pytest.fixture
def servers(vm: VM) -> Iterator[dict[str, NBDServer]]:
    made = {
        "one": NBDServer(vm.image("one.raw"), "e1", path=f"{vm.directory}/one"),
        "two": NBDServer(vm.image("two.raw"), "e2", path=f"{vm.directory}/two"),
        "net": NBDServer(vm.image("net.raw"), ""),
    }
    yield made
    for server in made.values():
        server.close()


def test_an_image_two_layers_down_is_compared(node: Lifecycle) -> None:
    vm = node.vm

    def given(name: str, group: str = "tg0") -> dict[str, Any]:
        inner = {"driver": "qcow2", "file": {"driver": "file", "filename": f"{vm.directory}/{name}"}}
        return {"node_name": "n0", "driver": "throttle", "file": inner, "options": {"throttle-group": group}}

    vm.image("a.qcow2", "8M", "qcow2")
    vm.image("b.qcow2", "8M", "qcow2")
    node.step(**given("a.qcow2"))
    assert node.same(**given("a.qcow2"))["unverifiable"] == []
    node.refused("file.file.filename", "a.qcow2", "b.qcow2", "recreate", **given("b.qcow2"))
    node.refused("options.throttle-group", "tg0", "tg1", **given("a.qcow2", "tg1"))
    node.refused("file.driver", "'qcow2'", "'raw'", **{**given("a.qcow2"), "file": {"driver": "raw"}})
    node.refused("filename", "throttle", "a.qcow2", node_name="n0", filename=f"{vm.directory}/a.qcow2")
    assert names(node.step(**given("b.qcow2"), recreate=True)) == ["blockdev-del", "blockdev-add"]
    assert "b.qcow2" in vm.observer.node("n0")["file"]


def test_the_key_of_an_encrypted_image_is_compared(node: Lifecycle) -> None:
    vm = node.vm

    def given(secret: str) -> dict[str, Any]:
        encrypt = {"format": "luks", "key-secret": secret}
        return {"node_name": "n0", "driver": "qcow2", "filename": path, "options": {"encrypt": encrypt}}

    path = encrypted(vm, "e.qcow2")
    node.step(**given("sec0"))
    assert node.same(**given("sec0"))["unverifiable"] == []
    node.refused("options.encrypt.key-secret", "sec0", "sec1", **given("sec1"))
    assert names(node.step(**given("sec1"), recreate=True)) == ["blockdev-del", "blockdev-add"]
    assert "sec1" in vm.observer.node("n0")["file"]


def test_a_server_and_its_export_are_compared(node: Lifecycle, servers: dict[str, NBDServer]) -> None:
    vm = node.vm
    node.step(node_name="n0", file=servers["one"].layer)
    assert node.same(node_name="n0", file=servers["one"].layer)["unverifiable"] == []
    node.refused("file.export", "'e1'", "'e2'", node_name="n0", file=servers["two"].layer)
    node.refused("file.server.type", "'unix'", "'inet'", node_name="n0", file=servers["net"].layer)
    node.step(node_name="n0", file=servers["net"].layer, recreate=True)
    assert vm.observer.node("n0")["file"].rstrip("/") == f"nbd://127.0.0.1:{servers['net'].port}"
    node.refused("file.server.port", node_name="n0", file={**servers["net"].layer, "server": {"port": 1}})
    # the protocol by itself
    other = servers["two"].layer
    alone = {"node_name": "n1", "driver": other.pop("driver"), "options": other}
    node.step(**alone)
    assert node.same(**alone)["unverifiable"] == []
    node.refused("options.export", node_name="n1", options={"export": "e3"})


def test_a_file_where_a_server_is_wanted_is_another_disk(node: Lifecycle, servers: dict[str, NBDServer]) -> None:
    path = node.vm.image("a.img")
    node.step(node_name="n0", filename=path)
    node.refused("file.driver", "'file'", "'nbd'", "recreate", node_name="n0", file=servers["one"].layer)
    node.step(node_name="n0", file=servers["one"].layer, recreate=True)
    node.refused("filename", "nbd+unix:///e1", path, node_name="n0", filename=path)
    node.step(node_name="n0", filename=path, recreate=True)
    assert node.vm.observer.node("n0")["file"] == path


def test_a_disk_is_never_plugged_onto_a_node_that_is_something_else(vm: VM) -> None:
    vm.observer.send("blockdev-add", {"driver": "null-co", "node-name": "nn", "size": 1 << 20})
    disk = Lifecycle(vm, "qemu_disk")
    options: dict[str, Any] = {"id": "d0", "driver": "scsi-hd", "bus": "scsi0.0", "node_name": "nn"}
    disk.refused("nn", "filename", "null-co", "recreate", **options, filename=vm.image("a.img"))
    assert vm.plugged() == {}


def test_nodes_that_are_named_in_a_list_are_compared_by_name(node: Lifecycle) -> None:
    vm = node.vm
    for name in ("na", "nb", "nc"):
        node.step(node_name=name, filename=vm.image(f"{name}.img"))

    def given(*children: Any) -> dict[str, Any]:
        return {"node_name": "q0", "driver": "quorum", "options": {"children": list(children), "vote-threshold": 1}}

    node.step(**given("na", "nb"))
    assert node.same(**given("na", "nb"))["unverifiable"] == []
    node.refused("options.children", "nb", "nc", **given("na", "nc"))
    node.refused("options.children", **given("na", "nb", "nc"))
    bad = {**given("na", "nc"), "size": 1 << 40, "recreate": True}
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_blockdev", **bad)
    assert [step["execute"] for step in failed.value.result["rolled_back"]] == ["blockdev-del", "blockdev-add"]
    node.same(**given("na", "nb"))
    node.step(node_name="q0", state="absent")
    files = [{"driver": "file", "filename": vm.image(name)} for name in ("x.img", "y.img")]
    inline = [{"driver": "raw", "file": file} for file in files]
    node.step(**given(*inline))
    files[1]["filename"] = vm.image("z.img")
    node.refused("options.children", "z.img", **given(*inline))


def test_a_node_over_none_is_not_one_over_another(node: Lifecycle) -> None:
    vm = node.vm
    base, top = vm.image("base.qcow2", "8M", "qcow2"), f"{vm.directory}/top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    node.step(node_name="b0", driver="qcow2", filename=base)
    node.step(node_name="n0", driver="qcow2", filename=top, options={"backing": None})
    node.refused("options.backing", "None", "'b0'", node_name="n0", options={"backing": "b0"})
    node.step(node_name="n0", driver="qcow2", filename=top, options={"backing": "b0"}, recreate=True)
    node.refused("options.backing", "'b0'", "None", node_name="n0", options={"backing": None})


def test_a_chain_whose_name_qemu_cuts_is_not_told(vm: VM) -> None:
    """Of a long chain QEMU tells 4095 bytes."""
    path, below = long_chain(vm), "n23"
    top = Lifecycle(vm, "qemu_blockdev")
    given: dict[str, Any] = {"node_name": below, "driver": "qcow2", "filename": path}
    assert top.same(**given)["unverifiable"] == ["filename"]
    assert top.same(**given, options={"backing": "n22"})["unverifiable"] == ["filename"]
    told = top.same(node_name=below, file={"driver": "file", "filename": path})
    assert told["unverifiable"] == []
    top.refused("options.backing", "n22", "n21", node_name=below, options={"backing": "n21"})
    assert names(top.step(node_name=below, read_only=True)) == ["blockdev-reopen"]
    assert vm.observer.node(below)["ro"] is True
    with pytest.raises(ObserverError, match="backing hd of 'n23'"):
        vm.observer.execute("blockdev-del", node_name="n22")
    assert names(run_module(vm, "qemu_object", id="tg1", state="absent")) == ["object-del"]
    run_module(vm, "qemu_machine", check=True, purge=True)
    assert names(top.step(node_name=below, state="absent")) == ["blockdev-del"]


@pytest.mark.parametrize("layer", ["encrypted", "server"])
def test_what_is_behind_a_key_or_a_server_is_opened_anew(vm: VM, servers: dict[str, NBDServer], layer: str) -> None:
    """Live changes of a disk, with a device on it."""
    given: dict[str, Any] = {"id": "d", "driver": "scsi-hd", "bus": "scsi0.0"}
    if layer == "encrypted":
        encrypt = {"format": "luks", "key-secret": "sec0"}
        given.update(filename=encrypted(vm, "e.qcow2"), format="qcow2", blockdev={"encrypt": encrypt})
    else:
        given.update(blockdev={"file": servers["one"].layer})
    disk = Lifecycle(vm, "qemu_disk")
    disk.step(**given)
    assert names(disk.step(**given, cache={"no_flush": True})) == ["blockdev-reopen"]
    assert vm.observer.node("d-node")["cache"]["no-flush"] is True
    assert names(disk.step(id="d", cache={"no_flush": False})) == ["blockdev-reopen"]
    assert vm.observer.node("d-node")["cache"]["no-flush"] is False
    other = vm.image("other.raw")
    assert "blockdev-add" in names(disk.step(id="d", filename=other, format="raw", recreate=True))
    assert os.path.samefile(vm.observer.node("d-node")["file"], other)
