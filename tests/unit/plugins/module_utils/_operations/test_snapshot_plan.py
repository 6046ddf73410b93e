# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands lead to a snapshot that is made, loaded or gone, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._operations.jobs import JobPlan
from ansible_collections.vmm.qemu.plugins.module_utils._operations.snapshot import SNAPSHOT, Current, Disk, job_id


def disk(node: str, *snapshots: str, holds: bool = True, attached: bool = True) -> Disk:
    """A disk with snapshots, of which those with ``!`` have the machine's state."""
    entries = [
        {"id": str(number), "name": name.strip("!"), "vm-state-size": 5 * name.endswith("!")}
        for number, name in enumerate(snapshots)
    ]
    return Disk(node, attached, holds, entries)


def disks(*all_of_them: Disk, **more: Any) -> Current:
    return Current({one.node: one for one in all_of_them}, **more)


def left(action: str, status: str = "concluded", **more: Any) -> dict[str, Any]:
    """A job of an earlier run."""
    job = {"id": job_id(action, "s"), "type": f"snapshot-{action.split('-')[0]}", "status": status, **more}
    return {"leftovers": {action: job}}


def plan(current: Current, state: str, **options: Any) -> JobPlan:
    params = {"name": "s", "state": state, "vmstate": None, "devices": None, **options}
    return SNAPSHOT.plan(current, SNAPSHOT.check(params))


NONE = disks(disk("a"), disk("b"))
BOTH = disks(disk("a", "s!"), disk("b", "s"))
HALF = disks(disk("a", "s!"), disk("b"))
RAW = disks(disk("a", "s!"), disk("r", holds=False))
STOPPED: dict[str, Any] = {"status": "restore-vm", "running": False}


@pytest.mark.parametrize(
    ("current", "present", "loaded", "absent"),
    [
        (NONE, "snapshot-save job-dismiss", None, ""),
        (BOTH, "", "snapshot-load job-dismiss", "snapshot-delete job-dismiss"),
        (HALF, None, None, "snapshot-delete job-dismiss"),
        (RAW, None, None, "snapshot-delete job-dismiss"),
        (NONE._replace(**left("save", "running")), "job-dismiss", None, None),
        (
            BOTH._replace(**left("save")),
            "job-dismiss",
            "job-dismiss snapshot-load job-dismiss",
            "job-dismiss snapshot-delete job-dismiss",
        ),
        (BOTH._replace(**left("load-running", "running")), None, "job-dismiss", None),
        # a load that failed had stopped the VM: it runs on where no disk can have gone back
        (
            NONE._replace(**left("load-running", error="no"), **STOPPED),
            "job-dismiss cont snapshot-save job-dismiss",
            None,
            "job-dismiss cont",
        ),
        (
            BOTH._replace(**left("load-running", error="no"), **STOPPED),
            "job-dismiss",
            "job-dismiss snapshot-load job-dismiss cont",
            "job-dismiss snapshot-delete job-dismiss",
        ),
        (NONE._replace(status="inmigrate", running=False), None, None, ""),
        (NONE._replace(blocked=["a host's device"]), None, None, ""),
        (disks(), None, None, ""),
    ],
)
def test_states(current: Current, present: str | None, loaded: str | None, absent: str | None) -> None:
    for state, expected in {"present": present, "loaded": loaded, "absent": absent}.items():
        if expected is not None:
            assert " ".join(step.execute for step in plan(current, state).later) == expected, state
        else:
            with pytest.raises(Refusal):
                plan(current, state)


@pytest.mark.parametrize(
    ("current", "state", "options", "words"),
    [
        (NONE, "loaded", {}, "no snapshot s on a, b; there are: none"),
        (HALF, "loaded", {}, r"no snapshot s on b; .* name the others: devices=\['a'\]"),
        (HALF, "present", {}, "s is on a, not on b.*state=absent"),
        (BOTH._replace(named=["a"]), "present", {}, "also on b"),
        (BOTH, "present", {"vmstate": "b"}, "its machine state is on a, not on b"),
        (BOTH, "loaded", {"vmstate": "b"}, "it is on a"),
        (NONE, "present", {"vmstate": "c"}, "not one of the devices: a, b"),
        (disks(disk("a", "s")), "loaded", {}, "no machine state"),
        (
            disks(disk("a", "x", "s!"), disk("b", "s", "1!"))._replace(named=["a"]),
            "loaded",
            {"name": "0"},
            "no snapshot 0",
        ),
        (disks(disk("a", "s1!", "0!")), "loaded", {"name": "0"}, "id of snapshot s1"),
        (RAW, "present", {}, "r can't hold a snapshot"),
        (RAW._replace(named=["r"]), "present", {}, "not a qcow2 image"),
        (NONE._replace(status="postmigrate"), "present", {}, "migrated away"),
        (NONE._replace(blocked=["a host's device"]), "present", {}, "can't be saved: a host's device"),
        (BOTH._replace(**left("delete", "running")), "present", {}, "snapshot-delete goes on"),
        (NONE, "present", {"name": "12"}, "number"),
        (NONE, "present", {"name": "x" * 256}, "256 bytes"),
        (NONE, "present", {"devices": []}, "empty"),
    ],
)
def test_what_is_refused(current: Current, state: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(current, state, **options)


def test_the_job_of_a_load_tells_whether_the_guest_ran() -> None:
    assert plan(BOTH, "loaded").ident == "ansible-snapshot-load-running-s"
    assert plan(BOTH._replace(running=False), "loaded").ident == "ansible-snapshot-load-stopped-s"


def test_disks_that_stay_as_they_are_are_warned_of() -> None:
    [warning] = plan(BOTH._replace(named=["a"]), "loaded").warnings
    assert warning.startswith("b does not go back")


def test_diffs() -> None:
    made = plan(NONE, "present")
    assert (made.before, made.after) == ({"snapshots": {}}, {"snapshots": {"s": ["a", "b"]}})
    assert plan(BOTH._replace(named=["b"]), "absent").after == {"snapshots": {"s": ["a"]}}
    assert plan(BOTH, "loaded").after["loaded"] == "s"
    cleared = plan(BOTH._replace(**left("save")), "present")
    assert (cleared.before["jobs"], cleared.after["jobs"]) == ([job_id("save", "s")], [])
