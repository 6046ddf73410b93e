# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Before and after, as ``--diff`` shows them: built from the plan, so that check mode foretells it exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import nest

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._converge.engine import Reading


def before_after(readings: Sequence[Reading]) -> Dict[str, Any]:
    """Ansible's ``{before, after}``, each ``{kind: {id: state}}``; what was not asked for and does not change is left out."""
    before: Dict[str, Any] = {}
    after: Dict[str, Any] = {}
    for reading in readings:
        kind, ident = reading.name
        have = dict(reading.have or {})
        if reading.item.present:
            have = {key: value for key, value in have.items() if key in reading.want}
        if reading.have is not None:
            before.setdefault(kind, {})[ident] = nest(have)
        if reading.comes:
            after.setdefault(kind, {})[ident] = nest(reading.want)
        elif reading.item.present:
            changed = {change.key: change.after for change in reading.changes}
            after.setdefault(kind, {})[ident] = nest({**have, **changed})
    return {"before": before, "after": after}
