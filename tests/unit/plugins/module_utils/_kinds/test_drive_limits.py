# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits as a task names them, beside those that are there."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds import drive_limits

NONE = drive_limits.told({})


def set_to(have: dict[str, int], **named: Any) -> dict[str, Any]:
    """The arguments of the command, without what is 0."""
    after = drive_limits.merged({**NONE, **have}, drive_limits.parse(named))
    arguments = drive_limits.arguments("d0", after, "")
    assert {"id", *drive_limits.RATES} <= set(arguments)  # QEMU takes no fewer
    return {key: value for key, value in arguments.items() if value and key != "id"}


@pytest.mark.parametrize(
    ("have", "named", "after"),
    [
        ({}, {"bps": "1M"}, {"bps": 1 << 20}),
        ({"iops": 7}, {"bps": "10"}, {"bps": 10, "iops": 7}),
        ({"bps": 5}, {"bps": 0, "bps_rd": 6}, {"bps_rd": 6}),
        ({"bps": 5, "bps_max": 9, "bps_max_length": 3}, {"bps": 0}, {}),
        ({"bps": 5, "bps_max": 9, "bps_max_length": 3}, {"bps_max": 0}, {"bps": 5}),
        ({"bps": 5, "bps_max": 9, "bps_max_length": 3}, {"bps_max": 8}, {"bps": 5, "bps_max": 8, "bps_max_length": 3}),
        ({"iops": 5, "iops_size": 512}, {"iops": 0}, {}),
        ({"iops": 5}, {"iops_max": 9}, {"iops": 5, "iops_max": 9, "iops_max_length": 1}),
    ],
)
def test_what_is_not_named_stays(have: dict[str, int], named: dict[str, Any], after: dict[str, int]) -> None:
    assert set_to(have, **named) == after


@pytest.mark.parametrize(
    ("have", "named", "words"),
    [
        ({"bps": 5}, {"bps_rd": 6}, "bps is 5 and bps_rd is 6"),
        ({"iops_wr": 5}, {"iops": 6}, "iops is 6 and iops_wr is 5"),
        ({}, {"bps_max": 6}, "needs a limit bps"),
        ({"bps": 7}, {"bps_max": 6}, "6 is lower than bps (7)"),
        ({"bps": 7}, {"bps_max_length": 2}, "needs bps_max"),
        ({"bps": 7, "bps_max": 9}, {"bps": 0, "bps_max": 9}, "needs a limit bps"),
        ({"bps": 7}, {"iops_size": 2}, "a limit of operations"),
        ({}, {"bps_max_length": 0}, "0 is not between 1"),
        ({}, {"bps": -1}, "can't be negative"),
        ({}, {"bps": 10**15 + 1}, "is not between 0"),
        ({"bps": 1}, {"bps_max": 10**15, "bps_max_length": 2}, "2 seconds at"),
    ],
)
def test_what_qemu_does_not_take_is_foretold(have: dict[str, int], named: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal) as refusal:
        set_to(have, **named)
    assert str(refusal.value).startswith("limits: ") and words in str(refusal.value)
