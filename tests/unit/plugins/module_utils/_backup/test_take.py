# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the jobs of a backup are waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ansible_collections.vmm.qemu.plugins.module_utils._backup.take import wait_for_jobs
from ansible_collections.vmm.qemu.plugins.module_utils._engine.operation import Run


def test_the_end_of_a_job_that_dismissed_itself_is_known_for_good() -> None:
    """Its event is not, when the other disk takes hours and the guest has QEMU tell many things."""
    data = {"device": "a", "type": "backup", "speed": 0, "offset": 1, "len": 1}
    event = SimpleNamespace(name="BLOCK_JOB_COMPLETED", data=data)
    other = {"id": "b", "type": "backup", "status": "running", "current-progress": 0, "total-progress": 1}
    session = SimpleNamespace(events=[event])
    ends: list[bool] = []

    def watch(look: Any, *events: str) -> None:
        ends.append(look()[1])
        session.events.clear()
        other["status"] = "concluded"
        ends.append(look()[1])

    run = SimpleNamespace(vm=SimpleNamespace(session=session, ask=lambda query: [other]), watch=watch)
    wait_for_jobs(cast(Run, run), {"a": "d0", "b": "d1"}, False, {})
    assert ends == [False, True]
