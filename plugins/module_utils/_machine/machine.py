# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM in one task: one document, one full read, one plan, all or nothing. The same engine, the same kinds."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import Refusal
from .._core.option import Option
from .._core.secrets import dictionaries
from .._engine.comparison import Comparison
from .._engine.converge import Outcome, converge
from .._kinds.object import OBJECT
from .._kinds.sections import SECTIONS
from .._operations.power import decide
from .document import Entry, entries, ordered, validated

if TYPE_CHECKING:
    from .._core.step import Step
    from .._core.task import Task
    from .._core.vm import VM

MACHINE = {
    **{name: Option("list", elements="dict") for name in SECTIONS},
    "vcpus": Option("int"),
    "balloon": Option("str"),
    "power": Option("str", choices=["running", "paused"]),
    "purge": Option("bool", default=False),
    "recreate": Option("bool", default=False),
}


def run(task: Task) -> Dict[str, Any]:
    """Return the result of a task. Raise Refusal, PlanFailed and the session's errors."""
    task.params = validated(task.params)
    return run_validated(task)


def run_validated(task: Task) -> Dict[str, Any]:
    """Return the result of a task whose document is validated. Raise as ``run`` does."""
    params = task.params
    document = entries(params)
    vm = task.connect()
    if params["purge"]:
        from .purge import unnamed

        document += unnamed(vm, params, document)
    items = ordered([item for entry in document for item in entry.items])
    before = vm.status
    power, after = _power(vm, params)
    runs = params["power"] == "running"
    outcome = converge(vm, items, recreate=params["recreate"], check_mode=task.check_mode, last=power, runs=runs)
    if power:
        outcome.diff["before"]["power"], outcome.diff["after"]["power"] = before, after
    return _result(outcome, document, power, before, after)


def _power(vm: VM, params: Dict[str, Any]) -> tuple[List[Step], str]:
    """Return the steps to the wanted run state, and the one they lead to."""
    if params["power"] is None:
        return [], vm.status
    wanted = {"state": params["power"], "wait": True, "force": False, "force_after": None, "timeout": params["timeout"]}
    try:
        plan = decide(vm.ask("query-status"), wanted)
    except Refusal as exc:
        raise Refusal(f"power: {exc}") from exc
    return [step.replace(place="power") for step in plan.later], str(plan.after["status"])


def _result(outcome: Outcome, document: List[Entry], power: List[Step], before: str, after: str) -> Dict[str, Any]:
    """Return the result. ``plan`` has an entry for each thing of the document that changes; ``summary`` counts all."""
    comparisons = {id(comparison.asked): comparison for comparison in outcome.comparisons}
    plan: List[Dict[str, Any]] = []
    summary = {"add": 0, "change": 0, "remove": 0, "unchanged": 0}
    for entry in document:
        action, changes = verdict([comparisons[id(item)] for item in entry.items])
        summary[action] += 1
        if action != "unchanged":
            plan.append({"action": action, "kind": entry.kind, "id": entry.ident, "changes": changes})
    if power:
        summary["change"] += 1
        plan.append(
            {
                "action": "change",
                "kind": "power",
                "id": "power",
                "changes": {"status": {"before": before, "after": after}},
            }
        )
    words = ", ".join(f"{action} {number}" for action, number in summary.items())
    return {
        **({"pending": True} if outcome.pending else {}),
        "msg": words,
        "changed": bool(outcome.plan.steps),
        "commands": outcome.plan.commands,
        "diff": outcome.diff,
        "plan": plan,
        "summary": summary,
        "vm": {**outcome.states, "status": after},
        "unverifiable": sorted(set(outcome.unverifiable)),
        "warnings": outcome.warnings,
    }


def verdict(comparisons: List[Comparison]) -> tuple[str, Dict[str, Any]]:
    """Return what happens to an entry, and which of its properties change: ``{name: {before, after}}``."""
    changes = {
        change.key: {"before": change.before, "after": change.after}
        for comparison in comparisons
        for change in comparison.changes
    }
    if any(comparison.recreated for comparison in comparisons):
        return "change", {**changes, "recreated": {"before": False, "after": True}}
    if any(comparison.is_added for comparison in comparisons):
        return "add", changes
    wanted = any(comparison.item.present for comparison in comparisons)  # a drive whose medium alone goes
    if any(comparison.is_removed for comparison in comparisons) and not wanted:
        return "remove", {}
    return ("change" if any(comparison.steps for comparison in comparisons) else "unchanged"), changes


def secrets(params: Dict[str, Any]) -> List[str]:
    """Return the values of secret properties of the document's objects."""
    return [text for entry in dictionaries(params.get("objects")) for text in OBJECT.secrets(entry)]
