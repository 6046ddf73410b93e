# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_machine: a whole VM in one document, planned whole, done whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import PERIPHERAL
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM as Reader
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device_qtree import read_all
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.lifecycle import Lifecycle, names
from support.modules import ModuleFailed, run_module
from support.plays import TaskResult
from support.proxy import Proxy
from support.vm import VM

LIVE_VM = {"args": ["-device", "virtio-balloon-pci,id=balloon0"], "memory": "256,slots=4,maxmem=2G"}


@pytest.fixture
def paused_guest(live_vm: VM) -> VM:
    live_vm.observer.execute("stop")
    return live_vm


@pytest.fixture
def scsi_vm(start_vm: Callable[..., VM]) -> VM:
    """No guest, and a bus that gives devices back without one."""
    return start_vm(scsi=True, memory="256,slots=4,maxmem=2G")


def disks(vm: VM, number: int, **more: Any) -> list[dict[str, Any]]:
    """So many SCSI disks with images of their own."""
    for place in range(number):
        with open(vm.directory / f"d{place}.raw", "ab") as image:
            image.truncate(1 << 20)
    return [
        {
            "id": f"d{place}",
            "filename": str(vm.directory / f"d{place}.raw"),
            "driver": "scsi-hd",
            "bus": "scsi0.0",
            "scsi_id": place,
            "serial": f"SERIAL{place}",
            **more,
        }
        for place in range(number)
    ]


def everything(vm: VM) -> dict[str, Any]:
    """Something of every kind, in an order that is not the one in which it can be made."""
    return {
        "devices": [
            {"id": "rng", "driver": "virtio-rng-pci", "bus": "rp0", "options": {"rng": "rng0"}},
            {"id": "ctl", "driver": "virtio-scsi-pci", "bus": "rp1", "options": {"iothread": "io0"}},
            {"id": "loose", "driver": "scsi-hd", "bus": "ctl.0", "options": {"drive": "loose-node"}},
        ],
        "disks": [
            {"id": "data", "filename": vm.image("data.raw"), "driver": "scsi-hd", "bus": "ctl.0", "serial": "S0"}
        ],
        "nics": [{"id": "net0", "netdev": {"type": "user"}, "bus": "rp2", "mac": "52:54:00:00:00:01"}],
        "blockdevs": [{"node_name": "loose-node", "filename": vm.image("loose.raw")}],
        "netdevs": [{"id": "spare", "type": "user"}],
        "chardevs": [{"id": "null0", "type": "null"}],
        "objects": [
            {"id": "rng0", "qom_type": "rng-builtin"},
            {"id": "io0", "qom_type": "iothread"},
            {"id": "pass", "qom_type": "secret", "options": {"data": "hunter22"}},
        ],
        "memory": [{"id": "dimm0", "size": "64M"}],
    }


