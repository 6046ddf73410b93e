# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU slots with several vCPUs, which only a pseries with KVM has."""

from __future__ import annotations

from typing import Any

import pytest

from support.fakeqmp import FakeQMP, Peer
from support.modules import ModuleFailed, run_module

CORE = "power9_v2.0-spapr-cpu-core"


def pseries(peer: Peer) -> None:
    """Four cores of four threads: the first from the start, the second hot-plugged."""
    paths = {0: "/machine/unattached/device[1]", 4: "/machine/peripheral/cpu1"}
    slots: list[dict[str, Any]] = [
        {"props": {"core-id": core, "node-id": 0}, "vcpus-count": 4, "type": CORE} for core in (12, 8, 4, 0)
    ]
    for slot in slots:
        if slot["props"]["core-id"] in paths:
            slot["qom-path"] = paths[slot["props"]["core-id"]]
    peer.negotiate()
    peer.serve(
        query_hotpluggable_cpus=slots,
        query_target={"arch": "ppc64"},
        qom_list=[{"name": "cpu1", "type": f"child<{CORE}>"}],
        query_status={"status": "running"},
    )


def test_whole_slots() -> None:
    with FakeQMP(pseries) as fake:
        told = run_module(fake.address, "qemu_cpu_hotplug", check=True, vcpus=16)
        assert [command["arguments"]["core-id"] for command in told["commands"]] == [8, 12]
        assert [(cpu["vcpus"], cpu.get("id")) for cpu in told["cpus"]] == [(4, None), (4, "cpu1")]
        assert not run_module(fake.address, "qemu_cpu_hotplug", vcpus=8)["changed"]
        less = run_module(fake.address, "qemu_cpu_hotplug", check=True, vcpus=4)
        assert less["commands"] == [{"execute": "device_del", "arguments": {"id": "cpu1"}}]


@pytest.mark.parametrize(
    ("vcpus", "words"), [(10, ("4 vCPUs",)), (6, ("4 vCPUs",)), (20, ("16",)), (2, ("keeps the 4",))]
)
def test_numbers_that_whole_slots_do_not_make(vcpus: int, words: tuple[str, ...]) -> None:
    with FakeQMP(pseries) as fake, pytest.raises(ModuleFailed) as failed:
        run_module(fake.address, "qemu_cpu_hotplug", vcpus=vcpus)
    for word in (str(vcpus), "from 8", *words):
        assert word in failed.value.result["msg"]
