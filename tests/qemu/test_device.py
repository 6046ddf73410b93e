# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_device: any device, removal that waits for the guest, and guests that do not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.timing import no_hang
from support.vm import VM

LIVE_VM = {"scsi": True, "args": ["-device", "qemu-xhci,id=xhci,bus=pcie.0"]}


@pytest.fixture
def device(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_device")


def test_a_whole_life(device: Lifecycle) -> None:
    vm = device.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {
        "id": "r0",
        "driver": "virtio-rng-pci",
        "bus": "rp3",
        "options": {"max-bytes": "1k", "period": 1000},
    }
    added = device.step(**given)
    assert names(added) == ["device_add"]
    assert added["commands"][0]["arguments"]["max-bytes"] == 1024
    assert vm.plugged() == {"r0": "virtio-rng-pci"}
    vm.guest_has_rng()
    device.refused("options.max-bytes", "1024", "2048", "recreate", **{**given, "options": {"max-bytes": 2048}})
    device.refused("driver", "'virtio-rng-pci'", "'virtio-net-pci'", id="r0", driver="virtio-net-pci")
    assert names(device.step(**{**given, "options": {"max-bytes": 2048}}, recreate=True)) == [
        "device_del",
        "device_add",
    ]
    assert vm.observer.qom_get("/machine/peripheral/r0", "max-bytes") == 2048
    vm.guest_has_rng()
    assert names(device.step(id="r0", state="absent")) == ["device_del"]
    assert vm.fingerprint() == clean


@pytest.mark.parametrize(
    "given",
    [
        {"driver": "usb-tablet", "bus": "xhci.0"},
        {"driver": "usb-kbd", "bus": "xhci.0", "options": {"port": 2}},
        {"driver": "virtio-rng", "bus": "rp2", "addr": "0"},
        {"driver": "virtio-serial-pci", "bus": "rp2", "options": {"max_ports": "4"}},
    ],
    ids=lambda given: given["driver"],
)
def test_other_drivers(device: Lifecycle, given: dict[str, Any]) -> None:
    device.step(id="x0", **given)
    if given["driver"] == "virtio-rng":
        device.vm.guest_has_rng()
    device.step(id="x0", state="absent")


def test_values_are_given_the_types_of_their_properties(device: Lifecycle) -> None:
    """What YAML makes of ``on``, ``8`` and ``0x5`` is not what QEMU's properties want, and 10.0 insists."""
    vm = device.vm
    run_module(vm, "qemu_netdev", id="u0", type="user")
    options = {
        "netdev": "u0",
        "mq": "on",
        "vectors": "8",
        "disable-legacy": True,
        "rx_queue_size": "0x200",
        "host_mtu": 1400,
        "speed": "1000",
    }
    device.step(id="n0", driver="virtio-net-pci", bus="rp4", options=options)
    want = {"mq": True, "vectors": 8, "disable-legacy": "on", "rx_queue_size": 512, "host_mtu": 1400, "speed": 1000}
    assert {name: vm.observer.qom_get("/machine/peripheral/n0", name) for name in want} == want
    vm.guest_sees(net={"lo", "eth0"})
    run_module(vm, "qemu_nic", id="n0", netdev={"id": "u0"}, state="absent")


def test_a_drive_that_a_device_hands_on(device: Lifecycle) -> None:
    run_module(device.vm, "qemu_blockdev", node_name="n0", filename=device.vm.image("a.img"))
    device.step(id="u0", driver="usb-storage", bus="xhci.0", options={"drive": "n0"})
    device.step(id="u0", state="absent")


def test_functions_of_one_slot_share_a_port(paused_vm: VM) -> None:
    both = {"multifunction": True}
    for function in ("0.1", "0.0"):
        run_module(
            paused_vm,
            "qemu_device",
            id=f"r{function[-1]}",
            driver="virtio-rng-pci",
            bus="rp3",
            addr=function,
            options=both,
        )
    assert paused_vm.plugged() == {"r0": "virtio-rng-pci", "r1": "virtio-rng-pci"}


def test_without_waiting_the_removal_is_pending(device: Lifecycle) -> None:
    vm = device.vm
    device.step(id="r0", driver="virtio-rng-pci", bus="rp3")
    vm.guest_has_rng()
    vm.observer.execute("stop")
    for _run in range(2):
        done = run_module(vm, "qemu_device", id="r0", state="absent", wait=False)
        assert done["pending"] is True and names(done) == ["device_del"]
    vm.observer.execute("cont")
    vm.observer.wait_event("DEVICE_DELETED", device="r0")
    device.same(id="r0", state="absent")


def test_a_paused_guest_is_named_as_the_reason(device: Lifecycle) -> None:
    vm = device.vm
    device.step(id="r0", driver="virtio-rng-pci", bus="rp3")
    vm.guest_has_rng()
    vm.observer.execute("stop")
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_device", id="r0", state="absent", timeout=2)
    assert failed.value.result["pending"] is True
    assert "pending" in failed.value.result["msg"] and "paused" in failed.value.result["msg"]
    threading.Timer(0.3, lambda: vm.observer.execute("cont")).start()
    assert names(run_module(vm, "qemu_device", id="r0", state="absent")) == ["device_del"]
    assert vm.plugged() == {}


def test_a_request_that_a_booting_guest_loses_is_made_again(start_vm: Any) -> None:
    vm = start_vm(guest=True, append="bed.nomods")
    run_module(vm, "qemu_device", id="r0", driver="virtio-rng-pci", bus="rp0")
    vm.observer.execute("system_reset")  # firmware again: nobody is there to answer for a while
    done = run_module(vm, "qemu_device", id="r0", state="absent", timeout=40)
    assert names(done) == ["device_del"]
    assert vm.plugged() == {}


def test_a_guest_that_never_answers(start_vm: Any) -> None:
    vm = start_vm(guest=True, append="acpiphp.disable=1")
    run_module(vm, "qemu_device", id="r0", driver="virtio-rng-pci", bus="rp0")
    with no_hang(3), pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_device", id="r0", state="absent", timeout=3)
    assert failed.value.result["pending"] is True
    assert "the guest has not answered" in failed.value.result["msg"]
    assert vm.plugged() == {"r0": "virtio-rng-pci"}


def test_what_reading_can_tell_is_refused(device: Lifecycle) -> None:
    refusals: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("driver must be named",), {"id": "x0"}),
        (("'nosuch'",), {"id": "x0", "driver": "nosuch"}),
        (("no block node 'zz'",), {"id": "x0", "driver": "virtio-blk-pci", "bus": "rp1", "options": {"drive": "zz"}}),
        (("no netdev 'zz'",), {"id": "x0", "driver": "virtio-net-pci", "bus": "rp1", "options": {"netdev": "zz"}}),
        (("no bus 'zz'",), {"id": "x0", "driver": "usb-tablet", "bus": "zz"}),
        (("pcie.0", "rp0"), {"id": "x0", "driver": "virtio-rng-pci"}),
        (("'x 0'", "letter"), {"id": "x 0", "driver": "virtio-rng-pci", "bus": "rp1"}),
        (("rng", "null"), {"id": "x0", "driver": "virtio-rng-pci", "bus": "rp1", "options": {"rng": None}}),
        (
            ("max-bytes", "uint64"),
            {"id": "x0", "driver": "virtio-rng-pci", "bus": "rp1", "options": {"max-bytes": "many"}},
        ),
    ]
    for words, options in refusals:
        device.refused(*words, **options)


