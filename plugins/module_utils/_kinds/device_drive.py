# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a device has as its drive, beside what a task wants there. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from .._core.errors import NotDoneInTime, Refusal
from .._core.option import Want
from .._core.step import Step, Wait
from . import blockdev_graph, blockdev_steps, device_steps, drive_limits
from .blockdev_active import check_staying
from .blockdev_nodes import drive_of, held_by, node_of, nodes
from .kind import Change

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM
    from .._qmp.events import Event


class TrayOpened(Wait):
    """The end of a ``blockdev-open-tray``: at once, unless the guest has locked the tray; then it is asked, and opens it itself."""

    def __init__(self, ident: str, qdev: str, asks_guest: bool) -> None:
        self.ident, self.qdev, self.needs_guest = ident, qdev, asks_guest

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the word that the tray is open now."""
        data = event.data
        return event.name == "DEVICE_TRAY_MOVED" and data.get("id") == self.qdev and bool(data.get("tray-open"))

    def is_done(self, vm: VM) -> bool:
        """Tell whether the tray is open."""
        return bool((drive_of(vm, self.ident) or {}).get("tray_open"))

    def timeout_error(self, vm: VM) -> Exception:
        """Return who keeps the tray closed, and what can be done."""
        return NotDoneInTime(
            f"tray: the guest has locked the tray of {self.ident}, was asked to open it, and has not done so within the timeout: "
            "let it eject the medium and run the task again, or set force=true, which opens the tray whatever the guest does"
        )


def add_steps(vm: VM, want: Want, usual: str | None, ending: Wait, draft: Draft) -> List[Step]:
    """Return the ``device_add``; of a disk that a stopped run has left held, with its top node, which then is let go."""
    ident, drive = str(want["id"]), want.get("options", {}).get("drive")
    if not drive or not blockdev_graph.held(vm, ident) or drive not in blockdev_graph.chain(vm, ident):
        added = device_steps.add(vm, want, usual, ending, draft)
        again = (
            drive_limits.again(vm, ident, str(added.arguments["driver"])) if drive and ident in vm.peripherals() else []
        )
        return [added, *again]
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
        f"device {ident} has block node {name} ({path}) by now, and {wanted} may have only old data of the disk, as after a "
        f"mirror: name {name}; or, if {wanted} is another disk that is wanted in its place, remove device {ident} first, in "
        "another task"
    )


def insert(vm: VM, want: Want, draft: Draft) -> List[Step]:
    """Return the steps that put the wanted node into a drive, whatever is in it now, and close its tray."""
    ident, node = str(want["id"]), want["options"]["drive"]
    if ("medium", ident) in draft.removing:  # the node's part has changed it
        return []
    if node == node_of(vm, ident):
        return close(vm, ident, want)
    blockdev_steps.check_free(vm, node, ident, draft, writes=False, shared=True)
    users = [] if ("blockdev", node) in draft.adding else blockdev_graph.users(vm, node)
    others = [user for user in users if user[0] in ("device", "export") and user not in draft.removing]
    others = [user for user in others if ("medium", user[1]) not in draft.removing]
    if others:
        raise Refusal(
            f"drive: block node {node} is in use by {' '.join(others[0])}, and a drive takes none that is: name another"
        )
    empty = node_of(vm, ident) is None
    opening = open_tray(vm, ident, want) if empty else take_out(vm, ident, want, draft)
    return [*opening, *put_in(vm, ident, node, draft), *close(vm, ident, want), *let_go(vm, ident, draft)]


def open_tray(vm: VM, ident: str, want: Want) -> List[Step]:
    """Return the step that opens a drive's tray; none where it is open, and for a floppy drive, which has none."""
    drive = drive_of(vm, ident) or {}
    if drive.get("tray_open", True):
        return []
    forced = {"force": True} if want.get("force") else {}
    ending = TrayOpened(ident, drive["qdev"], bool(drive.get("locked")) and not forced)
    closing = Step("blockdev-close-tray", {"id": drive["qdev"]})
    return [Step("blockdev-open-tray", {"id": drive["qdev"], **forced}, wait=ending, undo=[closing])]


def take_out(vm: VM, ident: str, want: Want, draft: Draft) -> List[Step]:
    """Return the steps that open a drive and take its medium out; the tray is left open.

    A node that QEMU itself has made goes when nothing uses it: it is held until ``let_go``, so that it can be put back.
    """
    check_staying(vm, f"medium: {ident}", "its destination would not have another medium")
    drive, steps = drive_of(vm, ident) or {}, []
    node, where = drive["inserted"]["node-name"], {"id": drive["qdev"]}
    draft.removing.add(("medium", ident))
    if node.startswith("#"):
        steps = [*drop_left(vm, ident, draft), blockdev_steps.hold(held_by(ident), node)]
        draft.adding[("blockdev", held_by(ident))] = {}
    back = Step("blockdev-insert-medium", {**where, "node-name": node})
    return [*steps, *open_tray(vm, ident, want), Step("blockdev-remove-medium", where, undo=[back])]


def put_in(vm: VM, ident: str, node: str, draft: Draft) -> List[Step]:
    """Return the step that puts a medium into a drive that is open and empty then."""
    check_staying(vm, f"medium: {ident}", "its destination would not have another medium")
    where = {"id": (drive_of(vm, ident) or {})["qdev"]}
    draft.adding[("medium", ident)] = {}
    undo = [Step("blockdev-remove-medium", where)]
    return [Step("blockdev-insert-medium", {**where, "node-name": node}, undo=undo)]


def close(vm: VM, ident: str, want: Want) -> List[Step]:
    """Return the step that closes a tray which is open then, unless it is wanted open.

    Taken back by force: the guest may have locked it at once.
    """
    drive = drive_of(vm, ident) or {}
    if want.get("tray") == "open" or "tray_open" not in drive:
        return []
    where = {"id": drive["qdev"]}
    return [Step("blockdev-close-tray", where, undo=[Step("blockdev-open-tray", {**where, "force": True})])]


def drop_left(vm: VM, ident: str, draft: Draft) -> List[Step]:
    """Return the step that deletes a holding node which a stopped run has left, before this one makes its own."""
    if held_by(ident) not in nodes(vm) or ("blockdev", held_by(ident)) in draft.removing:
        return []
    draft.removing.add(("blockdev", held_by(ident)))
    return [blockdev_steps.delete_node(held_by(ident))]


def let_go(vm: VM, ident: str, draft: Draft) -> List[Step]:
    """Return the step that deletes the holding node, at the end of the plan; none where the plan makes none."""
    made = ("blockdev", held_by(ident)) in draft.adding
    return [blockdev_steps.release(held_by(ident))] if made else []
