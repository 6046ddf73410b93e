# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks that go back to a snapshot: each gets a new overlay over what is kept, and the guest starts anew from there.

The guest is reset, since what it has in memory is of the disks as they were. A node that nothing uses says that this is under
way, and whether the guest is to run afterwards: a run that comes after one that was stopped finds it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .._core.plan import Plan
from .._core.step import Step
from .._host import overlay_file
from .._kinds.blockdev_nodes import held_by, nodes
from .._kinds.blockdev_steps import delete_node, hold
from .._kinds.qemu_texts import drive_hint
from .disk_snapshot_commit import remove_file
from .disk_snapshot_disks import Disk, Layer, Place, check_bitmaps, is_reverting, released, reverting
from .power import Reached, WasReset

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params


class Return(NamedTuple):
    """One disk that goes back."""

    disk: Disk
    at: int
    """The place of the snapshot's overlay in the chain."""
    left: Sequence[Layer] = ()
    """What a run that was stopped has put aside."""

    @property
    def base(self) -> Layer:
        """What was kept."""
        return self.disk.layers[self.at + 1]

    @property
    def gone(self) -> Sequence[Layer]:
        """What was written since, from the top down."""
        return self.disk.layers[: self.at + 1]


def returns(vm: VM, disks: Sequence[Disk], params: Params) -> List[Return]:
    """Return the disks that go back. Raise Refusal where one can't."""
    name, found = params["name"], []
    unfinished = is_reverting(vm, name)
    for disk in disks:
        at = disk.overlay(name)
        if at is not None:
            found.append(Return(disk, at, released(vm, disk) if unfinished else ()))
            _check(found[-1])
            check_bitmaps(vm, disk, found[-1].gone)
        elif params["disks"] is not None:
            raise Refusal(f"name: disk {disk.name} has no snapshot {name}")
    if not found:
        raise Refusal(f"name: no disk has a snapshot {name}")
    return found


def _check(back: Return) -> None:
    disk, overlay = back.disk, back.disk.layers[back.at].path
    if os.path.lexists(overlay_file.committing(overlay)):
        raise Refusal(
            f"name: a commit of {overlay} into {back.base.source} was begun and has not come to its end, so that {disk.name} can't "
            "go back to what that was: finish it with state=absent"
        )
    if disk.top != disk.layers[0].node:
        raise Refusal(f"disks: the filter {disk.top} lies over {disk.name}, and would be lost: remove it first")
    for layer in back.gone:
        users = disk.users.get(layer.node, ())
        if users:
            raise Refusal(f"disks: {users[0]} uses {layer.source} of {disk.name}, which would go: remove it first")


def go_back(
    vm: VM, found: Sequence[Return], places: Dict[str, Place], new: Sequence[Step], others: Sequence[Disk], name: str
) -> Plan:
    """Return the plan: ``new`` are the steps that make the overlays. All is taken back unless all disks have theirs."""
    mark, is_marked, ran = _mark(vm, name)
    steps = [] if is_marked else [Step("blockdev-add", _marking(mark), undo=[delete_node(mark)])]
    steps += new
    # QEMU drops what it has made by itself as soon as no device has it
    holds = [hold(held_by(back.disk.name), back.disk.top) for back in found if back.disk.top.startswith("#")]
    steps += [step for step in holds if step.arguments["node-name"] not in nodes(vm)]
    if vm.ask("query-status")["running"]:
        steps.append(Step("stop", wait=Reached(False), undo=[Step("cont")]))
    steps += [_switch(back.disk, places[back.disk.name].node) for back in found]
    later = [Step("system_reset", wait=WasReset()), *([Step("cont", wait=Reached(True))] if ran else [])]
    later += [delete_node(step.arguments["node-name"]) for step in holds]
    for back in found:
        later += _clear(vm, back, places[back.disk.name])
    return Plan(
        steps,
        later=[*later, delete_node(mark)],
        before={"disks": {back.disk.name: [layer.source for layer in back.disk.layers] for back in found}},
        after={"disks": {back.disk.name: _chain(back, places[back.disk.name]) for back in found}},
        warnings=[
            *_warnings(found, name),
            *(f"disk {disk.name} stays as it is: it has no snapshot {name}" for disk in others),
        ],
    )


def _chain(back: Return, new: Place) -> List[str]:
    return [new.path, *(layer.source for layer in back.disk.layers[back.at + 1 :])]


def _warnings(found: Sequence[Return], name: str) -> List[str]:
    over = [(back.disk, layer) for back in found for layer in back.gone if not back.disk.is_overlay(layer.path, name)]
    return [
        f"{layer.source}, which came over snapshot {name} of {disk.name}, "
        + ("goes, too" if disk.is_overlay(layer.path) else "is not part of the disk any more, and its file is left")
        for disk, layer in over
    ]


def _switch(disk: Disk, node: str) -> Step:
    def given(value: str) -> Dict[str, str]:
        return {"path": disk.qom, "property": "drive", "value": value}

    return Step("qom-set", given(node), undo=[Step("qom-set", given(disk.top))], hint=drive_hint)


def _clear(vm: VM, back: Return, new: Place) -> List[Step]:
    """Return what removes the nodes that are not needed any more, and the files that this module has made."""
    steps: List[Step] = []
    for layer in (*back.gone, *back.left):
        if layer.path == new.path:
            continue
        if back.disk.is_overlay(layer.path):  # before its node, by which the next run would know of it
            steps.append(remove_file(vm, layer.path, layer.node))
        steps.append(delete_node(layer.node))
    return steps


def directory_of(back: Return, params: Params) -> str:
    """Return where the new overlay is made: beside the old one, unless the task says otherwise."""
    return params["directory"] or os.path.dirname(back.disk.layers[back.at].path)


def _mark(vm: VM, name: str) -> Tuple[str, bool, bool]:
    """Return the name of that node, whether it is there, and whether the guest is to run afterwards."""
    running, stopped = reverting(name)
    for mark in (running, stopped):
        if mark in nodes(vm):
            return mark, True, mark == running
    runs = vm.ask("query-status")["running"] or vm.status == "io-error"  # it stopped for the disk that goes
    return (running if runs else stopped), False, runs


def _marking(mark: str) -> Dict[str, object]:
    return {"node-name": mark, "driver": "null-co", "read-only": True}
