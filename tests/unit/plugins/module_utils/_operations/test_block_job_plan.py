# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands begin, join, complete, cancel and dismiss a block job, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._operations import jobs
from ansible_collections.vmm.qemu.plugins.module_utils._operations.block_job import BLOCK_JOB, Current


def node(size: int = 4, ro: bool = False) -> dict[str, Any]:
    return {"ro": ro, "image": {"virtual-size": size}}


def job(kind: str = "backup", status: str = "running", **more: Any) -> jobs.Job:
    return {"id": "j0", "type": kind, "status": status, "current-progress": 1, "total-progress": 4, **more}


def plan(current: Current, **options: Any) -> Plan:
    given = {name: option.fields.get("default") for name, option in BLOCK_JOB.options.items()}
    return BLOCK_JOB.plan(current, BLOCK_JOB.check({**given, "id": "j0", **options}))


def commands(made: Plan) -> str:
    return " ".join(step.execute for step in made.later)


# A disk on `top`, which stands on `middle`, which stands on `base`; nobody has `copy`.
CHAIN = Current(
    nodes={"top": node(), "middle": node(), "base": node(), "copy": node(), "small": node(2), "fixed": node(ro=True)},
    source="top",
    chain=["top", "middle", "base"],
    tops=frozenset(["top"]),
    attached=frozenset(["top"]),
)
# Of a job that QEMU must not keep.
FORGETS = CHAIN._replace(keeps=False)
# What a mirror of `top` to `copy`, a commit of it and a stream leave behind.
MIRRORED = CHAIN._replace(tops=frozenset(["copy"]), attached=frozenset())
COMMITTED = CHAIN._replace(tops=frozenset(["base"]), attached=frozenset())
STREAMED = CHAIN._replace(chain=["top"])
MIRROR: dict[str, Any] = {"operation": "mirror", "device": "top", "target": "copy"}
BACKUP: dict[str, Any] = {"operation": "backup", "device": "top", "target": "copy"}
COMMIT: dict[str, Any] = {"operation": "commit", "device": "top"}
STREAM: dict[str, Any] = {"operation": "stream", "device": "top"}


@pytest.mark.parametrize(
    ("current", "options", "finished", "running"),
    [
        (CHAIN, BACKUP, "blockdev-backup job-dismiss", "blockdev-backup"),
        (CHAIN, MIRROR, "blockdev-mirror job-complete job-dismiss", "blockdev-mirror"),
        (CHAIN, {**MIRROR, "complete": "False"}, "blockdev-mirror", "blockdev-mirror"),
        (CHAIN, {**MIRROR, "complete": "yes"}, "blockdev-mirror job-complete job-dismiss", "blockdev-mirror"),
        (CHAIN, {**MIRROR, "complete": "copy"}, "blockdev-mirror block-job-cancel job-dismiss", "blockdev-mirror"),
        (CHAIN, COMMIT, "block-commit job-complete job-dismiss", "block-commit"),
        (CHAIN, {**COMMIT, "top_node": "middle"}, "block-commit job-dismiss", "block-commit"),
        (FORGETS, STREAM, "block-stream", "block-stream"),
        (FORGETS, BACKUP, "blockdev-backup", "blockdev-backup"),
        (MIRRORED, MIRROR, "", ""),
        (MIRRORED._replace(source=None, nodes={}), MIRROR, "", ""),
        (MIRRORED, BACKUP, "blockdev-backup job-dismiss", "blockdev-backup"),
        (COMMITTED, COMMIT, "", ""),
        (CHAIN, {**COMMIT, "top_node": "gone"}, "", ""),
        (STREAMED, STREAM, "", ""),
        (CHAIN, {**STREAM, "base_node": "middle"}, "", ""),
        (FORGETS, {**STREAM, "base_node": "base"}, "block-stream", "block-stream"),
    ],
)
def test_what_is_begun(current: Current, options: dict[str, Any], finished: str, running: str) -> None:
    assert commands(plan(current, **options)) == finished
    assert commands(plan(current, state="running", **options)) == running
    assert commands(plan(current, state="paused", **options)) == (running and f"{running} job-pause")
    assert commands(plan(current, state="cancelled", **options)) == ""


@pytest.mark.parametrize(
    ("current", "finished", "running", "cancelled"),
    [
        (Current(job()), "job-dismiss", "", "job-cancel job-dismiss"),
        (Current({**job(), "auto-dismiss": True}), "", "", "job-cancel"),
        (Current(job("mirror", "ready"), pivots=True), "job-complete job-dismiss", "", "job-cancel job-dismiss"),
        (Current(job(status="paused")), "job-resume job-dismiss", "job-resume", "job-cancel job-dismiss"),
        (
            Current(job("mirror", "standby"), pivots=True),
            "job-resume job-complete job-dismiss",
            "job-resume",
            "job-cancel job-dismiss",
        ),
        (Current(job(status="concluded")), "job-dismiss", "", "job-dismiss"),
        (Current(job(status="concluded", error="no")), "job-dismiss", "job-dismiss", "job-dismiss"),
    ],
)
def test_what_is_joined(current: Current, finished: str, running: str, cancelled: str) -> None:
    for state, expected in {"finished": finished, "running": running, "cancelled": cancelled}.items():
        assert commands(plan(current, state=state)) == expected, state


