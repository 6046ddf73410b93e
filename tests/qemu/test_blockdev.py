# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_blockdev: a node's whole life. No guest takes part, so the VM is a stopped one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM


@pytest.fixture
def node(paused_vm: VM) -> Lifecycle:
    return Lifecycle(paused_vm, "qemu_blockdev")


def test_a_whole_life(node: Lifecycle) -> None:
    vm = node.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {"node_name": "n0", "driver": "qcow2", "filename": vm.image("a.qcow2", "8M", "qcow2")}
    assert names(node.step(**given, size="12M", discard="unmap")) == ["blockdev-add", "block_resize"]
    assert vm.observer.node("n0")["image"]["virtual-size"] == 12 << 20
    assert node.same(**given, discard="ignore")["unverifiable"] == ["discard"]

    changed = node.step(**given, read_only=True, cache={"direct": True}, detect_zeroes="on")
    assert names(changed) == ["blockdev-reopen"]
    now = vm.observer.node("n0")
    assert (now["ro"], now["cache"]["direct"], now["detect_zeroes"]) == (True, True, "on")
    assert names(node.step(node_name="n0", read_only=False)) == ["blockdev-reopen"]
    assert vm.observer.node("n0")["cache"]["direct"] is True

    assert names(node.step(node_name="n0", size=20 << 20)) == ["block_resize"]
    node.refused("never shrunk", node_name="n0", size="1M")

    other: dict[str, Any] = {**given, "filename": vm.image("b.qcow2", "8M", "qcow2")}
    node.refused("filename", "a.qcow2", "b.qcow2", "recreate", **other)
    assert names(node.step(**other, recreate=True)) == ["blockdev-del", "blockdev-add"]
    assert vm.observer.node("n0")["file"] == other["filename"]

    assert names(node.step(node_name="n0", state="absent")) == ["blockdev-del"]
    assert vm.fingerprint() == clean


def test_layers_given_as_qemu_has_them(node: Lifecycle) -> None:
    vm = node.vm
    path = vm.image("a.img")
    given: dict[str, Any] = {
        "node_name": "n0",
        "file": {"driver": "file", "filename": path, "locking": "off"},
        "options": {"offset": "4k", "size": 8192},
    }
    done = node.step(**given)
    assert done["commands"][0]["arguments"]["offset"] == 4096
    assert vm.observer.node("n0")["image"]["virtual-size"] == 8192
    node.refused("options.offset", "4096", "512", **{**given, "options": {"offset": 512, "size": 8192}})
    node.step(node_name="n0", state="absent")
    node.step(node_name="z0", driver="null-co", options={"size": "1G", "read-zeroes": "yes"})
    assert vm.observer.node("z0")["image"]["virtual-size"] == 1 << 30
    node.step(node_name="z0", state="absent")
    node.step(node_name="f0", driver="file", filename=path)
    assert vm.observer.node("f0")["drv"] == "file"
    node.step(node_name="f0", state="absent")


def test_a_failure_in_the_middle_leaves_nothing(node: Lifecycle) -> None:
    bad: dict[str, Any] = {
        "node_name": "n0",
        "filename": node.vm.image("a.img"),
        "size": "32M",
        "options": {"size": 8192},
    }
    result = node.refused("block_resize", "taken back: blockdev-del", foretold=False, **bad)
    assert result["error"]["desc"]
    assert [step["execute"] for step in result["rolled_back"]] == ["blockdev-del"]


def test_a_failed_recreation_gives_the_old_node_back(node: Lifecycle) -> None:
    vm = node.vm
    given: dict[str, Any] = {
        "node_name": "n0",
        "filename": vm.image("a.img"),
        "cache": {"direct": True},
        "detect_zeroes": "on",
    }
    node.step(**given)
    before = vm.observer.node("n0")
    bad: dict[str, Any] = {
        **given,
        "filename": vm.image("b.img"),
        "driver": "qcow2",
        "recreate": True,
    }  # b.img is no qcow2
    result = node.refused("qcow2", foretold=False, **bad)
    assert [step["execute"] for step in result["rolled_back"]] == ["blockdev-add"]
    assert vm.observer.node("n0") == before


NO_PORT = {"type": "inet", "host": "127.0.0.1", "port": 70000}  # QEMU would take 4464


def test_what_reading_can_tell_is_refused(node: Lifecycle) -> None:
    vm = node.vm
    image = vm.image("a.img")
    fifo = f"{vm.directory}/fifo"
    os.mkfifo(fifo)
    run_module(vm, "qemu_disk", id="d0", bus="rp0", filename=image, node_name="n0")
    refusals: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("in use by device d0",), {"node_name": "n0", "state": "absent"}),
        (("recreate",), {"node_name": "n0", "filename": "/other"}),
        (("in use by device d0",), {"node_name": "n0", "filename": vm.image("b.img"), "recreate": True}),
        (("#block1",), {"node_name": "#block1", "filename": image}),
        (("cannot use", "No such file"), {"node_name": "n1", "filename": "/nosuch/image"}),
        (("filename and file",), {"node_name": "n1", "filename": image, "file": {"driver": "file", "filename": image}}),
        (("'nosuch'", "driver"), {"node_name": "n1", "driver": "nosuch", "filename": image}),
        (("filename must be given",), {"node_name": "n1"}),
        (("absolute",), {"node_name": "n1", "filename": "a.img"}),
        (("size", "more than QEMU takes"), {"node_name": "n1", "filename": image, "size": "8E"}),
        (("neither a file",), {"node_name": "n1", "filename": fifo, "size": "1M"}),
        (("option of its own", "node_name"), {"node_name": "n1", "filename": image, "options": {"node-name": "zz"}}),
        (("read-only", "grow"), {"node_name": "n1", "filename": image, "read_only": True, "size": "1G"}),
        (("blockdev-add", "nosuch"), {"node_name": "n1", "filename": image, "options": {"nosuch": 1}}),
        (("server.port", "'70000'", "65535"), {"node_name": "n1", "driver": "nbd", "options": {"server": NO_PORT}}),
    ]
    for words, options in refusals:
        node.refused(*words, **options)