def test_the_life_of_a_machine(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    document = everything(vm)
    made = life.step(**document)
    assert made["summary"] == {"add": 12, "change": 0, "remove": 0, "unchanged": 0}
    assert made["msg"] == "add 12, change 0, remove 0, unchanged 0"
    assert set(vm.plugged()) == {"rng", "ctl", "loose", "data", "net0", "dimm0"}
    assert {"loose-node", "data-node"} <= set(vm.observer.nodes())
    assert {"rng0", "io0", "pass"} <= set(vm.observer.objects())
    assert "hunter22" not in str(made)

    document["nics"][0]["link"] = "down"  # can't be read back, so it is sent each time
    changed = run_module(vm, "qemu_machine", **document)
    assert names(changed) == ["set_link"] and changed["summary"]["change"] == 1
    del document["nics"][0]["link"]

    document["disks"][0]["size"] = "32M"
    grown = life.step(**document)
    assert grown["summary"] == {"add": 0, "change": 1, "remove": 0, "unchanged": 11}
    assert grown["plan"][0]["changes"] == {"size": {"before": 16 << 20, "after": 32 << 20}}

    document["disks"][0]["state"] = "absent"
    gone = life.step(**document)
    assert gone["summary"] == {"add": 0, "change": 0, "remove": 1, "unchanged": 11}
    assert "data" not in vm.plugged() and "data-node" not in vm.observer.nodes()


def test_purge_takes_an_object_below_a_node_that_moves_off_it(scsi_vm: VM) -> None:
    """QEMU tells of an overlay what all its layers name, those of the named nodes below it too."""
    vm, image = scsi_vm, scsi_vm.image("top.qcow2", fmt="qcow2")
    look = vm.observer
    look.execute("object-add", **{"qom-type": "throttle-group", "id": "limits", "limits": {"iops-total": 100}})
    look.execute("blockdev-add", **{"node-name": "old", "driver": "null-co", "size": 1 << 24})
    look.execute(
        "blockdev-add", **{"node-name": "slow", "driver": "throttle", "file": "old", "throttle-group": "limits"}
    )
    file = {"driver": "file", "filename": image}
    look.execute("blockdev-add", **{"node-name": "top", "driver": "qcow2", "file": file, "backing": "slow"})
    new = {"node_name": "new", "driver": "null-co", "read_only": False, "options": {"size": 1 << 24}}
    top = {"node_name": "top", "driver": "qcow2", "filename": image, "read_only": False, "options": {"backing": "new"}}
    document: dict[str, Any] = {"objects": [], "blockdevs": [new, top], "purge": True, "recreate": True}
    run_module(vm, "qemu_machine", **document)
    assert "limits" not in look.objects() and {"old", "slow"}.isdisjoint(look.nodes())
    assert run_module(vm, "qemu_machine", **document)["changed"] is False


def test_purge_takes_nothing_where_the_listener_is_not_qemu(scsi_vm: VM) -> None:
    """A relay's command line names nothing that the virtual machine was started with: its monitor would go."""
    before = scsi_vm.fingerprint()
    with Proxy(scsi_vm.qmp, "none", "none") as relay:
        for check in (True, False):
            with pytest.raises(ModuleFailed, match="does not have its command line"):
                run_module(relay.address, "qemu_machine", check=check, chardevs=[], netdevs=[], purge=True)
    assert scsi_vm.fingerprint() == before and "bed-qmp" in scsi_vm.observer.chardevs()
    assert run_module(scsi_vm, "qemu_machine", chardevs=[], netdevs=[], purge=True)["changed"] is False


def test_purge(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    cold = vm.fingerprint()
    run_module(vm, "qemu_machine", disks=disks(vm, 3), objects=[{"id": "io0", "qom_type": "iothread"}])
    # another kind is not listed, so nothing of it goes
    done = life.step(disks=disks(vm, 1), purge=True)
    assert done["summary"] == {"add": 0, "change": 0, "remove": 2, "unchanged": 1}
    assert set(vm.plugged()) == {"d0"} and "io0" in vm.observer.objects()
    emptied = life.step(disks=[], objects=[], devices=[], chardevs=[], netdevs=[], blockdevs=[], nics=[], purge=True)
    assert emptied["summary"] == {"add": 0, "change": 0, "remove": 2, "unchanged": 0}
    assert vm.fingerprint() == cold


def test_what_is_in_use_stays(scsi_vm: VM) -> None:
    """The backend of a device whose kind is not listed."""
    vm = scsi_vm
    run_module(vm, "qemu_machine", **everything(vm))
    life = Lifecycle(vm, "qemu_machine")
    done = life.step(objects=[], netdevs=[], blockdevs=[], chardevs=[], purge=True)
    assert {entry["id"] for entry in done["plan"]} == {"spare", "null0", "pass"}
    assert {"rng0", "io0", "dimm0-mem"} <= set(vm.observer.objects())
    assert {"loose-node", "data-node"} <= set(vm.observer.nodes())


def test_what_the_vm_was_started_with_stays(start_vm: Callable[..., VM]) -> None:
    arguments = ["-object", '{"qom-type":"iothread","id":"io0"}', "-object", "rng-builtin,id=rng0"]
    arguments += ["-blockdev", "driver=null-co,node-name=cold,read-zeroes=on", "-netdev", "user,id=n0"]
    arguments += ["-device", "scsi-hd,id=boot,drive=cold,bus=scsi0.0"]
    vm = start_vm(scsi=True, args=arguments)
    life = Lifecycle(vm, "qemu_machine")
    life.same(disks=[], objects=[], devices=[], chardevs=[], netdevs=[], blockdevs=[], nics=[], memory=[], purge=True)


def test_what_qemu_named_by_itself_stays(start_vm: Callable[..., VM]) -> None:
    """Short forms on the command line, of which some would go without a word."""
    arguments = ["-serial", "null", "-serial", "mon:null", "-parallel", "null", "-monitor", "null", "-debugcon", "null"]
    arguments += ["-chardev", "null,id=split,mux=on", "-serial", "chardev:split", "-mon", "split", "-gdb", "null"]
    arguments += ["-net", "nic", "-net", "user", "-nic", "user,model=virtio"]
    vm = start_vm(args=arguments)
    assert {"serial2-base", "compat_monitor0", "gdb", "split-base"} <= set(vm.observer.chardevs())
    assert "hub0port0" in vm.observer.hmp("info network")
    lists: dict[str, Any] = {name: [] for name in ("objects", "chardevs", "netdevs", "blockdevs", "nics", "devices")}
    life = Lifecycle(vm, "qemu_machine")
    life.same(**lists, purge=True)
    run_module(vm, "qemu_machine", chardevs=[{"id": "c0", "type": "null"}], netdevs=[{"id": "n0", "type": "user"}])
    assert {entry["id"] for entry in life.step(**lists, purge=True)["plan"]} == {"c0", "n0"}


def test_one_bad_item_among_many(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    document = disks(vm, 20)
    document[13]["filename"] = f"{vm.directory}/none.raw"
    life.refused("disks[13] d13", "none.raw", disks=document)


def test_a_failure_in_the_middle_takes_all_back(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    document = disks(vm, 4, lun=0)
    document[3]["options"] = {"logical_block_size": 511}  # which only QEMU refuses
    failed = life.refused("disks[3] d3", foretold=False, disks=document, vcpus=1)
    assert len(failed["rolled_back"]) == 7 and failed["error"]["class"] == "GenericError"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"objects": [{"id": "a", "qom_type": "iothread"}] * 2}, ("objects[1] a", "already", "objects[0] a")),
        (
            {"devices": [{"id": "a", "driver": "scsi-hd"}], "nics": [{"id": "a", "netdev": {"type": "user"}}]},
            ("devices[0] a", "already", "nics[0] a"),
        ),
        (
            {"disks": [{"id": "a", "filenam": "/x"}]},
            ("disks[0] a", "unknown option filenam (did you mean 'filename'?)"),
        ),
        ({"disks": [{"id": "a", "recreate": True}]}, ("unknown option recreate. There are: addr, blockdev, bus",)),
        (
            {"disks": [{"id": "a", "cache": {"directo": True, "zzz": 1}}]},
            ("option cache.directo (did you mean 'direct'?); unknown option cache.zzz. There are: direct, no_flush",),
        ),
        ({"disks": [{"id": "", "filename": "/x"}]}, ("disks[0]: id: ''",)),
        ({"disks": [{"filename": "/x"}]}, ("disks[0]", "missing required arguments: id")),
        ({"disks": [{"id": "9a", "filename": "/x"}]}, ("disks[0] 9a", "must start with a letter")),
        ({"devices": [{"id": "a", "driver": "scsi-hd", "options": {"drive": "none"}}]}, ("devices[0] a", "none")),
        (
            {
                "devices": [
                    {"id": "a", "driver": "scsi-hd", "bus": "b.0"},
                    {"id": "b", "driver": "virtio-scsi-pci", "bus": "a.0"},
                ]
            },
            ("devices[0] a", "needs itself", "devices[1] b"),
        ),
        (
            {
                "blockdevs": [
                    {"node_name": "a", "driver": "raw", "options": {"file": "b"}},
                    {"node_name": "b", "driver": "raw", "options": {"file": "a"}},
                ]
            },
            ("blockdevs[0] a", "needs itself", "blockdevs[1] b"),
        ),
        (
            {
                "objects": [{"id": "io", "state": "absent"}],
                "disks": [{"id": "a", "filename": "/dev/null", "bus": "rp0", "iothread": "io"}],
            },
            ("disks[0] a", "it needs object io, which shall be absent"),
        ),
        (
            {"nics": [{"id": f"n{place}", "netdev": {"type": "user"}, "bus": "rp0"} for place in range(2)]},
            ("nics[1] n1", "port rp0 is wanted by n0 too"),
        ),
        (
            {"devices": [{"id": "a", "driver": "scsi-hd", "options": {"drive": ["x"]}}]},
            ("devices[0] a", "drive: ['x']"),
        ),
        ({"nics": [{"id": "a", "netdev": {"type": "user"}, "bus": "rp0", "options": {"netdev": {}}}]}, ("netdev: {}",)),
        (
            {"devices": [{"id": "a", "driver": "virtio-rng-pci", "bus": "rp0", "options": {"rng": ["x"]}}]},
            ("devices[0] a", "rng: ['x'] is not a valid id"),
        ),
        ({"disks": [{"id": "a", "filename": "/x", "blockdev": {1: 2}}]}, ("disks[0] a", "1 is not the name")),
        ({"devices": [{"id": "a", "driver": "no-such"}]}, ("devices[0] a", "no-such")),
        ({"memory": [{"id": "m", "size": "3"}]}, ("memory[0] m", "multiple")),
        (
            {"memory": [{"id": f"m{place}", "size": "64M"} for place in range(5)]},
            ("memory[4] m4", "all 4 slots", "m0, m1, m2, m3 of the same task"),
        ),
        (
            {
                "memory": [
                    {"id": f"m{place}", "size": "768M", "kind": "virtio-mem", "bus": f"rp{place}"} for place in range(3)
                ]
            },
            ("memory[2] m2", "805306368 bytes do not fit", "1610612736 are taken (with m0, m1 of the same task)"),
        ),
    ],
)
def test_a_bad_document(start_vm: Callable[..., VM], document: dict[str, Any], words: tuple[str, ...]) -> None:
    vm = start_vm(memory="256,slots=4,maxmem=2G")
    Lifecycle(vm, "qemu_machine").refused(*words, **document)


