# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Image files, made, grown and removed with ``qemu-img``, all or nothing. No virtual machine is asked."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._core import coercion
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, suggestion
from ansible_collections.vmm.qemu.plugins.module_utils._host import part_file
from ansible_collections.vmm.qemu.plugins.module_utils._host.ownership import OWNER, Ownership, owner
from ansible_collections.vmm.qemu.plugins.module_utils._host.qemu_img import QemuImg, in_use
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task

IMAGE = {
    "path": Option("path", required=True),
    "state": Option("str", choices=["present", "absent"], default="present"),
    "format": Option("str"),
    "size": Option("str"),
    "backing_file": Option("path"),
    "backing_format": Option("str"),
    "options": Option("dict", default={}),
    "resize": Option("bool", default=True),
    "shrink": Option("bool", default=False),
    **OWNER,
    "qemu_img": Option("path", default="qemu-img"),
    "timeout": Option("float", default=600.0),
    # Not used: what module_defaults of the action group set for the modules that speak to a monitor.
    "socket": Option("str"),
    "connect_timeout": Option("float", default=10.0),
    "tls": Option("dict"),
}
_SECTOR = 512
_LARGEST = (1 << 63) - _SECTOR
# Options of the image format that are options of the task.
_OWN = {"size": "size", "backing_file": "backing_file", "backing_fmt": "backing_format"}
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
# What vmdk writes into one file; all else goes into several, by names that are in the image.
_ONE_FILE = ("monolithicSparse", "streamOptimized")
_COMPAT = {"v2": "0.10", "v3": "1.1"}
# vpc images have whole cylinders: 16 heads of 255 sectors at most.
_CYLINDER = 16 * 255 * _SECTOR
Command = List[str]


class Want(NamedTuple):
    """The task's parameters, checked. ``size``: bytes, whole sectors; ``options``: as text."""

    path: str
    format: str | None
    size: int | None
    backing_file: str | None
    backing_format: str | None
    options: Dict[str, str]
    shrink: bool
    resize: bool = True


class Move(NamedTuple):
    """What is to be done: command lines, the image afterwards, and what of ``options`` nobody can compare."""

    commands: List[Command]
    after: Dict[str, Any]
    unverifiable: Sequence[str] = ()


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal for what can't be done, and what qemu-img refuses."""
    part_file.check_absolute("path", task.params["path"])
    if task.params["state"] == "absent":
        return _absent(task)
    want, whose = check(task.params), owner(task.params)
    tool = QemuImg(task.params["qemu_img"], task.deadline)
    there = part_file.existing("path", want.path)
    # what a guest has written to its raw disk can look like any other format
    known = "raw" if want.format == "raw" else None
    have = None if there is None else describe(tool.info(want.path, known))
    move = _create(tool, want) if have is None else decide(tool.binary, want, have)
    given = whose.commands(there, want.path)
    before = {"path": want.path, "state": "absent"} if have is None else _shown(have)
    result = {
        "changed": bool(move.commands or given),
        "commands": [*move.commands, *given],
        "unverifiable": list(move.unverifiable),
        "diff": {
            "before": {**before, **(_ownership(there) if given and there else {})},
            "after": {**_shown(move.after), **{command[0]: command[1] for command in given}},
        },
        "image": move.after,
    }
    if move.commands and have is not None:
        part_file.check_itself("path", want.path)
    if move.commands and have is not None and in_use(want.path):
        raise Refusal(
            f"path: {want.path} is in use, by a running virtual machine it seems: the option size of qemu_disk or "
            "qemu_blockdev changes the size of its disk"
        )
    if task.check_mode or not result["changed"]:
        return result
    _carry_out(task, tool, want, move, whose, new=have is None)
    return {**result, "image": describe(tool.info(want.path, str(move.after["format"])))}


def _carry_out(task: Task, tool: QemuImg, want: Want, move: Move, whose: Ownership, *, new: bool) -> None:
    if new:
        _make(tool, want, move, whose)
        for command in [*move.commands, *whose.commands(None, want.path)]:
            task.account.did(command)
        return
    if move.commands:
        tool.run(move.commands[0], f"path: {want.path} could not be resized")
        task.account.did(move.commands[0])
    whose.apply_to_existing(want.path, task.account.did)


def _ownership(found: os.stat_result) -> Dict[str, Any]:
    """As ``chmod`` and ``chown`` would be told."""
    return {"chmod": f"{stat.S_IMODE(found.st_mode):04o}", "chown": str(found.st_uid)}