def test_a_node_over_a_backing_file_is_opened_anew(node: Lifecycle) -> None:
    vm = node.vm
    base, top = vm.image("base.qcow2", "8M", "qcow2"), f"{vm.directory}/top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    node.step(node_name="n0", driver="qcow2", filename=top)
    below = vm.observer.node("n0")["backing_file"]
    assert names(node.step(node_name="n0", read_only=True, cache={"direct": True})) == ["blockdev-reopen"]
    assert vm.observer.node("n0")["ro"] is True
    assert vm.observer.node("n0")["backing_file"] == below == base
    node.step(node_name="n0", state="absent")
    # null is a value of QEMU's own: this one says not to open the backing file
    node.step(node_name="n1", driver="qcow2", filename=top, options={"backing": None})
    assert "backing_file" not in vm.observer.node("n1")


def test_a_recreation_keeps_what_was_not_named(node: Lifecycle) -> None:
    vm = node.vm
    given: dict[str, Any] = {"node_name": "n0", "driver": "qcow2", "filename": vm.image("a.qcow2", "8M", "qcow2")}
    node.step(**given, read_only=True, cache={"direct": True})
    other = vm.image("b.qcow2", "8M", "qcow2")
    node.step(node_name="n0", filename=other, recreate=True)
    now = vm.observer.node("n0")
    assert (now["drv"], now["ro"], now["cache"]["direct"], now["file"]) == ("qcow2", True, True, other)


@pytest.mark.parametrize("ending", ["reopened", "recreated", "put back"])
def test_what_a_node_shows_stays_though_a_task_does_not_name_it(node: Lifecycle, ending: str) -> None:
    """Half of an image stays that half: QEMU drops an offset that is left out, and the guest would see another disk."""
    vm = node.vm
    shown = {"offset": 4096, "size": 8192}
    node.step(node_name="n0", filename=vm.image("a.img"), options=shown)
    other = vm.image("b.img")
    if ending == "reopened":
        node.step(node_name="n0", read_only=True)
    elif ending == "recreated":
        node.step(node_name="n0", filename=other, recreate=True)
    else:
        bad = {"node_name": "n0", "filename": other, "driver": "qcow2", "recreate": True}
        node.refused("qcow2", foretold=False, **bad)
    now = vm.observer.node("n0")
    assert now["image"]["virtual-size"] == 8192
    assert '"offset": 4096' in now["file"]
    assert run_module(vm, "qemu_blockdev", node_name="n0", options=shown)["commands"] == []


def test_a_throttled_node_is_opened_anew_in_its_group(node: Lifecycle) -> None:
    vm = node.vm
    run_module(vm, "qemu_object", id="slow", qom_type="throttle-group")
    given: dict[str, Any] = {"node_name": "n0", "driver": "throttle", "filename": vm.image("a.img")}
    node.step(**given, options={"throttle-group": "slow"})
    assert names(node.step(node_name="n0", read_only=True)) == ["blockdev-reopen"]
    assert vm.observer.node("n0")["ro"] is True


def test_a_shared_image_needs_no_lock_to_be_a_node(node: Lifecycle) -> None:
    """An unused raw node takes no lock; the device on it would, and says so."""
    assert run_module(node.vm, "qemu_blockdev", node_name="n0", filename=node.vm.image("a.img"))["changed"]


def test_as_ansible_runs_it(paused_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": f"unix:{paused_vm.qmp}", "node_name": "n0", "filename": paused_vm.image("a.img")}
    assert ansible_task("qemu_blockdev", given).changed
    assert not ansible_task("qemu_blockdev", given).changed
    bad = ansible_task("qemu_blockdev", {**given, "cash": {"direct": True}})
    assert bad.status == "failed" and "cash" in bad.result["msg"]


def test_bad_sockets(tmp_path: Any) -> None:
    for socket, word in (
        ("/nosuch/qmp", "/nosuch/qmp"),
        ("nonsense", "nonsense"),
        (str(tmp_path), str(tmp_path)),
        ("", ""),
    ):
        with pytest.raises(ModuleFailed) as failed:
            run_module(socket, "qemu_blockdev", node_name="n0", connect_timeout=0.5)
        assert word in failed.value.result["msg"]


@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/python3"], ids=["here", "module"])
def test_a_password_in_a_url_is_not_shown(node: Lifecycle, ansible_task: Any, python: str) -> None:
    """Neither in what is sent, nor in QEMU's refusal, nor in what Ansible says it was called with."""
    file = {"driver": "http", "url": "http://me:hunter2@127.0.0.1:1/image"}
    given = {"socket": node.vm.qmp, "node_name": "n0", "driver": "raw", "file": file}
    interpreter = {"ansible_python_interpreter": python}
    for check in (True, False):
        done = ansible_task("qemu_blockdev", given, check=check, diff=True, variables=interpreter)
        assert "127.0.0.1:1/image" in str(done.result["invocation"])
        assert "hunter2" not in str(done.result)
