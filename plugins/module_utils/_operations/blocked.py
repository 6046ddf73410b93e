# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What in a VM can neither be migrated nor saved."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.errors import Refusal

if TYPE_CHECKING:
    from .._core.vm import VM


def blocked_reasons(vm: VM) -> List[str]:
    """Return why the VM can neither be migrated nor saved (a host's device, an NVMe disk); none where it can."""
    reasons: List[str] = vm.ask("query-migrate").get("blocked-reasons", [])
    return reasons


def check_blocked(vm: VM, what: str) -> None:
    """Raise Refusal where something in the VM can neither be migrated nor saved."""
    reasons = blocked_reasons(vm)
    if reasons:
        raise Refusal(f"{what}: {'; '.join(reasons)}")
