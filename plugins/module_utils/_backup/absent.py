# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The end of a chain: its bitmaps go, and its files where that is wanted."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from .._core.errors import Refusal
from .._core.plan import Plan
from .._core.step import Step
from .._engine.operation import Operation
from .._host import directory as directories
from .._host import part_file
from .._operations.disk_snapshot_disks import all_disks
from . import chain as chains
from . import fleece, place, retention
from .disks import bitmaps
from .pull import end_exports

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params, Run


class Current(NamedTuple):
    """What was read."""

    chain: chains.Chain | None
    in_qemu: Sequence[Step]
    """What removes the bitmaps, and what a killed run has left."""
    files: Sequence[str]
    """The images that are not listed."""
    lock: place.Lock


class Absent(Operation):
    """Remove the bitmaps of a chain, and its files where that is wanted."""

    def read(self, vm: VM, params: Params) -> Current:
        """Return what is there. Raise Refusal for a bitmap that is in use."""
        path, name = params["path"], params["name"]
        chain = place.read_chain(vm, path, name)
        lock = place.Lock(path)
        lock.check_free()
        for disk in all_disks(vm).values():
            for bitmap, told in bitmaps(vm, disk, name).items():
                if told["busy"]:
                    raise Refusal(
                        f"name: bitmap {bitmap} of {disk.name} is in use by a job or an export: let that end first"
                    )
        files = retention.unlisted(chain, path) if chain else []
        in_qemu = place.clear_qemu(vm, name, [os.path.join(path, file) for file in files])
        in_qemu += fleece.clear(vm, name, [params["fleece"], path])
        in_qemu = [*end_exports(vm, name, params["force"]), *in_qemu]
        return Current(chain, in_qemu + place.stray_bitmaps(vm, name, ()), files, lock)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what removes it. Without ``remove_data`` only what a killed run has left goes of the files."""
        path, chain = params["path"], current.chain
        numbers = [one.number for one in chain.backups] if chain and params["remove_data"] else []
        steps = [*current.in_qemu, *retention.steps(path, chain, numbers, current.files)]
        if chain and params["remove_data"]:
            steps.append(_remove_list(path))
        there = [one.number for one in chain.backups] if chain else None
        before = {"backups": there, "in QEMU": bool(current.in_qemu), "left over": list(current.files)}
        after = {"backups": None if params["remove_data"] else there, "in QEMU": False, "left over": []}
        return Plan(later=steps, before=before, after=after)

    def follow(self, run: Run, current: Current, params: Params) -> Any:
        """Remove it, under the lock of the directory."""
        with current.lock.held(run.vm, params["name"], current.chain):
            place.send(run, run.plan.later)

    def describe(self, current: Current, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return an empty ``backup``."""
        return {"backup": {}}


def _remove_list(path: str) -> Step:
    """Return the step that removes the list, and the directory where nothing else is in it."""
    listed = os.path.join(path, chains.FILE)

    def remove(deadline: Any) -> None:
        part_file.remove(listed)
        directories.remove(path, whole=False)

    lines: List[List[str]] = [["rm", listed], ["rmdir", path]]
    return Step(do=remove, command_lines=lines, removes=True)


ABSENT = Absent()
