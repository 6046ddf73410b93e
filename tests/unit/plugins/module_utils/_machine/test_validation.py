# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has been validated on the controller is not validated again on its host, and is what the host would make of it."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._machine.document import prepared, validated
from ansible_collections.vmm.qemu.plugins.module_utils._machine.validation import Validator

DOCUMENT: dict[str, Any] = {
    "disks": [
        {"id": "d0", "filename": "/d0", "size": 5, "lun": "3", "cache": {"direct": "yes"}, "options": {"x": None}}
    ],
    "nics": [{"id": "n0", "netdev": {"type": "user"}, "bus": "rp0", "state": "absent"}],
    "objects": [{"id": "o0", "qom_type": "iothread"}],
    "chardevs": [{"id": "c0", "type": "socket", "path": "/c0", "server": True}],
    "memory": [{"id": "m0", "size": "1G", "mem_path": "$HOME/huge"}, {"id": "m1", "size": "1G"}],
    "vcpus": 3,
    "balloon": None,
}


def test_a_document_that_has_been_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    once = validated(DOCUMENT)
    ready = {**DOCUMENT, **prepared(DOCUMENT)}
    assert ready["memory"][0] == DOCUMENT["memory"][0], "a path is the host's"
    assert {**ready, "memory": once["memory"]} == once
    ready["memory"] = ready["memory"][1:]
    monkeypatch.setitem(sys.modules, "ansible.module_utils.common.arg_spec", None)
    assert validated(ready) == {**once, "memory": once["memory"][1:]}


@pytest.mark.parametrize(
    ("name", "entry", "has_path"),
    [
        ("nics", {"id": "n", "netdev": {"type": "tap", "fds": ["$HOME/tap"]}}, True),
        ("nics", {"id": "n", "netdev": '{"type": "tap", "vhostfds": ["$HOME/vhost"]}'}, True),
        ("netdevs", {"id": "n", "type": "tap", "fds": "$HOME/tap"}, True),
        ("memory", {"id": "m", "size": "1G", "numa_node": True}, False),
    ],
)
def test_a_host_makes_the_same_of_what_was_made_ready(name: str, entry: dict[str, Any], has_path: bool) -> None:
    ready = prepared({name: [entry]})
    assert (ready[name][0] == entry) == has_path
    assert validated(ready) == validated({name: [entry]})


def test_options_within_what_is_not_a_dictionary() -> None:
    wrong = {"blockdevs": [{"node_name": "n", "filename": "/x", "cache": True}]}
    with pytest.raises(Refusal, match=r"n: argument 'cache' is of type .*bool.* and we were unable to convert to dict"):
        validated(prepared(wrong))


def test_what_is_wrong_is_left_to_the_host() -> None:
    wrong = {**DOCUMENT, "objects": [{"id": "o0", "no_such": 1}]}
    assert prepared(wrong) == {}
    with pytest.raises(Refusal, match="no_such"):
        validated(wrong)


OPTIONS = {
    "text": Option("str", choices=["a", "b"]),
    "number": Option("int"),
    "list": Option("list", elements="int"),
    "path": Option("path"),
    "with": Option("dict", options={"flag": Option("bool", default=True)}),
    "needed": Option("str", required=True),
}
WHOLE: dict[str, Any] = {"text": "a", "number": 1, "list": [1], "path": None, "with": {"flag": False}, "needed": "x"}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "c"},
        {"text": 1},
        {"number": "1"},
        {"list": ["1"]},
        {"list": [None]},
        {"list": "1"},
        {"path": "/x"},
        {"with": {"flag": None}},
        {"with": {"other": 1}},
        {"needed": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_ansible_has_to_look_at(other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ansible.module_utils.common.arg_spec", None)
    assert Validator(OPTIONS).validate("x", WHOLE) == WHOLE
    with pytest.raises(ImportError):
        Validator(OPTIONS).validate("x", {**WHOLE, **other})
    with pytest.raises(ImportError):
        Validator(OPTIONS).validate("x", {key: value for key, value in WHOLE.items() if key != "needed"})


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 2) | st.sampled_from(["a", "b", "1", "yes", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["flag", "x"]), inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from([*OPTIONS, "unknown"]), _VALUES, max_size=4))
@settings(max_examples=500, deadline=None)
def test_the_shorter_way_leads_to_the_same(some: dict[str, Any]) -> None:
    """Of options that are all there, or some of them, of any type.

    But for null where there are choices: Ansible completes a dictionary with it, and would refuse that.
    """
    text = {"text": "a"} if some.get("text") is None else {}
    for written in (some, {**WHOLE, **some, **text}, {"needed": "x", **some}):
        as_it_was = copy.deepcopy(written)
        told = [_told(Validator(OPTIONS), written), _told(Validator(OPTIONS, mutually_exclusive=[]), written)]
        assert told[0] == told[1]
        assert repr(told[0]) == repr({key: told[1][key] for key in told[0]}), "of the same types"
        assert written == as_it_was


def _told(validator: Validator, written: dict[str, Any]) -> dict[str, Any]:
    try:
        return validator.validate("x", written)
    except Refusal as exc:
        return {"refused": str(exc)}
