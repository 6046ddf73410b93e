# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What reading tells of places that are taken, and of machines on their way, check mode foretells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.migration import MACHINE, SLOW, incoming, migrate
from support.modules import ModuleFailed, run_module
from support.vm import VM

RNG: dict[str, Any] = {"driver": "virtio-rng-pci"}


def test_a_slot_that_is_taken(start_vm: Callable[..., VM]) -> None:
    bridge = ["-device", "pci-bridge,id=br,chassis_nr=9,addr=7", "-device", "virtio-rng-pci,addr=8"]
    device = Lifecycle(start_vm(machine="pc", args=bridge), "qemu_device")
    device.refused("slot 0x7", "device br", id="r0", bus="pci.0", addr="0x7", **RNG)
    device.refused("slot 0x8", "a virtio-rng-pci", id="r0", addr="08.1", **RNG)
    device.refused("slot 0x1 ", "PIIX3", id="r0", addr=1, **RNG)
    device.step(id="r0", addr="0x9", **RNG)
    device.step(id="r1", bus="br", addr="9", **RNG)
    device.refused("slot 0x9", "device r1", id="r2", bus="br", addr="9", **RNG)


def test_a_unit_that_is_taken(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(scsi=True)
    disk = Lifecycle(vm, "qemu_disk")
    place: dict[str, Any] = {"driver": "scsi-hd", "bus": "scsi0.0", "scsi_id": 3, "lun": 2}
    disk.step(id="d0", filename=vm.image("d0.img"), **place)
    disk.refused("device d0 has SCSI id 3, unit 2", id="d1", filename=vm.image("d1.img"), **place)
    disk.step(id="d1", filename=vm.image("d1.img"), **{**place, "lun": 4})
    two = [{"id": f"e{number}", "filename": vm.image(f"e{number}.img"), **place, "lun": 5} for number in range(2)]
    Lifecycle(vm, "qemu_machine").refused("disks[1] e1", "device e0 has SCSI id 3", disks=two)
    disk.step(id="d0", driver="scsi-hd", serial="NEW", recreate=True)


def test_a_turn_at_booting_that_is_taken(start_vm: Callable[..., VM]) -> None:
    cold = ["-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u,bootindex=7"]
    vm = start_vm(scsi=True, args=cold)
    disk = Lifecycle(vm, "qemu_disk")
    place: dict[str, Any] = {"driver": "scsi-hd", "bus": "scsi0.0"}
    disk.step(id="d0", filename=vm.image("d0.img"), **place, options={"bootindex": 1})
    more: dict[str, Any] = {"filename": vm.image("d1.img"), **place}
    disk.refused("bootindex: device d0 has 1", id="d1", **more, options={"bootindex": "1"})
    disk.refused("bootindex", "virtio-net-pci has 7", id="d1", **more, options={"bootindex": 7})
    disk.step(id="d1", **more, options={"bootindex": 2})


def test_a_machine_on_its_way_and_after(start_vm: Callable[..., VM]) -> None:
    source = start_vm(guest=True, machine=MACHINE, memory="256,slots=2,maxmem=1G", ports=["rp0"])
    more = ["-incoming", "defer"]
    there = start_vm(guest=True, machine=MACHINE, memory="256,slots=2,maxmem=1G", ports=["rp0"], args=more)
    uri = f"unix:{source.directory}/migrate"
    incoming(there, uri)
    migrate(source, uri=uri, wait=False, parameters=SLOW)
    for life, options in (
        (Lifecycle(source, "qemu_device"), {"id": "r0", "bus": "rp0", **RNG}),
        (Lifecycle(source, "qemu_memory_hotplug"), {"id": "m0", "size": "64M"}),
    ):
        for check in (True, False):
            with pytest.raises(ModuleFailed, match="is being migrated"):
                run_module(life.vm, life.module, check=check, **options)
    source.observer.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    migrate(source, uri=uri)
    for check in (True, False):
        done = run_module(source, "qemu_device", check=check, id="r0", bus="rp0", **RNG)
        assert names(done) == ["device_add"]
        assert any("postmigrate" in warning for warning in done["warnings"])
    assert not run_module(there, "qemu_device", check=True, id="r0", bus="rp0", **RNG)["warnings"]


def test_what_can_not_be_migrated_can_not_be_saved(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    phone = ["-device", "qemu-xhci,bus=rp0", "-device", f"usb-mtp,rootdir={tmp_path}"]
    vm = start_vm(args=phone)
    run_module(vm, "qemu_disk", id="d0", bus="rp1", filename=vm.image("d.qcow2", fmt="qcow2"), format="qcow2")
    life = Lifecycle(vm, "qemu_snapshot")
    life.refused("can't be saved", "usb-mtp", name="one")
