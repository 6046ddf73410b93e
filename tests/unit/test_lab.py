# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab waits for when a task is gone: the devices that the guest may still give back."""

from __future__ import annotations

import pytest

from support.lab import asked_for

ADD = b'{"execute":"device_add","arguments":{"driver":"pc-dimm","id":"m0","slot":0},"id":"x2"}\n'
DEL = b'{"execute":"device_del","arguments":{"id":"m0"},"id":"x1"}\n'
CONNECT = b'{"execute":"qmp_capabilities","id":"y1"}\n'


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        (DEL, {"m0"}),
        (DEL[:-1] + CONNECT, {"m0"}),  # cut off behind the command, before its end of line
        (DEL[:-2] + CONNECT, set()),
        (DEL + DEL + ADD, set()),
        (DEL + ADD + CONNECT + DEL, {"m0"}),  # what was plugged again is taken back
    ],
)
def test_a_device_that_was_asked_for_last_may_still_go(sent: bytes, asked: set[str]) -> None:
    assert asked_for(sent) == asked
