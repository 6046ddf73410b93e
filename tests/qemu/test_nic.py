# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_nic and qemu_netdev: cards and backends with a live guest, descriptors that are handed over, what is refused."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support.lifecycle import Lifecycle, names
from support.modules import run_module
from support.vm import VM


@pytest.fixture
def nic(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_nic")


@pytest.fixture
def netdev(live_vm: VM) -> Lifecycle:
    return Lifecycle(live_vm, "qemu_netdev")


@pytest.fixture
def tap() -> Iterator[str]:
    """The name for a TAP, which is gone afterwards."""
    name = f"vmmt{os.getpid() % 100000}"
    yield name
    subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_a_whole_life(nic: Lifecycle) -> None:
    vm = nic.vm
    clean = vm.fingerprint()
    given: dict[str, Any] = {"id": "n0", "bus": "rp1", "mac": "52:54:00:AB:CD:01", "netdev": {"type": "user"}}
    added = nic.step(**given)
    assert names(added) == ["netdev_add", "device_add"]
    assert vm.plugged() == {"n0": "virtio-net-pci"}
    assert "\\ n0-netdev: " in vm.observer.hmp("info network")
    vm.guest_sees(net={"lo", "eth0"})
    assert vm.run_in_guest("cat /sys/class/net/eth0/address").strip() == "52:54:00:ab:cd:01"

    nic.refused("options.mac", "52:54:00:ab:cd:01", "recreate", **{**given, "mac": "52:54:00:ab:cd:02"})
    again = nic.step(**{**given, "mac": "52-54-00-AB-CD-02"}, recreate=True)
    assert names(again) == ["device_del", "device_add"]
    assert vm.observer.qom_get("/machine/peripheral/n0", "mac") == "52:54:00:ab:cd:02"

    other = nic.step(
        **{
            **given,
            "mac": "52:54:00:ab:cd:02",
            "netdev": {"type": "user", "options": {"net": "10.9.0.0/24"}},
            "recreate": True,
        }
    )
    assert names(other) == ["device_del", "netdev_del", "netdev_add", "device_add"]
    assert "net=10.9.0.0" in vm.observer.hmp("info network")

    assert names(nic.step(id="n0", state="absent")) == ["device_del", "netdev_del"]
    assert vm.fingerprint() == clean


def test_the_link_is_set_at_every_run(nic: Lifecycle) -> None:
    vm = nic.vm
    nic.step(id="n0", bus="rp1", netdev={"type": "user"})
    vm.guest_sees(net={"lo", "eth0"})
    vm.run_in_guest("ip link set eth0 up")
    for link, carrier in (("down", "0"), ("down", "0"), ("up", "1")):
        done = run_module(vm, "qemu_nic", id="n0", link=link)
        assert done["commands"] == [{"execute": "set_link", "arguments": {"name": "n0", "up": link == "up"}}]
        assert done["changed"] and any("set_link" in text for text in done["warnings"])
        assert vm.run_in_guest("sleep 0.2; cat /sys/class/net/eth0/carrier").strip() == carrier
    nic.step(id="n0", state="absent")


def test_options_of_the_card(nic: Lifecycle) -> None:
    vm = nic.vm
    nic.step(
        id="n0",
        netdev={"id": "back", "type": "user"},
        driver="virtio-net-pci",
        bus="rp2",
        addr="00.0",
        queues=2,
        romfile="",
        disable_modern=False,
        options={"rx_queue_size": "512", "disable-legacy": True},
    )
    want = {"netdev": "back", "mq": True, "vectors": 6, "romfile": "", "rx_queue_size": 512, "disable-legacy": "on"}
    assert {name: vm.observer.qom_get("/machine/peripheral/n0", name) for name in want} == want
    nic.step(id="n0", netdev={"id": "back"}, state="absent")


def test_another_driver(nic: Lifecycle) -> None:
    nic.step(id="n0", driver="e1000e", bus="rp2", netdev={"type": "user"})
    assert nic.vm.plugged() == {"n0": "e1000e"}
    nic.step(id="n0", state="absent")


def test_half_done_states_are_completed(nic: Lifecycle) -> None:
    vm = nic.vm
    given: dict[str, Any] = {"id": "n0", "bus": "rp1", "netdev": {"type": "user"}}
    run_module(vm, "qemu_netdev", id="n0-netdev", type="user")
    assert names(nic.step(**given)) == ["device_add"]
    vm.guest_sees(net={"lo", "eth0"})
    vm.observer.execute("device_del", id="n0")
    vm.observer.wait_event("DEVICE_DELETED", device="n0")
    assert names(nic.step(id="n0", state="absent")) == ["netdev_del"]


def test_a_card_whose_backend_was_pulled_away_is_drift(nic: Lifecycle) -> None:
    vm = nic.vm
    given: dict[str, Any] = {"id": "n0", "bus": "rp1", "netdev": {"type": "user"}}
    nic.step(**given)
    vm.guest_sees(net={"lo", "eth0"})
    vm.observer.execute("netdev_del", id="n0-netdev")
    nic.refused("options.netdev", "recreate", **given)
    vm.observer.execute("netdev_add", type="user", id="n0-netdev")  # a new one of that name is not on the card
    nic.refused("options.netdev", "recreate", **given)
    assert names(nic.step(**given, recreate=True)) == ["device_del", "device_add"]
    nic.step(id="n0", state="absent")


def test_a_failure_in_the_middle_leaves_nothing(nic: Lifecycle) -> None:
    bad: dict[str, Any] = {"id": "n0", "bus": "rp1", "mac": "52:54:00:zz", "netdev": {"type": "user"}}
    result = nic.refused("device_add", "52:54:00:zz", "taken back: netdev_del", foretold=False, **bad)
    assert result["error"]["class"] == "GenericError"
    assert result["rolled_back"] == [{"execute": "netdev_del", "arguments": {"id": "n0-netdev"}}]


def test_what_reading_can_tell_is_refused_before_anything_is_sent(nic: Lifecycle) -> None:
    nic.step(id="n0", bus="rp1", netdev={"id": "back", "type": "user"})
    refusals: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("port rp1", "n0"), {"id": "n1", "bus": "rp1", "netdev": {"type": "user"}}),
        (("back is in use by device n0",), {"id": "n1", "bus": "rp2", "netdev": {"id": "back"}}),
        (("nosuch",), {"id": "n1", "bus": "rp2", "netdev": {"type": "nosuch"}}),
        (("script",), {"id": "n1", "bus": "rp2", "netdev": {"type": "user", "script": False}}),
        (("type",), {"id": "n1", "bus": "rp2", "netdev": {}}),
        (("15 characters",), {"id": "n1", "bus": "rp2", "netdev": {"ifname": "a-very-long-interface"}}),
        (
            ("/dev/vhost-net",),
            {"id": "n1", "bus": "rp2", "netdev": {"ifname": "vmmtv", "vhost": True, "script": False}},
        ),
        (("/nosuch/tap",), {"id": "n1", "bus": "rp2", "netdev": {"fds": ["/nosuch/tap"]}}),
        (("ifname",), {"id": "n1", "bus": "rp2", "netdev": {"type": "tap", "pass_fds": True}}),
        (("netdev must be given",), {"id": "n1", "bus": "rp2", "link": "down"}),
        (("mac", "in quotes"), {"id": "n1", "bus": "rp2", "mac": 41135085241, "netdev": {"type": "user"}}),
        (("queues: -3",), {"id": "n1", "bus": "rp2", "queues": -3, "netdev": {"type": "user"}}),
        (("option of its own",), {"id": "n1", "bus": "rp2", "netdev": {"type": "user", "options": {"id": "u9"}}}),
    ]
    for words, options in refusals:
        nic.refused(*words, **options)
    nic.step(id="n0", netdev={"id": "back"}, state="absent")


