# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands qemu_migrate sends from each state of a migration to each that can be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration.current import HAS, LACKS, UNKNOWN, Answer, Current
from ansible_collections.vmm.qemu.plugins.module_utils._migration.retreat import CALLS_BACK
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import Settings
from ansible_collections.vmm.qemu.plugins.module_utils._migration.source import MIGRATE

URI, THERE = "tcp:b:4444", "/run/b.qmp"
READY = {"events": True, "return-path": True}
WAITS = Current({"socket-address": []}, "inmigrate", False, Settings(READY))
UNSEEN = Answer(UNKNOWN, "not given")


def found(status: str, run_state: str = "running", on: str = "", **more: Any) -> Current:
    """What was read; ``on``: the capabilities that are, besides what every migration has."""
    migration = {} if status == "none" else {"status": status}
    have = Settings({**READY, "postcopy-ram": False, "multifd": False, **dict.fromkeys(on.split(), True)})
    return Current(migration, run_state, run_state == "running", **{"settings": have, **more})


def planned(current: Current, state: str, **options: Any) -> Plan:
    defaults = {name: option.fields.get("default") for name, option in MIGRATE.options.items()}
    return MIGRATE.plan(current, {**defaults, "uri": URI, "timeout": 60.0, **options, "state": state})


def commands(current: Current, state: str, **options: Any) -> str:
    """The names, with an @ before one that goes to the destination; or "refused"."""
    try:
        plan = planned(current, state, **options)
    except Refusal:
        return "refused"
    return " ".join(("@" if "socket" in step else "") + step["execute"] for step in plan.commands)


@pytest.mark.parametrize(
    ("status", "run_state", "migrated", "cancelled", "paused", "recovered"),
    [
        # no migration is under way
        ("none", "running", "migrate", "", "refused", "refused"),
        ("none", "paused", "migrate", "", "refused", "refused"),
        ("none", "inmigrate", "refused", "", "refused", "refused"),
        ("cancelled", "running", "migrate", "", "refused", "refused"),
        ("failed", "running", "migrate", "", "refused", "refused"),
        ("failed", "postmigrate", "refused", "", "refused", "refused"),
        ("failed", "finish-migrate", "refused", "", "refused", "refused"),  # not left again
        ("completed", "running", "migrate", "", "refused", ""),  # it came from elsewhere
        ("completed", "postmigrate", "", "", "refused", ""),
        # one is, and is joined
        ("setup", "running", "", "migrate_cancel", "refused", ""),
        ("active", "running", "", "migrate_cancel", "refused", ""),
        ("active", "paused", "", "migrate_cancel", "refused", ""),
        ("wait-unplug", "running", "", "migrate_cancel", "refused", ""),
        ("pre-switchover", "finish-migrate", "", "migrate_cancel", "refused", ""),
        ("cancelling", "running", "refused", "migrate_cancel", "refused", ""),
        # all of the guest may have been sent
        ("active", "finish-migrate", "", "refused", "refused", ""),
        ("device", "finish-migrate", "", "refused", "refused", ""),
        ("device", "running", "", "refused", "refused", ""),
        ("cancelling", "finish-migrate", "refused", "refused", "refused", ""),
        # a part of it has left
        ("postcopy-active", "finish-migrate", "", "refused", "migrate-pause", ""),
        ("postcopy-paused", "finish-migrate", "refused", "", "", "migrate"),
        ("postcopy-recover", "finish-migrate", "", "refused", "refused", ""),
    ],
)
def test_each_state_from_each(
    status: str, run_state: str, migrated: str, cancelled: str, paused: str, recovered: str
) -> None:
    wanted = {"migrated": migrated, "cancelled": cancelled, "paused": paused, "recovered": recovered}
    for state, expected in wanted.items():
        assert commands(found(status, run_state), state) == expected, state


def test_the_line_of_a_migration_that_waits_is_cut_before_it_is_cancelled() -> None:
    waits = found("pre-switchover", "finish-migrate")._replace(cuts=True, left=[Step("blockdev-del")])
    assert commands(waits, "cancelled") == "yank migrate_cancel blockdev-del"


@pytest.mark.parametrize(
    ("status", "run_state", "state", "changed"),
    [
        ("active", "running", "migrated", True),  # joined
        ("postcopy-recover", "finish-migrate", "recovered", True),
        ("completed", "postmigrate", "migrated", False),
        ("completed", "postmigrate", "recovered", False),
        ("cancelled", "running", "cancelled", False),
        ("postcopy-paused", "finish-migrate", "paused", False),
    ],
)
def test_a_migration_that_is_joined_is_a_change(status: str, run_state: str, state: str, changed: bool) -> None:
    plan = planned(found(status, run_state), state)
    assert plan.commands == [] and plan.changed is changed
    assert (plan.before == plan.after) is not changed


@pytest.mark.parametrize("state", ["migrated", "cancelled", "paused", "recovered"])
def test_what_calling_back_may_send(state: str) -> None:
    status = {"paused": "postcopy-active", "recovered": "postcopy-paused"}.get(state, "active")
    assert planned(found(status), state).on_failure == set(CALLS_BACK) == {"stop", "cont", "migrate_cancel", "yank"}


