# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_serial_port: a port with its character device, and a guest that talks through it."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.vm import OLDEST, VM

LIVE_VM = {"args": ["-device", "virtio-serial-pci,id=vs0,bus=rp7"]}


@pytest.fixture
def port(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_serial_port")


def ports_of(vm: VM, wanted: set[str]) -> dict[str, str]:
    """Wait until the guest has ports of just these names; gives their devices by name."""
    deadline = time.monotonic() + 10
    while True:
        listed = vm.run_in_guest("cd /sys/class/virtio-ports; for p in *; do echo $p $(cat $p/name 2>/dev/null); done")
        found = {name: device for device, _blank, name in (line.partition(" ") for line in listed.splitlines()) if name}
        if set(found) == wanted:
            return found
        assert time.monotonic() < deadline, f"the guest should have {wanted}, and has {listed!r}"


def test_a_whole_life(port: Lifecycle) -> None:
    vm = port.vm
    clean = vm.fingerprint()
    path = f"{vm.directory}/agent"
    given: dict[str, Any] = {
        "id": "p0",
        "name": "org.example.agent.0",
        "bus": "vs0.0",
        "chardev": {"type": "socket", "path": path, "server": True},
    }
    added = port.step(**given)
    assert names(added) == ["chardev-add", "device_add"]
    assert added["device"] == {
        "id": "p0",
        "driver": "virtserialport",
        "bus": "vs0.0",
        "options": {"name": "org.example.agent.0", "chardev": "p0-chardev"},
    }
    assert added["chardev"]["path"] == path
    assert vm.plugged() == {"p0": "virtserialport"}
    device = ports_of(vm, {"org.example.agent.0"})["org.example.agent.0"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        vm.run_in_guest(f"echo hello from the guest >/dev/{device}")
        assert client.recv(100) == b"hello from the guest\n"
        port.same(**given)

    port.refused("options.name", "org.example.agent.0", "'else'", "recreate", **{**given, "name": "else"})
    assert names(port.step(**{**given, "name": "else"}, recreate=True)) == ["device_del", "device_add"]
    ports_of(vm, {"else"})
    moved = {**given, "name": "else", "chardev": {**given["chardev"], "path": f"{path}2"}}
    port.refused("chardev p0-chardev", "path", "recreate", **moved)
    again = port.step(**moved, recreate=True)
    assert names(again) == ["device_del", "chardev-remove", "chardev-add", "device_add"]
    assert vm.observer.qom_get("/chardevs/p0-chardev", "addr")["path"] == f"{path}2"

    assert names(port.step(id="p0", state="absent")) == ["device_del", "chardev-remove"]
    ports_of(vm, set())
    assert vm.fingerprint() == clean


def test_on_a_character_device_that_is_there(port: Lifecycle) -> None:
    vm = port.vm
    run_module(vm, "qemu_chardev", id="c0", type="null")
    assert names(port.step(id="p0", name="a", chardev={"id": "c0"}, options={"nr": "3"})) == ["device_add"]
    assert vm.observer.qom_get("/machine/peripheral/p0", "nr") == 3
    port.refused("c0 is in use by device p0", id="p1", name="b", chardev={"id": "c0"})
    port.refused("options.nr", "3", "4", id="p0", options={"nr": 4})
    assert names(port.step(id="p0", chardev={"id": "c0"}, state="absent")) == ["device_del", "chardev-remove"]


def test_half_done_states_are_completed(port: Lifecycle) -> None:
    vm = port.vm
    given: dict[str, Any] = {"id": "p0", "name": "a", "chardev": {"type": "pty"}}
    run_module(vm, "qemu_chardev", id="p0-chardev", type="pty")
    assert names(port.step(**given)) == ["device_add"]
    vm.observer.execute("device_del", id="p0")
    vm.observer.wait_event("DEVICE_DELETED", device="p0")
    assert names(port.step(id="p0", state="absent")) == ["chardev-remove"]


def test_a_failure_in_the_middle_leaves_nothing(port: Lifecycle) -> None:
    given: dict[str, Any] = {"id": "p0", "name": "a", "bus": "vs0.0", "chardev": {"type": "pty"}}
    bad: dict[str, Any] = {**given, "options": {"nr": 99}}
    result = port.refused("device_add", "port id", "taken back: chardev-remove", foretold=False, **bad)
    assert result["rolled_back"] == [{"execute": "chardev-remove", "arguments": {"id": "p0-chardev"}}]
    port.step(**{**given, "chardev": {"type": "socket", "path": f"{port.vm.directory}/p", "server": True}})
    moved: dict[str, Any] = {
        **given,
        "chardev": {"type": "socket", "path": f"{port.vm.directory}/nobody", "server": False},
        "recreate": True,
    }
    result = port.refused("/nobody", "taken back: chardev-add, device_add", foretold=False, **moved)
    assert port.vm.observer.qom_get("/machine/peripheral/p0", "name") == "a"
    port.step(id="p0", state="absent")


def test_without_a_controller(start_vm: Any) -> None:
    port = Lifecycle(start_vm(), "qemu_serial_port")
    port.refused("virtio-serial-pci", "taken back", foretold=False, id="p0", chardev={"type": "null"})
    port.refused("no bus 'vs0.0'", id="p0", bus="vs0.0", chardev={"type": "null"})


def test_what_reading_can_tell_is_refused_before_anything_is_sent(port: Lifecycle) -> None:
    for words, options in (
        (("QEMU would stop",), {"chardev": {"type": "socket", "path": "/x", "server": True, "wait": True}}),
        (("type", "p0-chardev"), {"chardev": {}}),
        (("no property 'namee'",), {"chardev": {"type": "null"}, "options": {"namee": 1}}),
        (("no chardev 'nosuch'",), {"options": {"chardev": "nosuch"}}),
    ):
        port.refused(*words, id="p0", **options)


def test_on_the_oldest_qemu(start_vm: Any) -> None:
    vm = start_vm(version=OLDEST, args=["-device", "virtio-serial-pci,id=vs0"])
    port = Lifecycle(vm, "qemu_serial_port")
    port.step(id="p0", name="a", chardev={"type": "socket", "path": f"{vm.directory}/p", "server": True})
    port.step(id="p0", state="absent")


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    chardev = {"type": "socket", "path": f"{live_vm.directory}/p", "server": True}
    given: dict[str, Any] = {"socket": live_vm.qmp, "id": "p0", "name": "org.example.0", "chardev": chardev}
    assert ansible_task("qemu_serial_port", given, check=True).changed
    assert live_vm.plugged() == {}
    assert ansible_task("qemu_serial_port", given).changed
    ports_of(live_vm, {"org.example.0"})
    assert not ansible_task("qemu_serial_port", given).changed
    assert ansible_task("qemu_serial_port", {"socket": live_vm.qmp, "id": "p0", "state": "absent"}).changed
    assert live_vm.plugged() == {}


@pytest.mark.parametrize("at", ["chardev-add", "device_add"])
@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_connection_that_breaks_in_the_middle(start_vm: Any, fault: str, at: str) -> None:
    vm = start_vm(args=["-device", "virtio-serial-pci,id=vs0,bus=rp7"])
    given: dict[str, Any] = {"id": "p0", "name": "a", "chardev": {"type": "pty"}}
    before = vm.fingerprint()
    with Proxy(vm.qmp, fault, at) as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_serial_port", **given)
    assert "lost QEMU" in failed.value.result["msg"] and "not_rolled_back" not in failed.value.result
    assert vm.fingerprint() == before
    assert run_module(vm, "qemu_serial_port", **given)["changed"]
