# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory makes of what monitors told: names that nobody can take from another, and addresses by network."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_hosts as hosts


def machine(
    name: str = "", socket: str = "/run/a.qmp", status: str = "running", hypervisor: str = "hv1"
) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {"socket": socket, "status": status, "hypervisor": hypervisor, **named}


def names(
    *machines: dict[str, Any], taken: set[str] | None = None, order: tuple[str, ...] = ("name", "path")
) -> list[str]:
    return hosts.host_names(machines, order, taken or set())


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/run/vm1.qmp", "vm1"),
        ("/run/vm1.example.com.qmp", "vm1.example.com"),
        ("/var/lib/vmm-qemu/vm1/run/qmp", "vm1"),
        ("/run/vm1/qmp.sock", "vm1"),
        ("/run/vm1", "vm1"),
        ("/run/qmp", "/run/qmp"),
        ("unix:@vm1", "unix:@vm1"),
        ("hv1:4444", "hv1:4444"),
    ],
)
def test_the_name_in_a_path(address: str, name: str) -> None:
    assert hosts.path_name(address) == name


def test_what_a_host_is_called_by() -> None:
    assert names(machine("web1")) == ["web1"]
    assert names(machine("web1"), order=("path", "name")) == ["a"]
    assert names(machine(), order=("name",)) == ["a"]
    assert names(machine("web 1", "hv1:4444")) == ["hv1_4444"]
    assert names({**machine("web1"), "uuid": "u-1"}, order=("uuid",)) == ["u-1"]


@pytest.mark.parametrize(
    "name", ["{{ x }}", "-oProxyCommand=x", "a:b", "a,b", "../x", "@limit", "a\nb", "!a", "a" * 300]
)
def test_a_name_that_could_be_something_else_is_passed_over(name: str) -> None:
    assert names(machine(name)) == ["a"]


def test_a_name_that_is_taken() -> None:
    taken = hosts.reserved({"all", "web"}, {"hv1"})
    assert names(*(machine(name) for name in ("web", "all", "hv1", "localhost", "127.0.0.1", "db")), taken=taken) == [
        "web@hv1",
        "all@hv1",
        "hv1@hv1",
        "localhost@hv1",
        "127.0.0.1@hv1",
        "db",
    ]


def test_nobody_takes_the_name_of_another() -> None:
    first, second = machine("web", "/run/a.qmp"), machine("web", "/run/b.qmp", hypervisor="hv2")
    assert names(first, second) == ["web@hv1", "web@hv2"]
    third = machine("web", "/run/c.qmp")
    found = names(first, second, third)
    assert found[1] == "web@hv2" and len({*found}) == 3
    assert all(name.startswith("web@hv1-") for name in (found[0], found[2]))
    assert names(third, first)[::-1] == names(first, third)  # by what they are, not by their order


@pytest.mark.parametrize("status", ["postmigrate", "inmigrate", "busy", "unreachable"])
def test_a_machine_on_its_way_leaves_its_name_to_the_one_that_runs(status: str) -> None:
    other = machine("web", "/run/b.qmp", status, "hv2")
    assert names(machine("web"), other) == ["web", "web@hv2"]
    assert names(other, machine("web", status="paused")) == ["web@hv2", "web"]


def test_a_machine_keeps_the_name_that_it_had() -> None:
    now = [machine(status="busy"), machine(status="running"), machine(status="unreachable", hypervisor="hv2")]
    hosts.keep_names(now, [machine("web")])
    assert [one.get("name") for one in now] == ["web", None, None]


def test_what_a_hypervisor_had_that_does_not_answer() -> None:
    before = [{**machine("web"), "version": "9.0.0", "reason": "x"}, machine("db", hypervisor="hv2")]
    assert hosts.left_alone(before, "hv1", "down") == [{**machine("web"), "status": "unreachable", "reason": "down"}]


def guest(*addresses: str) -> list[dict[str, Any]]:
    return [{"name": f"eth{number}", "mac": "", "addresses": [one]} for number, one in enumerate(addresses)]


@pytest.mark.parametrize(
    ("networks", "chosen"),
    [
        ([], ""),
        (["10.0.0.0/8"], "10.0.0.9"),
        (["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"], "192.168.1.2"),
        (["2001:db8::/32"], "2001:db8::7"),
        (["::/0"], "2001:db8::7"),  # the loopback is the controller's own
        (["0.0.0.0/0"], "10.0.0.9"),
        (["127.0.0.0/8"], ""),
        (["172.16.0.0/12"], ""),
    ],
)
def test_an_address_is_chosen_by_network(networks: list[str], chosen: str) -> None:
    interfaces = guest(
        "127.0.0.1/8",
        "::1/128",
        "10.0.0.90/8",
        "10.0.0.9/8",
        "192.168.1.2/24",
        "2001:db8::7/64",
        "0.0.0.0/0",
        "fe80::1%-x/64",
    )
    assert hosts.choose_address(interfaces, networks) == chosen
    told = hosts.variables({**machine("web"), "interfaces": interfaces}, networks)
    assert told.get("ansible_host", "") == chosen and told["qemu_interfaces"] == interfaces


def test_nothing_that_a_terminal_obeys_is_told() -> None:
    dirty = {"name": "a\x1b[2Jb\u202e", "all": ["\ud800", {"x": "\n"}, 7]}
    assert hosts.clean(dirty) == {"name": "a\ufffd[2Jb\ufffd", "all": ["\ufffd", {"x": "\ufffd"}, 7]}


def test_groups_are_named_by_states() -> None:
    assert hosts.state_group("io-error") == "qemu_io_error"
