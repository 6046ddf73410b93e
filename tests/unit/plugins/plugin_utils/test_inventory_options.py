# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong in an inventory's file is said in one sentence, which names it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleParserError

from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_options as options

USUAL = {
    "sockets": ["/run/*.qmp"],
    "hypervisors": ["localhost"],
    "hostnames": ["name"],
    "connect_timeout": 1.0,
    "timeout": 30.0,
    "guest_agent": False,
    "networks": [],
    "compose": {},
    "groups": {},
}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sockets": ["~/vms/*", "unix:@vm", "hv1:4444", "[::1]:4"]},
        {"guest_agent": True, "networks": ["10.0.0.0/8", "::/0"]},
        {"hypervisors": ["root@hv1"]},
    ],
)
def test_what_is_right(given: dict[str, Any]) -> None:
    options.check(given, {**USUAL, **given})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"socket": ["/x"]}, "socket: there is no such option.*sockets"),
        ({"sockets": []}, "sockets: the list is empty"),
        ({"sockets": ["vm1.qmp"]}, "sockets: 'vm1.qmp' is not a valid monitor address"),
        ({"hypervisors": ["-oProxyCommand=x"]}, "hypervisors: '-oProxyCommand=x' is not a valid name"),
        ({"connect_timeout": 0.0}, "connect_timeout: 0.0 is not a valid time"),
        ({"timeout": float("nan")}, "timeout: nan is not a valid time"),
        ({"guest_agent": True, "networks": ["10.0.0.1/8"]}, "networks: 10.0.0.1/8 has host bits set"),
        ({"networks": ["10.0.0.0/8"]}, "networks: .* add guest_agent: true"),
        ({"groups": {True: "x"}}, "groups: True is not a valid name; put it in quotes"),
        ({"compose": {7: "x"}}, "compose: 7 is not a valid name"),
    ],
)
def test_what_is_wrong(given: dict[str, Any], told: str) -> None:
    with pytest.raises(AnsibleParserError, match=told):
        options.check(given, {**USUAL, **{name: value for name, value in given.items() if name in USUAL}})


def test_each_expression_is_tried_alone() -> None:
    assert list(options.each("compose", {"a": "1", "b": "2"})) == [
        ("compose: a", {"a": "1"}),
        ("compose: b", {"b": "2"}),
    ]
    assert list(options.each("keyed_groups", [{"key": "x"}])) == [("keyed_groups: x", [{"key": "x"}])]
