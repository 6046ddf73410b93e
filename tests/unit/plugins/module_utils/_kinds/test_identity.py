# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kind gets of its one declaration: which thing is meant, what a removal needs, and what a recreated thing keeps."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Kind


class Bitmap(Kind):
    """Named by two options, with two that can be read and one that can't."""

    name = "bitmap"
    keys = ("node", "name")
    kept_for_removal = ("wait",)
    options = {
        "node": Option("str", required=True),
        "name": Option("str", required=True),
        "disabled": Option("bool"),
        "cache": Option("dict", options={"direct": Option("bool"), "no_flush": Option("bool")}),
        "path": Option("str"),
        "host": Option("str"),
        "wait": Option("bool"),
    }
    alternatives = ((("path",), ("host",)),)


BITMAP = Bitmap()
NAMED: dict[str, Any] = {"node": "n0", "name": "b0"}
VM: Any = None


def test_a_removal_gets_every_key() -> None:
    """With one key declared and another one used, ``state=absent`` died with a KeyError."""
    assert BITMAP.identity({**NAMED, "disabled": True}) == NAMED
    assert BITMAP.identity({**NAMED, "wait": False}) == {**NAMED, "wait": False}
    assert BITMAP.ident(NAMED) == "n0/b0"
    assert BITMAP.thing(NAMED) == ("bitmap", "n0/b0")
    assert BITMAP.compare({}, {**NAMED, "disabled": True}) == ([], ["disabled"]), "a key is no difference"


@pytest.mark.parametrize("key", ["node", "name"])
def test_every_key_is_an_id(key: str) -> None:
    BITMAP.check(NAMED)
    with pytest.raises(Refusal, match=f"{key}: '0'"):
        BITMAP.check({**NAMED, key: "0"})


def test_what_there_is_one_of_is_named_by_its_kind() -> None:
    class Balloon(Kind):
        name = "balloon"
        keys = ()

    assert Balloon().ident({"size": "1G"}) == "balloon"
    assert Balloon().identity({"size": "1G"}) == {}


@pytest.mark.parametrize(
    ("want", "have", "full"),
    [
        ({}, {"disabled": True}, {"disabled": True}),
        ({"disabled": False}, {"disabled": True}, {"disabled": False}),
        ({}, {"busy": True}, {}),
        (
            {"cache": {"direct": False}},
            {"cache.direct": True, "cache.no_flush": True},
            {"cache": {"direct": False, "no_flush": True}},
        ),
        ({"path": "/a"}, {"host": "there"}, {"path": "/a"}),
    ],
    ids=["not named", "named", "not an option", "a part of it named", "named in another way"],
)
def test_a_recreated_thing_keeps_what_was_not_named(
    want: dict[str, Any], have: dict[str, Any], full: dict[str, Any]
) -> None:
    """Unless a kind said so by itself, ``recreate`` enabled a disabled bitmap."""
    assert BITMAP.complete(VM, {**NAMED, **want}, {**NAMED, **have}) == {**NAMED, **full}
