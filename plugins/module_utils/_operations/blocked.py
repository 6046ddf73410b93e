# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What in a VM can neither be migrated nor saved."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List, Sequence

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


def working_jobs(vm: VM) -> List[str]:
    """Return the block jobs that still work on the VM's disks, each with its type.

    When the guest leaves, its disks are another's. A mirror then ends QEMU 7.2, a backup or a commit makes the migration fail when
    all is sent, and a stream goes on to write (7.2 and 10.0).
    """
    kinds, over = ("mirror", "backup", "commit", "stream"), ("concluded", "null")
    return [
        f"{job['id']} ({job['type']})"
        for job in vm.ask("query-jobs")
        if job["type"] in kinds and job["status"] not in over
    ]


def check_jobs(what: str, jobs: Sequence[str]) -> None:
    """Raise Refusal where a block job works on the VM's disks."""
    if jobs:
        raise Refusal(
            f"{what}: block job {jobs[0]} works on its disks, and would go on when the guest has left: let it end first, or cancel "
            "it (qemu_block_job)"
        )
