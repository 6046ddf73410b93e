# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_qom: a property read, and set where it differs."""

from __future__ import annotations

from typing import Any

import pytest

from support.architectures import S390X
from support.lifecycle import Lifecycle
from support.modules import ModuleFailed, run_module
from support.vm import OLDEST, VM


@pytest.fixture
def qom(paused_vm: VM) -> Lifecycle:
    paused_vm.observer.send("object-add", {"qom-type": "iothread", "id": "io0", "poll-max-ns": 1000})
    return Lifecycle(paused_vm, "qemu_qom")


def test_reading_changes_nothing(qom: Lifecycle) -> None:
    read = qom.same(path="/objects/io0", property="poll-max-ns")
    assert read["value"] == 1000
    assert qom.same(path="io0", property="poll-max-ns")["value"] == 1000
    assert qom.same(path="/machine", property="type")["value"].endswith("-machine")


@pytest.mark.parametrize("value", [2000, "2000", "0x7d0"])
def test_setting(qom: Lifecycle, value: Any) -> None:
    done = qom.step(path="/objects/io0", property="poll-max-ns", value=value)
    assert done["commands"] == [
        {"execute": "qom-set", "arguments": {"path": "/objects/io0", "property": "poll-max-ns", "value": 2000}}
    ]
    assert done["value"] == qom.vm.observer.qom_get("/objects/io0", "poll-max-ns") == 2000
    back = qom.step(path="/objects/io0", property="poll-max-ns", value=1000)
    assert back["diff"]["before"] != back["diff"]["after"]


def test_values_of_other_types(qom: Lifecycle) -> None:
    vm = qom.vm
    vm.observer.send("object-add", {"qom-type": "throttle-group", "id": "t0"})
    vm.observer.send("object-add", {"qom-type": "memory-backend-ram", "id": "m0", "size": 1 << 20})
    vm.observer.send("device_add", {"driver": "virtio-rng-pci", "id": "r0", "bus": "rp0"})
    limits = vm.observer.qom_get("/objects/t0", "limits")
    qom.step(path="/objects/t0", property="limits", value={**limits, "iops-total": 7})
    assert vm.observer.qom_get("/objects/t0", "limits")["iops-total"] == 7
    qom.step(path="/objects/m0", property="dump", value="off")
    assert vm.observer.qom_get("/objects/m0", "dump") is False
    qom.step(path="/objects/m0", property="merge", value=False)
    qom.same(path="/objects/m0", property="merge", value="no")


def test_what_is_not_there_or_can_not_be_set(qom: Lifecycle) -> None:
    qom.refused("nothing at '/objects/nosuch'", path="/objects/nosuch", property="x")
    qom.refused("'poll-max-nss'", "did you mean 'poll-max-ns'", path="/objects/io0", property="poll-max-nss")
    qom.refused("value", "1000", "many", path="/objects/io0", property="poll-max-ns", value="many")
    refused = qom.refused("qom-set", foretold=False, path="/machine", property="type", value="other")
    assert refused["error"]["class"] == "GenericError"
    refused = qom.refused("poll-max-ns", foretold=False, path="/objects/io0", property="poll-max-ns", value=-1)
    assert refused["error"]["class"] == "GenericError"


def test_it_is_always_there(qom: Lifecycle) -> None:
    for option in ("state", "recreate", "wait"):
        with pytest.raises(ModuleFailed, match="Unsupported"):
            run_module(qom.vm, "qemu_qom", path="/machine", property="type", **{option: False})


def test_a_secret_does_not_show(qom: Lifecycle) -> None:
    qom.vm.observer.send("object-add", {"qom-type": "secret", "id": "s0", "data": "hunter2"})
    where: dict[str, Any] = {"path": "/objects/s0", "property": "data"}
    same = qom.same(**where)
    done = qom.step(**where, value="tr0ub4dor")
    again = qom.same(**where, value="tr0ub4dor")
    assert qom.vm.observer.qom_get("/objects/s0", "data") == "tr0ub4dor"
    for result in (same, done, again):
        assert "hunter2" not in str(result) and "tr0ub4dor" not in str(result)


@pytest.mark.parametrize("version", [OLDEST, S390X])
def test_on_other_qemus(start_vm: Any, version: str) -> None:
    vm = start_vm(version=version)
    vm.observer.send("object-add", {"qom-type": "iothread", "id": "io0"})
    qom = Lifecycle(vm, "qemu_qom")
    qom.step(path="/objects/io0", property="poll-max-ns", value=5)
    qom.refused("nothing at", path="/nosuch", property="x")


def test_as_ansible_runs_it(paused_vm: VM, ansible_task: Any) -> None:
    paused_vm.observer.send("object-add", {"qom-type": "iothread", "id": "io0", "poll-max-ns": 1000})
    where: dict[str, Any] = {"socket": paused_vm.qmp, "path": "/objects/io0", "property": "poll-max-ns"}
    read = ansible_task("qemu_qom", where)
    assert (read.changed, read.result["value"]) == (False, 1000)
    assert ansible_task("qemu_qom", {**where, "value": "2000"}).changed
    assert paused_vm.observer.qom_get("/objects/io0", "poll-max-ns") == 2000
    assert not ansible_task("qemu_qom", {**where, "value": 2000}).changed
    secret: dict[str, Any] = {**where, "path": "/objects/s0", "property": "data", "value": "hunter2"}
    paused_vm.observer.send("object-add", {"qom-type": "secret", "id": "s0", "data": "old"})
    assert "hunter2" not in str(ansible_task("qemu_qom", secret).result)