def check(params: Dict[str, Any]) -> Want:
    """The parameters in their types. Raises Refusal for what is wrong whatever is there."""
    path, backing, backing_format = params["path"], params["backing_file"], params["backing_format"]
    if backing is not None:
        part_file.check_absolute("backing_file", backing)
        if not backing_format:
            raise Refusal(
                f"backing_format: give the format of {backing} (qemu-img info shows it). It is never guessed, since "
                "a guest can make its raw disk look like another format that opens further files"
            )
        if os.path.realpath(backing) == os.path.realpath(path):
            raise Refusal(f"backing_file: {backing} is the image itself")
        if params["format"] == "raw":
            raise Refusal("format: a raw image has no backing file; qcow2 has")
    elif backing_format is not None:
        raise Refusal(f"backing_format: {backing_format} is the format of no backing_file")
    return Want(
        path,
        params["format"],
        None if params["size"] is None else _bytes(params["size"]),
        backing,
        backing_format,
        _options(params["options"] or {}),
        params["shrink"],
        params["resize"],
    )


def _bytes(text: str) -> int:
    """Whole sectors, as qemu-img rounds them. Raises Refusal for what is no size of an image."""
    try:
        size = -(-human_size(text) // _SECTOR) * _SECTOR
    except ValueError as exc:
        raise Refusal(f"size: {exc}") from exc
    if size > _LARGEST:
        raise Refusal(f"size: {text} is more than {_LARGEST} bytes, the most that an image can have")
    return size


def _options(given: Dict[str, Any]) -> Dict[str, str]:
    """The format's options as text. Raises Refusal for what qemu-img can't be told."""
    for name, value in given.items():
        if name in _OWN:
            raise Refusal(f"options: {name} has an option of its own: {_OWN[name]}")
        if not _OPTION.match(str(name)):
            raise Refusal(f"options: {name!r} is no option's name")
        if value is None or isinstance(value, (dict, list)):
            raise Refusal(f"options: {name}: {value!r} is neither text nor a number nor a truth value")
    return {str(name): coercion.to_text(value) for name, value in given.items()}


def describe(info: Dict[str, Any]) -> Dict[str, Any]:
    """An image as the task returns it, of what ``qemu-img info`` says."""
    image = {
        "path": info["filename"],
        "format": info["format"],
        "virtual_size": info["virtual-size"],
        "actual_size": info.get("actual-size"),
        "backing_file": info.get("full-backing-filename", info.get("backing-filename")),
        "backing_format": info.get("backing-filename-format"),
        "options": _read_options(info),
    }
    return {name: value for name, value in image.items() if value is not None}


def _read_options(info: Dict[str, Any]) -> Dict[str, Any]:
    """What of the format's options can be read back, under the options' names."""
    data = info.get("format-specific", {}).get("data", {})
    found = {name.replace("-", "_"): value for name, value in data.items() if not isinstance(value, (dict, list))}
    if "cluster-size" in info:
        found["cluster_size"] = info["cluster-size"]
    return found


def _shown(image: Dict[str, Any]) -> Dict[str, Any]:
    """What of it the diff has: all that the module can change."""
    names = ("path", "format", "virtual_size", "backing_file", "backing_format")
    return {**{name: image[name] for name in names if name in image}, "state": "present"}


# -- an image that is there ------------------------------------------------------------------------------------------


def decide(binary: str, want: Want, have: Dict[str, Any]) -> Move:
    """What leads from an image (as ``describe`` has it) to what is wanted. Raises Refusal for all but another size."""
    _must_be_same(want, have)
    own = have.get("options", {})
    readable = {name: value for name, value in want.options.items() if name in own}
    for name, value in readable.items():
        if not coercion.same(own[name], _COMPAT.get(value, value) if name == "compat" else value):
            raise Refusal(
                f"options: {name} of {want.path} is {coercion.to_text(own[name])}, not {value}, and stays so: qemu-img "
                "convert or amend would change it, or a new image in its place"
            )
    unverifiable = [name for name in want.options if name not in readable]
    now = have["virtual_size"]
    if (
        want.size is None
        or not want.resize
        or want.size == now
        or (have["format"] == "vpc" and 0 < now - want.size < _CYLINDER)
    ):
        return Move([], have, unverifiable)
    if "data_file" in own and "data_file" not in want.options:
        raise Refusal(
            f"size: {want.path} says in its header that its data are in {own['data_file']}, which would be resized. Whoever can "
            "write to an image can name any file there: name it in options as data_file if it is the right one"
        )
    smaller = want.size < now
    if smaller and not want.shrink:
        raise Refusal(
            f"size: {want.path} has {now} bytes, and {want.size} are fewer, which cuts off what is at its end; "
            "set shrink=true if nothing is"
        )
    command = [binary, "resize", "-q", "-f", have["format"], *["--shrink"] * smaller]
    if not smaller and want.options.get("preallocation", "off") != "off":
        command.append(f"--preallocation={want.options['preallocation']}")
    return Move([[*command, want.path, str(want.size)]], {**have, "virtual_size": want.size}, unverifiable)


def _must_be_same(want: Want, have: Dict[str, Any]) -> None:
    """Raise Refusal for another format or backing file: neither is ever changed."""
    if want.format is not None and want.format != have["format"]:
        raise Refusal(
            f"format: {want.path} is {have['format']}, not {want.format}, and is never converted here: "
            f"qemu-img convert -f {have['format']} -O {want.format} makes another image of it"
        )
    if want.backing_file is None:
        return
    stands_on = have.get("backing_file")
    if stands_on is None or os.path.realpath(stands_on) != os.path.realpath(want.backing_file):
        raise Refusal(
            f"backing_file: {want.path} stands on {stands_on or 'no other image'}, not on {want.backing_file}; "
            "qemu-img rebase changes that"
        )
    if have.get("backing_format", want.backing_format) != want.backing_format:
        raise Refusal(
            f"backing_format: {want.path} has {have['backing_format']} for its backing file, not "
            f"{want.backing_format}; qemu-img rebase changes that"
        )


# -- a new image -----------------------------------------------------------------------------------------------------


def _create(tool: QemuImg, want: Want) -> Move:
    """To an image that is not there. Raises Refusal for what looking tells can't be made."""
    kind = want.format or ("qcow2" if want.backing_file else "raw")
    size = want.size
    part_file.check_directory("path", want.path)
    part_file.check_leftover("path", want.path)
    backing: Command = []
    if want.backing_file is not None and want.backing_format is not None:
        if part_file.existing("backing_file", want.backing_file) is None:
            raise Refusal(f"backing_file: there is no {want.backing_file}")
        below = tool.info(want.backing_file, want.backing_format)
        if size is not None and size < below["virtual-size"]:
            raise Refusal(
                f"size: {want.size} bytes are fewer than the {below['virtual-size']} of {want.backing_file}, which would cut "
                "off what is at its end"
            )
        size = below["virtual-size"] if size is None else size
        backing = ["-b", want.backing_file, "-F", want.backing_format]
    if size is None:
        raise Refusal(f"size: {want.path} is not there, and a new image without a backing_file needs a size")
    part = part_file.part_path(want.path)
    _check_options(tool, kind, part, want)
    pairs = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in want.options.items())
    command = [tool.binary, "create", "-q", "-f", kind, *(["-o", pairs] if pairs else []), *backing, part]
    if want.size is not None:
        command.append(str(want.size))
    after = {"path": want.path, "format": kind, "virtual_size": size}
    if want.backing_file is not None:
        after.update(backing_file=want.backing_file, backing_format=want.backing_format)
    return Move([command, ["mv", "--no-clobber", part, want.path]], after)