@pytest.mark.parametrize(
    ("current", "options", "until"),
    [
        (CHAIN, BACKUP, jobs.CONCLUDED),
        (CHAIN, {**BACKUP, "state": "running"}, jobs.STARTED),
        (CHAIN, {**MIRROR, "complete": "no"}, jobs.READY),
        (Current(job()), {"state": "running"}, ()),
        (Current(job(status="paused")), {"state": "running"}, jobs.GOING),
        (Current(job(status="paused")), {"state": "paused"}, ()),
        (Current(job()), {"state": "paused"}, jobs.PAUSED),
        (CHAIN, {**BACKUP, "state": "paused"}, jobs.PAUSED),
        (Current(job()), {"state": "running", "speed": "1k"}, jobs.STARTED),
        (Current(job("mirror"), pivots=True), {"complete": "no"}, jobs.READY),
        (Current(job("mirror", "ready"), pivots=True), {"complete": "no"}, ()),
        (Current({**job(), "auto-dismiss": True}), {}, jobs.CONCLUDED),
    ],
)
def test_what_is_waited_for(current: Current, options: dict[str, Any], until: tuple[str, ...]) -> None:
    made = plan(current, **options)
    assert isinstance(made, jobs.JobPlan)
    assert (made.until, made.follows) == (until, bool(until))


def test_another_speed() -> None:
    for state in ("finished", "running"):
        made = plan(Current(job(speed=5)), state=state, speed="1k")
        assert made.commands[0]["arguments"] == {"device": "j0", "speed": 1024}
        assert (made.before["speed"], made.after["speed"]) == (5, 1024)
        assert "block-job-set-speed" not in commands(plan(Current(job(speed=1024)), state=state, speed="1k"))


def test_arguments() -> None:
    made = plan(CHAIN, **BACKUP, speed="1k", options={"compress": True})
    assert made.commands[0]["arguments"] == {
        "job-id": "j0",
        "device": "top",
        "target": "copy",
        "sync": "full",
        "speed": 1024,
        "compress": True,
        "auto-dismiss": False,
    }


@pytest.mark.parametrize(
    ("current", "options", "words"),
    [
        (CHAIN, {}, "operation must be given"),
        (CHAIN, {"operation": "mirror", "target": "copy"}, "device.*must be given"),
        (CHAIN, {"operation": "backup", "device": "top"}, "target.*must be given"),
        (CHAIN._replace(source=None), {**BACKUP, "device": "d0"}, "no block node 'd0'; there are: base, copy"),
        (CHAIN, {**BACKUP, "target": "none"}, "target: there is no block node 'none'"),
        (CHAIN, {**BACKUP, "target": "top"}, "source itself"),
        (CHAIN, {**BACKUP, "target": "fixed"}, "read-only"),
        (CHAIN, {**BACKUP, "target": "small"}, "small has 2 bytes and the source top has 4"),
        (CHAIN._replace(target_users=["device d1"]), BACKUP, "in use by device d1"),
        (CHAIN, {**STREAM, "base_node": "none"}, "no block node 'none'"),
        (CHAIN, {**STREAM, "base_node": "copy"}, "copy is not below top: below that is middle, base"),
        (CHAIN, {**STREAM, "target": "copy"}, "means nothing for stream"),
        (CHAIN, {**BACKUP, "options": {"job_id": "x"}}, "is set by the module"),
        (CHAIN, {**BACKUP, "options": {5: 5}}, "options: 5 is not a valid name of an option"),
        (CHAIN, {**BACKUP, "speed": 1 << 63}, "more than QEMU can count"),
        (CHAIN, {"id": "0j", **BACKUP}, "must start with a letter"),
        (Current(job()), MIRROR, "there is a job j0 already, and it is a backup, not a mirror"),
        (Current(job("create")), {}, "not a block job"),
        (CHAIN, {**COMMIT, "complete": "copy"}, "complete: copy means nothing for commit; it is for mirror"),
        (Current(job("commit")), {"complete": "copy"}, "complete: copy means nothing for commit"),
        (CHAIN, {**MIRROR, "complete": "maybe"}, "complete: 'maybe' is not one of pivot, copy, false"),
    ],
)
def test_what_is_refused(current: Current, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(current, **options)


def test_check_mode_tells_of_a_job_that_has_failed() -> None:
    current = Current(job(status="concluded", error="No space left"))
    with pytest.raises(OperationFailed, match="backup j0: No space left; run the task again") as failed:
        BLOCK_JOB.describe(current, {}, plan(current), None)
    assert failed.value.details["commands"] == [{"execute": "job-dismiss", "arguments": {"id": "j0"}}]
    assert BLOCK_JOB.describe(current, {}, plan(current, state="cancelled"), None)["job"]["error"] == "No space left"
