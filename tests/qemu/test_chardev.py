# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_chardev: types and addresses, who may hold one, and what would stop QEMU or take a socket away."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.architectures import S390X
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import OLDEST, VM, is_since


@pytest.fixture
def chardev(paused_vm: VM) -> Lifecycle:
    return Lifecycle(paused_vm, "qemu_chardev")


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Somebody on the host whom QEMU can connect to."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(4)
        server.settimeout(5)
        yield server
    os.unlink(path)


def addr(vm: VM, ident: str) -> dict[str, Any]:
    told: dict[str, Any] = vm.observer.qom_get(f"/chardevs/{ident}", "addr")
    return told


def test_a_whole_life(chardev: Lifecycle) -> None:
    vm = chardev.vm
    clean = vm.fingerprint()
    path = f"{vm.directory}/c0"
    given: dict[str, Any] = {"id": "c0", "type": "socket", "path": path, "server": True}
    added = chardev.step(**given)
    assert added["commands"] == [
        {
            "execute": "chardev-add",
            "arguments": {
                "id": "c0",
                "backend": {
                    "type": "socket",
                    "data": {"addr": {"type": "unix", "data": {"path": path}}, "server": True, "wait": False},
                },
            },
        }
    ]
    assert added["chardev"] == given
    assert addr(vm, "c0") == {"type": "unix", "path": path}
    assert "server" in vm.observer.chardevs()["c0"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        chardev.same(**given, wait=False)

    chardev.refused("chardev c0", "path", repr(path), "other", "recreate", **{**given, "path": f"{path}-other"})
    chardev.refused("type is 'socket'", "'null'", "recreate", id="c0", type="null")
    chardev.refused("server is True", "wanted False", id="c0", server=False)
    again = chardev.step(id="c0", path=f"{path}-other", recreate=True)
    assert names(again) == ["chardev-remove", "chardev-add"]
    assert again["chardev"] == {**given, "path": f"{path}-other"}, "what was not named stays"

    gone = chardev.step(id="c0", state="absent")
    assert names(gone) == ["chardev-remove"] and gone["chardev"] == {}
    assert vm.fingerprint() == clean


def test_a_pty_tells_its_path(chardev: Lifecycle) -> None:
    made = chardev.step(id="p0", type="pty")
    assert made["chardev"] == {"id": "p0", "type": "pty", "path": chardev.vm.observer.chardevs()["p0"][len("pty:") :]}
    assert os.path.exists(made["chardev"]["path"])
    chardev.step(id="p0", state="absent")


@pytest.mark.parametrize(
    "given",
    [
        {"type": "null"},
        {"type": "ringbuf", "options": {"size": "4k"}},
        {"type": "udp", "host": "127.0.0.1", "port": "9"},
        {"type": "file", "path": "out"},
        {"type": "pipe", "path": "pipe"},
        {"type": "socket", "options": {"addr": {"type": "unix", "data": {"path": "by-hand"}}, "server": "yes"}},
    ],
    ids=lambda given: given["type"],
)
def test_other_types(chardev: Lifecycle, given: dict[str, Any]) -> None:
    vm = chardev.vm
    os.mkfifo(vm.directory / "pipe")
    if "path" in given:
        given = {**given, "path": str(vm.directory / given["path"])}
    chardev.step(id="c0", **given)
    assert vm.observer.qom_get("/chardevs/c0", "type") == f"chardev-{given['type']}"
    again = chardev.same(id="c0", **given)
    assert bool(again["unverifiable"]) == bool({"options", "host", "path"} & set(given))
    chardev.step(id="c0", state="absent")


def test_a_port_of_its_own_choice(chardev: Lifecycle) -> None:
    """Port 0 is any, and a host's name is one of its addresses."""
    vm = chardev.vm
    given: dict[str, Any] = {"id": "c0", "type": "socket", "host": "localhost", "port": 0, "server": True}
    made = chardev.step(**given)
    port = made["chardev"]["port"]
    assert port != "0" and port == addr(vm, "c0")["port"]
    chardev.same(**{**given, "port": int(port)})
    chardev.refused("port", port, "'1'", **{**given, "port": "1"})
    chardev.refused("host", "192.0.2.1", id="c0", host="192.0.2.1")
    with socket.create_connection(("localhost", int(port))):
        chardev.same(**given)
    chardev.step(id="c0", state="absent")


def test_an_address_of_another_kind_differs(chardev: Lifecycle) -> None:
    """What is there proves that it is not what was asked for."""
    path = f"{chardev.vm.directory}/c0"
    inet: dict[str, Any] = {"id": "c0", "type": "socket", "host": "127.0.0.1", "port": 0, "server": True}
    unix: dict[str, Any] = {"id": "c0", "type": "socket", "path": path, "server": True}
    chardev.step(**inet)
    chardev.refused("path is", "127.0.0.1", "recreate", **unix)
    chardev.step(**unix, recreate=True)
    assert addr(chardev.vm, "c0") == {"type": "unix", "path": path}
    chardev.refused("host is", path, "recreate", **inet)
    chardev.refused("99999999", "highest", "65535", **{**inet, "port": 99999999})


def test_a_client(chardev: Lifecycle) -> None:
    vm = chardev.vm
    path = f"{vm.directory}/there,server"
    given: dict[str, Any] = {"id": "c0", "type": "socket", "path": path}
    with listening(path) as server:
        chardev.step(**given)
        server.accept()[0].close()
        assert chardev.same(**given, server=False)["chardev"]["server"] is False
        chardev.step(id="c0", state="absent")


@pytest.mark.parametrize("where", [{"path": "/nosuch/socket"}, {"host": "127.0.0.1", "port": 1}], ids=["unix", "tcp"])
def test_a_client_that_nobody_waits_for(chardev: Lifecycle, where: dict[str, Any]) -> None:
    given: dict[str, Any] = {"id": "c0", "type": "socket", **where}
    result = chardev.refused("ailed to connect", "start what shall listen", foretold=False, **given)
    assert "ailed to connect" in result["error"]["desc"]
    done = chardev.step(**given, reconnect=3)
    data = done["commands"][0]["arguments"]["backend"]["data"]
    assert data["reconnect-ms" if is_since(chardev.vm.version, "10.0") else "reconnect"] in (3, 3000)
    assert chardev.same(**given, reconnect=4)["unverifiable"] == ["reconnect"]
    chardev.step(id="c0", state="absent")


def test_what_would_stop_qemu_is_refused(chardev: Lifecycle) -> None:
    path = f"{chardev.vm.directory}/c0"
    given: dict[str, Any] = {"id": "c0", "type": "socket", "path": path}
    for more in ({"server": True, "wait": True}, {"server": True, "options": {"wait": "on"}}):
        chardev.refused("wait", "QEMU would stop", "monitors", **given, **more)
    chardev.refused("wait", "not a server", **given, wait=True)


def test_a_path_that_another_chardev_serves_is_not_taken_over(chardev: Lifecycle) -> None:
    vm = chardev.vm
    path = f"{vm.directory}/c0"
    chardev.step(id="c0", type="socket", path=path, server=True)
    chardev.refused("c0 serves", path, id="c1", type="socket", path=path, server=True)
    chardev.refused("bed-observer serves", id="c1", type="socket", path=f"{vm.directory}/observer", server=True)
    by_hand: dict[str, Any] = {"addr": {"type": "unix", "data": {"path": path}}, "server": True}
    chardev.refused("c0 serves", id="c1", type="socket", options=by_hand)
    chardev.step(id="c1", type="socket", path=path)  # as its client it may
    chardev.step(id="c1", state="absent")
    chardev.step(id="c0", state="absent")


def test_one_in_use_stays(start_vm: Any) -> None:
    vm = start_vm(args=["-device", "virtio-serial-pci,id=vs0,bus=rp7"])
    chardev = Lifecycle(vm, "qemu_chardev")
    chardev.step(id="c0", type="socket", path=f"{vm.directory}/c0", server=True)
    vm.observer.execute("device_add", driver="virtserialport", id="p0", chardev="c0")
    chardev.refused("chardev c0 is in use by device p0", id="c0", state="absent")
    chardev.refused("in use by device p0", id="c0", type="null", recreate=True)
    run_module(vm, "qemu_device", id="p0", state="absent")
    vm.observer.execute("object-add", **{"qom-type": "rng-egd", "id": "c0", "chardev": "c0"})  # of the same name
    chardev.refused("chardev c0 is in use by object c0", id="c0", state="absent")
    vm.observer.execute("object-del", id="c0")
    chardev.step(id="c0", state="absent")

    if is_since(vm.version, "11.1"):  # where a monitor is an object
        chardev.refused("chardev bed-observer is in use by monitor", id="bed-observer", state="absent")
        return
    result = chardev.refused("busy", "a monitor", foretold=False, id="bed-observer", state="absent")
    assert "busy" in result["error"]["desc"]


def test_one_in_use_by_what_has_no_id(start_vm: Any) -> None:
    more = ["-chardev", "null,id=c0", "-device", "virtio-serial-pci,bus=rp7", "-device", "virtserialport,chardev=c0"]
    chardev = Lifecycle(start_vm(args=more), "qemu_chardev")
    chardev.refused("in use by device device[", id="c0", state="absent")


def test_what_reading_can_tell_is_refused_before_anything_is_sent(chardev: Lifecycle) -> None:
    for words, options in (
        (("type", "must be named"), {}),
        (("'nosuch'", "socket"), {"type": "nosuch"}),
        (("address", "path"), {"type": "socket"}),
        (("two addresses",), {"type": "socket", "path": "/x", "host": "h"}),
        (("reconnect", "server"), {"type": "socket", "path": "/x", "server": True, "reconnect": 1}),
        (("telnett", "telnet"), {"type": "socket", "path": "/x", "options": {"telnett": True}}),
        (("out",), {"type": "file"}),
    ):
        chardev.refused(*words, id="c0", **options)
    chardev.refused("path", "null", "no such option", id="c0", type="null", path="/x")
    chardev.refused("server", "udp", "no such option", id="c0", type="udp", host="::1", port=7, server=True)
    chardev.refused("'0bad'", "letter", id="0bad", type="null")
    chardev.refused("no directory /nosuch", id="c0", type="file", path="/nosuch/file")


def test_a_failed_recreation_gives_the_old_one_back(chardev: Lifecycle) -> None:
    vm = chardev.vm
    path = f"{vm.directory}/c0"
    chardev.step(id="c0", type="socket", path=path, server=True)
    bad: dict[str, Any] = {"id": "c0", "type": "socket", "path": "/sys/s", "server": True, "recreate": True}
    result = chardev.refused("/sys/s", "taken back: chardev-add", foretold=False, **bad)
    assert [step["execute"] for step in result["rolled_back"]] == ["chardev-add"]
    assert addr(vm, "c0")["path"] == path
    chardev.step(id="c0", state="absent")


@pytest.mark.parametrize("version", [OLDEST, S390X])
def test_on_other_qemus(start_vm: Any, version: str) -> None:
    chardev = Lifecycle(start_vm(version=version), "qemu_chardev")
    path = f"{chardev.vm.directory}/c0"
    given: dict[str, Any] = {"id": "c0", "type": "socket", "path": path, "server": True}
    assert chardev.step(**given)["chardev"] == given
    chardev.refused("c0 serves", id="c1", type="socket", path=path, server=True)
    chardev.step(id="c0", state="absent")
    assert chardev.step(id="p0", type="pty")["chardev"]["path"].startswith("/dev/pts/")


def test_as_ansible_runs_it(paused_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": paused_vm.qmp, "id": "p0", "type": "pty"}
    assert ansible_task("qemu_chardev", given, check=True).changed
    assert "p0" not in paused_vm.observer.chardevs()
    made = ansible_task("qemu_chardev", given, diff=True)
    assert made.changed and made.result["chardev"]["path"].startswith("/dev/pts/")
    assert not ansible_task("qemu_chardev", given).changed
    assert ansible_task("qemu_chardev", {**given, "state": "absent"}).changed
    assert "p0" not in paused_vm.observer.chardevs()


def test_a_gone_one_is_no_fault(chardev: Lifecycle) -> None:
    chardev.same(id="nosuch", state="absent")
    with pytest.raises(ModuleFailed):
        run_module(chardev.vm, "qemu_chardev", id="c0", type="null", nosuch=1)
