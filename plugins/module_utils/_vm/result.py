# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a task over a whole VM returns."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core.step import Step
from .._kinds.kind import nest

if TYPE_CHECKING:
    from .._engine.comparison import Comparison

# What the collection does by itself, named as the program that does the like: with a path, and not a command line.
_OWN = ("chmod", "chown", "cp", "mkdir", "mv", "rm", "rmdir", "write")


def commands_shown(step: Step) -> Step:
    """Return a step whose command lines are shown as a whole VM's result has them: ``{run}`` or ``{path, action}``."""
    undo = [commands_shown(back) for back in step.undo]
    return step.replace(command_lines=[_shown(line) for line in step.command_lines], undo=undo)


def _shown(line: Any) -> Any:
    if isinstance(line, dict):
        return line
    return {"path": line[-1], "action": line[0]} if line[0] in _OWN else {"run": list(line)}


def host_plan(comparisons: List[Comparison]) -> List[Dict[str, Any]]:
    """Return the plan's entries for what the VM stands on."""
    found = []
    for comparison in comparisons:
        kind, ident = comparison.name
        action = (
            "add"
            if comparison.is_added
            else "remove"
            if comparison.is_removed
            else "change"
            if comparison.steps
            else ""
        )
        changes = {change.key: {"before": change.before, "after": change.after} for change in comparison.changes}
        if action:
            found.append({"action": action, "kind": kind, "id": ident, "changes": changes})
    return found


def process_plan(restarts: bool, starts: bool, name: str) -> List[Dict[str, Any]]:
    """Return the plan's entry for the process."""
    action = "change" if restarts else "add" if starts else ""
    return [{"action": action, "kind": "process", "id": name, "changes": {}}] if action else []


def events_plan(steps: List[Step], path: str) -> List[Dict[str, Any]]:
    """Return the plan's entry for the monitor for events, where steps add it to a QEMU that runs."""
    return [{"action": "add", "kind": "monitor", "id": path, "changes": {}}] if steps else []


def host_diff(comparisons: List[Comparison]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return what changes of it, before and after: ``{kind: {id: state}}``."""
    before: Dict[str, Any] = {}
    after: Dict[str, Any] = {}
    for comparison in comparisons:
        kind, ident = comparison.name
        if comparison.is_added:
            after.setdefault(kind, {})[ident] = nest(comparison.want)
        elif comparison.changes:
            before.setdefault(kind, {})[ident] = nest({change.key: change.before for change in comparison.changes})
            after.setdefault(kind, {})[ident] = nest({change.key: change.after for change in comparison.changes})
    return before, after
