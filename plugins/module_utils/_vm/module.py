# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM on its host in one task: directories, images, firmware, seed, taps, process or unit, and all that it has."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.secrets import dictionaries
from .._host import command_line
from .._kinds.object import OBJECT
from .._machine.document import prepared
from .._qmp.deadline import Deadline
from . import boot, gone, running
from .options import LISTS, checked, seconds

if TYPE_CHECKING:
    from .._core.task import Task

BOOT = boot.main
"""What systemd runs on the host: part of this module's code, so that a payload has it."""


def run(task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError, PlanFailed and the session's errors."""
    params = checked(task.params)
    task.deadline = Deadline(seconds(params), task.deadline.stop)
    if params["upgrade"] and params["state"] == "running":
        from . import upgrade

        return upgrade.run(task, params)
    if params["state"] == "running":
        return running.run(task, params)
    return gone.run(task, params)


def prepare(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the parameters that another host can make ready."""
    return prepared(params, LISTS)


def secrets(params: Dict[str, Any]) -> List[str]:
    """Return the values in the parameters, right or wrong ones, that nothing may show."""
    found = [text for entry in dictionaries(params.get("objects")) for text in OBJECT.secrets(entry)]
    return [*found, *command_line.secrets([params.get("arguments"), params.get("vnc")])]