def test_a_node_comes_after_what_it_is_named_to_stand_on(paused_vm: VM) -> None:
    """Whatever the document's order is."""
    vm, life = paused_vm, Lifecycle(paused_vm, "qemu_machine")
    base, top = vm.image("base.raw"), vm.image("top.qcow2", fmt="qcow2")
    below = {"node_name": "base", "driver": "raw", "filename": base, "read_only": True}
    above = {"node_name": "top", "driver": "qcow2", "filename": top, "options": {"backing": "base"}}
    done = life.step(blockdevs=[above, below])
    assert [command["arguments"]["node-name"] for command in done["commands"]] == ["base", "top"]
    life.same(blockdevs=[above, below])


def test_functions_of_one_slot_in_one_document(paused_vm: VM) -> None:
    life = Lifecycle(paused_vm, "qemu_machine")
    functions: tuple[dict[str, Any], ...] = tuple(
        {"id": f"f{function}", "driver": "virtio-rng-pci", "bus": "rp0", "addr": f"00.{function}"}
        for function in (1, 2, 0)
    )
    first, second, zeroth = functions
    zeroth["options"] = {"multifunction": True}
    life.refused("devices[1] f1", "rp0 is wanted by f0 too", "function 0 comes last", devices=[zeroth, first])
    life.refused("devices[1] f2", "rp0 is wanted by f1 too", devices=[first, {**second, "addr": "00.1"}])
    made = life.step(devices=[first, second, zeroth])
    assert [command["arguments"]["id"] for command in made["commands"]] == ["f1", "f2", "f0"]
    assert set(paused_vm.plugged()) == {"f0", "f1", "f2"}
    life.refused("devices[0] f3", "rp0 is occupied by device", devices=[{**first, "id": "f3", "addr": "00.0"}])


