# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Backups made images again, and looked at whether they can be. No virtual machine is asked."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Sequence, cast

from .._core.errors import Refusal
from .._core.option import Option
from .._core.plan import Plan
from .._core.step import Step
from .._host import part_file
from .._host.qemu_img import QemuImg, in_use
from . import chain as chains
from .point import Point, points
from .result import shown
from .verify import is_the_same, verify

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline
    from .chain import Backup, Chain

STATES = ("restored", "verified")
OPTIONS = {
    "name": Option("str", required=True),
    "path": Option("path", required=True),
    "disks": Option("list", elements="str"),
    "exclude": Option("list", elements="str"),
    "to": Option("raw"),
    "until": Option("str"),
    "format": Option("str", choices=["qcow2", "raw"], default="qcow2"),
    "force": Option("bool", default=False),
    "qemu_img": Option("path", default="qemu-img"),
}
"""What the states ``restored`` and ``verified`` take, besides ``state`` and ``timeout``."""
# On the new image itself: it goes where the image goes, and is not on another that gets its name.
_MARK = "user.vmm.qemu.backup"


class Target(NamedTuple):
    """A disk and the image that it becomes."""

    point: Point
    path: str
    mark: bytes
    """What says which backup it was made of."""
    there: bool
    """Whether an image has its name."""
    same: bool
    """Whether that one was made of this backup already."""


def run(task: Task) -> Dict[str, Any]:
    """Return the result of a task with the state ``restored`` or ``verified``. Raise TaskError and PlanFailed."""
    params = task.params
    directory = _directory(params)
    chain = chains.read(directory, params["name"])
    if chain is None:
        raise Refusal(f"path: there are no backups in {directory}: it has no {chains.FILE}")
    backup = chains.chosen(chain, params["until"])
    found = points(directory, chain, backup, params)
    tool = QemuImg(params["qemu_img"], task.deadline)
    paths = _paths(params, directory, found)
    result = {"backup": shown(directory, backup, [point.disk for point in found])}
    if params["state"] == "verified":
        result["backup"]["verified"] = {
            point.disk: verify(tool, point, paths.get(point.disk), params["format"]) for point in found
        }
        return {"changed": False, "commands": [], "diff": {"before": {}, "after": {}}, **result}
    targets = [_target(tool, chain, backup, point, paths[point.disk], params) for point in found]
    plan = _plan(tool, targets, params)
    if plan.changed and not task.check_mode:
        from .._engine.apply import apply

        apply(plan, cast("VM", task.host()))  # none of its steps speaks to a monitor
    for target in targets:
        result["backup"]["disks"][target.point.disk]["restored"] = target.path
    diff = {"before": plan.before, "after": plan.after}
    return {"changed": plan.changed, "commands": plan.commands, "diff": diff, **result}


# -- what is asked for -------------------------------------------------------------------------------------------------


def _directory(params: Dict[str, Any]) -> str:
    """Return the directory of the backups. Raise Refusal for a path that depends on where somebody stands."""
    path: str = params["path"]
    if not path.startswith("/"):
        raise Refusal(f"path: {path!r} is not an absolute path")
    return os.path.normpath(path)


def _paths(params: Dict[str, Any], directory: str, found: Sequence[Point]) -> Dict[str, str]:
    """Return the path of each disk's image; none where ``to`` is not given. Raise Refusal for what can't be meant."""
    to = params["to"]
    if to is None:
        if params["state"] == "restored":
            raise Refusal("to: say where the images go: a directory, or a dictionary of disk and path")
        return {}
    if isinstance(to, str):
        part_file.check_absolute("to", to.rstrip("/") or to)
        paths = {point.disk: os.path.join(to, f"{point.disk}.{params['format']}") for point in found}
    elif isinstance(to, dict) and all(isinstance(path, str) for path in to.values()):
        paths = dict(to)
    else:
        raise Refusal(f"to: {to!r} is neither a directory nor a dictionary of disk and path")
    wanted = [point.disk for point in found]
    for disk in wanted:
        if disk not in paths:
            raise Refusal(f"to: {disk} has no path there; name it, or leave the disk out (disks, exclude)")
    for disk, path in paths.items():
        if disk not in wanted:
            raise Refusal(f"to: {disk!r} is not among the disks of this task: {', '.join(wanted)}")
        part_file.check_absolute("to", path)
    _check_apart(paths, directory)
    return paths


def _check_apart(paths: Dict[str, str], directory: str) -> None:
    """Raise Refusal for two disks in one image, and for an image among the backups."""
    owners: Dict[str, str] = {}
    own = os.path.realpath(directory)
    for disk, path in paths.items():
        real = os.path.realpath(path)
        if real in owners:
            raise Refusal(f"to: {path} is named for two disks, {owners[real]} and {disk}")
        if os.path.commonpath([own, real]) == own:
            raise Refusal(f"to: {path} is in the directory of the backups itself: name another")
        owners[real] = disk


