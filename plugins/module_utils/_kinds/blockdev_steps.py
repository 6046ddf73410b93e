# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The steps that make, change and remove block nodes. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from .._core.coercion import without_password
from .._core.errors import Refusal
from .._core.option import Want
from .._core.step import Step
from .._core.vm import PERIPHERAL
from .._qmp import errors
from . import qemu_texts
from .blockdev_active import check_active
from .blockdev_definition import PROTOCOLS, Untold, as_it_is, references
from .blockdev_graph import children, jobs_on, nodes_over, users
from .blockdev_image import virtual_size
from .blockdev_nodes import file_of, nodes, sectors
from .host_path import seen_by_qemu
from .kind import Change, State

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM


def create(vm: VM, want: Want) -> List[Step]:
    """Return the ``blockdev-add``, and a ``block_resize`` where the image is smaller than wanted."""
    name = want["node_name"]
    if name.startswith("#"):
        raise Refusal(f"node_name: there is no block node {name}, and QEMU alone makes nodes with such names")
    bare = not any(want.get(option) for option in ("filename", "file", "options"))
    if bare and _takes_image(vm, want.get("driver", "raw")):
        raise Refusal(f"filename: block node {name} does not exist yet, and to add it its filename must be given")
    arguments = vm.schema.coerce("blockdev-add", _definition(want, vm))
    _check_format(vm, want)
    undo = _delete(name)
    steps = [Step("blockdev-add", arguments, undo=[undo], hint=_hint)]
    if "size" in want:
        steps.append(_grow_new_node(vm, want))
    return steps


def complete(vm: VM, want: Want, have: State) -> Want:
    """Return what it is made of and how it is opened; of a node of another driver the image, where the new one takes any."""
    try:
        was = as_it_is(vm, want["node_name"])
    except Untold as exc:
        raise Refusal(f"{exc}: remove it (state=absent) in a task of its own, and add it in another") from None
    if want.get("driver", was["driver"]) != was["driver"]:
        was["options"] = {}
        if not _takes_image(vm, want["driver"]):
            was.pop("filename", None)
            was.pop("file", None)
    if "file" in want or "filename" in want or "file" in want.get("options", {}):
        was["options"].pop("file", None)
        was["options"].pop("encrypt", None)  # the other image's
        was.pop("file", None)
        was.pop("filename", None)
    return _merged(was, want)


def _takes_image(vm: VM, driver: str) -> bool:
    return driver in PROTOCOLS or vm.schema.has("blockdev-add", f"driver={driver}", "file")


def change(vm: VM, want: Want, have: State, changes: List[Change]) -> List[Step]:
    """Return a ``block_resize`` to grow (nothing takes that back), and a ``blockdev-reopen`` for the rest."""
    name = want["node_name"]
    steps = []
    if any(change.key != "size" for change in changes):
        was = as_it_is(vm, name, whole=False)
        undo = [Step("blockdev-reopen", _reopen(vm, was))]
        steps.append(Step("blockdev-reopen", _reopen(vm, _merged(was, want)), undo=undo, hint=_hint))
    for change in changes:
        if change.key == "size":
            # query-jobs was asked before the nodes were, and mostly tells of none
            jobs = jobs_on(vm, [name, *nodes_over(vm, name)]) if vm.ask("query-jobs") else []
            if jobs:
                raise Refusal(f"size: block job {jobs[0]} works on {name}, which can't grow before that has ended")
            read_only = bool(want.get("read_only", have["read_only"]))
            steps.append(_resize(vm, name, change.after, read_only, change.before))
    return steps


def remove(vm: VM, want: Want) -> List[Step]:
    """Return the ``blockdev-del``, with the ``blockdev-add`` that takes it back."""
    name = want["node_name"]
    if name.startswith("#"):
        raise Refusal(f"node_name: QEMU made the block node {name} by itself, and deletes it with what it made it for")
    try:
        again = _definition(as_it_is(vm, name), None)
    except Untold as exc:
        return [_delete(name, [], str(exc))]
    hidden = [part for part in again if without_password(str(again[part])) != str(again[part])]
    undo = [Step("blockdev-add", again, secret=hidden)]
    below = children(vm, name).get("file", "")
    limit = nodes(vm)[below]["write_threshold"] if below == file_of(name) else 0
    if limit:
        undo.append(Step("block-set-write-threshold", {"node-name": below, "write-threshold": limit}))
    return [_delete(name, undo)]


