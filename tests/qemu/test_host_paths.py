# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths that QEMU makes or writes to: no file and nobody's socket is lost to a task, and check mode says so as well."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.observer import Observer
from support.timing import until
from support.vm import VM

CONTENT = "all that there is of it"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file that nobody may touch."""
    path = tmp_path / "precious.qcow2"
    path.write_text(CONTENT)
    return path


def socket_at(module: str, path: str) -> dict[str, Any]:
    """A task that has QEMU make a UNIX socket."""
    chardev = {"type": "socket", "server": True, "path": path}
    tasks: dict[str, dict[str, Any]] = {
        "qemu_chardev": {"id": "c0", **chardev},
        "qemu_serial_port": {"id": "p0", "chardev": chardev},
        "qemu_machine": {"chardevs": [{"id": "c0", **chardev}]},
        "qemu_netdev": {
            "id": "n0",
            "type": "stream",
            "options": {"server": True, "addr": {"type": "unix", "path": path}},
        },
        "qemu_migrate_incoming": {"uri": f"unix:{path}"},
    }
    return tasks[module]


def listens(path: str) -> bool:
    """Tell whether somebody accepts connections at `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def machine(start_vm: Callable[..., VM], module: str) -> VM:
    more = ["-incoming", "defer"] if module == "qemu_migrate_incoming" else []
    return start_vm(args=["-device", "virtio-serial-pci,id=vs0,bus=rp7", *more])


MAKERS = ["qemu_chardev", "qemu_serial_port", "qemu_machine", "qemu_netdev", "qemu_migrate_incoming"]


@pytest.mark.parametrize("module", MAKERS)
def test_a_file_does_not_become_a_socket(start_vm: Callable[..., VM], precious: Path, module: str) -> None:
    life = Lifecycle(machine(start_vm, module), module)
    life.refused(str(precious), "is a file", "give another path", **socket_at(module, str(precious)))
    link = precious.with_name("link")
    link.symlink_to("nowhere")
    life.refused(str(link), "symbolic link", **socket_at(module, str(link)))
    life.refused("no directory", **socket_at(module, f"{precious.parent}/nosuch/s"))
    assert precious.read_text() == CONTENT and link.is_symlink()


@pytest.mark.parametrize("module", MAKERS)
def test_another_machine_keeps_its_monitor(start_vm: Callable[..., VM], module: str) -> None:
    other = start_vm(name="other")
    life = Lifecycle(machine(start_vm, module), module)
    life.refused("qemu-system", "listens at", other.qmp, **socket_at(module, other.qmp))
    assert run_module(other, "qemu_info", connect_timeout=5)["vm"]["name"] == "other"


@pytest.mark.parametrize("module", MAKERS)
def test_a_socket_that_is_left_over_is_taken(start_vm: Callable[..., VM], tmp_path: Path, module: str) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as before:
        before.bind(path)
        before.listen()
    life = Lifecycle(machine(start_vm, module), module)
    assert run_module(life.vm, module, **socket_at(module, path))["changed"]
    # a netdev of type stream listens a moment after netdev_add has returned
    until(lambda: listens(path))


def test_a_plan_that_is_taken_back_has_taken_no_file(paused_vm: VM, precious: Path) -> None:
    served = {"type": "socket", "server": True}
    document = [{"id": "c0", "path": str(precious), **served}, {"id": "c1", "path": "/sys/s", **served}]
    with pytest.raises(ModuleFailed):
        run_module(paused_vm, "qemu_machine", chardevs=document)
    assert precious.read_text() == CONTENT


def test_one_plan_makes_a_path_once(paused_vm: VM, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    life = Lifecycle(paused_vm, "qemu_machine")
    two = [{"id": name, "type": "socket", "server": True, "path": path} for name in ("c0", "c1")]
    life.refused("chardevs[1] c1", "chardev c0 shall have", path, chardevs=two)
    netdev = {"id": "n0", **{key: value for key, value in socket_at("qemu_netdev", path).items() if key != "id"}}
    life.refused("shall have", path, chardevs=two[:1], netdevs=[netdev])


def test_a_netdev_made_again_may_have_its_path_again(paused_vm: VM, tmp_path: Path) -> None:
    given = socket_at("qemu_netdev", str(tmp_path / "s"))
    given["options"]["addr"]["path"] = path = str(tmp_path / "s")
    run_module(paused_vm, "qemu_netdev", **given)
    until(lambda: listens(path))
    dgram: dict[str, Any] = {"id": "n0", "type": "dgram", "options": {"local": {"type": "unix", "path": path}}}
    dgram["options"]["remote"] = {"type": "unix", "path": f"{path}-remote"}
    made = run_module(paused_vm, "qemu_netdev", **dgram, recreate=True)
    assert names(made) == ["netdev_del", "netdev_add"]


def test_datagram_sockets_are_looked_at_too(paused_vm: VM, precious: Path) -> None:
    ends = {"local": {"type": "unix", "path": str(precious)}, "remote": {"type": "unix", "path": f"{precious}-remote"}}
    Lifecycle(paused_vm, "qemu_netdev").refused("options: local", "is a file", id="n0", type="dgram", options=ends)
    assert precious.read_text() == CONTENT


def test_a_file_is_added_to_and_never_emptied(paused_vm: VM, precious: Path) -> None:
    life = Lifecycle(paused_vm, "qemu_chardev")
    given: dict[str, Any] = {"id": "c0", "type": "file", "path": str(precious)}
    life.refused(str(precious), "throw away", "append", **given)
    life.step(**given, options={"append": True})
    life.step(id="c0", state="absent")
    log = {"logfile": str(precious)}
    life.refused("logfile", str(precious), "logappend", id="c0", type="null", options=log)
    life.step(id="c0", type="null", options={**log, "logappend": True})
    life.step(id="c0", state="absent")
    assert precious.read_text() == CONTENT
    (precious.parent / "empty").touch()
    life.step(id="c0", type="file", path=f"{precious.parent}/empty")
    life.step(id="c1", type="file", path="/dev/null")


def test_a_filter_does_not_dump_over_a_file(paused_vm: VM, precious: Path) -> None:
    run_module(paused_vm, "qemu_netdev", id="n0", type="user")
    options: dict[str, Any] = {"netdev": "n0", "file": str(precious)}
    life = Lifecycle(paused_vm, "qemu_object")
    life.refused("options: file", str(precious), "throw away", id="f0", qom_type="filter-dump", options=options)
    assert precious.read_text() == CONTENT
    life.step(id="f0", qom_type="filter-dump", options={**options, "file": f"{precious}.pcap"})
    assert os.path.getsize(f"{precious}.pcap")


def test_what_is_not_a_pipe_is_not_written_to(paused_vm: VM, precious: Path) -> None:
    life = Lifecycle(paused_vm, "qemu_chardev")
    life.refused(str(precious), "not a named pipe", id="c0", type="pipe", path=str(precious))
    life.refused("does not exist", id="c0", type="pipe", path=f"{precious}-nosuch")
    life.refused(str(precious), "not a named pipe", id="c0", type="serial", path=str(precious))
    fifo = precious.with_name("pipe")
    os.mkfifo(f"{fifo}.in")
    os.mkfifo(f"{fifo}.out")
    life.refused(str(fifo), "is a named pipe", id="c0", type="file", path=f"{fifo}.out")
    life.step(id="c0", type="pipe", path=str(fifo))


def test_a_migration_to_a_file_overwrites_none(start_vm: Callable[..., VM], precious: Path) -> None:
    life = Lifecycle(start_vm(version="10.0"), "qemu_migrate")
    life.refused("uri", str(precious), "throw away", uri=f"file:{precious}")
    assert precious.read_text() == CONTENT
    assert run_module(life.vm, "qemu_migrate", uri=f"file:{precious}.new")["changed"]
    assert Path(f"{precious}.new").read_bytes()[:4] == b"QEVM"


def test_a_relative_path_is_where_qemu_stands(paused_vm: VM) -> None:
    """QEMU's working directory is not the task's."""
    (paused_vm.directory / "mine").write_text(CONTENT)
    life = Lifecycle(paused_vm, "qemu_chardev")
    life.refused("mine", "is a file", id="c0", type="socket", path="mine", server=True)
    life.step(id="c0", type="socket", path="served", server=True)
    assert (paused_vm.directory / "served").is_socket()


@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_seeds_and_pictures_replace_their_own_kind_alone(paused_vm: VM, precious: Path, check: bool) -> None:
    tasks: dict[str, dict[str, Any]] = {"qemu_seed": {"meta_data": "x"}, "qemu_screendump": {}}
    for module, options in tasks.items():
        target = paused_vm if module == "qemu_screendump" else None
        with pytest.raises(ModuleFailed, match=f"{precious} is there and is not a"):
            run_module(target, module, check=check, path=str(precious), **options)
    assert precious.read_text() == CONTENT


def test_over_tcp_nobody_looks(start_vm: Callable[..., VM], precious: Path) -> None:
    """What lies at a path on another host is not known here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_vm(args=["-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"])
    told = run_module(f"127.0.0.1:{port}", "qemu_chardev", check=True, id="c0", type="file", path=str(precious))
    assert told["changed"] and precious.read_text() == CONTENT


def test_the_observer_still_answers(paused_vm: VM) -> None:
    """A look at the machine's own monitors leaves them as they are."""
    life = Lifecycle(paused_vm, "qemu_chardev")
    life.refused("bed-observer serves", id="c0", type="socket", path=f"{paused_vm.directory}/observer", server=True)
    assert isinstance(paused_vm.observer, Observer) and paused_vm.observer.status() == "prelaunch"
