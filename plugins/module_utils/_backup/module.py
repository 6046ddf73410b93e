# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Module ``qemu_backup``: states that are operations in a running QEMU, and states that only read the files of backups."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.option import Option
from .._core.task import CONNECTION
from .._engine.operation import run_operation
from . import restore
from .backup import BACKUP

if TYPE_CHECKING:
    from .._core.task import Task

_LIVE: List[str] = BACKUP.options["state"].fields["choices"]
OPTIONS = {
    **CONNECTION,
    **restore.OPTIONS,
    **BACKUP.options,
    "socket": Option("str"),
    "state": Option("str", choices=[*_LIVE, *restore.STATES], default="present"),
}
REQUIRED_IF = [("state", state, ("socket",)) for state in _LIVE]


def run(task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError, PlanFailed and the session's errors."""
    return run_operation(BACKUP, task) if task.params["state"] in _LIVE else restore.run(task)
