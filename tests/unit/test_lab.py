# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab waits for when a task is gone: the devices that the guest may still give back; and what it lets pass."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.crossing import Crossing
from support.cutter import Cutter
from support.documents import Wish
from support.lab import asked_for
from support.state import State

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


def test_what_one_connection_left_half_said_is_not_joined_to_what_the_next_one_says(tmp_path: Path) -> None:
    connect = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":"y1"}\n'
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(f"{tmp_path}/q")
        qemu.listen()
        cutter = Cutter(f"{tmp_path}/q", DEL.index(b"m0"), cut=True)
        with cutter:
            for said, heard in ((DEL, DEL[: DEL.index(b"m0")]), (connect, connect)):
                with socket.socket(socket.AF_UNIX) as task:
                    task.connect(cutter.address)
                    task.sendall(said)
                    assert qemu.accept()[0].recv(1 << 16) == heard
            assert asked_for(cutter.heard) == set()


def nodes(size: int) -> State:
    """A filter on a node, which has its size, and another filter."""
    files = {"disk": "#", "filter": "disk", "other": "#"}
    return {
        ("blockdev", name): {"size": 1 if name == "other" else size, "below": {"file": below}}
        for name, below in files.items()
    }


@pytest.mark.parametrize(("told", "right"), [("disk", True), ("other", False)])
def test_a_disk_that_has_grown_is_told_and_what_stands_on_it_has_its_size(told: str, right: bool) -> None:
    wish = Wish({}, {}, frozenset(), frozenset(), {}, frozenset())
    try:
        wish.verify_undone(nodes(1), nodes(2), [f"block_resize {told}"])
    except AssertionError:
        assert not right
    else:
        assert right


@pytest.mark.parametrize(
    "told",
    [
        "where it is gone, qemu_command with migrate_cancel stops it here",
        "qemu_power with state=running continues it here",
        "qemu_power with state=running and force=true continues it here",
        "run the task again",
    ],
)
def test_what_a_message_says_is_done_with_options_that_the_module_has(tmp_path: Path, told: str) -> None:
    crossing: Any = Crossing.__new__(Crossing)
    crossing.source, crossing.there = f"{tmp_path}/nobody", SimpleNamespace(alive=False)
    crossing._named, crossing._uri = False, "tcp:127.0.0.1:1"
    assert "is the virtual machine running?" in crossing._obey(told)["msg"]
