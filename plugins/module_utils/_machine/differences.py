# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What of a document is not true of a VM. Nothing is planned: what could not be made true differs all the same."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core.errors import Refusal, TaskError
from .._engine.converge import read, read_many
from .._qmp import errors
from .document import entries, validated
from .machine import MACHINE, verdict
from .validation import Validator

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.comparison import Comparison

Difference = Dict[str, Any]
"""``{action, kind, id, changes}``, as a plan has it."""


def differences(vm: VM, document: Dict[str, Any]) -> Tuple[List[Difference], List[str]]:
    """Return what differs, and why the rest can't be told. Raise Refusal for a document that is not valid."""
    params = validated(Validator(MACHINE).validate("document", document))
    wanted, untold = entries(params), []
    if params["purge"]:
        from .purge import unnamed

        try:
            wanted += unnamed(vm, params, wanted)
        except Refusal as exc:
            untold.append(str(exc))
    read_many([item for entry in wanted for item in entry.items], vm)
    found: List[Difference] = []
    for entry in wanted:
        try:
            comparisons = [read(item, vm) for item in entry.items]
        except (TaskError, errors.CommandError) as exc:
            untold.append(str(exc))
            continue
        action, changes = verdict(comparisons)
        if any(comparison.changes for comparison in comparisons) and (
            action == "unchanged" or _is_another(vm, comparisons)
        ):
            action = "change"
        if action != "unchanged":
            found.append({"action": action, "kind": entry.kind, "id": entry.ident, "changes": changes})
    return found + _power(vm, params["power"]), untold


def _is_another(vm: VM, comparisons: List[Comparison]) -> bool:
    """Tell whether a part of it is there and would have to be removed and added again: then it is not one that is missing."""
    return any(comparison.not_changeable(vm) for comparison in comparisons)


def _power(vm: VM, wanted: str | None) -> List[Difference]:
    """Return whether the guest runs as it shall."""
    if wanted is None or vm.ask("query-status")["running"] == (wanted == "running"):
        return []
    changes = {"status": {"before": vm.status, "after": wanted}}
    return [{"action": "change", "kind": "power", "id": "power", "changes": changes}]
