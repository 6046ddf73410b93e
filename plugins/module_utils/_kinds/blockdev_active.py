# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks that are not this QEMU's to write to: their guest is elsewhere, or on its way.

Versions before 10.0 end themselves when they are told to write to one all the same, with whatever guest they have or wait for.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.errors import Refusal
from .blockdev_definition import nodes

if TYPE_CHECKING:
    from .._core.vm import VM

AWAY = {
    "inmigrate": "it waits for its incoming migration",
    "finish-migrate": "its guest is just leaving",
    "postmigrate": "it has been migrated away, and its disks with it",
}
"""Why the disks of a virtual machine in this run state are not its own."""
_AT_REST = ("none", "completed", "cancelled", "failed")
"""What ``query-migrate`` tells while the virtual machine is not being migrated."""
_UNTOUCHED = "it has not run since its migration, and its disks are its own only then: let it run first (qemu_power, state=running)"


def check_active(vm: VM, what: str, name: str) -> None:
    """Raise Refusal where QEMU may not write to a block node, or could not to one that is to be added.

    From 10.0 on it tells of each node that is there; before, the run state tells.
    """
    node = nodes(vm).get(name)
    told = None if node is None else node.get("active")
    if told or (node is None and vm.status != "inmigrate"):
        return
    why = AWAY.get(vm.status, "" if told is None else _UNTOUCHED)
    if why:
        raise Refusal(f"{what} is not possible now: the virtual machine is {vm.status}, {why}")


def check_staying(
    vm: VM, what: str, why: str = "the destination would go on with the disks as they were before"
) -> None:
    """Raise Refusal while the virtual machine is being migrated, or saved: to change what its disks are made of loses data then.

    QEMU refuses to plug devices then, but not this.
    """
    status = migration(vm)
    if status:
        raise on_its_way(what, status, why)


def migration(vm: VM) -> str:
    """Return the status of the migration that is under way; empty where none is, and where the guest is on its way to here."""
    status = str(vm.ask("query-migrate").get("status", "none"))
    return "" if status in _AT_REST or vm.status == "inmigrate" else status


def on_its_way(what: str, status: str, why: str) -> Refusal:
    """Return the error for what can't be done while the virtual machine is being migrated."""
    return Refusal(f"{what}: the virtual machine is being migrated ({status}), and {why}: wait for its end")
