# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_vsock and qemu_vfio: real QEMUs that lack only the host's hardware, for which something stands in."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.architectures import S390X
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

PERIPHERAL = "/machine/peripheral"
KINDS = "ansible_collections.vmm.qemu.plugins.module_utils._kinds"


class StandIn:
    """Between a module and a real monitor: takes the devices that would need hardware for QEMU, and keeps them.

    `devices` are those that are plugged in, with the arguments that came; `files` the descriptors that came, by their
    names, as (device, inode). Everything else is QEMU's own answer. `refuse`: a text with which a device is refused.
    """

    def __init__(self, vm: VM) -> None:
        self.devices: dict[str, dict[str, Any]] = {}
        self.files: dict[str, tuple[int, int]] = {}
        self.closed: list[str] = []
        self.refuse = ""
        self._vm, self._target = vm, vm.qmp
        self._directory = tempfile.mkdtemp(prefix="s", dir="/tmp")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory}/s")
        self._listener.listen(4)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        vm.qmp = f"{self._directory}/s"

    def close(self) -> None:
        self._vm.qmp = self._target
        os.write(self._wake, b"x")
        self._thread.join(10)
        for end in (self._stop, self._wake):
            os.close(end)
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _serve(self) -> None:
        ends: list[Any] = [self._listener, self._stop]
        while self._stop not in select.select(ends, [], [])[0]:
            client = self._listener.accept()[0]
            with client, socket.socket(socket.AF_UNIX) as qemu, contextlib.suppress(ConnectionError):
                qemu.connect(self._target)
                self._pass_on(client, qemu)

    def _pass_on(self, client: socket.socket, qemu: socket.socket) -> None:
        asked, told, descriptors = b"", b"", []
        ends: list[Any] = [client, qemu, self._stop]
        listed: set[str] = set()  # ids of the questions for all devices
        while True:
            ready = select.select(ends, [], [])[0]
            if self._stop in ready:
                return
            if client in ready:
                data, fds, _flags, _address = socket.recv_fds(client, 1 << 16, 8)
                if not data:
                    return
                descriptors += fds
                *lines, asked = (asked + data).split(b"\n")
                for request in (json.loads(line) for line in lines if line):
                    self._ask(request, descriptors, client, qemu, listed)
            if qemu in ready:
                data = qemu.recv(1 << 16)
                if not data:
                    return
                *lines, told = (told + data).split(b"\n")
                for reply in map(json.loads, lines):
                    if reply.get("id") in listed:
                        kinds = {ident: f"child<{device['driver']}>" for ident, device in self.devices.items()}
                        reply["return"] += [{"name": ident, "type": kind} for ident, kind in kinds.items()]
                    client.sendall(json.dumps(reply).encode() + b"\r\n")

    def _ask(
        self,
        request: dict[str, Any],
        descriptors: list[int],
        client: socket.socket,
        qemu: socket.socket,
        listed: set[str],
    ) -> None:
        """Answer one command, or have QEMU do it."""
        answer = self._answer(request, descriptors)
        for message in answer or ():
            client.sendall(json.dumps(message).encode() + b"\r\n")
        if answer is None:
            if request.get("arguments", {}).get("path") == PERIPHERAL:
                listed.add(request["id"])
            qemu.sendall(json.dumps(request).encode() + b"\n")

    def _answer(self, request: dict[str, Any], descriptors: list[int]) -> list[dict[str, Any]] | None:
        """The messages for a command that is answered here; None for one that QEMU shall answer."""
        name, arguments = request["execute"], request.get("arguments", {})
        done = {"return": {}, "id": request["id"]}
        ident = str(arguments.get("id", ""))
        if name == "getfd":
            fd = descriptors.pop(0)
            about = os.fstat(fd)
            os.close(fd)
            self.files[arguments["fdname"]] = (about.st_dev, about.st_ino)
            return [done]
        if name == "closefd":
            self.closed.append(arguments["fdname"])
            return [done]
        if name == "device_add":
            if self.refuse:
                return [{"error": {"class": "GenericError", "desc": self.refuse}, "id": request["id"]}]
            self.devices[ident] = arguments
            return [done]
        if name == "device_del" and ident in self.devices:
            del self.devices[ident]
            where: dict[str, Any] = {"device": ident, "path": f"{PERIPHERAL}/{ident}"}
            stamp = {"seconds": 1, "microseconds": 0}
            return [done, {"event": "DEVICE_DELETED", "data": where, "timestamp": stamp}]
        if name == "query-status":  # a guest that answers, as far as these devices are concerned
            return [{"return": {"running": True, "status": "running", "singlestep": False}, "id": request["id"]}]
        if name == "qom-get" and os.path.basename(arguments["path"]) in self.devices:
            return [{**self._property(arguments), "id": request["id"]}]
        return None

    def _property(self, arguments: dict[str, Any]) -> dict[str, Any]:
        device = self.devices[os.path.basename(arguments["path"])]
        known = {name: value for name, value in device.items() if name not in ("bus", "addr", "devno")}
        if "bus" in device:
            known["parent_bus"] = f"{PERIPHERAL}/{device['bus']}/{device['bus']}"
        if device["driver"].endswith("-pci"):
            known["addr"] = int(device.get("addr", "0"), 16) << 3
        if "devno" in device:
            known["dev_id"] = device["devno"]
        if "host" in device:  # as QEMU itself does
            known["sysfsdev"] = f"/sys/bus/pci/devices/{device['host']}"
        if arguments["property"] in known:
            return {"return": known[arguments["property"]]}
        return {"error": {"class": "GenericError", "desc": f"Property '{arguments['property']}' not found"}}