def hold(name: str, node: str) -> Step:
    """Return the step that keeps a node in being, whatever becomes of its device."""
    made = {"driver": "raw", "node-name": name, "read-only": True, "file": node}
    return Step("blockdev-add", made, undo=[_delete(name)])


def delete_node(name: str) -> Step:
    """Return the step that deletes a node. It waits a moment where its user has just let go."""
    return _delete(name)


def release(name: str) -> Step:
    """Return that step for the end of the plan, when nothing has to be given back any more."""
    return delete_node(name).replace(last=True)


def _merged(was: Want, want: Want) -> Want:
    """Lay what was asked for over what there is."""
    both = {part: {**was.get(part, {}), **want.get(part, {})} for part in ("cache", "options")}
    return {**was, **want, **{part: values for part, values in both.items() if values}}


def _reopen(vm: VM, want: Want) -> Dict[str, Any]:
    """Return ``blockdev-reopen``'s arguments: the whole definition, not the difference; the nodes below by their names."""
    plain = {key: value for key, value in want.items() if key not in ("file", "aio")}
    made = {**_definition(plain, None), **references(vm, want["node_name"])}
    return {"options": [vm.schema.coerce("blockdev-add", made)]}


def _definition(want: Want, vm: VM | None) -> Dict[str, Any]:
    """Return ``blockdev-add``'s arguments. With ``vm`` the file must exist, as far as this host can tell."""
    driver = want.get("driver", "raw")
    made: Dict[str, Any] = {"node-name": want["node_name"], "driver": driver}
    below = made if driver in PROTOCOLS else {}
    if "filename" in want:
        found = _protocol(want["filename"], vm)
        below["driver"] = driver if driver in PROTOCOLS else found
        below["filename"] = want["filename"]
    elif "file" in want:
        below.update(want["file"])
        if "driver" not in want["file"] and "filename" in below:
            below["driver"] = _protocol(below["filename"], vm)
    if "aio" in want:
        below["aio"] = want["aio"]
    if below and below is not made:
        made["file"] = below
    for option in ("read_only", "discard", "detect_zeroes"):
        if option in want:
            made[option.replace("_", "-")] = want[option]
    cache = {"direct": "direct", "no_flush": "no-flush"}
    if any(key in want.get("cache", {}) for key in cache):
        made["cache"] = {qemu: want["cache"][key] for key, qemu in cache.items() if key in want["cache"]}
    made.update(want.get("options", {}))
    return made


def _check_format(vm: VM, want: Want) -> None:
    """Raise Refusal for a qcow2 image that would be raw only because nothing says otherwise: the guest would write over it."""
    path = want.get("filename")
    seen = seen_by_qemu(vm, "filename", path) if "driver" not in want and isinstance(path, str) else None
    if seen is not None and virtual_size(seen, "qcow2") is not None:
        raise Refusal(
            f"filename: {path} begins as a qcow2 image does. Without a format it would be a raw disk, and the guest would "
            "overwrite the image's own data: name the format that it was made with (driver of a block node)"
        )


def _grow_new_node(vm: VM, want: Want) -> Step:
    """Return the ``block_resize`` of a new node, before anything uses it: sent where QEMU says that the image is smaller.

    The image is looked at here to predict that, where this host is QEMU's. Raise Refusal for one that it would cut.
    """
    name, size = want["node_name"], sectors(want["size"])
    now = _expected_size(vm, want)
    step = _resize(vm, name, size, want.get("read_only", False), now).replace(last=False, hidden=now == size)
    if now is not None:
        return step
    return step.replace(
        uncertain=f"size: only QEMU can tell how large the image of {name} is; no block_resize is sent if it has {size} bytes"
    )


def _expected_size(vm: VM, want: Want) -> int | None:
    """Return the size that a new node will have, as its file here tells, or None where only QEMU can tell."""
    path = want.get("filename") or want.get("file", {}).get("filename")
    part = any(option in want.get("options", {}) for option in ("offset", "size"))
    if part or not vm.local or not isinstance(path, str):
        return None
    if path in vm.coming:
        return vm.coming[path]
    seen = seen_by_qemu(vm, "filename", path)
    return None if seen is None else virtual_size(seen, want.get("driver", "raw"))


