# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a backup: images, their nodes, the transaction that begins all copies at once, and what makes it complete."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.step import Step
from .._host import directory as directories
from .._host import overlay_file, part_file
from .._host.qemu_img import QemuImg
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.host_path import is_seen
from .._operations import job_end, jobs
from . import chain as chains
from . import fleece, place
from .disks import Source, job_id, node_name
from .level import Choice
from .point import check_header
from .verify import check as check_tables

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params
    from .._qmp.deadline import Deadline


class NewImage:
    """A disk's part of a new backup."""

    def __init__(self, source: Source, base: chains.Image | None, bitmap: str | None) -> None:
        """Take what the image stands on, and the bitmap that records what changes from then on."""
        self.source, self.base, self.bitmap = source, base, bitmap
        self.name = source.name
        self.written = 0

    @property
    def dirty(self) -> int | None:
        """Bytes that have changed since the base."""
        count = self.source.bitmaps[self.base.bitmap]["count"] if self.base and self.base.bitmap else None
        return None if count is None else int(count)


class New:
    """A new backup, and what its end tells of it."""

    def __init__(
        self,
        path: str,
        number: int,
        choice: Choice,
        disks: Sequence[NewImage],
        user: int,
        binary: str,
        vm: Dict[str, Any],
        name: str,
    ) -> None:
        """``user``: the one that QEMU runs as. ``binary``: the program that makes images. ``vm``: the VM's identity."""
        self.path, self.number, self.choice, self.disks = path, number, choice, disks
        self.user, self.binary, self.vm, self.name = user, binary, vm, name
        self.began, self._quiesced = 0.0, False

    def taken(self, seconds: float, quiesced: bool) -> None:
        """Note when it is taken, in seconds of the clock."""
        self.began, self._quiesced = seconds, quiesced

    def file(self, one: NewImage) -> str:
        """Return the path of an image, from the directory on."""
        return chains.file_name(one.name, self.number, self.choice.level)

    def image_path(self, one: NewImage) -> str:
        """Return the path of an image."""
        return os.path.join(self.path, self.file(one))

    def entry(self) -> chains.Backup:
        """Return it as it is listed."""
        disks = {
            one.name: chains.Image(
                file=self.file(one),
                size=one.source.top.size,
                backing=one.base and one.base.file,
                written=one.written,
                dirty=one.dirty,
                node=one.source.node,
                bitmap=one.bitmap,
                source=one.source.top.source,
            )
            for one in self.disks
        }
        level, why = self.choice.level, self.choice.why
        return chains.Backup(self.number, level, why, chains.time_text(self.began), self._quiesced, disks)


def check(vm: VM, new: New, params: Params) -> None:
    """Raise Refusal where the images can't be made, or have no room."""
    if params["fleece"]:
        fleece.check(vm, "fleece", params["fleece"])
    there = new.path if os.path.isdir(new.path) else os.path.dirname(new.path)
    if not is_seen(vm, "path", there):
        raise Refusal(f"path: QEMU sees another {there} than this task: run the task where QEMU runs")
    part_file.check_directory("path", os.path.join(there, chains.FILE))
    for one in new.disks:
        found = directories.look(os.path.join(new.path, one.name))
        if found is not None and (found.uid not in (0, os.geteuid()) or found.mode & 0o022):
            raise Refusal(f"path: others can write to {new.path}/{one.name}: give it to the user that runs the task")
    free = part_file.room(there)
    need = sum(one.source.used if one.dirty is None else one.dirty for one in new.disks)
    if need > free and not params["force"] and not params["compress"]:
        raise Refusal(
            f"path: the backup takes up to {need} bytes, and {there} has {free}: when it is full the guest's own writes fail, "
            "unless they go by fleece. Make room, or set force=true where less will be written"
        )


def warnings(new: New) -> List[str]:
    """Return what is to be told of the disks."""
    found = []
    for one in new.disks:
        if one.bitmap and not one.source.persistent:
            found.append(
                f"disks: the image of {one.name} is of format {one.source.top.format} and keeps no bitmap over an end of QEMU: "
                "the first backup after that is a full one"
            )
        if one.source.encrypted:
            found.append(f"disks: the image of {one.name} is encrypted, and its backup is not")
    return found


def make(vm: VM, new: New, begins: bool, lock: place.Lock) -> List[Step]:
    """Return the steps that make the images and their nodes. ``begins``: there is no chain yet."""
    mine = directories.Access(os.geteuid(), os.getegid(), 0o700)
    if new.user != os.geteuid():
        mine = directories.passed_by(_user_name(new.user))
    made: List[Step] = []
    if not os.path.isdir(new.path):
        made.append(place.make_directory(new.path, mine, lock.acquire))
    if begins:
        made.append(_begin_list(new))
    for one in new.disks:
        if not os.path.isdir(os.path.join(new.path, one.name)):
            made.append(place.make_directory(os.path.join(new.path, one.name), mine))
    return [*made, *(step for one in new.disks for step in _image(vm, new, one))]


def _user_name(uid: int) -> str | None:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise Refusal(f"path: QEMU runs as user {uid}, whom this host does not know") from None


def _image(vm: VM, new: New, one: NewImage) -> List[Step]:
    path, node = new.image_path(one), node_name(new.name, one.name)
    base = (os.path.basename(one.base.file), "qcow2") if one.base else ()
    image = overlay_file.make_step(
        path, base, one.source.top.size, new.user, new.binary, lambda vm: node not in nodes(vm)
    )
    file = {"driver": "file", "filename": path}
    made = {"node-name": node, "driver": "qcow2", "file": file, "backing": None}
    return [image, Step("blockdev-add", made, undo=[delete_node(node)])]


