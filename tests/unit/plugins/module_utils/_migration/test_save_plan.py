# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qemu_save does by where the guest and the file are: nothing, all, the rest of what an earlier task began, or refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._host import saved_file
from ansible_collections.vmm.qemu.plugins.module_utils._host.saved_file import Header
from ansible_collections.vmm.qemu.plugins.module_utils._migration.current import Current as Migration
from ansible_collections.vmm.qemu.plugins.module_utils._migration.save import SAVE
from ansible_collections.vmm.qemu.plugins.module_utils._migration.save_current import Current, Handed

GUEST = {"name": "vm1", "uuid": "0", "machine": "pc", "memory": 1}
HEADER = Header(**GUEST, running=True, channels=0, writer="me", size=9)  # type: ignore[arg-type]
THEIRS = HEADER._replace(writer="them", loader="them")
LOADED = HEADER._replace(loader="me")


def at(run_state: str, status: str = "none", **more: Any) -> Current:
    migration = {} if status == "none" else {"status": status, "total-time": 1}
    now = Migration(migration, run_state, run_state == "running")
    return Current(now, "me", Handed(), None, None, None, GUEST, size=9)._replace(**more)


def plan(current: Current, state: str) -> Plan:
    params = {"path": "/d/vm", "state": state, "parallel": None, "socket": "/q"}
    return SAVE.plan(current, SAVE.check(params))


def deeds(current: Current, state: str) -> str:
    commands = plan(current, state).commands
    return " ".join(command.get("execute") or command["action"] for command in commands)


ALL = "stop migrate-incoming mv cont rm"


@pytest.mark.parametrize(
    ("current", "state", "what"),
    [
        (at("running"), "saved", "migrate mv quit"),
        (at("running", part=THEIRS), "saved", "migrate mv quit"),
        (at("running", "failed", part=HEADER), "saved", "migrate mv quit"),
        (at("running", "active", part=HEADER), "saved", "mv quit"),
        (at("postmigrate", "completed", part=HEADER, ended=True), "saved", "mv quit"),
        (at("postmigrate", "completed", whole=HEADER), "saved", "quit"),
        (at("inmigrate", whole=THEIRS), "saved", ""),
        (at("inmigrate", whole=THEIRS), "running", ALL),
        (at("inmigrate", whole=THEIRS._replace(running=False)), "running", "stop migrate-incoming mv rm"),
        (at("inmigrate", "active", whole=LOADED), "running", "mv cont rm"),
        (at("paused", "completed", whole=LOADED), "running", "mv cont rm"),
        (at("running", "completed", whole=LOADED), "running", "mv rm"),
        (at("paused", "completed", loaded=LOADED), "running", "cont rm"),
        (at("running", "completed", loaded=LOADED), "running", "rm"),
        (at("running"), "running", ""),
        (at("running", part=THEIRS, whole=THEIRS, loaded=THEIRS), "absent", "rm rm rm"),
        (at("running"), "absent", ""),
    ],
)
def test_what_is_done(current: Current, state: str, what: str) -> None:
    assert deeds(current, state) == what


@pytest.mark.parametrize(
    ("current", "state", "words"),
    [
        (at("running", whole=THEIRS), "saved", "has a guest already"),
        (at("postmigrate", "completed", whole=THEIRS), "saved", "has a guest already"),
        (at("running", whole=HEADER), "saved", "has a guest already"),
        (at("running", "active"), "saved", "is under way"),
        (at("running", "active", part=THEIRS), "saved", "is under way"),
        (at("postmigrate", "completed", part=HEADER), "saved", "no guest that could be saved"),
        (at("postmigrate", "completed", part=THEIRS, ended=True), "saved", "no guest that could be saved"),
        (at("shutdown"), "saved", "its status is shutdown"),
        (at("running", whole=THEIRS), "running", "not from there"),
        (at("paused", whole=THEIRS), "running", "not from there"),
        (at("postmigrate", "completed", whole=HEADER), "running", "not from there"),
        (at("inmigrate"), "running", "there is no saved guest"),
        (at("inmigrate", loaded=THEIRS), "running", "has been loaded before"),
        (at("inmigrate", "active", whole=THEIRS), "running", "from elsewhere"),
        (at("inmigrate", whole=THEIRS._replace(size=0)), "running", "is not whole"),
        (at("inmigrate", whole=THEIRS._replace(size=10)), "running", "is not whole"),
        (at("inmigrate", whole=THEIRS._replace(machine="q35")), "running", "its machine is q35"),
        (at("inmigrate", whole=THEIRS._replace(disks={"/i": [1, 2, 3]})), "running", "/i is not in both"),
        (at("inmigrate", whole=THEIRS, disks={"/i": [1, 2, 3]}), "running", "/i is not in both"),
        (at("inmigrate", whole=THEIRS._replace(channels=2)), "running", "in parallel"),
        (at("prelaunch"), "running", "is prelaunch"),
        (at("running", "active", part=HEADER), "absent", "is being saved"),
    ],
)
def test_what_is_refused(current: Current, state: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(current, state)


@pytest.mark.parametrize(("length", "whole"), [(None, True), (3, False), (1 << 20, False)])
def test_the_end_of_a_stream(tmp_path: Path, length: int | None, whole: bool) -> None:
    path, description = tmp_path / "vm", json.dumps({"devices": [6] * 500}).encode()
    stream = b"\x06\x00pages\x06" + b"\x06" + (length or len(description)).to_bytes(4, "big") + description
    path.write_bytes(bytes(saved_file.LENGTH) + stream)
    path.chmod(0o600)
    assert saved_file.has_end(str(path)) == whole
    path.write_bytes(path.read_bytes()[:-1])
    assert not saved_file.has_end(str(path))