# -- what is there -----------------------------------------------------------------------------------------------------


def _target(tool: QemuImg, chain: Chain, backup: Backup, point: Point, path: str, params: Dict[str, Any]) -> Target:
    """Return what a disk becomes. Raise Refusal for what is there and is not to be replaced."""
    document = {"name": chain.name, "vm": chain.vm, "number": backup.number, "time": backup.time, "disk": point.disk}
    mark = json.dumps(document, sort_keys=True).encode()
    found = part_file.existing("to", path)
    if found is None:
        part_file.check_directory("to", path)
        part_file.check_leftover("to", path)
        return Target(point, path, mark, there=False, same=False)
    if _is_made(tool, point, path, mark, params):
        return Target(point, path, mark, there=True, same=True)
    if not params["force"]:
        raise Refusal(
            f"to: {path} is there, and backup {backup.number} has other data: set force=true to replace it, or name another path"
        )
    part_file.check_itself("to", path)
    if in_use(path):
        raise Refusal(f"to: {path} is in use, by a running virtual machine it seems, and is not replaced")
    part_file.check_directory("to", path)
    part_file.check_leftover("to", path)
    return Target(point, path, mark, there=True, same=False)


def _is_made(tool: QemuImg, point: Point, path: str, mark: bytes, params: Dict[str, Any]) -> bool:
    """Tell whether an image is what the backup becomes. With ``force`` its data tell, which a guest may have altered since."""
    if not params["force"]:
        return _mark(path) == mark or is_the_same(tool, point, path, params["format"])
    with contextlib.suppress(Refusal):  # such as for one of another format, which is replaced
        return not in_use(path) and is_the_same(tool, point, path, params["format"])
    return False


def _mark(path: str) -> bytes:
    """Return which backup an image says that it was made of; empty where it does not."""
    try:
        return os.getxattr(path, _MARK)
    except OSError:
        return b""


def _check_room(tool: QemuImg, targets: Sequence[Target]) -> None:
    """Raise Refusal where there is less room than the new images will take."""
    wanted: Dict[int, int] = {}
    for target in targets:
        with target.point.opened() as files:
            line = [tool.binary, "measure", "--output=json", "-O", "qcow2", target.point.source]
            text = tool.run(line, f"path: {target.point.paths[0]} can't be read", *files)
        directory = os.path.dirname(target.path)
        device = os.stat(directory).st_dev
        wanted[device] = wanted.get(device, 0) + int(json.loads(text)["required"])
        free = part_file.room(directory)
        if wanted[device] > free:
            raise Refusal(
                f"to: {directory} has room for {free} bytes, and the restored images take "
                f"{wanted[device]}: free some, or name another place"
            )


# -- what is done ------------------------------------------------------------------------------------------------------


def _plan(tool: QemuImg, targets: Sequence[Target], params: Dict[str, Any]) -> Plan:
    """Return the steps that make the images, all new ones or none. Raise Refusal where there is no room for them."""
    new = [target for target in targets if not target.same]
    _check_room(tool, new)
    # those that replace another, which nothing takes back, come last
    steps = [_step(tool.binary, target, params["format"]) for target in sorted(new, key=lambda one: one.there)]
    before: Dict[str, Any] = {target.path: "another image" if target.there else "absent" for target in new}
    after = {target.path: json.loads(target.mark) for target in new}
    same = {target.path: json.loads(target.mark) for target in targets if target.same}
    return Plan(steps, before={**same, **before}, after={**same, **after})


def _step(binary: str, target: Target, kind: str) -> Step:
    """Return the step that makes an image, which only the task's user can open, and which is not there before it is whole."""
    path, part = target.path, part_file.part_path(target.path)
    line = [binary, "convert", "-q", "-O", kind, target.point.source, part]
    new = part_file.NewFile(path, 0o600, replace=target.there)

    def make(deadline: Deadline) -> None:
        def fill(file: int) -> None:
            with target.point.opened() as files:
                QemuImg(binary, deadline).run(line, f"to: {path} could not be restored", *files, (part, file))
            _set_mark(file, target.mark)
            os.fsync(file)

        if target.there and in_use(path):
            raise Refusal(f"to: {path} has come to be in use meanwhile, and is not replaced")
        new.make(fill)
        chains.sync_directory(os.path.dirname(path))

    remove = Step(do=lambda deadline: new.remove(), command_lines=[["rm", path]], removes=True)
    shown_lines = [line, ["mv", *(["--no-clobber"] * (not target.there)), part, path]]
    return Step(do=make, command_lines=shown_lines, undo=[] if target.there else [remove])


def _set_mark(file: int, mark: bytes) -> None:
    """Say on an image which backup it was made of, where its file system keeps such words."""
    try:
        os.setxattr(file, _MARK, mark)
    except OSError:
        pass  # the next run compares
