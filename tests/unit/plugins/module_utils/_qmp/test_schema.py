# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature tests and coercion, against a small schema in QEMU's form (type names are masked, as QEMU does)."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.schema import Schema


def member(name: str, kind: str, optional: bool = True, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **({"default": None} if optional else {}), **more}


def entities() -> list[dict[str, Any]]:
    builtins = {"str": "string", "int": "int", "bool": "boolean", "number": "number", "null": "null", "any": "value"}
    return [
        *({"name": name, "meta-type": "builtin", "json-type": kind} for name, kind in builtins.items()),
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "STOP", "meta-type": "event", "arg-type": "0"},
        {"name": "netdev_add", "meta-type": "command", "arg-type": "1", "ret-type": "0", "features": ["x"]},
        {
            "name": "1",
            "meta-type": "object",
            "members": [member("id", "str", False), member("type", "2", False)],
            "tag": "type",
            "variants": [{"case": "user", "type": "3"}, {"case": "stream", "type": "4"}, {"case": "none", "type": "0"}],
        },
        {"name": "2", "meta-type": "enum", "values": ["none", "user", "stream"]},
        {
            "name": "3",
            "meta-type": "object",
            "members": [member("restrict", "bool"), member("hosts", "[5]"), member("mtu", "int")],
        },
        {"name": "[5]", "meta-type": "array", "element-type": "5"},
        {"name": "5", "meta-type": "object", "members": [member("str", "str", False)]},
        {
            "name": "4",
            "meta-type": "object",
            "members": [member("addr", "str", False), member("reconnect", "int", features=["deprecated"])],
        },
        {"name": "blockdev-add", "meta-type": "command", "arg-type": "6", "ret-type": "0"},
        {
            "name": "6",
            "meta-type": "object",
            "members": [
                member("driver", "7", False),
                member("read-only", "bool"),
                member("locking", "8"),
                member("size", "int"),
            ],
            "tag": "driver",
            "variants": [{"case": "file", "type": "9"}, {"case": "qcow2", "type": "10"}],
        },
        {
            "name": "7",
            "meta-type": "enum",
            "members": [{"name": "file"}, {"name": "qcow2", "features": ["y"]}],
            "values": ["file", "qcow2"],
        },
        {"name": "8", "meta-type": "enum", "values": ["on", "off", "auto"]},
        {"name": "9", "meta-type": "object", "members": [member("filename", "str", False)]},
        {
            "name": "10",
            "meta-type": "object",
            "members": [member("file", "11", False), member("backing", "12"), member("ratio", "number")],
        },
        {"name": "11", "meta-type": "alternate", "members": [{"type": "6"}, {"type": "str"}]},
        {"name": "12", "meta-type": "alternate", "members": [{"type": "6"}, {"type": "str"}, {"type": "null"}]},
        {"name": "device_add", "meta-type": "command", "arg-type": "13", "ret-type": "0"},
        {
            "name": "13",
            "meta-type": "object",
            "members": [member("driver", "str", False), member("bus", "str"), member("id", "str")],
        },
        {"name": "object-add", "meta-type": "command", "arg-type": "14", "ret-type": "0"},
        {
            "name": "14",
            "meta-type": "object",
            "members": [member("qom-type", "str", False), member("id", "str", False), member("props", "any")],
        },
        {"name": "caps", "meta-type": "command", "arg-type": "15", "ret-type": "0"},
        {"name": "15", "meta-type": "object", "members": [member("capabilities", "[16]", False)]},
        {"name": "[16]", "meta-type": "array", "element-type": "16"},
        {
            "name": "16",
            "meta-type": "object",
            "members": [member("capability", "17", False), member("state", "bool", False)],
        },
        {"name": "17", "meta-type": "enum", "values": ["events", "return-path"]},
    ]


@pytest.fixture
def schema() -> Schema:
    return Schema(entities())


def test_names(schema: Schema) -> None:
    assert "stop" in schema.commands
    assert schema.events == {"STOP"}
    assert schema.command("STOP") is None
    assert schema.command("netdev_add") is not None


@pytest.mark.parametrize(
    ("path", "there"),
    [
        (["stop"], True),
        (["STOP"], False),
        (["nope"], False),
        (["netdev_add", "id"], True),
        (["netdev_add", "restrict"], False),
        (["netdev_add", "type=user"], True),
        (["netdev_add", "type=user", "restrict"], True),
        (["netdev_add", "type=user", "addr"], False),
        (["netdev_add", "type=tap"], False),
        (["netdev_add", "type", "user"], True),
        (["netdev_add", "type=stream", "reconnect-ms"], False),
        (["blockdev-add", "driver=qcow2", "file", "driver=file", "filename"], True),
        (["blockdev-add", "driver=qcow2", "file", "driver=file", "backing"], False),
        (["caps", "capabilities", "capability", "events"], True),
        (["caps", "capabilities", "capability", "other"], False),
        (["caps", "capabilities", "state", "x"], False),
    ],
)
def test_has(schema: Schema, path: list[str], there: bool) -> None:
    assert schema.has(*path) is there