def test_a_tap_that_qemu_opens(nic: Lifecycle, tap: str) -> None:
    vm = nic.vm
    given: dict[str, Any] = {
        "id": "n0",
        "bus": "rp1",
        "netdev": {"type": "tap", "ifname": tap, "script": False, "downscript": "no"},
    }
    done = nic.step(**given, queues=2)
    assert done["commands"][0]["arguments"] == {
        "id": "n0-netdev",
        "type": "tap",
        "ifname": tap,
        "script": "no",
        "downscript": "no",
        "queues": 2,
    }
    assert tap in interfaces()
    vm.guest_sees(net={"lo", "eth0"})
    nic.refused("ifname", tap, **{**given, "netdev": {**given["netdev"], "ifname": "other0"}}, queues=2)
    nic.step(id="n0", state="absent")
    assert tap not in interfaces()


@pytest.mark.parametrize("queues", [1, 3])
def test_a_tap_whose_descriptors_are_handed_over(netdev: Lifecycle, tap: str, queues: int) -> None:
    vm = netdev.vm
    given: dict[str, Any] = {"id": "t0", "ifname": tap, "pass_fds": True, "queues": queues}
    foretold = run_module(vm, "qemu_netdev", check=True, **given)
    assert tap not in interfaces(), "check mode made the interface"
    done = run_module(vm, "qemu_netdev", **given)
    assert names(done) == names(foretold) == ["netdev_add"]
    assert done["commands"][0]["arguments"]["fds"].count(":") == queues - 1
    assert vm.observer.hmp("info network").count("t0: ") == queues
    assert tap in interfaces()
    assert "ifname" in netdev.same(**given)["unverifiable"]
    assert names(run_module(vm, "qemu_netdev", id="t0", state="absent")) == ["netdev_del"]
    assert tap not in interfaces()


