# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write how long each task took, and whether it changed anything, as JSON to the file that BENCH_TIMES names."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bench_times
type: aggregate
short_description: Task durations for the benchmarks of this collection
description:
  - Writes a list of name, seconds and changed, one for each task. One host only.
options: {}
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_times"

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._start = 0.0
        self._times: list[tuple[str, float, bool]] = []

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._name = task.get_name()
        self._start = time.perf_counter()

    def v2_runner_on_ok(self, result: Any) -> None:
        seconds = time.perf_counter() - self._start
        self._times.append((self._name, seconds, bool(result._result.get("changed"))))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        with open(os.environ["BENCH_TIMES"], "w", encoding="utf-8") as out:
            json.dump(self._times, out)