def test_features_and_members(schema: Schema) -> None:
    assert schema.features("netdev_add") == ["x"]
    assert schema.features("netdev_add", "type=stream", "reconnect") == ["deprecated"]
    assert schema.features("blockdev-add", "driver", "qcow2") == ["y"]
    assert schema.features("nope") == []
    assert schema.members("netdev_add", "type=stream") == ["addr", "id", "reconnect", "type"]
    assert schema.members("netdev_add", "type") == ["none", "stream", "user"]


@pytest.mark.parametrize(
    ("command", "given", "sent"),
    [
        (
            "netdev_add",
            {"type": "user", "id": 5, "restrict": "yes", "mtu": "0x10"},
            {"type": "user", "id": "5", "restrict": True, "mtu": 16},
        ),
        (
            "netdev_add",
            {"type": "user", "id": True, "hosts": [{"str": 1}]},
            {"type": "user", "id": "on", "hosts": [{"str": "1"}]},
        ),
        (
            "blockdev-add",
            {"driver": "file", "filename": "f", "locking": False},
            {"driver": "file", "filename": "f", "locking": "off"},
        ),
        (
            "blockdev-add",
            {"driver": "file", "filename": "f", "size": "2G"},
            {"driver": "file", "filename": "f", "size": 2 << 30},
        ),
        (
            "blockdev-add",
            {"driver": "qcow2", "file": "n", "backing": None},
            {"driver": "qcow2", "file": "n", "backing": None},
        ),
        (
            "blockdev-add",
            {"driver": "qcow2", "file": 5, "ratio": "0.5"},
            {"driver": "qcow2", "file": "5", "ratio": 0.5},
        ),
        (
            "blockdev-add",
            {"driver": "qcow2", "file": {"driver": "file", "filename": 7, "read-only": "on"}},
            {"driver": "qcow2", "file": {"driver": "file", "filename": "7", "read-only": True}},
        ),
        ("device_add", {"driver": "d", "id": 3, "mq": True}, {"driver": "d", "id": "3", "mq": True}),
        ("object-add", {"qom-type": "t", "id": "i", "size": 5}, {"qom-type": "t", "id": "i", "size": 5}),
        ("stop", {}, {}),
    ],
)
def test_coerce(schema: Schema, command: str, given: dict, sent: dict) -> None:
    copy = dict(given)
    done = schema.coerce(command, given)
    assert done == sent
    assert repr(done) == repr({key: sent[key] for key in done})  # True is not 1
    assert given == copy


@pytest.mark.parametrize(
    ("command", "given", "problem"),
    [
        (
            "netdev_add",
            {"type": "user", "id": "n", "foo": 1},
            "netdev_add: 'foo' is not known; type user takes: hosts, id, mtu, restrict, type",
        ),
        ("netdev_add", {"type": "tap", "id": "n"}, "netdev_add: type is 'tap'; accepted: none, stream, user"),
        ("netdev_add", {"type": "stream", "id": "n"}, "netdev_add: 'addr' is missing; type stream needs it"),
        ("netdev_add", {"type": "user"}, "netdev_add: 'id' is missing; type user needs it"),
        (
            "netdev_add",
            {"type": "user", "id": "n", "restrict": "maybe"},
            "netdev_add: restrict is 'maybe'; it wants true or false",
        ),
        ("netdev_add", {"type": "user", "id": "n", "mtu": True}, "netdev_add: mtu is True; it wants a whole number"),
        ("netdev_add", {"type": "user", "id": "n", "hosts": "x"}, "netdev_add: hosts is 'x'; it wants a list"),
        (
            "netdev_add",
            {"type": "user", "id": "n", "hosts": [{}]},
            "netdev_add: 'hosts[0].str' is missing; hosts[0] needs it",
        ),
        ("netdev_add", {"type": "user", "id": ["n"]}, "netdev_add: id is ['n']; it wants a string"),
        (
            "blockdev-add",
            {"driver": "qcow2", "file": {"driver": "file"}},
            "blockdev-add: 'file.filename' is missing; driver file needs it",
        ),
        ("stop", {"x": 1}, "stop: 'x' is not known; the command takes: nothing"),
    ],
)
def test_mismatch(schema: Schema, command: str, given: dict, problem: str) -> None:
    with pytest.raises(errors.SchemaMismatch) as caught:
        schema.coerce(command, given)
    assert problem in caught.value.problems


def test_all_problems_at_once(schema: Schema) -> None:
    with pytest.raises(errors.SchemaMismatch) as caught:
        schema.coerce("netdev_add", {"type": "user", "restrict": 5, "no": 1})
    assert len(caught.value.problems) == 3


def test_unknown_command(schema: Schema) -> None:
    with pytest.raises(errors.CommandNotFound):
        schema.coerce("nope", {})