def test_all_that_one_migration_sends() -> None:
    off = Settings({"events": False, "return-path": False, "postcopy-ram": False, "pause-before-switchover": False})
    asked = {"capabilities": {"postcopy_ram": True, "pause-before-switchover": "on"}, "postcopy_after": 1.0}
    plan = planned(found("none", settings=off), "migrated", source_after="quit", **asked)
    assert [step.execute for step in plan.steps] == ["migrate-set-capabilities", "migrate"]
    assert [step.execute for step in plan.later] == ["migrate-start-postcopy", "migrate-continue", "quit"]
    entries = plan.steps[0].arguments["capabilities"]
    assert {entry["capability"] for entry in entries if entry["state"]} == set(off.capabilities)
    assert plan.steps[0].undo[0].arguments["capabilities"] == [{**entry, "state": False} for entry in entries]
    assert plan.before == {"migration": "none"} and plan.after == {"migration": "completed", "status": "off"}
    unhurried = planned(found("none"), "migrated", wait=False)
    assert unhurried.after == {"migration": "active"} and not unhurried.later


def test_a_source_is_ended_only_on_what_can_prove_the_arrival() -> None:
    quits = {"source_after": "quit"}
    assert commands(found("none"), "migrated", **quits) == "migrate quit"
    assert commands(found("completed", "postmigrate"), "migrated", **quits) == "quit"
    assert commands(found("active"), "migrated", **quits) == "quit"
    assert commands(found("postcopy-paused"), "recovered", **quits) == "migrate quit"
    no_way_back = {"capabilities": {"return-path": False}, **quits}
    assert commands(found("none"), "migrated", **no_way_back) == "refused"
    there = WAITS._replace(settings=Settings({}))
    assert commands(found("none", there=there), "migrated", destination_socket=THERE, **no_way_back) == (
        "migrate-set-capabilities migrate quit"
    )


@pytest.mark.parametrize(
    ("there", "on", "words"),
    [
        (WAITS, "", ""),
        (WAITS._replace(migration={"status": "setup"}), "", ""),
        (WAITS._replace(run_state="running"), "", "does not wait for a migration"),
        (WAITS._replace(run_state="none"), "", "does not wait for a migration"),
        (WAITS._replace(migration={}), "", "does not listen yet"),
        (WAITS, "multifd", "multifd is on here and not at the destination"),
        (WAITS._replace(settings=Settings({"postcopy-ram": True})), "", "postcopy-ram is off here"),
        (
            WAITS._replace(settings=Settings({"multifd": True}, {"multifd-channels": 4})),
            "multifd",
            "is None here and 4",
        ),
    ],
)
def test_a_destination_that_could_not_take_the_guest(there: Current, on: str, words: str) -> None:
    current = found("none", on=on, there=there)
    if not words:
        assert planned(current, "migrated", destination_socket=THERE).changed
        return
    with pytest.raises(Refusal, match=words):
        planned(current, "migrated", destination_socket=THERE)


@pytest.mark.parametrize(
    ("status", "run_state", "word", "expected"),
    [
        ("active", "running", Answer(LACKS, waits=True), "@stop migrate_cancel"),
        ("active", "running", UNSEEN, "migrate_cancel"),
        ("active", "finish-migrate", Answer(LACKS, waits=True), "@stop migrate_cancel"),
        ("device", "finish-migrate", Answer(LACKS), "migrate_cancel"),
        ("device", "finish-migrate", Answer(HAS), "refused"),
        ("device", "finish-migrate", UNSEEN, "refused"),
        ("postcopy-active", "finish-migrate", Answer(LACKS), "refused"),
    ],
)
def test_what_the_destination_says_decides_whether_it_is_called_back(
    status: str, run_state: str, word: Answer, expected: str
) -> None:
    assert commands(found(status, run_state, word=word), "cancelled", destination_socket=THERE) == expected


@pytest.mark.parametrize(("status", "expected"), [("postcopy-paused", "@migrate-recover migrate"), ("none", "migrate")])
def test_a_destination_that_was_interrupted_too_listens_again_first(status: str, expected: str) -> None:
    there = Current({"status": status}, "paused", False)
    plan = planned(found("postcopy-paused", there=there), "recovered", destination_socket=THERE)
    assert commands(found("postcopy-paused", there=there), "recovered", destination_socket=THERE) == expected
    assert plan.commands[-1]["arguments"] == {"uri": URI, "resume": True} and not plan.steps


def test_what_a_task_that_joins_can_not_change_is_told() -> None:
    plan = planned(found("active"), "migrated", capabilities={"multifd": True})
    assert plan.commands == [] and "multifd can't be changed" in plan.warnings[0] and URI in plan.warnings[1]


@pytest.mark.parametrize(
    ("on", "wait", "sent"),
    [
        ("", True, "refused"),
        ("", False, "refused"),
        ("pause-before-switchover", True, "refused"),
        ("pause-before-switchover", False, "migrate"),
    ],
)
def test_no_guest_leaves_while_a_job_works_on_its_disks(on: str, wait: bool, sent: str) -> None:
    """A migration that waits before the switchover leaves time to end it."""
    current = found("none", on=on, jobs=["j (mirror)"])
    assert commands(current, "migrated", wait=wait) == sent
    assert commands(current._replace(jobs=()), "migrated", wait=wait).startswith("migrate")


def test_a_guest_that_stays_before_the_switchover_leaves_when_the_job_is_over() -> None:
    current = found("pre-switchover", "finish-migrate", on="pause-before-switchover", jobs=["j (mirror)"])
    with pytest.raises(Refusal, match="block job j"):
        planned(current, "migrated")
    planned(current, "migrated", wait=False)
    steps = planned(current._replace(jobs=()), "migrated").later
    assert [step.execute for step in steps] == ["migrate-continue"]
