# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts: queries, filters, sizes, errors, addresses, deadlines; and what importing costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import address, errors, session
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline, Limit
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event, EventFilter, make_event
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.queries import is_query
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size, parse_bool, parse_int


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("query-status", None),
        ("qom-get", {"path": "/", "property": "type"}),
        ("device-list-properties", {"typename": "virtio-net-pci"}),
        ("x-debug-query-block-graph", None),
        ("human-monitor-command", {"command-line": "info network"}),
        ("human-monitor-command", {"command-line": "info qtree -b", "cpu-index": 0}),
        ("human-monitor-command", {"command-line": "xp /4096gx 0xb8000"}),
    ],
)
def test_is_query(name: str, arguments: Any) -> None:
    assert is_query(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("stop", None),
        ("qom-set", {}),
        ("querystatus", None),
        ("migrate", None),
        ("human-monitor-command", None),
        ("human-monitor-command", {}),
        ("human-monitor-command", {"command-line": "stop"}),
        ("human-monitor-command", {"command-line": "info network\nstop"}),
        ("human-monitor-command", {"command-line": "info network\n"}),
        ("human-monitor-command", {"command-line": "info network; stop"}),
        ("human-monitor-command", {"command-line": "information"}),
        ("human-monitor-command", {"command-line": "xp /4096gx 0xb80000"}),
        ("human-monitor-command", {"command-line": "xp /1gx 0xfee00000"}),
        ("human-monitor-command", {"command-line": ["info"]}),
        ("human-monitor-command", {"command-line": "info status", "more": 1}),
        (None, None),
        ("device_add", {"command-line": "info"}),
    ],
)
def test_is_no_query(name: Any, arguments: Any) -> None:
    assert not is_query(name, arguments)


def test_filter() -> None:
    event = Event("E", {"name": "n", "node-name": "x", "one": 1, "true": True}, None)
    assert EventFilter("E")(event)
    assert EventFilter("E", name="n", one=1, **{"node-name": "x", "true": True})(event)
    assert not EventFilter("F")(event)
    assert not EventFilter("E", one=2)(event)
    assert not EventFilter("E", one=True)(event)
    assert not EventFilter("E", absent=None)(event)
    assert repr(EventFilter("E", a="b")) == "EventFilter('E', a='b')"


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ({"seconds": 5, "microseconds": 250000}, 5.25),
        ({"seconds": -1, "microseconds": -1}, None),
        ({"seconds": 7}, 7),
        ({"seconds": "x"}, None),
        (None, None),
        (5, None),
    ],
)
def test_time_stamps(stamp: Any, seconds: Any) -> None:
    assert make_event({"event": "E", "data": None, "timestamp": stamp}) == ("E", {}, seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 << 30),
        ("512M", 512 << 20),
        ("64k", 65536),
        ("1.5g", 3 << 29),
        ("0x1000", 4096),
        (7, 7),
        ("7", 7),
        ("1 TiB", 1 << 40),
        ("010", 10),
    ],
)
def test_human_size(text: Any, size: int) -> None:
    assert human_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "2X", "-1", -1, True, None, [], "1.0001k", float("inf"), 1.5, "1e3"])
def test_no_size(text: Any) -> None:
    with pytest.raises(ValueError):
        human_size(text)


def test_ints_and_bools() -> None:
    assert [parse_int(value) for value in (8, 8.0, "8", "0x5", "-1", " 010 ")] == [8, 8, 8, 5, -1, 10]
    assert [parse_bool(value) for value in (True, "on", "YES", "true", "off", "No", False)] == [True] * 4 + [False] * 3
    for value in ("maybe", 1, 0, None, ""):
        with pytest.raises(ValueError):
            parse_bool(value)


def test_error_texts() -> None:
    error = errors.command_error("device_add", {"class": "GenericError", "desc": "Duplicate device ID 'd0'"})
    assert str(error) == "device_add failed: Duplicate device ID 'd0' (GenericError)"
    assert "unknown" in str(errors.Disconnected("gone", "quit", True))
    assert "was not run" in str(errors.Disconnected("gone", "quit", False))
    text = str(errors.CommandTimeout("device_del", "event", 5.0))
    assert all(word in text for word in ("device_del", "5 s", "event"))
    for name in (
        "ConnectError",
        "ProtocolError",
        "CommandError",
        "CommandTimeout",
        "Cancelled",
        "Disconnected",
        "ReadOnly",
    ):
        assert issubclass(getattr(errors, name), errors.QMPError)
    assert issubclass(errors.MonitorBusy, errors.ConnectError)


@pytest.mark.parametrize(
    ("text", "path", "host", "port"),
    [
        ("/run/vm.qmp", "/run/vm.qmp", "", 0),
        ("unix:/run/vm.qmp", "/run/vm.qmp", "", 0),
        ("unix:relative", "relative", "", 0),
        ("unix:@name", "@name", "", 0),
        ("host:4444", None, "host", 4444),
        ("tcp:10.0.0.1:4444", None, "10.0.0.1", 4444),
        ("[::1]:4444", None, "::1", 4444),
        ("tcp:[fe80::1%eth0]:1", None, "fe80::1%eth0", 1),
    ],
)
def test_addresses(text: str, path: Any, host: str, port: int) -> None:
    found = address.parse(text)
    assert (found.path, found.host, found.port, str(found)) == (path, host, port, text)


def test_deadlines() -> None:
    assert Deadline().remaining() is None
    assert not Deadline().expired
    assert Deadline(0).expired
    assert 0 < Limit(5, Deadline(50), 60).seconds <= 5
    assert 0 < Limit(50, Deadline(5), 60).seconds <= 5
    assert 50 < Limit(None, None, 60).seconds <= 60.001  # a float of a large clock
    assert Limit(None, Deadline(), 60).end is None
    deadline = Deadline(5)
    woken = threading.Event()
    deadline.attach(1, woken.set)
    deadline.cancel()
    assert woken.is_set()
    assert deadline.cancelled


def test_import_is_light() -> None:
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; from ansible_collections.vmm.qemu.plugins.module_utils._qmp import session;"
        "print(*sys.modules)"
    )
    root = next(parent for parent in Path(session.__file__).parents if parent.name == "ansible_collections").parent
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(root)], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {
        "asyncio",
        "dataclasses",
        "typing",
        "ssl",
        "tempfile",
        "subprocess",
        "uuid",
        "inspect",
        "logging",
        "random",
        "ansible",
    }
    assert not heavy & set(loaded)
