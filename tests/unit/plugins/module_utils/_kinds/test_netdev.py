# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``info network`` says, as the three QEMU versions print it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._kinds import netdev
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.netdev import NETDEV

PRINTED = """\
hub 3\r
 \\ n_hub2: n_user2: index=0,type=user,net=10.9.0.0,restrict=on\r
 \\ n_hub\r
n_user: index=0,type=user,net=10.0.2.0,restrict=off\r
nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:ab:cd:ef\r
 \\ n_nic: index=0,type=user,net=10.0.2.0,restrict=off\r
nic3: index=1,type=nic,\r
 \\ n_tapmq: index=1,type=tap,ifname=lim72,script=no,downscript=no\r
nic3: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:ab:cd:01\r
 \\ n_tapmq: index=0,type=tap,ifname=lim72,script=no,downscript=no\r
n_vu: index=0,type=vhost-user,vhost-user0 to cvu\r
n_br: index=0,type=tap,helper=/usr/lib/qemu/qemu-bridge-helper,br=br0\r
ghost: index=0,type=user,net=10.0.2.0,restrict=off\r
nic7: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:ab:cd:02\r
 \\ ghost: index=0,type=user,net=10.0.2.0,restrict=off\r
"""
USERNET = """\
Hub -1 (n_user):\r
  Protocol[State]    Fd  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]   8       127.0.0.1 46137       10.0.2.15    22     0     0\r
  UDP[HOST_FORWARD]   9               * 46138       10.0.2.15    53     0     0\r
Hub -1 (other):\r
  TCP[HOST_FORWARD]   8       127.0.0.1 46139       10.0.2.15    23     0     0\r
"""


class Printed:
    """A VM of which only the human monitor's lines are asked."""

    def monitor(self, line: str) -> str:
        return {"info network": PRINTED, "info usernet": USERNET}[line]


@pytest.fixture
def vm() -> VM:
    return cast(VM, Printed())


@pytest.mark.parametrize(
    ("ident", "queues", "nic", "loose"),
    [
        ("n_user", 1, None, True),
        ("n_nic", 1, "nic0", False),
        ("n_tapmq", 2, "nic3", False),
        ("ghost", 2, "nic7", True),
    ],
)
def test_wiring(vm: VM, ident: str, queues: int, nic: Any, loose: bool) -> None:
    line = netdev.wiring(vm)[ident]
    assert (line.queues, line.nic, line.loose) == (queues, nic, loose)


def test_settings(vm: VM) -> None:
    lines = netdev.wiring(vm)
    assert lines["n_tapmq"].info["ifname"] == "lim72"
    assert lines["n_vu"].info["chardev"] == "cvu"
    assert lines["n_br"].info["br"] == "br0"
    assert "nic0" not in lines


def test_forwards(vm: VM) -> None:
    assert netdev.forwards(vm, "n_user") == ["tcp:127.0.0.1:46137-10.0.2.15:22", "udp::46138-10.0.2.15:53"]


@pytest.mark.parametrize(
    ("key", "have", "want", "equal"),
    [
        ("options.restrict", "off", "no", True),
        ("options.restrict", "off", True, False),
        ("options.net", "10.9.0.0", "10.9.0.0/24", True),
        ("queues", 2, 2, True),
        ("ifname", "tap0", "tap1", False),
    ],
)
def test_same(key: str, have: Any, want: Any, equal: bool) -> None:
    assert NETDEV.same(key, have, want) is equal


@pytest.mark.parametrize(
    ("option", "value", "implied"),
    [("ifname", "tap9", "tap"), ("bridge", "br0", "bridge"), ("chardev", "c", "vhost-user")],
)
def test_an_option_that_one_type_has_means_that_type(option: str, value: str, implied: str) -> None:
    wanted = NETDEV.wanted(None, {"id": "n0", option: value})  # type: ignore[arg-type]
    changes, untold = NETDEV.compare({"id": "n0", "type": "user", "queues": 1}, wanted)
    assert ("type", "user", implied) in [tuple(change) for change in changes] and untold == [option]
