# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which command takes a picture of which screen, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._operations.screendump import SCREENDUMP, Current

HERE = Current(devices=["gpu0", "vga0"])
FAR = Current(local=False)
OLD = Current(has_format=False)


def plan(current: Current, **options: Any) -> Plan:
    params = {"path": "/s.png", "format": "png", "device": None, "head": None, **options}
    return SCREENDUMP.plan(current, SCREENDUMP.check(params))


@pytest.mark.parametrize(
    ("current", "options", "arguments"),
    [
        (HERE, {}, {"filename": "/s.png.part", "format": "png"}),
        (HERE, {"format": "ppm"}, {"filename": "/s.png.part"}),
        (
            HERE,
            {"device": "gpu0", "head": 1},
            {"filename": "/s.png.part", "device": "gpu0", "head": 1, "format": "png"},
        ),
        (FAR, {}, {"filename": "/s.png", "format": "png"}),
    ],
)
def test_the_command(current: Current, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert plan(current, **options).commands == [{"execute": "screendump", "arguments": arguments}]


@pytest.mark.parametrize(
    ("current", "options", "words"),
    [
        (HERE, {"device": "gpu1"}, "did you mean 'gpu0'"),
        (HERE, {"head": 1}, "name the device"),
        (HERE, {"head": -1, "device": "gpu0"}, "less than 0"),
        (HERE, {"path": "s.png"}, "not an absolute path"),
        (OLD, {}, "set format=ppm"),
    ],
)
def test_what_is_refused(current: Current, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(current, **options)


def test_the_diff_tells_what_was_there() -> None:
    assert plan(HERE).before == {"path": "/s.png", "state": "absent"}
    assert plan(HERE._replace(sha256="ab")).before == {"path": "/s.png", "state": "present", "sha256": "ab"}
    assert plan(FAR).before == {"path": "/s.png", "state": "unknown"}
    assert plan(HERE).after["state"] == "present"
