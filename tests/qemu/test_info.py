# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_info: every subset against what a second monitor sees, on full machines and on empty ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._kinds import device_qtree
from ansible_collections.vmm.qemu.plugins.module_utils._operations import info as operation
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.modules import ModuleFailed, run_module
from support.vm import VM, is_since

RICH = (
    "-smp 1,maxcpus=2 -uuid 12345678-9abc-def0-1234-56789abcdef0"
    " -object secret,id=sec-0,data=topsecret -object iothread,id=io-0"
    " -device virtio-balloon-pci,id=bal,bus=rp7"
    " -netdev user,id=net-0 -netdev user,id=loose -device virtio-net-pci,netdev=net-0,id=nic-0,bus=rp0"
    " -blockdev null-co,node-name=node-0,size=1048576 -device virtio-blk-pci,drive=node-0,id=disk-0,bus=rp1"
    " -blockdev null-co,node-name=node-1,size=1048576 -device scsi-hd,drive=node-1,id=disk-1,bus=scsi0.0"
    " -device scsi-cd,id=cd-0,bus=scsi0.0"
    " -object memory-backend-ram,id=mem-0,size=128M -device pc-dimm,id=dimm-0,memdev=mem-0"
).split()
EMPTY = (
    "hotpluggable_cpus memory_devices balloon block block_nodes block_jobs jobs netdevs devices pci iothreads migration"
).split()


