# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""External snapshots of disks: an overlay on each, all at one moment; committed, or gone back to."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from .._core.errors import Refusal
from .._core.option import Option
from .._core.plan import Plan
from .._core.step import Step
from .._host import overlay_file, part_file
from .._host.qemu_img import QemuImg
from .._kinds.blockdev_active import check_active, check_staying
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.host_path import is_seen
from . import jobs
from .disk_snapshot_commit import CommitPlan, Overlay, commit, read_overlay
from .disk_snapshot_disks import MOST_NAMES, Disk, Layer, Place, all_disks, check_here, check_label, named, place
from .disk_snapshot_revert import Return, directory_of, go_back, returns
from .freeze import QUIESCE, Freezer, check_quiesce, do_frozen

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params, Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Current(NamedTuple):
    """What was read."""

    vm: VM
    disks: List[Disk]
    """Those that are meant."""
    freezer: Freezer
    places: Dict[str, Place] = {}
    """By disk: where a new overlay comes to be."""
    user: int = 0
    """The user whose QEMU opens it."""
    binary: str = ""
    """The program that makes it."""
    overlays: Sequence[Overlay] = ()
    """What is there of a snapshot that is to go."""
    returns: Sequence[Return] = ()
    """The disks that go back."""

    def chains(self) -> Dict[str, List[str]]:
        """Return the images of each disk, from the top one down."""
        return {disk.name: [layer.source for layer in disk.layers] for disk in self.disks}


