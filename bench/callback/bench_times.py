# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what each task took, and on how many hosts it changed anything, as JSON to the file that BENCH_TIMES names."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bench_times
type: aggregate
short_description: Task durations for the benchmarks of this collection
description:
  - Writes a list of name, seconds by the clock and by the processor, and on how many hosts it changed something, one for each task.
options: {}
"""


def processor() -> float:
    """Seconds of this process and all that it has started, once its workers have ended."""
    for child in multiprocessing.active_children():
        child.join()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in usage)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_times"

    def __init__(self) -> None:
        super().__init__()
        self._start = self._used = 0.0
        self._times: list[dict[str, Any]] = []

    def _finish(self) -> None:
        used = processor()
        if self._times:
            self._times[-1]["processor"] = used - self._used
        self._used = used

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._finish()
        self._times.append({"name": task.get_name(), "wall": 0.0, "changed": 0})
        self._start = time.perf_counter()

    def v2_runner_on_ok(self, result: Any) -> None:
        self._times[-1]["wall"] = time.perf_counter() - self._start  # the last host's is what stays
        self._times[-1]["changed"] += bool(result._result.get("changed"))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._finish()
        with open(os.environ["BENCH_TIMES"], "w", encoding="utf-8") as out:
            json.dump(self._times, out)