def test_qemu_that_dies_in_the_middle(start_vm: Any) -> None:
    vm = start_vm(guest=True, append="acpiphp.disable=1")
    run_module(vm, "qemu_device", id="r0", driver="virtio-rng-pci", bus="rp0")
    threading.Timer(0.5, vm.kill).start()
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_device", id="r0", state="absent", timeout=20)
    assert "pending" not in failed.value.result
    assert "lost QEMU" in failed.value.result["msg"]


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": live_vm.qmp, "id": "r0", "driver": "virtio-rng-pci", "bus": "rp3"}
    assert ansible_task("qemu_device", given).changed
    assert not ansible_task("qemu_device", given).changed
    assert ansible_task("qemu_device", {"socket": live_vm.qmp, "id": "r0", "state": "absent"}).changed
    assert live_vm.plugged() == {}


def slot_of_disks(vm: VM) -> list[dict[str, Any]]:
    """Two disks on one port, which the guest sees."""
    disks: list[dict[str, Any]] = [
        {"id": f"f{number}", "bus": "rp0", "addr": f"0x0.{number}", "filename": vm.image(f"f{number}.img")}
        for number in (1, 0)
    ]
    disks[1]["options"] = {"multifunction": True}
    run_module(vm, "qemu_machine", disks=disks)
    vm.guest_sees(blk={"vda", "vdb"})
    return disks


def test_one_function_of_a_slot_does_not_go_without_the_others(live_vm: VM) -> None:
    """The guest gives all of them back at once: they leave in one task, by one request."""
    disks = slot_of_disks(live_vm)
    one = Lifecycle(live_vm, "qemu_disk")
    one.refused("f1 shares its slot with f0", "qemu_machine", id="f1", state="absent")
    one.refused("f0 shares its slot with f1", id="f0", state="absent")
    one.refused("f1 shares its slot with f0", id="f1", bus="rp1", recreate=True)
    assert live_vm.guest_state()["blk"] == {"vda", "vdb"}

    whole = Lifecycle(live_vm, "qemu_machine")
    done = whole.step(disks=[{"id": disk["id"], "state": "absent"} for disk in disks])
    assert names(done) == ["device_del", "blockdev-del", "blockdev-del"]
    assert done["commands"][0]["arguments"] == {"id": "f0"}
    live_vm.guest_sees(blk=set())
    assert live_vm.plugged() == {} and not {"f0-node", "f1-node"} & set(live_vm.observer.nodes())


