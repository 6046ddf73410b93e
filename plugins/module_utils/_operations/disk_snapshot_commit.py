# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A snapshot that is given up: what was written since goes into the image below, by a job for each disk, while the guest runs.

A job that has concluded without an error is the proof that an overlay is not needed any more. So QEMU keeps it until the file
is gone, and a run that comes after one that was stopped knows what to do. It lets go of the node only after that.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from .._core.errors import OperationFailed, Refusal
from .._core.plan import Plan
from .._core.step import Step
from .._host import overlay_file, part_file
from .._kinds.blockdev_active import check_active, check_staying
from .._kinds.blockdev_graph import attached, users
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.host_path import is_seen
from . import jobs
from .disk_snapshot_disks import Disk, Layer, check_bitmaps, is_reverting, place, released
from .snapshot import job_id

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params
    from .._qmp.deadline import Deadline


class Overlay(NamedTuple):
    """What is left of a snapshot on one disk."""

    disk: Disk
    ident: str
    """The job's id, the same in every run, so that the next one finds it."""
    job: jobs.Job | None
    at: int | None
    """Its place in the chain; None where it is not there (any more)."""
    released: Sequence[Layer] = ()
    """The overlays that a job has left."""
    unwritten: str = ""
    """The file of one that never came to be part of the chain."""
    stray: str = ""
    """The node by which that is open."""
    warnings: Sequence[str] = ()


class CommitPlan(Plan):
    """The plan of a job for each disk, one after the other."""

    def __init__(self, parts: Sequence[jobs.JobPlan], **more: Any) -> None:
        """Take a plan for each job."""
        self.parts = parts
        later = [step for part in parts for step in part.later]
        super().__init__(later=later, follows=bool(parts), on_failure=["job-dismiss"], **more)


def read_overlay(vm: VM, disk: Disk, found: Dict[str, jobs.Job], params: Params) -> Overlay:
    """Return what is there of the snapshot. Raise Refusal where it can't be committed."""
    name = params["name"]
    ident = job_id("commit", f"{disk.name}@{name}")
    now = Overlay(disk, ident, found.get(ident), disk.overlay(name))
    if now.at is not None:
        _check(vm, disk, now, name)
        return now
    if now.job is not None:
        return now._replace(released=released(vm, disk, name))
    directory = params["directory"] or os.path.dirname(disk.layers[0].path)
    if not directory:
        return now
    left = place(vm, disk, name, disk.layers[0], directory)
    if left.taken:
        why = f"{left.path} is there and belongs to no disk's chain: it is left, since it may have what is nowhere else"
        return now._replace(stray=left.stray, warnings=[] if params["keep_file"] else [why])
    return now._replace(unwritten=left.path if left.there else "", stray=left.stray)


def _check(vm: VM, disk: Disk, now: Overlay, name: str) -> None:
    """Raise Refusal where the overlay can't be committed now."""
    overlay, base = disk.layers[now.at or 0], disk.layers[(now.at or 0) + 1]
    check_active(vm, f"disks: committing {overlay.path}", overlay.node)
    check_staying(vm, f"disks: committing {overlay.path}")
    others = [job for job in disk.jobs if job != now.ident]
    if others:
        raise Refusal(f"disks: block job {others[0]} works on {disk.name}: let it end first")
    holders = disk.users.get(base.node, ())
    if holders:
        raise Refusal(
            f"name: {name} can't be committed, since {base.source}, which would be written to, is in use by {holders[0]}, too"
        )
    if now.job is None:
        _check_not_shown(vm, disk, name)
    check_bitmaps(vm, disk, [overlay])
    if is_reverting(vm, name):
        raise Refusal(f"name: a task that went back to {name} was stopped: finish that first (state=reverted)")
    if not is_seen(vm, "name", overlay.path):
        raise Refusal(f"name: QEMU sees another {overlay.path} than this task: run the task where QEMU runs")


def _check_not_shown(vm: VM, disk: Disk, name: str) -> None:
    """Raise Refusal where the disk is shown as it was at a moment, by a node beside it: QEMU commits nothing below that."""
    for kind, node in users(vm, disk.top):
        if kind == "blockdev":
            who = " ".join(next(iter(users(vm, node)), (kind, node)))
            raise Refusal(f"name: {name} can't be committed while {who} shows {disk.name} as it was: end that first")


def commit(vm: VM, overlays: Sequence[Overlay], chains: Dict[str, List[str]], params: Params) -> Plan:
    """Return the plan that commits them, and removes what is then not needed."""
    after, parts, clears = dict(chains), [], []
    for now in overlays:
        name = now.disk.name
        clears += [delete_node(now.stray)] if now.stray else []
        clears += [remove_file(vm, now.unwritten, now.stray)] if now.unwritten else []
        if now.at is not None:
            after[name] = [*chains[name][: now.at], *chains[name][now.at + 1 :]]
        if now.at is not None or now.job is not None:
            parts.append(_part(vm, now, params))
    warnings = [text for now in overlays for text in now.warnings]
    left = sorted(now.disk.name for now in overlays if now.unwritten or now.stray or now.job)
    return CommitPlan(
        parts,
        clears=clears,
        before={"disks": chains, "left over": left},
        after={"disks": after, "left over": []},
        warnings=warnings,
    )


def _part(vm: VM, now: Overlay, params: Params) -> jobs.JobPlan:
    begin: List[Step] = []
    ended = jobs.has_concluded(now.job)
    gone, what = list(now.released), f"commit of snapshot {params['name']} of {now.disk.name}"
    if now.at is not None:
        overlay, base = now.disk.layers[now.at], now.disk.layers[now.at + 1]
        gone = [overlay]
        what = f"commit of {overlay.path} into {base.source}"
        if now.job is None or (ended and "error" not in now.job):  # that one was ended before it was done
            arguments = {
                "device": now.disk.top,
                "top-node": overlay.node,
                "base-node": base.node,
                "auto-dismiss": False,
            }
            begin = [
                *([jobs.dismiss(now.ident)] if ended else []),
                overlay_file.mark_step(overlay.path),
                _begin(now.ident, arguments),
            ]
    return jobs.JobPlan(
        what,
        now.ident,
        begin,
        completed_by=[jobs.complete(now.ident)] if now.at == 0 and (begin or not ended) else (),
        on_success=[remove_file(vm, layer.path, layer.node, params["keep_file"]) for layer in gone],
        then=[delete_node(layer.node) for layer in gone],
        before={},
        after={},
    )


def _begin(ident: str, arguments: Dict[str, Any]) -> Step:
    return Step("block-commit", {"job-id": ident, **arguments})


def remove_file(vm: VM, path: str, node: str, kept: bool = False) -> Step:
    """Return the step that removes the file of an overlay, and the mark of its commit; it fails while a device has the node.

    ``kept``: whether only the mark goes.
    """
    mark = overlay_file.committing(path)

    def remove(deadline: Deadline) -> None:
        vm.forget()
        if node in nodes(vm) and attached(vm, node):
            raise OperationFailed(f"{path} is still in use, and was not removed")
        for name in [mark] if kept else [path, mark]:
            if os.path.lexists(name):
                if not stat.S_ISREG(os.lstat(name).st_mode):
                    raise OperationFailed(f"{name} is not a regular file, and was not removed")
                part_file.remove(name)

    return Step(do=remove, command_lines=[["rm", mark] if kept else ["rm", path]], removes=True)
