# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The modules of one kind of thing, or of several kinds in one task."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ._core.option import Option, Want, check_id, given
from ._core.task import Task
from ._engine.comparison import Item
from ._engine.converge import converge
from ._kinds.kind import Kind, Part
from ._module import Module

RESOURCE = {
    "state": Option("str", choices=["present", "absent"], default="present"),
    "recreate": Option("bool", default=False),
}


def resource(kind: Kind) -> Module:
    """Return the module of one kind."""
    return composite(kind.options, lambda want, present: [Part(kind, want)], secrets=kind.secrets)


def composite(options: Dict[str, Option], parts: Callable[[Want, bool], List[Part]], **constraints: Any) -> Module:
    """Return the module of several kinds in one task. ``parts(want, present)`` names them, backends before frontends."""

    def run(task: Task) -> Dict[str, Any]:
        want = given(task.params, options)
        if "id" in options:  # before the ids made of it, so that the message names what the user wrote
            check_id("device", "id", want["id"])
        present = task.params["state"] == "present"
        return _run_resource(task, parts(want, present), present, task.params["recreate"])

    return Module({**RESOURCE, **options}, run, **constraints)


def setting(options: Dict[str, Option], parts: Callable[[Want], List[Part]], **constraints: Any) -> Module:
    """Return the module of what is always there and only takes another value (a balloon)."""

    def run(task: Task) -> Dict[str, Any]:
        return _run_resource(task, parts(given(task.params, options)), True, False)

    return Module(options, run, **constraints)


def _run_resource(task: Task, parts: List[Part], present: bool, recreate: bool) -> Dict[str, Any]:
    """Converge and tell: the result of every resource."""
    items = [Item(*part.item(present)) for part in parts]
    for item in items:
        item.kind.check(item.want)
    outcome = converge(task.connect(), items, recreate=recreate, check_mode=task.check_mode)
    return {
        **({"pending": True} if outcome.pending else {}),
        "changed": bool(outcome.plan.steps),
        "commands": outcome.plan.commands,
        "diff": outcome.diff,
        "unverifiable": outcome.unverifiable,
        "warnings": outcome.warnings,
        # one of each kind
        **{kind: state for kind, states in outcome.states.items() for state in states.values()},
    }