def test_a_purge_takes_a_slot_as_a_whole(live_vm: VM) -> None:
    disks = slot_of_disks(live_vm)
    whole = Lifecycle(live_vm, "qemu_machine")
    whole.same(disks=disks[1:], purge=True)
    assert set(live_vm.plugged()) == {"f0", "f1"}
    done = whole.step(disks=[], purge=True)
    assert names(done) == ["device_del", "blockdev-del", "blockdev-del"]
    assert live_vm.plugged() == {}


def test_a_slot_that_was_emptied_is_filled_again_when_a_later_step_fails(live_vm: VM) -> None:
    disks = slot_of_disks(live_vm)
    gone = [{"id": disk["id"], "state": "absent"} for disk in disks]
    bad = {"id": "c0", "type": "socket", "server": True, "path": "/sys/s"}
    with pytest.raises(ModuleFailed) as failed:
        run_module(live_vm, "qemu_machine", disks=gone, chardevs=[bad], timeout=90)
    assert "not_rolled_back" not in failed.value.result
    assert set(live_vm.plugged()) == {"f0", "f1"}
    live_vm.guest_sees(blk={"vda", "vdb"})
    run_module(live_vm, "qemu_machine", disks=gone)


def test_functions_without_the_zeroth_go_one_by_one(paused_vm: VM) -> None:
    """No guest sees them: a run that was ended half way can be taken back."""
    for number in (1, 2):
        run_module(paused_vm, "qemu_device", id=f"f{number}", driver="virtio-rng-pci", bus="rp0", addr=f"0.{number}")
    run_module(paused_vm, "qemu_device", id="f1", state="absent", wait=False, check=True)


def test_ids_with_a_dot(start_vm: Any) -> None:
    """A controller's bus ends in a number more, a port's bears its id."""
    port = ["-device", "pcie-root-port,id=down.1,chassis=77,slot=30"]
    vm = start_vm(args=port)
    document: dict[str, Any] = {
        "devices": [
            {"id": "kbd.0", "driver": "usb-kbd", "bus": "usb.1.0"},
            {"id": "usb.1", "driver": "qemu-xhci", "bus": "down.1"},
            {"id": "scsi.1", "driver": "virtio-scsi-pci", "bus": "rp0"},
        ],
        "disks": [
            {"id": "d.0", "driver": "scsi-hd", "bus": "scsi.1.0", "filename": vm.image("d.img")},
        ],
    }
    life = Lifecycle(vm, "qemu_machine")
    done = life.step(**document)
    made = [entry["arguments"]["id"] for entry in done["commands"] if entry["execute"] == "device_add"]
    assert made.index("usb.1") < made.index("kbd.0") and made.index("scsi.1") < made.index("d.0")
    Lifecycle(vm, "qemu_device").refused("carries d.0", id="scsi.1", state="absent")


def test_an_id_that_another_driver_has_is_said_so(start_vm: Any) -> None:
    vm = start_vm(scsi=True)
    disk = {"id": "scsi0", "bus": "rp0", "filename": vm.image("d.img")}
    Lifecycle(vm, "qemu_disk").refused("scsi0 is a virtio-scsi-pci", "no property 'drive'", "another id", **disk)
    netdev = {"type": "user"}
    Lifecycle(vm, "qemu_nic").refused("scsi0 is a virtio-scsi-pci", "another id", id="scsi0", bus="rp0", netdev=netdev)


def test_an_expander_bridge_takes_no_hot_plug(start_vm: Any) -> None:
    vm = start_vm(args=["-device", "pxb-pcie,id=pxb,bus_nr=8,bus=pcie.0"])
    device = Lifecycle(vm, "qemu_device")
    device.refused("pxb takes no hot-plug", "free ports: rp0", id="r0", driver="virtio-rng-pci", bus="pxb")
    device.refused("no bus 'nosuch'", id="r0", driver="virtio-rng-pci", bus="nosuch")


