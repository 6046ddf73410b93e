# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM brought to ``state=stopped`` or ``state=absent``."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, cast

from .._core.errors import Refusal
from .._core.plan import Plan
from .._core.step import Step
from .._engine.apply import apply
from .._engine.comparison import Comparison, Item
from .._engine.converge import converge
from .._host import directory, part_file
from . import code, record, saved, service
from .beside import check_whole
from .chain import disks_named, gone_on
from .directory import DIRECTORY, check_own
from .options import Place
from .process import Process, instance
from .result import commands_shown, host_plan
from .tap import TAP, mark

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline


def run(task: Task, params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError, PlanFailed and the session's errors."""
    absent = params["state"] == "absent"
    place = Place(params["directory"], params["user"])
    there = directory.look(place.directory) is not None
    check_own(place, params, removal=absent)
    check_whole(place, ends=True)
    # whatever started it: a unit that is there goes with it
    has_units = service.is_wanted(params) or service.is_wanted({**params, "service": "auto"})
    unit = service.Service(place, params) if has_units else None
    process = instance(task, place, None, state="stopped", shutdown_timeout=params["shutdown_timeout"])
    running = process.look() if there else None
    steps = [step for step in process.plan(running, []).steps if there]
    if running and process.vm and not absent:
        for _option, path, top in gone_on(process.vm, disks_named(params)):
            process.warnings.append(
                f"{path} lies below {top}, to which the guest writes: that is the disk to be named when it is started"
            )
    if not absent and saved.is_there(place):
        process.warnings.append(f"the guest is saved in {place.saved}: when it is started, it goes on from there")
    comparisons: List[Comparison] = []
    if absent:
        steps += unit.remove_steps() if unit else []
        comparisons, removing = _removing(task, params, place, there, running is not None)
        steps += removing
    plan = Plan([commands_shown(step) for step in steps])
    if plan.steps and not task.check_mode:
        apply(plan, process.vm or cast("VM", task.host()))
    return _result(process, plan, comparisons, running is not None, absent)


def _removing(
    task: Task, params: Dict[str, Any], place: Place, there: bool, runs: bool
) -> tuple[List[Comparison], List[Step]]:
    """Return what goes with it, and the steps. An image that is still in use is looked at when it is not any more."""
    items = list(_items(params, place, there))
    outcome = converge(cast("VM", task.host()), items, recreate=False, check_mode=True)
    steps: List[Step] = []
    whole = params["remove_data"]
    if whole and there:
        steps.append(_check_step(place, runs))
    if whole and part_file.existing("disk", params["disk"]) is not None and not _below(params["disk"], place.directory):
        steps.append(_disk_step(params["disk"], runs))
    own = [
        path
        for path in (place.record, place.moving, *saved.left_files(place))
        if there and not whole and os.path.lexists(path)
    ]
    steps += [Step(do=partial(_remove, path), command_lines=[["rm", path]]) for path in own]
    steps += outcome.plan.steps
    if there and not whole:
        # nothing is in it but what goes
        left = set(os.listdir(place.directory)) - {"run", *map(os.path.basename, own)}
        rmdir = Step(
            do=lambda deadline: directory.remove(place.directory, False), command_lines=[["rmdir", place.directory]]
        )
        steps += [] if left else [rmdir]
    if there:
        steps.append(Step(do=lambda deadline: code.sweep(place.code), hidden=True))
    return outcome.comparisons, steps


def _items(params: Dict[str, Any], place: Place, there: bool) -> Iterator[Item]:
    names = {str(tap["name"]) for tap in params["taps"]}
    with contextlib.suppress(Refusal):  # one that can't be read is removed with the rest
        kept = record.read(place.record) if there else None
        names |= {str(tap["name"]) for tap in kept.taps} if kept else set()
    for name in sorted(names):
        want = {"name": name, "mark": mark(place)}
        TAP.check(want)
        yield Item(TAP, want, False)
    if there:
        path = place.directory if params["remove_data"] else place.run
        yield Item(DIRECTORY, {"path": path, "whole": True}, False)


def _remove(path: str, deadline: Deadline) -> None:
    part_file.remove(path)


def _below(path: str, directory_path: str) -> bool:
    return os.path.normpath(path).startswith(f"{directory_path}/")


def _check_step(place: Place, runs: bool) -> Step:
    """Return the step that looks whether its directory can go. Raise Refusal now for what can be told while it runs."""
    _check_others(place, own_disks=runs)
    return Step(do=lambda deadline: _check_others(place, own_disks=False), hidden=True)


def _check_others(place: Place, own_disks: bool) -> None:
    """Raise Refusal for what would go with the directory and is another's: a VM in it, or a disk that one has open.

    ``own_disks``: whether it has some open itself, from which no other can be told.
    """
    from .._host.qemu_img import in_use

    top, run, record_name = place.directory, os.path.basename(place.run), os.path.basename(place.record)
    for path, within, files in os.walk(top):
        if path == top:
            within[:] = [name for name in within if name != run]
        elif record_name in files:
            raise Refusal(
                f"remove_data: {path} is another virtual machine's, and would go with {top}: remove that first"
            )
        for name in files:
            if not own_disks and in_use(f"{path}/{name}"):
                raise Refusal(
                    f"remove_data: {path}/{name} is in use, by another virtual machine it seems, and would go with {top}"
                )


def _disk_step(path: str, runs: bool) -> Step:
    """Return the step that removes the disk, wherever it is. Raise Refusal while another VM has it open."""
    from .._host.qemu_img import in_use

    def check() -> None:
        part_file.check_itself("disk", path)
        if in_use(path):
            raise Refusal(f"disk: {path} is in use, by a running virtual machine it seems, and is not removed")

    def remove(deadline: Deadline) -> None:
        check()
        part_file.remove(path)

    if not runs:
        check()
    return Step(do=remove, command_lines=[["rm", path]], removes=True)


def _result(process: Process, plan: Plan, comparisons: List[Comparison], ran: bool, absent: bool) -> Dict[str, Any]:
    changed = any(not step.hidden for step in plan.steps)
    entries = host_plan(comparisons)
    if ran:
        entries.insert(0, {"action": "remove", "kind": "process", "id": process.name, "changes": {}})
    state = "absent" if absent else "stopped"
    counts = {"add": 0, "change": 0, "remove": len(entries), "unchanged": 0}
    return {
        "changed": changed,
        "commands": plan.commands,
        "msg": ", ".join(f"{action} {number}" for action, number in counts.items()),
        "plan": entries,
        "summary": counts,
        "diff": {"before": {"state": "running" if ran else "present" if changed else state}, "after": {"state": state}},
        "vm": {},
        "instance": {"name": process.name, "status": None, "pid": None},
        "restart_required": False,
        "warnings": process.warnings,
    }
