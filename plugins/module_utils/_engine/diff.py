# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Before and after, as ``--diff`` shows them: built from the plan, so that check mode foretells it exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import nest

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._engine.comparison import Comparison


def before_after(comparisons: Sequence[Comparison]) -> Dict[str, Any]:
    """Ansible's ``{before, after}``, each ``{kind: {id: state}}``; what was not asked for and does not change is left out."""
    before: Dict[str, Any] = {}
    after: Dict[str, Any] = {}
    for comparison in comparisons:
        kind, ident = comparison.name
        have = dict(comparison.have or {})
        if comparison.item.present:
            have = {key: value for key, value in have.items() if key in comparison.want}
        if comparison.have is not None:
            before.setdefault(kind, {})[ident] = nest(have)
        if comparison.is_added:
            after.setdefault(kind, {})[ident] = nest(comparison.want)
        elif comparison.item.present:
            changed = {change.key: change.after for change in comparison.changes}
            after.setdefault(kind, {})[ident] = nest({**have, **changed})
    return {"before": before, "after": after}
