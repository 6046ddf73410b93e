# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes to messages, whatever the cuts; messages to bytes, only if they are JSON."""

from __future__ import annotations

import json
import random
import time

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.wire import Reader, encode_command

MESSAGES = [
    {"a": 'x"{}[]\\', "b": [{"c": "\\\\"}, [], {"é": '€"'}]},
    {},
    {"event": "X", "data": {"x": ["]", "\\]"]}},
    {"s": "\\" * 7 + '"' * 3},
]


def items(data: bytes, size: int, limit: int = 1 << 20) -> list:
    reader = Reader(limit)
    for start in range(0, len(data), size):
        reader.inbox.append(data[start : start + size])
        reader.parse()
    return list(reader.items)


@pytest.mark.parametrize("indent", [None, 0, 4])
@pytest.mark.parametrize("end", ["", "\r\n", "\n", "\r\n\r\n", " "])
@pytest.mark.parametrize("ascii", [True, False])
def test_any_cut(indent: int | None, end: str, ascii: bool) -> None:
    data = "".join(json.dumps(m, indent=indent, ensure_ascii=ascii) + end for m in MESSAGES).encode()
    for size in (1, 2, 3, 7, 20, 64, len(data)):
        assert items(data, size) == MESSAGES, size
    chance = random.Random(7)
    for _turn in range(50):
        reader, pos = Reader(1 << 20), 0
        while pos < len(data):
            size = chance.randint(1, 40)
            reader.inbox.append(data[pos : pos + size])
            pos += size
            if chance.random() < 0.7:
                reader.parse()
        reader.inbox.append(b"")
        reader.parse()
        assert list(reader.items) == [*MESSAGES, None]


def test_a_message_is_there_before_the_next_begins() -> None:
    assert items(b'{"return": {}}', 100) == [{"return": {}}]
    assert items(b'{"return": {}}{"ev', 100) == [{"return": {}}]


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "HMP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"[1, 2]\r\n", "not QMP"),
        (b"5\n", "not QMP"),
        (b'{"a": nonsense}\r\n', "broken JSON"),
        (b'{"a": "\xff\xfe"}\r\n', "broken JSON"),
        (b'{"a": 1]\r\n', "broken JSON"),
        (b'{"a": "line\nbreak"}\n', "broken JSON"),
        (b"\xff{}", "not QMP"),
    ],
)
def test_garbage_is_named(data: bytes, seen: str) -> None:
    for size in (1, len(data)):
        problem = next(item for item in items(data, size) if isinstance(item, errors.ProtocolError))
    assert seen in str(problem)


def test_what_came_before_the_garbage_counts() -> None:
    good, problem = items(b'{"return": 1}\r\nBOOM\r\n', 100)
    assert good == {"return": 1}
    assert isinstance(problem, errors.ProtocolError)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    depth = 200_000
    (problem,) = items(b'{"a":' + b"[" * depth + b"]" * depth + b"}\n", 65536)
    assert isinstance(problem, errors.ProtocolError)


@pytest.mark.parametrize("size", [10, 300, 5000])
def test_limit(size: int) -> None:
    message = b'{"return": "' + b"x" * 1000 + b'"}\r\n'
    assert items(message * 3, size, limit=1100) == [{"return": "x" * 1000}] * 3
    found = items(message, size, limit=900)
    assert isinstance(found[0], errors.ProtocolError)
    assert "max_reply" in str(found[0])


def test_byte_by_byte_is_linear() -> None:
    def cost(count: int) -> float:
        data = json.dumps({"return": [{"n": i} for i in range(count)]}, indent=1).encode()
        best = 1e9
        for _turn in range(3):
            start = time.process_time()
            assert len(items(data, 1, 1 << 30)) == 1
            best = min(best, time.process_time() - start)
        return best / len(data)

    assert cost(8000) < 5 * cost(800)


def test_encode() -> None:
    assert encode_command("stop", None, "i1") == b'{"execute":"stop","id":"i1"}\n'
    assert encode_command("stop", {}, "i1") == b'{"execute":"stop","id":"i1"}\n'
    data = encode_command("x", {"a": [1, None, "é"], "b": {"c": 1 << 60}}, "i2", oob=True)
    assert json.loads(data) == {"exec-oob": "x", "arguments": {"a": [1, None, "é"], "b": {"c": 1 << 60}}, "id": "i2"}


def itself() -> dict:
    value: dict = {}
    value["me"] = [value]
    return value


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": object()},
        {"a": {1: 2}},
        {"a": "\ud800"},
        [1],
        "text",
        5,
    ],
)
def test_not_json(arguments: object) -> None:
    with pytest.raises(errors.InvalidCommand):
        encode_command("x", arguments, "i")


def test_arguments_that_contain_themselves() -> None:
    with pytest.raises(errors.InvalidCommand):
        encode_command("x", itself(), "i")


@pytest.mark.parametrize("name", ["", None, 5])
def test_bad_name(name: object) -> None:
    with pytest.raises(errors.InvalidCommand):
        encode_command(name, None, "i")  # type: ignore[arg-type]
