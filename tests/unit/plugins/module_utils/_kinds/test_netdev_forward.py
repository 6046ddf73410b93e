# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwarded ports as QEMU tells them against those that people write."""

from __future__ import annotations

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.netdev_forward import same_rules

SSH = "tcp:127.0.0.1:2222-10.0.2.15:22"


@pytest.mark.parametrize(
    ("have", "want", "same"),
    [
        ([SSH], [SSH], True),
        ([SSH], ["127.0.0.1:2222-:22"], True),
        ([SSH], ["tcp:127.0.0.1:0-:022"], True),
        ([SSH], ["udp:127.0.0.1:2222-:22"], False),
        ([SSH], ["tcp::2222-:22"], False),
        ([SSH], ["tcp:127.0.0.1:2222-10.0.2.16:22"], False),
        ([SSH], [], False),
        ([], [SSH], False),
        ([SSH], [SSH, SSH], False),
        (["tcp::80-10.0.2.15:80", SSH], [SSH, "tcp:0.0.0.0:80-:80"], True),
        ([SSH], ["nonsense"], False),
        ([SSH], [None], False),
    ],
)
def test_rules(have: list[str], want: list[str], same: bool) -> None:
    assert same_rules(have, want) is same