@pytest.fixture
def stand_in() -> Iterator[Callable[[VM], StandIn]]:
    made: list[StandIn] = []

    def make(vm: VM) -> StandIn:
        made.append(StandIn(vm))
        return made[-1]

    yield make
    for one in made:
        one.close()


def inode(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino


# -- vsock ----------------------------------------------------------------------


def test_the_life_of_a_vsock(paused_vm: VM, stand_in: Callable[[VM], StandIn], tmp_path: Path) -> None:
    proxy, vsock = stand_in(paused_vm), Lifecycle(paused_vm, "qemu_vsock")
    device = tmp_path / "vhost-vsock"
    device.touch()
    given: dict[str, Any] = {"id": "v0", "guest_cid": 42, "bus": "rp0", "vhostfd": str(device)}
    foretold = run_module(paused_vm, "qemu_vsock", check=True, **given)
    assert foretold["changed"] and proxy.devices == {} and proxy.files == {}
    done = run_module(paused_vm, "qemu_vsock", diff=True, **given)
    assert names(done) == names(foretold) == ["device_add"]
    (handed,) = proxy.files
    assert proxy.files[handed] == inode(device)
    assert proxy.devices == {
        "v0": {"driver": "vhost-vsock-pci", "id": "v0", "bus": "rp0", "guest-cid": 42, "vhostfd": handed}
    }
    assert done["device"] == {
        "id": "v0",
        "driver": "vhost-vsock-pci",
        "bus": "rp0",
        "addr": "00.0",
        "options": {"guest-cid": 42},
    }
    vsock.same(**given)
    vsock.same(**{**given, "guest_cid": "42", "vhostfd": "/elsewhere"}, driver="vhost-vsock")
    vsock.refused("options.guest-cid", "42", "43", "recreate", **{**given, "guest_cid": 43})
    again = run_module(paused_vm, "qemu_vsock", **{**given, "guest_cid": 43}, recreate=True)
    assert names(again) == ["device_del", "device_add"] and proxy.devices["v0"]["guest-cid"] == 43
    gone = vsock.step(id="v0", state="absent")
    assert names(gone) == ["device_del"] and proxy.devices == {}


def test_every_option_of_a_vsock(paused_vm: VM, stand_in: Callable[[VM], StandIn], tmp_path: Path) -> None:
    proxy = stand_in(paused_vm)
    (tmp_path / "x").touch()
    more: dict[str, Any] = {
        "addr": 0,
        "romfile": "",
        "disable_modern": True,
        "options": {"event_idx": "off"},
        "driver": "vhost-vsock-pci",
    }
    run_module(paused_vm, "qemu_vsock", id="v0", bus="rp0", guest_cid=3, vhostfd=str(tmp_path / "x"), **more)
    want = {"addr": "0", "romfile": "", "disable-modern": True, "event_idx": False, "guest-cid": 3}
    assert want.items() <= proxy.devices["v0"].items()


def test_a_vsock_that_is_refused_leaves_no_descriptor(
    paused_vm: VM, stand_in: Callable[[VM], StandIn], tmp_path: Path
) -> None:
    proxy, vsock = stand_in(paused_vm), Lifecycle(paused_vm, "qemu_vsock")
    (tmp_path / "x").touch()
    given: dict[str, Any] = {"id": "v0", "guest_cid": 42, "bus": "rp0", "vhostfd": str(tmp_path / "x")}
    proxy.refuse = "vhost-vsock: unable to set guest cid: Address already in use"
    vsock.refused("Address already in use", foretold=False, **given)
    assert proxy.closed == list(proxy.files)
    proxy.refuse = ""
    run_module(paused_vm, "qemu_vsock", **given)
    # taking a removal back needs a descriptor again, since QEMU has used up the first
    module = importlib.import_module(f"{KINDS}.vsock")
    refused = iter(["no", "", ""])
    original = StandIn._answer

    def once(self: StandIn, request: dict[str, Any], descriptors: list[int]) -> Any:
        if request["execute"] == "device_add":
            self.refuse = next(refused)
        return original(self, request, descriptors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandIn, "_answer", once)
        with pytest.raises(ModuleFailed) as failed:
            run_module(paused_vm, "qemu_vsock", **{**given, "guest_cid": 43}, recreate=True)
    assert names({"commands": failed.value.result["rolled_back"]}) == ["device_add"]
    assert proxy.devices["v0"]["guest-cid"] == 42
    assert proxy.devices["v0"]["vhostfd"] in proxy.files and module.VHOST_VSOCK == "/dev/vhost-vsock"


def test_real_qemu_judges_what_is_handed_over(paused_vm: VM) -> None:
    """Any path that opens is passed on."""
    vsock = Lifecycle(paused_vm, "qemu_vsock")
    before = set(os.listdir(f"/proc/{paused_vm.pid}/fd"))
    given: dict[str, Any] = {"id": "v0", "guest_cid": 42, "bus": "rp0", "vhostfd": "/dev/null"}
    result = vsock.refused("device_add", "vhost", foretold=False, **given)
    assert result["error"]["class"] == "GenericError"
    paused_vm.observer.status()  # a turn of QEMU's main loop
    assert set(os.listdir(f"/proc/{paused_vm.pid}/fd")) == before


def test_what_a_vsock_is_refused_for(paused_vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    vsock = Lifecycle(paused_vm, "qemu_vsock")
    monkeypatch.setattr(importlib.import_module(f"{KINDS}.vsock"), "VHOST_VSOCK", "/nosuch/vhost-vsock")
    for words, options in (
        (("/nosuch/vhost-vsock does not exist", "vhost_vsock module"), {"guest_cid": 42}),
        (("/nosuch/else does not exist",), {"guest_cid": 42, "vhostfd": "/nosuch/else"}),
        (("guest_cid", "must be given"), {}),
        (("guest_cid: 2", "greater than 2"), {"guest_cid": 2}),
        (("guest_cid: 4294967295",), {"guest_cid": 4294967295}),
        (("hot-plug",), {"guest_cid": 42, "vhostfd": "/dev/null", "bus": "pcie.0"}),
    ):
        given: dict[str, Any] = {"id": "v0", "bus": "rp0", **options}
        vsock.refused(*words, **given)
    result = vsock.refused("Is a directory", "/tmp", foretold=False, id="v0", guest_cid=42, bus="rp0", vhostfd="/tmp")
    assert "error" not in result
    vsock.same(id="v0", state="absent")


def test_over_tcp_nothing_can_be_handed_over(start_vm: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    start_vm(args=["-qmp", f"tcp:{where},server=on,wait=off"])
    with pytest.raises(ModuleFailed, match="Unix socket"):
        run_module(where, "qemu_vsock", id="v0", guest_cid=42, bus="rp0", vhostfd="/dev/null", check=True)
    foretold = run_module(where, "qemu_vsock", id="v0", guest_cid=42, bus="rp0", check=True)
    assert "vhostfd" not in foretold["commands"][0]["arguments"]


# -- VFIO -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"host": "0000:ff:1f.7"}, {"driver": "vfio-pci", "host": "0000:ff:1f.7"}),
        ({"host": "FF:1F.7", "romfile": ""}, {"driver": "vfio-pci", "host": "0000:ff:1f.7", "romfile": ""}),
        (
            {"sysfsdev": "/sys/bus/mdev/devices/nosuch", "addr": "0", "driver": "vfio-pci"},
            {"driver": "vfio-pci", "sysfsdev": "/sys/bus/mdev/devices/nosuch", "addr": "0"},
        ),
        (
            {"host": "0000:ff:1f.7", "options": {"x-no-mmap": "on"}},
            {"driver": "vfio-pci", "host": "0000:ff:1f.7", "x-no-mmap": True},
        ),
    ],
    ids=["host", "romfile", "sysfsdev", "options"],
)
def test_the_life_of_a_pci_device(
    paused_vm: VM, stand_in: Callable[[VM], StandIn], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    proxy, vfio = stand_in(paused_vm), Lifecycle(paused_vm, "qemu_vfio")
    given = {"id": "h0", "bus": "rp0", **given}
    run_module(paused_vm, "qemu_vfio", check=True, **given)
    assert proxy.devices == {}
    done = vfio.step(**given)
    assert names(done) == ["device_add"]
    assert proxy.devices == {"h0": {"id": "h0", "bus": "rp0", **sent}}
    vfio.same(**given)
    if "host" in given:
        vfio.refused("options.host", "0000:ff:1f.7", "0000:ff:1f.6", "recreate", id="h0", host="ff:1f.6")
        again = run_module(paused_vm, "qemu_vfio", **{**given, "host": "ff:1f.6"}, recreate=True)
        assert names(again) == ["device_del", "device_add"] and proxy.devices["h0"]["host"] == "0000:ff:1f.6"
        assert "sysfsdev" not in proxy.devices["h0"], "the old device, which QEMU would prefer"
    assert names(vfio.step(id="h0", state="absent")) == ["device_del"]
    assert proxy.devices == {}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"driver": "vfio-ccw", "addr": "fe.0.1234"}, {"driver": "vfio-ccw", "devno": "fe.0.1234"}),
        ({"driver": "vfio-ap"}, {"driver": "vfio-ap"}),
    ],
    ids=["ccw", "ap"],
)
def test_devices_of_s390x(
    start_vm: Any, stand_in: Callable[[VM], StandIn], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    vm = start_vm(version=S390X)
    proxy, vfio = stand_in(vm), Lifecycle(vm, "qemu_vfio")
    given = {"id": "h0", "sysfsdev": "/sys/bus/mdev/devices/nosuch", **given}
    foretold = run_module(vm, "qemu_vfio", check=True, **given)
    done = run_module(vm, "qemu_vfio", **given)
    assert done["commands"] == foretold["commands"]
    assert proxy.devices == {"h0": {"id": "h0", "sysfsdev": "/sys/bus/mdev/devices/nosuch", **sent}}
    vfio.same(**given)
    vfio.step(id="h0", state="absent")
    assert proxy.devices == {}


def test_vsock_on_s390x(start_vm: Any, stand_in: Callable[[VM], StandIn]) -> None:
    vm = start_vm(version=S390X)
    proxy = stand_in(vm)
    run_module(vm, "qemu_vsock", id="v0", guest_cid=42, vhostfd="/dev/null", addr="fe.0.0010")
    assert proxy.devices["v0"]["driver"] == "vhost-vsock-ccw" and proxy.devices["v0"]["devno"] == "fe.0.0010"


def test_real_qemu_judges_what_is_not_here(paused_vm: VM) -> None:
    vfio = Lifecycle(paused_vm, "qemu_vfio")
    for options in ({"host": "0000:ff:1f.7"}, {"sysfsdev": "/sys/bus/mdev/devices/nosuch"}):
        result = vfio.refused("vfio", "No such file", foretold=False, id="h0", bus="rp0", **options)
        assert result["error"]["class"] == "GenericError"


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PCI devices as the kernel shows them: one that a driver holds, one for VFIO, one that nobody has."""
    bus = tmp_path / "bus" / "pci"
    for address, driver in (("0000:01:00.0", "ixgbe"), ("0000:02:00.0", "mlx5_vfio_pci"), ("0000:03:00.0", "")):
        device = bus / "devices" / address
        device.mkdir(parents=True)
        (device / "subsystem").symlink_to(bus)
        if driver:
            (bus / "drivers" / driver).mkdir(parents=True)
            (device / "driver").symlink_to(bus / "drivers" / driver)
    monkeypatch.setattr(importlib.import_module(f"{KINDS}.vfio"), "PCI_DEVICES", str(bus / "devices"))
    return bus / "devices"


def test_a_device_that_another_driver_holds(paused_vm: VM, sysfs: Path) -> None:
    vfio = Lifecycle(paused_vm, "qemu_vfio")
    vfio.refused("0000:01:00.0", "driver ixgbe", "bind it to vfio-pci", id="h0", bus="rp0", host="01:00.0")
    vfio.refused("driver ixgbe", id="h0", bus="rp0", sysfsdev=str(sysfs / "0000:01:00.0"))
    for host in ("0000:02:00.0", "0000:03:00.0"):  # fine, or unknown: QEMU says
        assert names(run_module(paused_vm, "qemu_vfio", check=True, id="h0", bus="rp0", host=host)) == ["device_add"]


def test_what_vfio_is_refused_for(paused_vm: VM) -> None:
    vfio = Lifecycle(paused_vm, "qemu_vfio")
    for words, options in (
        (("must be given",), {}),
        (("both", "host and sysfsdev"), {"host": "ff:1f.7", "sysfsdev": "/sys/x"}),
        (("'60.0'", "not a valid PCI address", "quotes"), {"host": 60.0}),
        (("only vfio-pci", "sysfsdev"), {"host": "ff:1f.7", "driver": "vfio-ccw"}),
        (("addr", "vfio-ap"), {"sysfsdev": "/sys/x", "driver": "vfio-ap", "addr": "1"}),
        (("romfile", "vfio-ap"), {"sysfsdev": "/sys/x", "driver": "vfio-ap", "romfile": ""}),
        (("'vfio-ap' is not a device",), {"sysfsdev": "/sys/x", "driver": "vfio-ap"}),
        (("no property 'x-nosuch'",), {"host": "ff:1f.7", "options": {"x-nosuch": 1}}),
    ):
        given: dict[str, Any] = {"id": "h0", "bus": "rp0", **options}
        vfio.refused(*words, **given)
    vfio.same(id="h0", state="absent")


def test_as_ansible_runs_them(paused_vm: VM, stand_in: Callable[[VM], StandIn], ansible_task: Any) -> None:
    proxy = stand_in(paused_vm)
    vsock: dict[str, Any] = {"socket": paused_vm.qmp, "id": "v0", "guest_cid": 42, "bus": "rp0", "vhostfd": "/dev/null"}
    vfio: dict[str, Any] = {"socket": paused_vm.qmp, "id": "h0", "host": "0000:ff:1f.7", "bus": "rp1"}
    for module, given in (("qemu_vsock", vsock), ("qemu_vfio", vfio)):
        assert ansible_task(module, given, check=True).changed
        assert given["id"] not in proxy.devices
        assert ansible_task(module, given).changed
        assert given["id"] in proxy.devices
        assert not ansible_task(module, given).changed
        assert ansible_task(module, {"socket": paused_vm.qmp, "id": given["id"], "state": "absent"}).changed
    assert proxy.devices == {}