@pytest.mark.parametrize("module", ["nic", "serial_port", "memory_hotplug", "vsock", "vhost_user", "disk"])
def test_no_module_removes_a_device_of_another_sort(start_vm: Any, module: str) -> None:
    vm = start_vm(scsi=True)
    vm.observer.send("blockdev-add", {"driver": "null-co", "node-name": "n0"})
    vm.observer.send("device_add", {"driver": "scsi-hd", "id": "root", "bus": "scsi0.0", "drive": "n0"})
    vm.observer.send("device_add", {"driver": "virtio-rng-pci", "id": "odd", "bus": "rp0"})
    ident = "root" if module != "disk" else "odd"
    Lifecycle(vm, f"qemu_{module}").refused(f"id: {ident} is a ", "give another id", id=ident, state="absent")


def test_a_device_is_made_anew_as_a_disk_where_the_task_names_the_driver(start_vm: Any) -> None:
    vm = start_vm(scsi=True, args=["-device", "qemu-xhci,id=usb0,bus=rp0"])
    run_module(vm, "qemu_device", id="x0", driver="usb-kbd", bus="usb0.0")
    disk = {"id": "x0", "driver": "usb-storage", "bus": "usb0.0", "filename": vm.image("a.raw")}
    Lifecycle(vm, "qemu_disk").step(**disk, recreate=True)
    assert vm.observer.devices()["x0"] == "usb-storage"


def test_a_machine_without_pci_says_so_and_takes_what_sits_on_other_buses(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(machine="microvm", args=["-device", "virtio-scsi-device,id=scsi0"])
    disk: dict[str, Any] = {"id": "d0", "filename": vm.image("a.img")}
    life = Lifecycle(vm, "qemu_disk")
    life.refused("d0", "PCI, which this machine does not have", **disk)
    life.refused("virtio-blk-device", "virtio-mmio, which takes no hot-plug", **disk, driver="virtio-blk-device")
    life.refused("virtio-mmio-bus.9 takes no hot-plug", **disk, driver="virtio-blk-device", bus="virtio-mmio-bus.9")
    Lifecycle(vm, "qemu_nic").refused("n0", "PCI", id="n0", netdev={"type": "user"})
    Lifecycle(vm, "qemu_cpu_hotplug").refused("no CPU hot-plug", vcpus=2)
    life.step(**disk, driver="scsi-hd", bus="scsi0.0")
    document: dict[str, Any] = {
        "objects": [{"id": "r0", "qom_type": "rng-builtin"}],
        "chardevs": [{"id": "c0", "type": "null"}],
        "netdevs": [{"id": "u0", "type": "user"}],
        "disks": [{"id": "d0", "state": "absent"}],
    }
    Lifecycle(vm, "qemu_machine").step(**document)
    assert vm.plugged() == {} and {"r0"} <= set(vm.observer.objects()) and "c0" in vm.observer.chardevs()


def test_what_asks_no_guest_has_gone_when_its_task_ends(start_vm: Any) -> None:
    """QEMU 7.2 to 11.1 crash when a disk grows of which a device has not quite gone."""
    vm = start_vm(scsi=True)
    disk, node = Lifecycle(vm, "qemu_device"), Lifecycle(vm, "qemu_blockdev")
    grown: dict[str, Any] = {"node_name": "n0"}
    node.step(**grown, filename=vm.image("d.img"), driver="raw")
    for size in range(17, 37):
        disk.step(id="d0", driver="scsi-hd", bus="scsi0.0", options={"drive": "n0"})
        disk.step(id="d0", state="absent", wait=False)
        assert vm.plugged() == {}
        node.step(**grown, size=f"{size}M")
    assert vm.alive


def test_what_a_guest_sees_otherwise_is_warned_of(start_vm: Any) -> None:
    vm = start_vm()
    long = {"id": "d0", "bus": "rp0", "filename": vm.image("d.img"), "serial": "0123456789abcdefghijklmn"}
    told = Lifecycle(vm, "qemu_disk").step(**long)["warnings"]
    assert told == ["serial: the guest sees only the first 20 bytes of that of d0: 0123456789abcdefghij"]
    nic: dict[str, Any] = {"id": "n0", "bus": "rp1", "netdev": {"type": "user"}, "options": {"failover": True}}
    assert Lifecycle(vm, "qemu_nic").step(**nic)["warnings"] == []
    hidden: dict[str, Any] = {"id": "n1", "driver": "e1000e", "bus": "rp2", "options": {"failover_pair_id": "n0"}}
    done = run_module(vm, "qemu_device", **hidden)
    assert (
        "QEMU hides n1 until the guest's driver of n0 asks for it" in done["warnings"][0] and "n1" not in vm.plugged()
    )


def test_a_port_without_hot_plug_is_not_offered(start_vm: Any) -> None:
    vm = start_vm(args=["-device", "pcie-root-port,id=fixed,hotplug=off,chassis=99"])
    message = Lifecycle(vm, "qemu_device").refused(
        "fixed takes no hot-plug", id="r", driver="virtio-rng-pci", bus="fixed"
    )["msg"]
    assert "free ports: rp0, rp1" in message