def test_no_descriptor_stays_in_qemu_after_a_failure(netdev: Lifecycle) -> None:
    """The first is in QEMU when the second, a directory, can't be opened."""
    vm = netdev.vm
    before = set(os.listdir(f"/proc/{vm.pid}/fd"))
    result = netdev.refused("/tmp", "Is a directory", foretold=False, id="t0", fds=["/dev/null", "/tmp"])
    assert "error" not in result
    vm.observer.status()  # a turn of QEMU's main loop
    assert set(os.listdir(f"/proc/{vm.pid}/fd")) <= before  # one that was there may have gone


def test_the_life_of_a_netdev(netdev: Lifecycle) -> None:
    vm = netdev.vm
    clean = vm.fingerprint()
    forward = [{"str": "tcp:127.0.0.1:0-:22"}]
    done = netdev.step(id="u0", type="user", options={"hostfwd": forward, "restrict": "no"})
    assert done["commands"][0]["arguments"]["restrict"] is False
    assert netdev.same(id="u0", type="user", options={"hostfwd": forward})["unverifiable"] == []
    other = "tcp:127.0.0.1:0-:23"
    netdev.refused("options.hostfwd", ":22", other, "recreate", id="u0", type="user", options={"hostfwd": other})
    netdev.refused("type", "'user'", "'tap'", "recreate", id="u0", type="tap", ifname="x0")
    netdev.refused("restrict", "recreate", id="u0", options={"restrict": True})
    no_port = {"type": "inet", "host": "127.0.0.1", "port": "70000"}  # QEMU would take 4464
    netdev.refused("addr.port", "'70000'", "65535", id="s0", type="stream", options={"addr": no_port, "server": True})
    for name in ("listen", "connect", "mcast", "localaddr", "udp"):
        netdev.refused(f"{name}: the port of", "'h:70000'", "65535", id="s0", type="socket", options={name: "h:70000"})
    netdev.step(id="u1", type="user", options={"net": "10.9.0.5/24"})
    netdev.step(id="u1", state="absent")
    assert names(netdev.step(id="u0", type="user", options={"restrict": True}, recreate=True)) == [
        "netdev_del",
        "netdev_add",
    ]
    assert "HOST_FORWARD" in vm.observer.hmp("info usernet"), "what was not named stays"
    netdev.step(id="u0", type="user", options={"hostfwd": [other]}, recreate=True)
    assert re.search(r"HOST_FORWARD.* 23 ", vm.observer.hmp("info usernet"))
    run_module(vm, "qemu_nic", id="n0", bus="rp1", netdev={"id": "u0"})
    netdev.refused("in use by device n0", id="u0", state="absent")
    vm.guest_sees(net={"lo", "eth0"})
    run_module(vm, "qemu_device", id="n0", state="absent")
    netdev.step(id="u0", state="absent")
    assert vm.fingerprint() == clean


def test_a_netdev_over_a_chardev(netdev: Lifecycle) -> None:
    vm = netdev.vm
    path = f"{vm.directory}/vhost-user"
    where = {
        "type": "socket",
        "data": {"server": True, "wait": False, "addr": {"type": "unix", "data": {"path": path}}},
    }
    vm.observer.send("chardev-add", {"id": "c0", "backend": where})
    netdev.refused("chardev", id="v0", type="vhost-user", foretold=False)
    vm.observer.execute("chardev-remove", id="c0")


def test_as_ansible_runs_it(live_vm: VM, ansible_task: Any) -> None:
    given: dict[str, Any] = {"socket": live_vm.qmp, "id": "n0", "bus": "rp1", "netdev": {"type": "user"}}
    assert ansible_task("qemu_nic", given).changed
    assert live_vm.plugged() == {"n0": "virtio-net-pci"}
    assert not ansible_task("qemu_nic", given).changed
    refused = ansible_task("qemu_netdev", {"socket": live_vm.qmp, "id": "n0-netdev", "state": "absent"})
    assert refused.status == "failed" and "in use by device n0" in refused.result["msg"]
    live_vm.guest_sees(net={"lo", "eth0"})
    assert ansible_task("qemu_nic", {"socket": live_vm.qmp, "id": "n0", "state": "absent"}).changed
    assert live_vm.plugged() == {}
