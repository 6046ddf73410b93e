# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The results of tasks that failed."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict

from .._qmp import errors
from .errors import Pending
from .plan import PlanFailed
from .step import command_text
from .task import Task


def internal_error(name: str, exc: Exception) -> Dict[str, Any]:
    """Return the result of a fault of the collection's own, which the user shall see as a sentence too."""
    import traceback

    message = f"unexpected {type(exc).__name__} in {name}: {exc}. This is a bug of the collection"
    return {"failed": True, "msg": message, "exception": traceback.format_exc()}


def failure(exc: Exception, task: Task | None) -> Dict[str, Any]:
    """Return a failed task's result: ``commands`` are those that were sent, or done on the host, and not taken back.

    QEMU's own words go into ``error``.
    """
    commands = task.account.commands if task is not None else []
    result: Dict[str, Any] = {"failed": True, "msg": str(exc), "changed": bool(commands), "commands": commands}
    if task is not None:
        result.update(task.details)
    if isinstance(exc, errors.Disconnected):
        result["msg"] = f"lost QEMU: {exc}. Has the virtual machine ended?"
    if isinstance(exc, errors.CommandError):
        result["error"] = {"class": exc.error_class, "desc": exc.desc}
    if isinstance(exc, Pending):
        result["pending"] = True
    result.update(getattr(exc, "details", {}))
    return result


def plan_failure(exc: PlanFailed, task: Task | None) -> Dict[str, Any]:
    """Return a failed plan's result: the first error, what was undone, and what could not be."""
    result = failure(exc.cause, task)
    if isinstance(exc.cause, errors.Disconnected) and exc.cause.command != exc.step.execute:
        result["msg"] = f"{exc.step.execute}: {result['msg']}"
    parts = [f"{exc.step.place}: {result['msg']}" if exc.step.place else result["msg"]]
    if isinstance(exc.cause, errors.CommandError) and exc.step.hint:
        parts.append(exc.step.hint(exc.cause))
    if exc.rolled_back:
        result["rolled_back"] = exc.rolled_back
        parts.append("taken back: " + ", ".join(map(command_text, exc.rolled_back)))
        if any(command_text(command).endswith(("_add", "-add")) for command in exc.rolled_back):
            parts.append(
                "what QEMU can't tell of a thing (discard, aio, a user network's settings) was not given back to it"
            )
    if exc.stuck:
        result["not_rolled_back"] = exc.stuck
        parts.append("could not be taken back: " + ", ".join(exc.stuck))
    result["msg"] = "; ".join(part for part in parts if part)
    return result
