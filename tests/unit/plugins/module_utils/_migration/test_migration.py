# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two sides of a migration are taken to say."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._migration.current import (
    Current,
    has_guest,
    leaving,
    look,
    where_guest_is,
)
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import check_uri
from ansible_collections.vmm.qemu.plugins.module_utils._migration.source import MIGRATE, _inherited
from support.stub import stub_vm

OUT = {"status": "completed", "total-time": 704}


@pytest.mark.parametrize(
    ("status", "run_state", "may_have_left"),
    [
        ("setup", "running", False),
        ("active", "running", False),
        ("active", "paused", False),
        ("active", "finish-migrate", True),  # before QEMU 10.0
        ("device", "finish-migrate", True),
        ("device", "running", True),
        ("cancelling", "running", False),
        ("cancelling", "finish-migrate", True),
        ("pre-switchover", "finish-migrate", False),  # stopped, and goes on only when it is told to
        ("failed", "running", False),
        ("none", "running", False),
    ],
)
def test_the_last_phase_is_told_by_status_and_run_state(status: str, run_state: str, may_have_left: bool) -> None:
    assert leaving(status, run_state) is may_have_left


@pytest.mark.parametrize(
    ("state", "found", "there"),
    [
        ("running", {"status": "completed"}, True),
        ("paused", {"status": "completed"}, True),
        ("prelaunch", {"status": "completed"}, True),  # a guest that was never started, or was reset
        ("inmigrate", {"status": "completed"}, False),
        ("running", {"status": "active"}, False),
        ("running", {}, False),
        ("prelaunch", {}, False),
        ("postmigrate", OUT, False),
        ("prelaunch", OUT, False),  # sent its guest away, and was reset
        ("running", OUT, False),
    ],
)
def test_a_destination_has_the_guest_that_came_and_has_not_left(state: str, found: dict[str, Any], there: bool) -> None:
    assert has_guest(state, found) is there


@pytest.mark.parametrize("uri", ["exec:cat > /x", "file:/x", "fd:x"])
def test_a_source_is_not_promised_an_end_that_nothing_can_prove(uri: str) -> None:
    params = {
        "state": "migrated",
        "uri": uri,
        "source_after": "quit",
        "wait": True,
        "postcopy_after": None,
        "socket": "/a",
    }
    with pytest.raises(Refusal, match="no way back"):
        MIGRATE.check({**params, "destination_socket": None})
    MIGRATE.check({**params, "destination_socket": "/b"})
    MIGRATE.check({**params, "source_after": "leave", "destination_socket": None})


@pytest.mark.parametrize(
    ("found", "run_state", "guest"),
    [
        ({}, "running", "here"),
        ({}, "inmigrate", "unknown"),
        ({"status": "completed"}, "running", "here"),  # it came from elsewhere
        (OUT, "postmigrate", "left"),
        (OUT, "running", "unknown"),  # continued by somebody
        ({"status": "failed"}, "running", "unknown"),  # QEMU lets it go on, whatever the destination does
        ({"status": "cancelled"}, "running", "unknown"),
        ({"status": "active"}, "running", "unknown"),
    ],
)
def test_where_the_guest_is_before_anything_was_done(found: dict[str, Any], run_state: str, guest: str) -> None:
    assert where_guest_is(Current(found, run_state, run_state == "running")) == guest


def test_what_has_just_ended_is_looked_at_again_until_the_run_state_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vm, qemu = stub_vm()
    status = ""
    seen = iter([("finish-migrate", "active"), ("finish-migrate", "completed"), ("postmigrate", "completed")])

    def execute(name: str, *_arguments: Any, **_how: Any) -> dict[str, Any]:
        nonlocal status
        if name == "query-migrate":
            return {**OUT, "status": status}
        qemu.status, status = next(seen)
        return {"status": qemu.status, "running": False}

    monkeypatch.setattr(qemu, "execute", execute)
    assert look(vm).leaving, "nothing has ended yet"
    assert where_guest_is(look(vm)) == "left"


@pytest.mark.parametrize(
    ("asked", "on", "destination", "told"),
    [
        (None, ["multifd", "events"], None, "multifd"),
        ({"postcopy_ram": True}, ["multifd", "postcopy-ram"], None, "multifd"),
        ({"multifd": False}, [], None, ""),
        (None, ["auto-converge", "return-path"], None, ""),  # the source's own affair
        (None, ["multifd"], "/run/b.qmp", ""),  # asked itself
    ],
)
def test_what_an_earlier_migration_left_on_is_told(
    asked: dict[str, bool] | None, on: list[str], destination: str | None, told: str
) -> None:
    params = {"capabilities": asked, "destination_socket": destination}
    text = " ".join(_inherited(params, dict.fromkeys(on, True)))
    assert text.startswith(f"capabilities: {told} is on") if told else text == ""


@pytest.mark.parametrize("uri", ["tcp:[::1]:65535", "tcp:host:4444,ipv4=on", "tcp:host:service"])
def test_an_address_is_qemus_to_understand(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:65536", "tcp:[::1]:99999999999,ipv6=on"])
def test_a_port_that_none_is_is_refused_before_anything_is_sent(uri: str) -> None:
    """QEMU would take another one, that of its last 16 bits."""
    with pytest.raises(Refusal, match="not a valid port: the highest is 65535"):
        check_uri(uri)


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_a_path_that_no_socket_can_have_is_refused_before_anything_is_sent(length: int, fits: bool) -> None:
    uri = f"unix:/{'x' * (length - 1)}"
    if fits:
        check_uri(uri)
        return
    with pytest.raises(Refusal, match="longer than the 107 bytes"):
        check_uri(uri)
