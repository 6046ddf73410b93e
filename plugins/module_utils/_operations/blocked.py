# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What in a VM can neither be migrated nor saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM


def check_blocked(vm: VM, what: str) -> None:
    """Raise Refusal where something in the VM can neither be migrated nor saved (a host's device, an NVMe disk)."""
    reasons = vm.ask("query-migrate").get("blocked-reasons", [])
    if reasons:
        raise Refusal(f"{what}: {'; '.join(reasons)}")


def check_savable(vm: VM, step: Step | None) -> None:
    """Raise Refusal where the step saves a VM that can't be saved."""
    if step is not None and step.execute == "snapshot-save":
        check_blocked(vm, "a snapshot of the virtual machine can't be saved")