def _check_options(tool: QemuImg, kind: str, part: str, want: Want) -> None:
    """Raise Refusal for a format or an option that this qemu-img does not have."""
    known = tool.create_options(kind, part)
    for name in want.options if known else ():
        if name not in known:
            raise Refusal(f"options: {kind} images have no {name!r}{suggestion(name, known)}")
    subformat = want.options.get("subformat", _ONE_FILE[0])
    if kind == "vmdk" and subformat not in _ONE_FILE:
        raise Refusal(
            f"options: subformat={subformat} makes several files, which can't be made all or nothing: use "
            f"{' or '.join(_ONE_FILE)}"
        )


def _make(tool: QemuImg, want: Want, move: Move, whose: Ownership) -> None:
    """Make it beside its name, and give it that when it is whole. Raises Refusal, with nothing left behind."""
    with part_file.new_part("path", want.path, 0o644) as file:
        tool.run(move.commands[0], f"path: {want.path} could not be made", (part_file.part_path(want.path), file))
        whose.apply(file, want.path)
        part_file.move_into_place("path", want.path, replace=False, kept=False)


# -- no image --------------------------------------------------------------------------------------------------------


def _absent(task: Task) -> Dict[str, Any]:
    path = task.params["path"]
    gone = {"path": path, "state": "absent"}
    part_file.check_itself("path", path)
    found = part_file.existing("path", path)
    if found is None:
        return {"changed": False, "commands": [], "image": {}, "diff": {"before": gone, "after": gone}}
    if in_use(path):
        raise Refusal(f"path: {path} is in use, by a running virtual machine it seems, and is not removed")
    if not task.check_mode:
        part_file.remove(path)
    before = {"path": path, "state": "present", "file_size": found.st_size}
    return {"changed": True, "commands": [["rm", path]], "image": {}, "diff": {"before": before, "after": gone}}