@pytest.mark.parametrize(
    ("list_of", "backend", "driver", "bus", "option"),
    [
        (
            "blockdevs",
            {"node_name": "b0", "driver": "null-co", "options": {"read-zeroes": True}},
            "scsi-hd",
            "scsi0.0",
            "drive",
        ),
        ("chardevs", {"id": "b0", "type": "null"}, "virtserialport", "ports.0", "chardev"),
        ("netdevs", {"id": "b0", "type": "user"}, "usb-net", "usb.0", "netdev"),
    ],
)
def test_two_devices_on_one_backend(
    scsi_vm: VM, list_of: str, backend: dict[str, Any], driver: str, bus: str, option: str
) -> None:
    life = Lifecycle(scsi_vm, "qemu_machine")
    life.step(
        devices=[
            {"id": "ports", "driver": "virtio-serial-pci", "bus": "rp0"},
            {"id": "usb", "driver": "qemu-xhci", "bus": "rp1"},
        ]
    )
    pair = [{"id": f"x{place}", "driver": driver, "bus": bus, "options": {option: "b0"}} for place in range(2)]
    document: dict[str, Any] = {list_of: [backend], "devices": pair}
    life.refused("devices[1] x1", f"{option}: b0 is wanted by device x0 too", **document)


def test_two_devices_that_share_a_backend(scsi_vm: VM) -> None:
    life = Lifecycle(scsi_vm, "qemu_machine")
    life.step(devices=[{"id": "ports", "driver": "virtio-serial-pci", "bus": "rp0"}])
    node = {"driver": "null-co", "options": {"read-zeroes": True}}
    disk = {"driver": "scsi-hd", "bus": "scsi0.0"}
    port = {"driver": "virtserialport", "bus": "ports.0", "options": {"chardev": "mux0"}}
    life.step(
        blockdevs=[{"node_name": "written", **node}, {"node_name": "read", "read_only": True, **node}],
        chardevs=[{"id": "c0", "type": "null"}, {"id": "mux0", "type": "mux", "options": {"chardev": "c0"}}],
        devices=[
            *({"id": f"w{place}", **disk, "options": {"drive": "written", "share_rw": True}} for place in range(2)),
            *({"id": f"r{place}", **disk, "options": {"drive": "read"}} for place in range(2)),
            *({"id": f"c{place}", **disk, "driver": "scsi-cd", "options": {"drive": "read"}} for place in range(2)),
            *({"id": f"p{place}", **port} for place in range(2)),
        ],
    )


