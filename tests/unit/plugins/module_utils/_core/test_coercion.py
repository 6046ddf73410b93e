# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as YAML has them, against values as QEMU has them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmm.qemu.plugins.module_utils._core import coercion
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import flatten, nest

scalars = st.booleans() | st.integers(-(2**63), 2**63) | st.text("abcxyz0189-_:./", max_size=20)


@pytest.mark.parametrize(
    ("value", "kind", "want"),
    [
        ("on", "bool", True),
        (False, "bool", False),
        ("no", "bool", False),
        ("8", "uint32", 8),
        ("0x5", "uint16", 5),
        ("4k", "size", 4096),
        (-1, "int32", -1),
        (True, "OnOffAuto", "on"),
        (123, "str", "123"),
        (56, "str", "56"),
        ([1, 2], "list<uint32>", [1, 2]),
    ],
)
def test_coerced(value: Any, kind: str, want: Any) -> None:
    have = coercion.coerce(value, kind)
    assert have == want and type(have) is type(want)


INFINITE = [float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("maybe", "bool"),
        ("many", "uint32"),
        ("", "size"),
        (2, "bool"),
        (None, "str"),
        *((number, kind) for number in INFINITE for kind in ("uint32", "size", "bool")),
    ],
)
def test_not_coerced(value: Any, kind: str) -> None:
    with pytest.raises(ValueError):
        coercion.coerce(value, kind)


@given(scalars, st.sampled_from(["bool", "uint32", "int64", "size", "str", "OnOffAuto"]))
def test_coercing_twice_is_coercing_once(value: Any, kind: str) -> None:
    try:
        once = coercion.coerce(value, kind)
    except ValueError:
        return
    assert coercion.coerce(once, kind) == once


@given(scalars, st.sampled_from(["bool", "uint32", "int64", "size", "str", "OnOffAuto"]))
def test_what_was_coerced_reads_back_as_the_same(value: Any, kind: str) -> None:
    """The rule that idempotence stands on: what was sent, read back as it is, equals what the user wrote."""
    try:
        sent = coercion.coerce(value, kind)
    except ValueError:
        return
    assert coercion.same(sent, value)


@pytest.mark.parametrize(
    ("have", "want", "equal"),
    [
        ("/objects/io0", "io0", True),
        ("/objects/io0", "io1", False),
        ("on", "auto", True),
        ("52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", True),
        ("52:54:00:ab:cd:ef", "52-54-00-AB-CD-EE", False),
        ("serial", "SERIAL", False),
        (True, "yes", True),
        (True, "maybe", False),
        (4096, "4k", True),
        (4096, "4M", False),
        ("abc", "xyz", False),
        ({"a": 1}, {"a": 1}, True),
    ],
)
def test_same(have: Any, want: Any, equal: bool) -> None:
    assert coercion.same(have, want) is equal


keys = st.text("abc_-", min_size=1, max_size=4)
trees = st.recursive(scalars, lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=8)


@given(st.dictionaries(keys, trees, max_size=4))
def test_nesting_undoes_flattening(tree: dict[str, Any]) -> None:
    assert nest(flatten(tree)) == tree