def check_free(vm: VM, node: str, device: str, draft: Draft, *, writes: bool, shared: bool) -> None:
    """Raise Refusal when a device that wants this node (or the id of a ``-drive``) could not have it.

    ``writes``: the device may write to it. ``shared``: it lets others write (``share-rw``).
    """
    if ("blockdev", node) in draft.adding:
        return
    if node not in nodes(vm):
        if node not in [drive["device"] for drive in vm.ask("query-block")]:
            raise Refusal(f"drive: there is no block node {node!r}")
        return
    over = [
        user[1] for user in users(vm, node) if user[0] == "blockdev" and children(vm, user[1]).get("backing") == node
    ]
    over = [name for name in over if ("blockdev", name) not in draft.removing]
    if over:
        raise Refusal(
            f"drive: block node {node} lies below {over[0]}, which has what was written since: name that one, or remove it first"
        )
    others = [
        user for user in users(vm, node) if user[0] == "device" and user[1] != device and user not in draft.removing
    ]
    for _kind, other in others if not nodes(vm)[node]["ro"] else ():
        path = other if other.startswith("/") else f"{PERIPHERAL}/{other}"  # one without an id is told by its path
        reads = str(vm.prop(path, "type")).endswith("-cd")
        if (writes and not vm.prop(path, "share-rw", False)) or (not shared and not reads):
            raise Refusal(f"drive: block node {node} is in use by device {other}; both need share-rw to share it")


def _resize(vm: VM, name: str, size: int, read_only: bool, now: int | None) -> Step:
    """Return the ``block_resize`` of a node that has ``now`` bytes, as far as that is known; it never shrinks one."""
    if now is not None and _may_grow(name, size, read_only, now):
        check_active(vm, f"size: growing {name}", name)
    new = name not in nodes(vm)

    def due(vm: VM) -> bool:
        """Tell by QEMU's own word, at the moment in which it is sent."""
        node = nodes(vm).get(name)
        if node is None:
            raise Refusal(f"size: block node {name} is not there any more, so it was not grown")
        grows = _may_grow(name, size, read_only, node["image"]["virtual-size"])
        if grows and (not new or vm.status == "inmigrate"):
            check_active(vm, f"size: growing {name}", name)
        return grows

    return Step(
        "block_resize", {"node-name": name, "size": size}, last=True, condition=due, hint=qemu_texts.resize_hint
    )


def _may_grow(name: str, size: int, read_only: bool, now: int) -> bool:
    """Tell whether a node of ``now`` bytes must grow. Raise Refusal for one that can't, and for one that would shrink."""
    if now > size:
        raise Refusal(f"size: {name} has {now} bytes; making it {size} would cut data off, and a disk is never shrunk")
    if now < size and read_only:
        raise Refusal(f"size: {name} is read-only, so it can't grow to {size} bytes")
    return now < size


def _delete(name: str, undo: Sequence[Step] = (), final: str = "") -> Step:
    # A node stays "in use" for a moment after its device has left the device tree; one that is not the monitor's goes with it.
    return Step(
        "blockdev-del",
        {"node-name": name},
        retry=qemu_texts.is_busy,
        undo=undo,
        removes=True,
        still_needed=lambda vm: name in nodes(vm),
        irreversible=final,
    )


def _protocol(path: str, vm: VM | None) -> str:
    """Return the driver for a path: QEMU's ``file`` takes regular files only, ``host_device`` devices only."""
    if not isinstance(path, str) or "\0" in path:
        raise Refusal(f"filename: {path!r} is not a valid path")
    if vm is not None and not os.path.isabs(path):
        raise Refusal(
            f"filename: {path} is relative, and QEMU's working directory is not the task's: give an absolute path"
        )
    seen = None if vm is None else seen_by_qemu(vm, "filename", path)
    try:
        mode = os.stat(seen or path).st_mode
    except OSError as exc:
        # Another host's QEMU, or a name that only QEMU knows, has the last word on what exists.
        if vm is not None and seen is not None and path not in vm.coming:
            raise Refusal(f"filename: cannot use {path}: {exc.strerror}") from exc
        return "file"
    device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
    if seen is not None and not device and not stat.S_ISREG(mode):
        what = "a directory, not an image" if stat.S_ISDIR(mode) else "neither a file nor a block device"
        raise Refusal(f"filename: {path} is {what}")
    return "host_device" if device else "file"


def _hint(error: errors.CommandError) -> str:
    return qemu_texts.write_lock_hint(error) or qemu_texts.reopen_hint(error)
