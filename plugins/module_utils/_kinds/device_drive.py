# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a device has as its drive, beside what a task wants there. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from .._core.errors import Refusal
from .._core.option import Want
from .._core.step import Step, Wait
from . import blockdev_graph, blockdev_steps, device_steps
from .blockdev_nodes import drive_of, held_by, nodes
from .kind import Change

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM


def add_steps(vm: VM, want: Want, usual: str | None, ending: Wait, draft: Draft) -> List[Step]:
    """Return the ``device_add``; of a disk that a stopped run has left held, with its top node, which then is let go."""
    ident, drive = str(want["id"]), want.get("options", {}).get("drive")
    if not drive or not blockdev_graph.held(vm, ident) or drive not in blockdev_graph.chain(vm, ident):
        return [device_steps.add(vm, want, usual, ending, draft)]
    want = {**want, "options": {**want["options"], "drive": blockdev_graph.top(vm, ident)}}
    return [device_steps.add(vm, want, usual, ending, draft), blockdev_steps.release(held_by(ident))]


def recreate_refusal(vm: VM, ident: str, wanted: Any, changes: List[Change]) -> str:
    """Return why a device must not be removed and added again; an empty text where it may be."""
    drive = blockdev_graph.drive_id(vm, ident)
    if drive:
        return f"QEMU was started with drive {drive}, and would delete it together with device {ident}"
    try:
        device_steps.check_hotplug(vm, ident)
    except Refusal as exc:
        return str(exc)
    disk = blockdev_graph.chain(vm, ident)
    jobs = blockdev_graph.jobs_on(vm, disk)
    if jobs:
        return f"block job {jobs[0]} works on its disk: let it end first"
    if any(change.key == "options.drive" for change in changes) and disk:
        return moved(vm, ident, wanted)
    return ""


def moved(vm: VM, ident: str, wanted: Any) -> str:
    """Return why the disk that a device has is not given up for another node: its data may have been moved off that one.

    A node that was there before, and the name that a disk's node has unless it is given, may stand for the disk as it once
    was: an image left by a mirror's end, say. QEMU does not tell. A new node under a new name is another disk, which may be
    wanted.
    """
    now = nodes(vm)[blockdev_graph.image(vm, ident)]
    if now["ro"] or not (wanted in nodes(vm) or wanted == f"{ident}-node"):
        return ""
    name, path = now["node-name"], now.get("image", {}).get("filename") or now.get("file", "")
    return (
        f"the data of {ident} may have been moved to {name} ({path}), and {wanted} may be what the disk was before: name {name}; "
        f"or, if {wanted} is another disk that is wanted in its place, remove device {ident} in a task before"
    )


def insert(vm: VM, ident: str, node: str, draft: Draft) -> List[Step]:
    """Return the steps that put a medium into an empty drive."""
    drive = drive_of(vm, ident) or {}
    blockdev_steps.check_free(vm, node, ident, draft, shared=True)
    there = {"id": drive.get("qdev") or ident}
    is_open = bool(drive.get("tray_open"))
    if drive.get("locked") and not is_open:
        raise Refusal(f"device {ident} is empty, and the guest has locked its tray: it must open it first")
    opening = Step("blockdev-open-tray", there, undo=[Step("blockdev-close-tray", there)])
    closing = Step("blockdev-close-tray", there, undo=[Step("blockdev-open-tray", there)])
    medium = {**there, "node-name": node}
    inserting = Step("blockdev-insert-medium", medium, undo=[Step("blockdev-remove-medium", there)])
    return [*([] if is_open else [opening]), inserting, closing]
