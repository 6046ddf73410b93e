# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the modules share that speak to a guest's agent instead of a monitor."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.errors import NotDoneInTime
from .._core.task import CONNECTION
from .._qmp.agent import Agent, NoAnswer
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._core.task import Task

OPTIONS = CONNECTION
"""``socket`` is the agent's."""


def open_agent(task: Task) -> Agent:
    """Return the agent of the task's guest, which answers. Raise NotDoneInTime where it does not, and the session's errors."""
    left = task.deadline.remaining() or 0.0
    try:
        return Agent(
            task.params["socket"],
            Deadline(min(task.params["connect_timeout"], left), task.deadline.stop),
            task.params["tls"],
        )
    except NoAnswer as exc:
        raise NotDoneInTime(str(exc)) from exc
