# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How what was asked for is compared with what there is."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Change, Kind


class Address(Kind):
    alternatives = [[["path"], ["host", "port"]]]


TCP = {"host": "127.0.0.1", "port": 5555}
TABLE: list[tuple[str, dict[str, Any], dict[str, Any], list[Change], list[str]]] = [
    ("the same", {"path": "/a"}, {"path": "/a"}, [], []),
    ("another value", {"path": "/a"}, {"path": "/b"}, [Change("path", "/a", "/b")], []),
    ("another way", TCP, {"path": "/b"}, [Change("path", TCP, "/b")], []),
    (
        "another way of two options",
        {"path": "/a"},
        TCP,
        [Change("host", {"path": "/a"}, "127.0.0.1"), Change("port", {"path": "/a"}, 5555)],
        [],
    ),
    ("half of the same way is not told", {"host": "127.0.0.1"}, TCP, [], ["port"]),
    ("nothing is told", {}, TCP, [], ["host", "port"]),
    ("what has no alternatives is not told", {"path": "/a"}, {"server": True}, [], ["server"]),
    ("who it is, is no difference", {}, {"id": "c0"}, [], []),
]


@pytest.mark.parametrize(
    ("have", "want", "changes", "untold"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_one_thing_said_in_another_way_differs(
    have: dict[str, Any], want: dict[str, Any], changes: list[Change], untold: list[str]
) -> None:
    assert Address().compare(have, want) == (changes, untold)
