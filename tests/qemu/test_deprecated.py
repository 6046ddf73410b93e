# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest QEMU of the bed, told to refuse what is deprecated and to hide it: nothing of that is asked for or needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.lifecycle import Lifecycle
from support.modules import run_module
from support.observer import ObserverError
from support.vm import VERSIONS, VM

STRICT = ["-compat", "deprecated-input=reject,deprecated-output=hide"]
POLICY = "disabled by policy"


@pytest.fixture
def vm() -> Iterator[VM]:
    args = [
        *STRICT,
        "-smp",
        "1,maxcpus=2",
        "-device",
        "virtio-balloon-pci,id=balloon0",
        "-device",
        "virtio-serial-pci,id=vs0,bus=rp7",
    ]
    with VM(VERSIONS[-1], args=args, scsi=True, memory="256,slots=4,maxmem=2G") as strict:
        with pytest.raises(ObserverError, match=POLICY):
            strict.observer.execute("query-kvm")
        yield strict


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What QEMU refuses for being deprecated, whether a module makes something of the refusal or not."""
    said: list[str] = []
    execute = QMPSession.execute

    def spy(self: QMPSession, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return execute(self, name, *args, **kwargs)
        except errors.CommandError as exc:
            said.extend([f"{name}: {exc.desc}"] if POLICY in exc.desc else [])
            raise

    monkeypatch.setattr(QMPSession, "execute", spy)
    return said


def document(vm: VM) -> dict[str, Any]:
    """Something of every kind."""
    return {
        "objects": [
            {"id": "rng0", "qom_type": "rng-builtin"},
            {"id": "io0", "qom_type": "iothread"},
            {"id": "pass", "qom_type": "secret", "options": {"data": "hunter22"}},
            {"id": "slow", "qom_type": "throttle-group", "options": {"limits": {"iops-total": 100}}},
        ],
        "chardevs": [
            {"id": "null0", "type": "null"},
            {"id": "line0", "type": "socket", "path": f"{vm.directory}/line0", "server": True},
        ],
        "netdevs": [{"id": "spare", "type": "user"}],
        "blockdevs": [{"node_name": "loose-node", "filename": vm.image("loose.raw")}],
        "memory": [{"id": "dimm0", "size": "64M"}, {"id": "vm0", "kind": "virtio-mem", "size": "64M", "bus": "rp3"}],
        "disks": [
            {
                "id": "data",
                "filename": vm.image("d.qcow2", fmt="qcow2"),
                "format": "qcow2",
                "driver": "scsi-hd",
                "bus": "scsi0.0",
            },
            {
                "id": "plain",
                "filename": vm.image("plain.raw"),
                "bus": "rp4",
                "cache": {"direct": False},
                "serial": "S0",
            },
        ],
        "nics": [{"id": "net0", "netdev": {"type": "user"}, "bus": "rp2", "mac": "52:54:00:00:00:01"}],
        "devices": [
            {"id": "rng", "driver": "virtio-rng-pci", "bus": "rp0", "options": {"rng": "rng0"}},
            {"id": "port0", "driver": "virtserialport", "bus": "vs0.0", "options": {"chardev": "null0", "name": "p"}},
        ],
        "vcpus": 2,
        "balloon": "256M",
    }


def test_a_whole_document_and_what_else_a_machine_does(vm: VM, refused: list[str]) -> None:
    life, has = Lifecycle(vm, "qemu_machine"), document(vm)
    life.step(**{key: value for key, value in has.items() if key != "balloon"})
    has["disks"][1]["size"] = "32M"
    life.step(**{key: value for key, value in has.items() if key != "balloon"})
    told = run_module(vm, "qemu_info", gather_subset=["all"])["vm"]
    assert told["machine"]["kvm"] is False and "data" in told["devices"]
    for state in ("running", "paused", "running", "reset", "paused"):
        run_module(vm, "qemu_power", state=state)
    run_module(vm, "qemu_snapshot", name="s0", vmstate="data-node", devices=["data-node"])
    run_module(vm, "qemu_disk_snapshot", name="s1", disks=["data"])
    run_module(vm, "qemu_backup", name="daily", path=f"{vm.directory}/backup", disks=["data"])
    target = {"driver": "null-co", "node-name": "target", "size": 32 << 20}
    vm.observer.send("blockdev-add", target)

    def copy(**options: Any) -> dict[str, Any]:
        return run_module(vm, "qemu_block_job", id="j0", operation="mirror", device="plain", sync="full", **options)

    for state in ("running", "paused", "running", "finished"):
        copy(target="target", state=state, complete="copy")
    run_module(vm, "qemu_save", path=f"{vm.directory}/saved")
    assert refused == []
