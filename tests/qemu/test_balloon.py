# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_balloon: a guest that comes along, one that can't, and sizes that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.vm import VM

MB = 1 << 20
LIVE_VM = {"args": ["-device", "virtio-balloon-pci,id=balloon0,bus=rp7"]}


@pytest.fixture
def balloon(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_balloon")


def actual(vm: VM) -> int:
    return int(vm.observer.look("query-balloon")["actual"])


def test_a_whole_life(balloon: Lifecycle) -> None:
    vm = balloon.vm
    assert actual(vm) == 256 * MB
    before = vm.guest_state()["memkb"]
    done = balloon.step(size="192M")
    assert done["commands"] == [{"execute": "balloon", "arguments": {"value": 192 * MB}}]
    assert done["diff"]["before"] == {"balloon": {"balloon": {"size": 256 * MB}}}
    assert done["diff"]["after"] == {"balloon": {"balloon": {"size": 192 * MB}}}
    assert abs(actual(vm) - 192 * MB) <= MB
    assert done["balloon"]["target"] == 192 * MB and abs(done["balloon"]["actual"] - 192 * MB) <= MB
    vm.guest_sees(memkb=lambda kb: kb < before - 60 * 1024)

    balloon.same(size=192 * MB)
    balloon.same(size="191.5M")  # near enough
    balloon.same(size="180M", tolerance="16M")

    # somebody else changes it: that is drift
    vm.observer.execute("balloon", value=256 * MB)
    vm.guest_sees(memkb=lambda kb: kb == before)
    assert names(balloon.step(size="192M")) == ["balloon"]

    balloon.step(size="256M")
    vm.guest_sees(memkb=lambda kb: kb == before)


def test_below_the_floor_it_is_refused_without_force(balloon: Lifecycle) -> None:
    """With force in check mode only, or the guest would die of it."""
    vm = balloon.vm
    balloon.refused("64 MiB", "force=true", size="32M")
    for size in ("200", 512):
        told = balloon.refused("64 MiB", f"{size} bytes", f"{size} MiB are {size}M", size=size)
        assert told["commands"] == []
    for document in ({"balloon": "32M"}, {"balloon": 200}):
        with pytest.raises(ModuleFailed, match="qemu_balloon with force=true"):
            run_module(vm, "qemu_machine", **document)
    for size, force in (("32M", True), ("64M", False)):
        told = run_module(vm, "qemu_balloon", check=True, size=size, force=force)
        assert (told["changed"], told["warnings"]) == (True, [])
    assert actual(vm) == 256 * MB


def test_without_waiting_the_guest_is_only_asked(balloon: Lifecycle) -> None:
    vm = balloon.vm
    vm.observer.execute("stop")
    done = run_module(vm, "qemu_balloon", size="192M", wait=False)
    assert done["changed"] and done["balloon"] == {"actual": 256 * MB, "target": 192 * MB}
    balloon.refused("balloon", "paused", "let it run", size="192M")
    assert actual(vm) == 256 * MB
    vm.observer.execute("balloon", value=256 * MB)  # what was asked for without waiting counts no more
    vm.observer.execute("cont")
    before = vm.guest_state()["memkb"]
    assert actual(vm) == 256 * MB
    balloon.step(size="192M")
    vm.guest_sees(memkb=lambda kb: kb < before - 60 * 1024)
    balloon.step(size="256M")


@pytest.mark.parametrize(
    ("size", "words"),
    [("lots", ("size", "'lots'")), ("0", ("size", "nothing")), ("-1", ("size", "negative")), ("1G", ("size", "256"))],
)
def test_sizes_that_make_no_sense(balloon: Lifecycle, size: str, words: tuple[str, ...]) -> None:
    balloon.refused(*(word.replace("256", str(256 * MB)) for word in words), size=size)
    balloon.refused("tolerance", size="128M", tolerance="wide")


def test_a_guest_without_the_driver(start_vm: Any) -> None:
    vm = start_vm(guest=True, append="bed.nomods", args=LIVE_VM["args"])
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_balloon", size="128M", timeout=3)
    for word in (str(128 * MB), str(256 * MB), "driver"):
        assert word in failed.value.result["msg"]


def test_a_vm_without_the_device_and_one_that_gets_it(paused_vm: VM) -> None:
    life = Lifecycle(paused_vm, "qemu_balloon")
    life.refused("no balloon device", "virtio-balloon", size="128M")
    run_module(paused_vm, "qemu_device", id="b0", driver="virtio-balloon-pci", bus="rp1")
    assert run_module(paused_vm, "qemu_balloon", size="128M", wait=False)["balloon"]["actual"] == 256 * MB


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    given = {"socket": live_vm.qmp, "size": "96M"}
    told = ansible_task("qemu_balloon", given, check=True, diff=True)
    assert told.changed
    assert ansible_task("qemu_balloon", {**given, "size": "160M"}).result["balloon"]["target"] == 160 * MB
    assert not ansible_task("qemu_balloon", {**given, "size": "160M"}).changed
    assert ansible_task("qemu_balloon", {**given, "size": "256M"}).changed
