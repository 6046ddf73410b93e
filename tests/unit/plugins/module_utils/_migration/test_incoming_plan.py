# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands qemu_migrate_incoming sends from each state of a destination."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._migration.current import Current
from ansible_collections.vmm.qemu.plugins.module_utils._migration.incoming import INCOMING
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import Settings

HERE = {"type": "inet", "host": "0.0.0.0", "port": "4444"}
BOTH = "migrate-set-capabilities migrate-incoming"


@pytest.mark.parametrize(
    ("migration", "run_state", "uri", "expected", "incoming"),
    [
        ({}, "inmigrate", "tcp:0:4444", BOTH, "deferred"),
        ({}, "inmigrate", "unix:/run/m", BOTH, "deferred"),
        ({}, "inmigrate", "exec:cat /x", BOTH, "deferred"),
        ({"socket-address": [HERE]}, "inmigrate", "tcp:0:4444", "", "listening"),
        ({"socket-address": [HERE], "status": "active"}, "inmigrate", "tcp:0:4444", "", "listening"),
        ({"status": "active"}, "inmigrate", "exec:cat /x", "", "listening"),
        ({"status": "completed"}, "running", "tcp:0:4444", "", "completed"),
        ({"status": "completed"}, "paused", "tcp:0:4444", "", "completed"),
        ({"status": "postcopy-active"}, "running", "tcp:0:4444", "", "completed"),
    ],
)
def test_what_makes_it_listen(
    migration: dict[str, Any], run_state: str, uri: str, expected: str, incoming: str
) -> None:
    have = Settings({"events": False, "return-path": False})
    params = {"uri": uri, "capabilities": None, "parameters": None}
    plan = INCOMING.plan(Current(migration, run_state, False, have), params)
    assert " ".join(step["execute"] for step in plan.commands) == expected
    assert plan.changed is bool(expected) and plan.follows
    assert plan.before == {"incoming": incoming} and (plan.before == plan.after) is not plan.changed
    if expected:
        on = {entry["capability"] for entry in plan.steps[0].arguments["capabilities"] if entry["state"]}
        assert ("return-path" in on) is not uri.startswith("exec:")


@pytest.mark.parametrize(
    ("migration", "run_state", "uri", "words"),
    [
        ({}, "running", "tcp:0:4444", "does not wait for a migration"),
        ({"status": "completed", "total-time": 7}, "postmigrate", "tcp:0:4444", "postmigrate"),
        ({"socket-address": [HERE]}, "inmigrate", "tcp:0:4445", "listens at tcp:0.0.0.0:4444 already"),
        ({"status": "setup"}, "inmigrate", "unix:/run/m", "could not listen"),
    ],
)
def test_what_can_not_listen(migration: dict[str, Any], run_state: str, uri: str, words: str) -> None:
    params = {"uri": uri, "capabilities": None, "parameters": None}
    with pytest.raises(Refusal, match=words):
        INCOMING.plan(Current(migration, run_state, False), params)
