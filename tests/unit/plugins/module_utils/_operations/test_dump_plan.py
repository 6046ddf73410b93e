# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a dump is begun, joined, only given its name, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._operations.dump import DUMP, Current

NONE = Current({"status": "none", "completed": 0, "total": 0}, "running", ["elf", "kdump-zlib"])
ACTIVE = NONE._replace(dump={"status": "active", "completed": 5, "total": 9})
DONE = NONE._replace(dump={"status": "completed", "completed": 9, "total": 9})


def plan(current: Current, **options: Any) -> Plan:
    params = {"path": "/d", "format": "elf", "paging": False, "begin": None, "length": None, "force": False, **options}
    return DUMP.plan(current, DUMP.check(params))


@pytest.mark.parametrize(
    ("current", "options", "arguments"),
    [
        (NONE, {}, {"protocol": "file:/d.part", "format": "elf"}),
        (NONE._replace(part="stale"), {}, {"protocol": "file:/d.part", "format": "elf"}),
        (NONE._replace(size=3), {"force": True}, {"protocol": "file:/d.part", "format": "elf"}),
        (NONE._replace(local=False), {}, {"protocol": "file:/d", "format": "elf"}),
        (NONE, {"format": "kdump-zlib"}, {"protocol": "file:/d.part", "format": "kdump-zlib"}),
        (
            NONE,
            {"begin": "1M", "length": "4k"},
            {"protocol": "file:/d.part", "format": "elf", "begin": 1 << 20, "length": 4096},
        ),
    ],
)
def test_what_is_begun(current: Current, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    whole = {"paging": False, "detach": True, **arguments}
    assert plan(current, **options).commands == [{"execute": "dump-guest-memory", "arguments": whole}]


@pytest.mark.parametrize(
    ("current", "warning"),
    [
        (ACTIVE._replace(part="written"), None),
        (ACTIVE._replace(local=False), "does not tell its path"),
        (DONE._replace(part="whole"), "earlier run"),
    ],
)
def test_what_is_joined(current: Current, warning: str | None) -> None:
    joined = plan(current)
    assert (joined.changed, joined.follows, joined.commands) == (True, True, [])
    assert joined.warnings == [] if warning is None else warning in joined.warnings[0]


def test_what_is_there_is_kept() -> None:
    for current in (NONE, ACTIVE, DONE):
        kept = plan(current._replace(size=3))
        assert (kept.changed, kept.follows, kept.commands) == (False, False, [])
        assert kept.before == kept.after == {"path": "/d", "state": "present", "size": 3}


@pytest.mark.parametrize(
    ("current", "options", "words"),
    [
        (ACTIVE, {}, "5 of 9 bytes.*another file"),
        (ACTIVE._replace(part="other"), {}, "another format"),
        (ACTIVE._replace(part="unknown"), {}, "can't be told"),
        (NONE._replace(status="inmigrate"), {}, "incoming migration"),
        (NONE, {"format": "kdump-zlip"}, "did you mean 'kdump-zlib'"),
        (NONE, {"format": "kdump-zlib", "paging": True}, "only format=elf"),
        (NONE, {"begin": 0}, "give the other one"),
        (NONE, {"begin": 0, "length": 0}, "nothing to dump"),
    ],
)
def test_what_is_refused(current: Current, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(current, **options)