class DiskSnapshots(jobs.JobOperation):
    """Take a snapshot of disks, commit it into what is below, or go back to it."""

    options = {
        "name": Option("str", required=True),
        "state": Option("str", choices=["present", "absent", "reverted"], default="present"),
        "disks": Option("list", elements="str"),
        "directory": Option("path"),
        "quiesce": QUIESCE,
        "keep_file": Option("bool", default=False),
        "qemu_img": Option("path", default="qemu-img"),
    }

    def check(self, params: Params) -> Params:
        """Raise Refusal for a name that can't be part of a file's name, and for an empty list of disks."""
        if not _NAME.match(params["name"]):
            raise Refusal(
                f"name: {params['name']!r} is not a valid name for a snapshot, which is part of its files' names: it has 1 to 64 "
                "letters, digits, '-', '.' or '_', and begins with a letter or a digit"
            )
        if params["disks"] is not None and not params["disks"]:
            raise Refusal("disks: the list is empty; leave it out for all writable disks")
        if params["directory"] is not None and not params["directory"].startswith("/"):
            raise Refusal(f"directory: {params['directory']!r} is not an absolute path")
        check_quiesce(params["quiesce"])
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return the disks and their chains. Raise Refusal for what can't be meant."""
        check_here(vm, params["socket"], "a snapshot")
        disks = _meant(all_disks(vm), params)
        if params["state"] == "absent":
            found = jobs.jobs(vm)
            overlays = [read_overlay(vm, disk, found, params) for disk in disks]
            return Current(vm, disks, Freezer(None, vm.deadline), overlays=overlays)
        return (_read_for_return if params["state"] == "reverted" else _read_for_new)(vm, disks, params)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what leads to the state. Raise Refusal where the guest can't be frozen and must be."""
        if params["state"] == "absent":
            return commit(current.vm, current.overlays, current.chains(), params)
        if params["state"] == "present":
            return take(current)
        new = [step for back in current.returns for step in add_steps(current, back.disk, back.base, back.base.node)]
        others = [disk for disk in current.disks if disk not in [back.disk for back in current.returns]]
        return go_back(current.vm, current.returns, current.places, new, others, params["name"])

    def begin(self, run: Run, current: Current, params: Params) -> None:
        """Do the plan's steps, all or nothing, and thaw the guest."""
        do_frozen(run, current.freezer)

    def follow(self, run: Run, current: Current, params: Params) -> Any:
        """Commit one disk after the other, or reset the guest and remove what is not needed any more.

        Raise NotDoneInTime when a job goes on, and OperationFailed when it failed.
        """
        if params["state"] == "reverted":
            super(jobs.JobOperation, self).follow(run, current, params)
        if isinstance(run.plan, CommitPlan):
            for step in run.plan.clears:
                run.send(step)
            for part in run.plan.parts:
                self.follow_job(run, part, current, params)

    def after_failure(self, run: Run, current: Current, params: Params, job: jobs.Job) -> str:
        """Return what to tell of a commit that failed."""
        return f"the guest goes on, and has lost nothing, but can't go back to the snapshot any more: {jobs.BEGIN_ANEW}"

    def describe(self, current: Current, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return ``snapshot`` as it is in the end, and what was warned of on the way."""
        disks = [] if params["state"] == "absent" else [back.disk for back in current.returns] or current.disks
        shown = {disk.name: _shown(disk, current.places.get(disk.name), params["name"]) for disk in disks}
        return {
            "snapshot": {"disks": shown, "frozen_ms": current.freezer.frozen_ms},
            "warnings": [*plan.warnings, *current.freezer.warnings],
        }


def _read_for_new(vm: VM, disks: List[Disk], params: Params) -> Current:
    """Return what a snapshot that is to be there stands on. Raise Refusal where it is on some of the disks only."""
    freezer = Freezer(params["quiesce"], vm.deadline)
    new = [disk for disk in disks if disk.overlay(params["name"]) is None]
    if new and len(new) < len(disks):
        there = ", ".join(disk.name for disk in disks if disk not in new)
        raise Refusal(
            f"name: snapshot {params['name']} is on {there}, and not on {', '.join(disk.name for disk in new)}: it was taken "
            "of other disks. Name those in disks, or take another name; state=absent gives it up"
        )
    places = {disk.name: new_place(vm, disk, disk.layers[0], params) for disk in new}
    binary = QemuImg(params["qemu_img"], vm.deadline).binary if new else ""
    return Current(vm, disks, freezer, places, user_of(vm, disks), binary)


def _read_for_return(vm: VM, disks: List[Disk], params: Params) -> Current:
    """Return the disks that have the snapshot, and where their new overlays come to be."""
    found = returns(vm, disks, params)
    places = {}
    for back in found:
        where = {**params, "directory": directory_of(back, params)}
        places[back.disk.name] = new_place(vm, back.disk, back.base, where, MOST_NAMES)
    binary = QemuImg(params["qemu_img"], vm.deadline).binary
    return Current(vm, disks, Freezer(None, vm.deadline), places, user_of(vm, disks), binary, returns=found)


def _meant(known: Dict[str, Disk], params: Params) -> List[Disk]:
    """Return the disks that the task is about. Raise Refusal for one that is not there, or can't be written to."""
    if params["disks"] is None:
        writable = [disk for disk in known.values() if not disk.layers[0].read_only]
        if not writable and params["state"] == "present":
            raise Refusal("disks: the virtual machine has no writable disk")
        return writable
    found = named(known, "disks", params["disks"])
    for disk in found:
        if disk.layers[0].read_only:
            raise Refusal(f"disks: {disk.name} is read-only, so there is nothing to take a snapshot of")
    return found


def new_place(vm: VM, disk: Disk, base: Layer, params: Params, most: int = 1) -> Place:
    """Return where a new overlay over an image of a disk comes to be. Raise Refusal where it can't."""
    check_label(disk)
    check_active(vm, f"disks: a snapshot of {disk.name}", disk.layers[0].node)
    check_staying(vm, f"disks: another image for {disk.name}")
    if disk.jobs:
        raise Refusal(f"disks: block job {disk.jobs[0]} works on {disk.name}: let it end first")
    if not base.source.startswith("/"):
        raise Refusal(
            f"disks: {disk.name} is on {base.source}, and only the absolute path of a file or a device can be in the header of an "
            "image over it, so that QEMU finds it when it is started again"
        )
    directory = params["directory"]
    if directory is None:
        if base.driver == "host_device" or not os.path.isfile(base.path):
            raise Refusal(f"directory: {disk.name} is on {base.source}, which is not a file: name a directory")
        directory = os.path.dirname(base.path)
    new = place(vm, disk, params["name"], base, directory, most)
    part_file.check_directory("directory", new.path)
    part_file.check_leftover("directory", new.path)
    if not is_seen(vm, "directory", directory):
        raise Refusal(f"directory: QEMU sees another {directory} than this task: run the task where QEMU runs")
    if new.taken:
        raise Refusal(
            f"name: {new.path}, as which the overlay of {disk.name} would be made, is there already and belongs to something else: "
            "take another name or directory, or remove it"
        )
    return new


def user_of(vm: VM, disks: Sequence[Disk]) -> int:
    """Return the user that shall have new overlays: QEMU's, and the owner of a disk where that is root or not to be seen."""
    try:
        with open(f"/proc/{vm.session.process}/status", encoding="utf-8") as status:
            user = next((int(line.split()[2]) for line in status if line.startswith("Uid:")), 0)
    except OSError:
        user = 0
    files = [layer.path for disk in disks for layer in disk.layers[:1] if os.path.isfile(layer.path)]
    return user or (os.stat(files[0]).st_uid if files else os.geteuid())


def add_steps(current: Current, disk: Disk, base: Layer, backing: str | None) -> List[Step]:
    """Return the steps that make a new overlay and its node, which stands on ``backing`` or on nothing yet."""
    new = current.places[disk.name]
    steps = [delete_node(new.stray)] if new.stray else []
    if not new.there:
        steps.append(
            overlay_file.make_step(
                new.path,
                (base.source, base.format),
                base.size,
                current.user,
                current.binary,
                lambda vm: new.node not in nodes(vm),
            )
        )
    cache = {name: disk.layers[0].cache[name] for name in ("direct", "no-flush")}
    file = {"driver": "file", "filename": new.path}
    made = {"node-name": new.node, "driver": "qcow2", "file": file, "backing": backing, "cache": cache}
    return [*steps, Step("blockdev-add", made, undo=[delete_node(new.node)])]


def take(current: Current) -> Plan:
    """Return the plan that takes the snapshot, or thaws a guest that a stopped run has left frozen."""
    freezer, chains = current.freezer, current.chains()
    new = [disk for disk in current.disks if disk.name in current.places]
    if not new:
        later = freezer.thaw_steps if freezer.was_frozen else []
        return Plan(
            later=later,
            before={"disks": chains, "frozen": bool(later)},
            after={"disks": chains, "frozen": False},
        )
    if freezer.refusal:
        raise Refusal(freezer.refusal)
    steps: List[Step] = []
    for disk in new:
        steps += add_steps(current, disk, disk.layers[0], None)
    actions = [
        {"type": "blockdev-snapshot", "data": {"node": disk.layers[0].node, "overlay": current.places[disk.name].node}}
        for disk in new
    ]
    after = {name: [current.places[name].path, *chain] for name, chain in chains.items()}
    return Plan(
        [*steps, *freezer.freeze_steps, Step("transaction", {"actions": actions})],
        later=freezer.thaw_steps,
        before={"disks": chains},
        after={"disks": after},
        warnings=[freezer.trouble] if freezer.trouble else [],
    )


def _shown(disk: Disk, new: Place | None, name: str) -> Dict[str, str]:
    """Return an overlay and what is below it."""
    at = disk.overlay(name)
    base = disk.layers[0 if at is None else at + 1].source
    return {"overlay": new.path if new else disk.layers[at or 0].path, "base": base}


DISK_SNAPSHOT = DiskSnapshots()
