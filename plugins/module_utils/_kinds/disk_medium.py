# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Another medium in a drive, under the name of the node that the old one had, and none. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.errors import Refusal
from . import blockdev_graph, blockdev_steps, device_drive
from .blockdev_nodes import held_by, node_of

if TYPE_CHECKING:
    from .._core.option import Want
    from .._core.plan import Draft
    from .._core.step import Step
    from .._core.vm import VM
    from .kind import Kind, State


def replaced(kind: Kind, vm: VM, want: Want, have: State, draft: Draft) -> List[Step]:
    """Return the steps that put another medium in the place of a node, whose name it takes.

    It is opened first, under another name, and stays open until the end: where it can't be opened, the guest notices nothing.
    A node that QEMU itself has made can't be made again under its name. It is held while the new one has the usual name.
    """
    device, name = want["device"], kind.ident(want)
    check_alone(kind, vm, want, draft)
    new = kind.complete(vm, want, have)
    inserted = node_of(vm, device) == name
    if name.startswith("#"):
        name = f"{device}-node"
        made = kind.create(vm, {**new, "node_name": name}, draft)
        return [*made, *_exchanged(vm, want, [], name, draft), *device_drive.let_go(vm, device, draft)]
    left = device_drive.drop_left(vm, device, draft)
    again = [*blockdev_steps.remove(vm, {"node_name": name}), *kind.create(vm, new, draft)]
    if not inserted:  # no guest sees it
        return [*left, *again]
    image = {key: value for key, value in new.get("file", {}).items() if key != "node-name"}
    tried = {**new, "node_name": held_by(device), **({"file": image} if image else {})}
    probe = kind.create(vm, tried, draft)[0]
    return [*left, probe, *_exchanged(vm, want, again, name, draft), blockdev_steps.release(held_by(device))]


def _exchanged(vm: VM, want: Want, between: List[Step], node: str, draft: Draft) -> List[Step]:
    """Return the steps that take the medium out and put a node in. ``between``: what is done while the drive is empty."""
    device = want["device"]
    out = device_drive.take_out(vm, device, want, draft)
    return [*out, *between, *device_drive.put_in(vm, device, node, draft), *device_drive.close(vm, device, want)]


def ejected(kind: Kind, vm: VM, want: Want, draft: Draft) -> List[Step]:
    """Return the steps that take a medium out of its drive, where it is in there, and delete its node."""
    device, name = want["device"], kind.ident(want)
    check_alone(kind, vm, want, draft)
    deleted = [] if name.startswith("#") else blockdev_steps.remove(vm, {"node_name": name})
    if node_of(vm, device) != name:
        return deleted
    out = device_drive.take_out(vm, device, want, draft)
    return [*out, *device_drive.close(vm, device, want), *deleted, *device_drive.let_go(vm, device, draft)]


def check_alone(kind: Kind, vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal where something else than its drive uses a medium, or lies over it."""
    over = blockdev_graph.above(vm, want["device"], kind.ident(want))
    if over:
        raise Refusal(
            f"medium: {kind.ident(want)} lies below {over[0]}, and can't be taken out before that has been removed"
        )
    own = (("device", want["device"]), ("blockdev", held_by(want["device"])))  # the latter left by a stopped run
    users = [user for user in kind.users(vm, want) if user not in own and user not in draft.removing]
    if users:
        used = ", ".join(f"{sort} {ident}" for sort, ident in users)
        raise Refusal(f"medium: {kind.ident(want)} is in use by {used}, and can't be taken out: remove that first")
