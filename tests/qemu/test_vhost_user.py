# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_vhost_user: a disk that a real qemu-storage-daemon serves to a live guest."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import run_module
from support.vm import OLDEST, VM, is_since

SHARED = ["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"]
LIVE_VM = {"args": SHARED}


@pytest.fixture
def vhost(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_vhost_user")


@pytest.fixture
def serve() -> Iterator[Callable[[VM, str], str]]:
    """`serve(vm, "a")`: a storage daemon with a disk of 16 MiB behind the socket that it gives."""
    daemons: list[subprocess.Popen[bytes]] = []

    def start(vm: VM, name: str) -> str:
        path = f"{vm.directory}/{name}.sock"
        image = vm.image(f"{name}.img")
        command = ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f0,filename={image}"]
        command += ["--blockdev", "driver=raw,node-name=n0,file=f0"]
        export = f"type=vhost-user-blk,id=e0,node-name=n0,addr.type=unix,addr.path={path},writable=on"
        daemons.append(subprocess.Popen([*command, "--export", export], stderr=subprocess.PIPE))
        deadline = time.monotonic() + 10
        while not Path(path).exists():
            assert daemons[-1].poll() is None, daemons[-1].stderr
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return path

    yield start
    for daemon in daemons:
        daemon.kill()
        daemon.wait()
        if daemon.stderr is not None:
            daemon.stderr.close()


def test_a_whole_life(vhost: Lifecycle, serve: Callable[[VM, str], str]) -> None:
    vm = vhost.vm
    clean = vm.fingerprint()
    path, other = serve(vm, "a"), serve(vm, "b")
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": path, "bus": "rp0"}
    added = vhost.step(**given)
    assert names(added) == ["chardev-add", "device_add"]
    assert added["commands"][0]["arguments"]["backend"]["data"] == {
        "addr": {"type": "unix", "data": {"path": path}},
        "server": False,
    }
    assert vm.plugged() == {"v0": "vhost-user-blk-pci"}
    assert vm.observer.qom_get("/machine/peripheral/v0", "chardev") == "v0-chardev"
    assert (added["chardev"]["path"], added["device"]["options"]["chardev"]) == (path, "v0-chardev")
    vm.guest_sees(blk={"vda"})
    assert int(vm.run_in_guest("cat /sys/block/vda/size")) == (16 << 20) // 512
    vm.run_in_guest("echo guest was here | dd of=/dev/vda conv=sync 2>/dev/null; sync")
    assert (vm.directory / "a.img").read_bytes().startswith(b"guest was here")

    vhost.refused("options.num-queues", "recreate", **given, options={"num-queues": 3})
    vhost.refused("chardev v0-chardev", "path", "recreate", **{**given, "path": other})
    moved = vhost.step(**{**given, "path": other}, recreate=True)
    assert names(moved) == ["device_del", "chardev-remove", "chardev-add", "device_add"]
    assert vm.observer.qom_get("/chardevs/v0-chardev", "addr")["path"] == other

    assert names(vhost.step(id="v0", state="absent")) == ["device_del", "chardev-remove"]
    vm.guest_sees(blk=set())
    assert vm.fingerprint() == clean


def test_options_and_a_driver_without_its_transport(vhost: Lifecycle, serve: Callable[[VM, str], str]) -> None:
    vm = vhost.vm
    given: dict[str, Any] = {
        "id": "v0",
        "driver": "vhost-user-blk",
        "path": serve(vm, "a"),
        "reconnect": 2,
        "bus": "rp1",
        "addr": "0",
    }
    done = vhost.step(**given, options={"num-queues": "1", "bootindex": 5})
    data = done["commands"][0]["arguments"]["backend"]["data"]
    assert data["reconnect-ms" if is_since(vm.version, "10.0") else "reconnect"] in (2, 2000)
    arguments = done["commands"][1]["arguments"]
    assert (arguments["driver"], arguments["addr"]) == ("vhost-user-blk-pci", "0")
    assert (arguments["num-queues"], arguments["bootindex"]) == (1, 5)
    vm.guest_sees(blk={"vda"})
    vhost.step(id="v0", state="absent")


def test_half_done_states_are_completed(vhost: Lifecycle, serve: Callable[[VM, str], str]) -> None:
    vm = vhost.vm
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": serve(vm, "a"), "bus": "rp0"}
    run_module(vm, "qemu_chardev", id="v0-chardev", type="socket", path=given["path"])
    assert names(vhost.step(**given)) == ["device_add"]
    vm.guest_sees(blk={"vda"})
    vm.observer.execute("device_del", id="v0")
    vm.observer.wait_event("DEVICE_DELETED", device="v0")
    assert names(vhost.step(id="v0", state="absent")) == ["chardev-remove"]


def test_a_failure_in_the_middle_leaves_nothing(vhost: Lifecycle, serve: Callable[[VM, str], str]) -> None:
    path = serve(vhost.vm, "a")
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": path, "bus": "rp0"}
    bad: dict[str, Any] = {**given, "options": {"queue-size": 0}}
    result = vhost.refused("device_add", "taken back: chardev-remove", foretold=False, **bad)
    assert result["rolled_back"] == [{"execute": "chardev-remove", "arguments": {"id": "v0-chardev"}}]
    nobody: dict[str, Any] = {**given, "path": "/nosuch/socket"}
    vhost.refused("ailed to connect", "start what shall listen", foretold=False, **nobody)
    vhost.step(**given)
    vhost.vm.guest_sees(blk={"vda"})
    moved: dict[str, Any] = {**nobody, "recreate": True}
    vhost.refused("ailed to connect", "taken back: chardev-add, device_add", foretold=False, **moved)
    vhost.vm.guest_sees(blk={"vda"})
    vhost.step(id="v0", state="absent")


RAM = "memory-backend-ram,size=128M"
PRIVATE: list[tuple[list[str], str, str]] = [
    ([], "256", "pc.ram"),
    (["-object", f"{RAM},id=ram", "-machine", "memory-backend=ram"], "128", "ram"),
    (
        f"-smp 2 -object {RAM},id=n0,share=on -numa node,memdev=n0,cpus=0 "
        f"-object {RAM},id=n1 -numa node,memdev=n1,cpus=1".split(),
        "256",
        "n1",
    ),
    ([*SHARED, "-object", f"{RAM},id=more", "-device", "pc-dimm,memdev=more"], "256,slots=2,maxmem=1G", "more"),
]


@pytest.mark.parametrize(("args", "memory", "named"), PRIVATE, ids=["default", "own", "numa", "dimm"])
def test_memory_that_is_not_shared(start_vm: Any, args: list[str], memory: str, named: str) -> None:
    """QEMU makes the device all the same."""
    vhost = Lifecycle(start_vm(args=args, memory=memory), "qemu_vhost_user")
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": "/nosuch", "bus": "rp0"}
    vhost.refused(f"memory ({named}) is not shared", "share=on", **given)


def test_memory_that_is_nobodys_does_not_matter(start_vm: Any, serve: Callable[[VM, str], str]) -> None:
    vm = start_vm(args=SHARED)
    vm.observer.send("object-add", {"qom-type": "memory-backend-ram", "id": "spare", "size": 1 << 20})
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": serve(vm, "a"), "bus": "rp0"}
    assert run_module(vm, "qemu_vhost_user", **given)["changed"]


def test_what_reading_can_tell_is_refused_before_anything_is_sent(vhost: Lifecycle) -> None:
    for words, options in (
        (("driver", "must be named"), {"path": "/x"}),
        (("type", "v0-chardev"), {"driver": "vhost-user-blk-pci"}),
        (("'vhost-user-nosuch'",), {"driver": "vhost-user-nosuch", "path": "/x"}),
        (("hot-plug", "rp0"), {"driver": "vhost-user-blk-pci", "path": "/x", "bus": "pcie.0"}),
        (("no property 'queues'",), {"driver": "vhost-user-blk-pci", "path": "/x", "options": {"queues": 1}}),
    ):
        given: dict[str, Any] = {"id": "v0", "bus": "rp0", **options}
        vhost.refused(*words, **given)


def test_on_the_oldest_qemu(start_vm: Any, serve: Callable[[VM, str], str]) -> None:
    shared = ["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram"]
    vm = start_vm(version=OLDEST, args=shared)
    given: dict[str, Any] = {"id": "v0", "driver": "vhost-user-blk-pci", "path": serve(vm, "a")}
    Lifecycle(vm, "qemu_vhost_user").step(**given)
    private = Lifecycle(start_vm(version=OLDEST), "qemu_vhost_user")
    private.refused("is not shared", **given)


def test_as_ansible_runs_it(live_vm: VM, serve: Callable[[VM, str], str], ansible_task: Any) -> None:
    path = serve(live_vm, "a")
    given: dict[str, Any] = {
        "socket": live_vm.qmp,
        "id": "v0",
        "driver": "vhost-user-blk-pci",
        "path": path,
        "bus": "rp0",
    }
    assert ansible_task("qemu_vhost_user", given, check=True).changed
    assert live_vm.plugged() == {}
    assert ansible_task("qemu_vhost_user", given).changed
    live_vm.guest_sees(blk={"vda"})
    assert not ansible_task("qemu_vhost_user", given).changed
    assert ansible_task("qemu_vhost_user", {"socket": live_vm.qmp, "id": "v0", "state": "absent"}).changed
    assert live_vm.plugged() == {}