def begin(vm: VM, new: New, freeze: Sequence[Step], params: Params) -> List[Step]:
    """Return the steps that begin all copies as of one moment, and the bitmaps of what changes from then on."""
    bitmaps = [
        ("block-dirty-bitmap-add", {"node": one.source.node, "name": one.bitmap, **_persistent(one)})
        for one in new.disks
        if one.bitmap
    ]
    undo = [place.remove_bitmap(one.source.node, one.bitmap) for one in new.disks if one.bitmap]
    ends = [step for one in new.disks for step in job_end.end(job_id(new.name, one.name))]
    if vm.ask("query-status")["running"]:  # it stands still where its write could not be kept
        ends.append(Step("cont", removes=True, still_needed=lambda vm: vm.status == "io-error"))
    copies = [action for one in new.disks for action in _copy(vm, new, one, params)]
    if not params["fleece"]:
        return [*freeze, _transaction([*bitmaps, *copies], [*ends, *undo])]
    sources = [one.source for one in new.disks]
    made = [
        step for one in sources for step in fleece.prepare(vm, params["fleece"], new.name, one, new.user, new.binary)
    ]
    at_once = [_transaction(bitmaps, undo)] if bitmaps else []
    return [*made, *freeze, *fleece.put_in(vm, new.name, sources, at_once), _transaction(copies, ends)]


def _persistent(one: NewImage) -> Dict[str, Any]:
    return {"persistent": True} if one.source.persistent else {}


def _transaction(actions: Sequence[Tuple[str, Dict[str, Any]]], undo: Sequence[Step]) -> Step:
    return Step("transaction", {"actions": [{"type": name, "data": data} for name, data in actions]}, undo=undo)


def _copy(vm: VM, new: New, one: NewImage, params: Params) -> List[Tuple[str, Dict[str, Any]]]:
    """Return the actions that copy a disk: of an earlier backup's bitmap only what it says has changed."""
    actions: List[Tuple[str, Dict[str, Any]]] = []
    node, bitmap = one.source.node, one.base and one.base.bitmap
    if params["fleece"]:
        node = fleece.names(new.name, one.name).access
        if bitmap:  # of another node, whose copy has more in it by now, which does no harm
            actions = [
                ("block-dirty-bitmap-add", {"node": node, "name": bitmap}),
                (
                    "block-dirty-bitmap-merge",
                    {"node": node, "target": bitmap, "bitmaps": [{"node": one.source.node, "name": bitmap}]},
                ),
            ]
    copy: Dict[str, Any] = {
        "job-id": job_id(new.name, one.name),
        "device": node,
        "target": node_name(new.name, one.name),
        **({"sync": "bitmap", "bitmap": bitmap, "bitmap-mode": "never"} if bitmap else {"sync": "full"}),
        "auto-dismiss": not vm.may_keep("backup"),
        **{key: params[key] for key in ("speed", "compress") if params[key]},
    }
    return [*actions, ("blockdev-backup", copy)]


def end(vm: VM, new: New, name: str, chain: chains.Chain | None, params: Params) -> List[Step]:
    """Return the steps that follow when all is copied. With the last one the backup is complete."""
    steps = [jobs.dismiss(job_id(name, one.name)) for one in new.disks if vm.may_keep("backup")]
    if params["fleece"]:
        steps += fleece.take_out(vm, name, [one.source.disk for one in new.disks])
        paths = [fleece.scratch_path(vm, params["fleece"], name, one.source.disk) for one in new.disks]
        steps += [place.remove_file(vm, path) for path in paths]
    steps += [delete_node(node_name(name, one.name)) for one in new.disks]
    paths = [new.image_path(one) for one in new.disks]
    shown: List[List[str]] = [["sync", *paths]]
    if params["verify"]:
        shown += [[new.binary, "check", "-q", path] for path in paths]

    def finish(deadline: Deadline) -> None:
        for one in new.disks:
            _finish(new, one, QemuImg(new.binary, deadline) if params["verify"] else None)

    def listed(deadline: Deadline) -> None:
        chains.write(new.path, (chain or chains.Chain(new.name, new.vm)).add(new.entry()))

    lines = [["tee", os.path.join(new.path, chains.FILE)]]
    return [*steps, Step(do=finish, command_lines=shown), Step(do=listed, command_lines=lines)]


def _finish(new: New, one: NewImage, tool: QemuImg | None) -> None:
    """Have an image outlive a power failure, and give it to whose directory it is: QEMU does not need it any more.

    Its user could write what it liked to the image until then, so that it is looked at after that. ``tool`` looks at its tables.
    """
    path = new.image_path(one)
    try:
        with safe_open.parent(path) as (directory, name):
            number = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        with open(number, "rb") as file:
            os.fchown(number, os.geteuid(), os.getegid())
            os.fsync(number)
            check_header(path, file, new.entry().disks[one.name])
            if tool:
                check_tables(tool, path, number)
            one.written = os.fstat(number).st_blocks * 512
        chains.sync_directory(os.path.dirname(path))
    except OSError as exc:
        raise OperationFailed(f"path: {path} can't be written: {exc.strerror}") from exc


def _begin_list(new: New) -> Step:
    """Return the step that writes the empty list down. It stays while an image does: without it the directory would be strange."""
    path = os.path.join(new.path, chains.FILE)

    def remove(deadline: Deadline) -> None:
        left = sorted(set(os.listdir(new.path)) - {chains.FILE})
        if left:
            raise OperationFailed(f"{left[0]} is still there; the next run removes what belongs to no backup")
        part_file.remove(path)

    return Step(
        do=lambda deadline: chains.write(new.path, chains.Chain(new.name, new.vm)),
        command_lines=[["tee", path]],
        undo=[Step(do=remove, command_lines=[["rm", path]])],
    )