def test_a_balloon_that_stays_where_it_is_is_named_once(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(args=LIVE_VM["args"])
    told = Lifecycle(vm, "qemu_machine").refused("prelaunch", balloon="200M")
    assert told["msg"].startswith("balloon: this takes a guest")


def test_drift_needs_leave(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    document = disks(vm, 3)
    life.step(disks=document)
    document[1]["serial"] = "OTHER"
    life.refused("disks[1] d1", "SERIAL1", "OTHER", "recreate", disks=document)
    done = life.step(disks=document, recreate=True)
    assert [entry["id"] for entry in done["plan"]] == ["d1"]
    assert vm.observer.look("qom-get", path=f"{PERIPHERAL}/d1", property="serial") == "OTHER"


def test_a_half_made_machine_is_completed(scsi_vm: VM) -> None:
    vm, life = scsi_vm, Lifecycle(scsi_vm, "qemu_machine")
    document = disks(vm, 2)
    file = {"driver": "file", "filename": document[1]["filename"]}
    vm.observer.execute("blockdev-add", **{"node-name": "d1-node", "driver": "raw", "file": file})
    done = life.step(disks=document)
    assert done["summary"]["add"] == 2 and names(done).count("blockdev-add") == 1


def test_a_hundred_disks_take_few_queries(scsi_vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, hundred = scsi_vm, disks(scsi_vm, 100)
    sent: list[str] = []
    execute = QMPSession.execute

    def counted(session: QMPSession, name: str, *args: Any, **how: Any) -> Any:
        sent.append(name)
        return execute(session, name, *args, **how)

    def queries(document: list[dict[str, Any]], **summary: int) -> int:
        sent.clear()
        done = run_module(vm, "qemu_machine", disks=document)
        assert {name: number for name, number in done["summary"].items() if number} == summary
        return len(sent) - len(done["commands"])

    monkeypatch.setattr(QMPSession, "execute", counted)
    # the nodes are read again afterwards, and the jobs before that
    assert queries(hundred, add=100) <= 16, sent
    assert len(vm.plugged()) == 100
    assert queries(hundred, unchanged=100) <= 15, sent
    # what takes a removal back are all properties of each, of which few must be asked for one by one
    assert queries([{**disk, "state": "absent"} for disk in hundred], remove=100) <= 600, sent
    assert vm.plugged() == {}


def test_what_was_read_at_once_is_what_is_there(scsi_vm: VM) -> None:
    """Every answer that the survey has taken for QEMU's own is what QEMU says when asked."""
    vm = scsi_vm
    run_module(vm, "qemu_machine", **everything(vm))
    with QMPSession.connect(vm.qmp) as session:
        reader = Reader(session, Deadline(60.0), local=True, reopen=lambda seconds: session)
        read_all(reader)
        surveyed = [(path, name, answer) for path, of in reader.properties.items() for name, answer in of.items()]
        assert len(surveyed) > 200
        wrong = []
        for path, name, answer in surveyed:
            arguments = {"path": path, "property": name}
            try:
                asked = session.execute("qom-get", arguments)
            except errors.CommandError:
                # None says just that; else a property that only the inner half has, which no task could name
                continue
            if asked != answer:
                wrong.append((arguments, answer, asked))
        assert not wrong


def test_a_live_guest(live_vm: VM) -> None:
    vm = live_vm
    document: dict[str, Any] = {
        "disks": [{"id": "data", "filename": vm.image("data.raw"), "bus": "rp0"}],
        "nics": [{"id": "net0", "netdev": {"type": "user"}, "bus": "rp1"}],
        "memory": [{"id": "dimm0", "size": "128M"}],
        "balloon": "320M",
        "power": "paused",
    }
    made = run_module(vm, "qemu_machine", **document)
    assert made["summary"] == {"add": 3, "change": 2, "remove": 0, "unchanged": 0}
    assert vm.observer.status() == "paused" and made["vm"]["status"] == "paused"
    document["power"] = "running"
    assert names(run_module(vm, "qemu_machine", **document)) == ["cont"]
    vm.guest_sees(blk={"vda"}, net={"eth0", "lo"}, memkb=lambda kb: kb > 200000)
    again = run_module(vm, "qemu_machine", **document)
    assert (again["changed"], again["commands"]) == (False, [])
    emptied = run_module(vm, "qemu_machine", disks=[], nics=[], memory=[], balloon="256M", purge=True)
    assert emptied["summary"] == {"add": 0, "change": 1, "remove": 3, "unchanged": 0}
    assert vm.plugged() == {}


def test_a_guest_that_has_to_follow_runs_before(paused_guest: VM) -> None:
    """What it can do without the guest comes first, or where nothing goes, all of it."""
    vm, life = paused_guest, Lifecycle(paused_guest, "qemu_machine")
    image = vm.image("a.raw")
    disk = {"id": "d0", "filename": image, "bus": "rp0"}
    made = life.step(disks=[disk], balloon="200M", power="running")
    assert names(made) == ["blockdev-add", "device_add", "cont", "balloon"]
    vm.observer.execute("stop")
    done = life.step(disks=[{**disk, "state": "absent"}], chardevs=[{"id": "c0", "type": "null"}], power="running")
    assert names(done) == ["cont", "device_del", "blockdev-del", "chardev-add"]
    assert vm.observer.status() == "running" and "d0" not in vm.observer.devices()
    life.step(chardevs=[{"id": "c0", "state": "absent"}], balloon="256M")


def test_a_run_state_that_can_not_be_is_told_as_an_item_is(start_vm: Callable[..., VM]) -> None:
    waits = start_vm(args=["-incoming", "defer"])
    Lifecycle(waits, "qemu_machine").refused("power: ", "incoming migration", objects=[], power="running")


def test_a_failure_after_the_guest_was_let_run_stops_it_again(paused_guest: VM) -> None:
    vm = paused_guest
    run_module(vm, "qemu_machine", devices=[{"id": "r0", "driver": "virtio-rng-pci", "bus": "rp0"}])
    vm.observer.execute("cont")
    vm.guest_has_rng()
    vm.observer.execute("stop")
    bad = {"id": "bad", "driver": "virtio-net-pci", "bus": "rp1", "options": {"romfile": "/none"}}
    document: dict[str, Any] = {"devices": [{"id": "r0", "state": "absent"}, bad], "power": "running"}
    failed = Lifecycle(vm, "qemu_machine").refused("devices[1]", "romfile", foretold=False, **document)
    assert [step["execute"] for step in failed["rolled_back"]] == ["device_add", "stop"]
    assert vm.observer.status() == "paused"


def test_what_is_stuck_keeps_what_it_stands_on_and_no_more(start_vm: Callable[..., VM]) -> None:
    """A guest that never ran gives no PCI device back."""
    vm = start_vm(memory="256")
    document: dict[str, Any] = {
        "objects": [{"id": "io0", "qom_type": "iothread"}],
        "chardevs": [{"id": "c0", "type": "null"}],
        "disks": [{"id": "d0", "filename": vm.image("a.raw"), "bus": "rp0"}],
        "nics": [{"id": "n0", "netdev": {"type": "user"}, "bus": "rp1", "romfile": "/none"}],
    }
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_machine", timeout=5, **document)
    stuck = failed.value.result["not_rolled_back"]
    assert [text.split(" (")[0] for text in stuck] == ["device_del d0", "blockdev-del d0-node"]
    assert "prelaunch" in stuck[0]
    assert "d0-node" in vm.observer.nodes() and "io0" not in vm.observer.objects()
    assert "c0" not in vm.observer.chardevs()


def test_a_removal_that_nothing_takes_back_is_told_as_what_was_done(scsi_vm: VM) -> None:
    """QEMU does not tell a ring buffer's size, so that nothing can make it again."""
    run_module(scsi_vm, "qemu_chardev", id="ring", type="ringbuf", options={"size": "4k"})
    bad = {"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "filename": scsi_vm.image("a.raw")}
    document: dict[str, Any] = {
        "chardevs": [{"id": "ring", "state": "absent"}],
        "disks": [{**bad, "options": {"werror": "bogus"}}],
    }
    with pytest.raises(ModuleFailed, match="bogus") as failed:
        run_module(scsi_vm, "qemu_machine", **document)
    gone = "ring" not in scsi_vm.observer.chardevs()
    result = failed.value.result
    assert result["changed"] is gone
    assert names(result) == (["chardev-remove"] if gone else [])


def test_what_stands_on_a_recreated_thing_is_recreated_named_or_not(scsi_vm: VM) -> None:
    life = Lifecycle(scsi_vm, "qemu_machine")
    (disk,) = disks(scsi_vm, 1)
    life.step(disks=[disk])
    nodes = [{"node_name": "d0-node", "filename": scsi_vm.image("b.raw")}]
    life.refused("filename", "recreate", blockdevs=nodes, devices=[{"id": "d0"}])
    done = life.step(blockdevs=nodes, devices=[{"id": "d0"}], recreate=True)
    assert names(done) == ["device_del", "blockdev-del", "blockdev-add", "device_add"]
    assert scsi_vm.observer.qom_get("/machine/peripheral/d0", "serial") == "SERIAL0"


def test_as_ansible_runs_it(scsi_vm: VM, ansible_task: Callable[..., TaskResult]) -> None:
    vm = scsi_vm
    options = {"socket": vm.qmp, "disks": disks(vm, 2), "vcpus": 1}
    first = ansible_task("qemu_machine", options, diff=True)
    assert first.changed and first.result["msg"] == "add 2, change 0, remove 0, unchanged 1"
    assert set(vm.plugged()) == {"d0", "d1"}
    assert not ansible_task("qemu_machine", options).changed
    wrong = ansible_task("qemu_machine", {**options, "disks": [{"id": "x", "bogus": 1}]})
    assert wrong.failed and "disks[0] x: unknown option bogus" in wrong.result["msg"]


def test_a_dead_monitor(scsi_vm: VM) -> None:
    scsi_vm.kill()
    with pytest.raises(ModuleFailed, match="is the virtual machine running"):
        run_module(scsi_vm, "qemu_machine", disks=[])
