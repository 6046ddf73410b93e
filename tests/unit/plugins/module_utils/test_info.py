# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which subsets a list means, and how values are shown."""

from __future__ import annotations

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._operations.info import SUBSETS, plain, select

ALL = set(SUBSETS)
MIN = {"status", "version", "name"}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("min", MIN),
        ("", ALL),
        ("all", ALL),
        ("pci", {*MIN, "pci"}),
        ("all !pci !events", ALL - {"pci", "events"}),
        ("!pci", ALL - {"pci"}),
        ("!all", MIN),
        ("!min", ALL - MIN),
        ("!all !min", set()),
        ("!all !min pci", {"pci"}),
        ("pci !min", {"pci"}),
        ("!pci pci", {*MIN, "pci"}),
        ("!all !min name", {"name"}),
    ],
)
def test_subsets(wanted: str, chosen: set[str]) -> None:
    assert set(select(wanted.split(), SUBSETS)) == chosen


def test_keys_and_passwords() -> None:
    shown = plain({"a-b": [{"c-d": "https://me:hush@host/x-y"}, 'json:{"url": "ftp://me:hush@h/"}', "a:b@c"]})
    assert shown == {"a_b": [{"c_d": "https://me:********@host/x-y"}, 'json:{"url": "ftp://me:********@h/"}', "a:b@c"]}