def info(vm: VM, *subsets: str, check: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {"gather_subset": list(subsets)} if subsets else {}
    result = run_module(vm, "qemu_info", check=check, **options)
    assert (result["changed"], result["commands"]) == (False, [])
    told: dict[str, Any] = result["vm"]
    return told


@pytest.fixture
def rich(start_vm: Callable[..., VM]) -> VM:
    return start_vm(args=RICH, memory="256,slots=2,maxmem=1G", scsi=True)


def test_everything_of_a_full_machine(rich: VM) -> None:
    vm = rich
    before = vm.fingerprint()
    told = info(vm, "all")
    assert vm.fingerprint() == before
    assert list(told) == [*operation.SUBSETS, "document"]
    assert info(vm, "all", check=True) == told
    assert "topsecret" not in json.dumps(told)

    assert told["status"] == {"status": "prelaunch", "running": False}
    assert told["version"]["full"].startswith(vm.version)
    assert told["version"]["qemu"] == vm.observer.look("query-version")["qemu"]
    assert told["version"]["package"] == vm.observer.look("query-version")["package"]
    assert told["binary"]["running"]["version"] == told["version"]["full"] == told["binary"]["installed"]["version"]
    assert (
        told["binary"]["running"]["path"] == os.readlink(f"/proc/{vm.pid}/exe") and told["binary"]["outdated"] is False
    )
    assert (told["name"], told["uuid"]) == ("bed", "12345678-9abc-def0-1234-56789abcdef0")
    assert [cpu["cpu_index"] for cpu in told["cpus"]] == [0]
    assert ["qom_path" in slot for slot in told["hotpluggable_cpus"]] == [False, True]
    assert told["memory"] == {"base_memory": 256 << 20, "plugged_memory": 128 << 20}
    assert [device["data"]["id"] for device in told["memory_devices"]] == ["dimm-0"]
    assert told["balloon"] == {"actual": vm.observer.look("query-balloon")["actual"]}
    assert {drive["qdev"] for drive in told["block"]} >= {"disk-1", "/machine/peripheral/disk-0/virtio-backend"}
    assert set(told["block_nodes"]) == vm.observer.nodes()
    assert told["block_nodes"]["node-0"]["image"]["virtual_size"] == 1 << 20
    assert (told["block_jobs"], told["jobs"], told["migration"]) == ([], [], {})
    assert set(told["chardevs"]) == set(vm.observer.chardevs())
    assert told["chardevs"]["bed-serial"]["filename"] == vm.observer.chardevs()["bed-serial"]
    assert {chardev["type"] for chardev in told["chardevs"].values()} == {"socket"}
    assert told["machine"]["arch"] == "x86_64"
    assert told["machine"]["type"] == f"pc-q35-{vm.version}"
    assert told["machine"]["kvm"] is False
    assert told["pci"][0]["devices"]
    assert [thread["id"] for thread in told["iothreads"]] == ["io-0"]
    assert told["commands"] == sorted(item["name"] for item in vm.observer.look("query-commands"))
    assert {"SHUTDOWN", "DEVICE_DELETED"} < set(told["events"])


def test_devices_and_backends(rich: VM) -> None:
    vm = rich
    told = info(vm, "devices", "netdevs", "objects")
    devices = told["devices"]
    assert {ident: device["driver"] for ident, device in devices.items()} == vm.observer.devices()
    assert devices["disk-0"] == {"driver": "virtio-blk-pci", "bus": "rp1", "addr": "00.0", "node": "node-0"}
    assert devices["disk-1"] == {"driver": "scsi-hd", "bus": "scsi0.0", "node": "node-1"}
    assert devices["cd-0"]["node"] == ""
    mac = vm.observer.qom_get("/machine/peripheral/nic-0", "mac")
    nic = {"driver": "virtio-net-pci", "bus": "rp0", "addr": "00.0", "netdev": "net-0", "mac": mac}
    assert devices["nic-0"] == nic
    assert devices["dimm-0"] == {"driver": "pc-dimm", "bus": ""}
    settings = {"net": "10.0.2.0", "restrict": "off"}
    assert told["netdevs"] == {
        "net-0": {"type": "user", "nic": "nic-0", "queues": 1, "settings": settings},
        "loose": {"type": "user", "nic": "", "queues": 1, "settings": settings},
    }
    objects = told["objects"]
    assert {ident: thing["qom_type"] for ident, thing in objects.items()} == vm.observer.objects()
    assert objects["sec-0"] == {"qom_type": "secret"}
    assert objects["mem-0"]["size"] == 128 << 20
    assert "poll_max_ns" in objects["io-0"]

    vm.observer.execute("netdev_del", id="net-0")  # from under its NIC, which QEMU allows
    told = info(vm, "devices", "netdevs")
    assert list(told["netdevs"]) == ["loose"]
    assert told["devices"]["nic-0"] == {**nic, "netdev": ""}


def test_an_empty_machine_has_every_key(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(machine="none", ports=())
    told = info(vm, "all")
    assert list(told) == [*operation.SUBSETS, "document"]
    assert {name for name in EMPTY if told[name]} == set()
    assert told["machine"]["type"] == "none"
    for name in operation.SUBSETS:
        assert name in info(vm, name)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all commands that are sent from now on."""
    sent: list[str] = []
    execute = QMPSession.execute

    def spy(self: QMPSession, name: str, *args: Any, **kwargs: Any) -> Any:
        sent.append(name)
        return execute(self, name, *args, **kwargs)

    monkeypatch.setattr(QMPSession, "execute", spy)
    return sent


def test_few_queries(paused_vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = spied(monkeypatch)
    assert set(info(paused_vm)) == {"status", "version", "name"}
    assert sent == ["query-status", "query-name"]


def test_many_devices_are_read_at_once(rich: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are where each is asked for. Those on the root bus are told by one command, where QEMU has it."""
    sent = spied(monkeypatch)
    told, at_once = info(rich, "devices")["devices"], list(sent)
    monkeypatch.setattr(device_qtree, "read_all", lambda vm: None)
    sent.clear()
    assert info(rich, "devices")["devices"] == told
    assert len(told) > 15 and sent.count("qom-get") >= 2 * len(told)
    assert len(at_once) < len(sent) / 2
    has = is_since(rich.version, "11.1")
    assert (at_once.count("qom-get") == 0, "qom-list-get" in commands_of(rich)) == (has, has)
    assert sorted(told) == sorted(rich.observer.devices())
    assert told["dimm-0"]["bus"] == "" and told["rp0"]["bus"] == "pcie.0" and told["nic-0"]["addr"] == "00.0"


def commands_of(vm: VM) -> set[str]:
    return {command["name"] for command in vm.observer.look("query-commands")}


def test_unknown_subsets_are_refused(paused_vm: VM) -> None:
    for subset in ("devises", "!devises"):
        with pytest.raises(ModuleFailed, match=r"no subset 'devises'.*'devices'.*hotpluggable_cpus"):
            info(paused_vm, "min", subset)


def test_by_real_ansible(paused_vm: VM, ansible_task: Callable[..., Any]) -> None:
    done = ansible_task("qemu_info", {"gather_subset": ["devices"]}, environment={"QEMU_QMP_SOCKET": paused_vm.qmp})
    assert not done.changed
    assert set(done.result["vm"]) == {"status", "version", "name", "devices"}
    assert done.result["vm"]["devices"]["rp0"]["bus"] == "pcie.0"
