# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Image files, made, grown and removed with ``qemu-img``, all or nothing. No virtual machine is asked."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want, suggestion
from .._core.step import Step
from .._host import part_file
from .._host.ownership import OWNER, owner
from .._host.qemu_img import QemuImg, in_use
from .._kinds.kind import Change, State
from .._qmp.values import human_size
from .host_file import UNUSED, HostFile, converge_file, make_step

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._core.task import Task
    from .._qmp.deadline import Deadline

_SECTOR = 512
_LARGEST = (1 << 63) - _SECTOR
# Options of the image format that are options of the task.
_RESERVED = {"size": "size", "backing_file": "backing_file", "backing_fmt": "backing_format"}
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
# What vmdk writes into one file; all else goes into several, by names that are in the image.
_ONE_FILE = ("monolithicSparse", "streamOptimized")
_COMPAT = {"v2": "0.10", "v3": "1.1"}
# vpc images have whole cylinders: 16 heads of 255 sectors at most.
_CYLINDER = 16 * 255 * _SECTOR


class Image(HostFile):
    """An image file. Its size can change, and nothing else that is in it."""

    name = "image"
    in_diff = ("path", "format", "virtual_size", "backing_file", "backing_format")
    options = {
        "path": Option("path", required=True),
        "format": Option("str"),
        "size": Option("str"),
        "backing_file": Option("path"),
        "backing_format": Option("str"),
        "options": Option("dict", default={}),
        "resize": Option("bool", default=True),
        "shrink": Option("bool", default=False),
        **OWNER,
        "qemu_img": Option("path", default="qemu-img"),
    }
    changeable_keys = HostFile.changeable_keys | {"virtual_size"}

    def check(self, want: Want) -> None:
        """Raise Refusal for what is wrong whatever is there."""
        super().check(want)
        _check_backing(want)
        if "size" in want:
            _bytes(want["size"])
        _options(want.get("options", {}))

    def read(self, host: Host, want: Want) -> State | None:
        """Return what ``qemu-img info`` says of it, owner and mode; of an image that is to go, the file alone."""
        have = super().read(host, want)
        if have is None or "qemu_img" not in want:
            return have
        image = dict(self.info(host, want))
        options = {f"options.{name}": value for name, value in image.pop("options").items()}
        return {"backing_file": None, **have, **image, **options}

    def info(self, host: Host, want: Want) -> Dict[str, Any]:
        """Return an image as the task returns it, read once until something has changed."""
        # what a guest has written to its raw disk can look like any other format
        known = "raw" if want.get("format") == "raw" else None
        tool = QemuImg(want["qemu_img"], host.deadline)
        return host.table(f"image {want['path']}", lambda: describe(tool.info(want["path"], known)))

    def wanted(self, host: Host, want: Want) -> State:
        """Return all of a new image, and of one that is there what can be compared. Raise Refusal for a size that is not known."""
        state = super().wanted(host, want)
        state.update((name, want[name]) for name in ("format", "backing_file", "backing_format") if name in want)
        if "size" in want:
            state["virtual_size"] = _bytes(want["size"])
        for name, text in _options(want.get("options", {})).items():
            state[f"options.{name}"] = _COMPAT.get(text, text) if name == "compat" else text
        if self.read(host, want) is None:
            state.setdefault("format", "qcow2" if "backing_file" in want else "raw")
            state["virtual_size"] = _new_size(host, want)
        elif not want["resize"]:
            state.pop("virtual_size", None)
        return state

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Tell whether two values are the same; backing files are where their paths lead to one file."""
        if key == "backing_file":
            return have is not None and os.path.realpath(have) == os.path.realpath(want)
        return super().same(key, have, want)

    def compare(self, have: State, want: State) -> Tuple[List[Change], List[str]]:
        """Return what differs, and those of ``options`` that can't be read back."""
        changes, untold = super().compare(have, want)
        if have["format"] == "vpc":
            changes = [change for change in changes if not _is_rounded(change)]
        return changes, [key.partition(".")[2] for key in untold if key.startswith("options.")]

    def recreate_refusal(self, host: Host, want: Want, have: State, changes: List[Change]) -> str:
        """Return what changes the rest, which is never done here: an image is not replaced by another."""
        key, before, after = changes[0]
        if key == "format":
            return f"it is never converted here: qemu-img convert -f {before} -O {after} makes another image of it"
        if key == "backing_file":
            return f"its backing file is {before or 'none'}, and qemu-img rebase changes that"
        if key == "backing_format":
            return "qemu-img rebase changes that"
        now = coercion.to_text(before)
        return f"{key.partition('.')[2]} stays {now}: qemu-img convert or amend would change it, or a new image in its place"

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that makes it. Raise Refusal for what looking tells can't be made."""
        path, new = want["path"], self.wanted(host, want)
        binary, part = QemuImg(want["qemu_img"], host.deadline).binary, part_file.part_path(path)
        options = _options(want.get("options", {}))
        backing = ["-b", want["backing_file"], "-F", want["backing_format"]] if "backing_file" in want else []
        pairs = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in options.items())
        size = [str(new["virtual_size"])] if "size" in want else []
        line = [binary, "create", "-q", "-f", new["format"], *(["-o", pairs] if pairs else []), *backing, part, *size]

        def fill(file: int, deadline: Deadline) -> None:
            QemuImg(binary, deadline).run(line, f"path: {path} could not be made", (part, file))

        step = make_step(path, fill, owner(want), [line, ["mv", "--no-clobber", part, path]], draft=draft, mode=0o644)
        _check_options(QemuImg(binary, host.deadline), new["format"], part, options)
        return [step]

    def change(self, host: Host, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the step that resizes it, which nothing takes back, and those that give it away."""
        steps = [_resize_step(host, want, have) for change in changes if change.key == "virtual_size"]
        return [*steps, *super().change(host, want, have, changes, draft)]

    def remove(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that removes it. Raise Refusal while it is in use."""
        steps = super().remove(host, want, draft)
        if in_use(want["path"]):
            raise Refusal(f"path: {want['path']} is in use, by a running virtual machine it seems, and is not removed")
        return steps


IMAGE = Image()
OPTIONS = {
    "state": Option("str", choices=["present", "absent"], default="present"),
    **IMAGE.options,
    **UNUSED,
    "timeout": Option("float", default=600.0),
}


def run(task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError and PlanFailed."""
    host = task.host()
    found, result = converge_file(IMAGE, task, host)
    if not found.item.present:
        return {**result, "image": {}}
    after = result["diff"]["after"]
    if result["changed"] and not task.check_mode:
        tool = QemuImg(task.params["qemu_img"], task.deadline)
        image = describe(tool.info(after["path"], after["format"]))
    elif found.is_added:
        image = {name: after[name] for name in IMAGE.in_diff if name in after}
    else:
        image = {**IMAGE.info(host, found.item.want), "virtual_size": after["virtual_size"]}
    return {**result, "image": image, "unverifiable": found.unverifiable}


def _check_backing(want: Want) -> None:
    """Raise Refusal for a backing file that can't be meant."""
    backing = want.get("backing_file")
    if backing is None:
        if "backing_format" in want:
            raise Refusal(f"backing_format: {want['backing_format']} is the format of no backing_file")
        return
    part_file.check_absolute("backing_file", backing)
    if not want.get("backing_format"):
        raise Refusal(
            f"backing_format: give the format of {backing} (qemu-img info shows it). It is never guessed, since "
            "a guest can make its raw disk look like another format that opens further files"
        )
    if os.path.realpath(backing) == os.path.realpath(want["path"]):
        raise Refusal(f"backing_file: {backing} is the image itself")
    if want.get("format") == "raw":
        raise Refusal("format: a raw image has no backing file; qcow2 has")


def _bytes(text: str) -> int:
    """Return a size in whole sectors, as qemu-img rounds it. Raise Refusal for what is not a valid size of an image."""
    try:
        size = -(-human_size(text) // _SECTOR) * _SECTOR
    except ValueError as exc:
        raise Refusal(f"size: {exc}") from exc
    if size > _LARGEST:
        raise Refusal(f"size: {text} is more than {_LARGEST} bytes, the most that an image can have")
    return size


def _options(given: Dict[str, Any]) -> Dict[str, str]:
    """Return the format's options as text. Raise Refusal for what qemu-img can't be told."""
    for name, value in given.items():
        if name in _RESERVED:
            raise Refusal(f"options: {name} has an option of its own: {_RESERVED[name]}")
        if not _OPTION.match(str(name)):
            raise Refusal(f"options: {name!r} is not a valid name of an option")
        if value is None or isinstance(value, (dict, list)):
            raise Refusal(f"options: {name}: {value!r} is neither text nor a number nor a truth value")
    return {str(name): coercion.to_text(value) for name, value in given.items()}


def describe(info: Dict[str, Any]) -> Dict[str, Any]:
    """Return an image as the task returns it, from what ``qemu-img info`` says."""
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
    """Return those of the format's options that can be read back, under the options' names."""
    data = info.get("format-specific", {}).get("data", {})
    found = {name.replace("-", "_"): value for name, value in data.items() if not isinstance(value, (dict, list))}
    if "cluster-size" in info:
        found["cluster_size"] = info["cluster-size"]
    return found


# -- an image that is there ------------------------------------------------------------------------------------------


def _is_rounded(change: Change) -> bool:
    """Tell whether a size differs only since a vpc image has whole cylinders."""
    return change.key == "virtual_size" and 0 < change.before - change.after < _CYLINDER


def _resize_step(host: Host, want: Want, have: State) -> Step:
    """Return the step that gives it another size. Raise Refusal for what would harm it."""
    path, now, size = want["path"], have["virtual_size"], _bytes(want["size"])
    options = _options(want.get("options", {}))
    if "options.data_file" in have and "data_file" not in options:
        raise Refusal(
            f"size: {path} says in its header that its data are in {have['options.data_file']}, which would be resized. Whoever "
            "can write to an image can name any file there: name it in options as data_file if it is the right one"
        )
    if size < now and not want["shrink"]:
        raise Refusal(
            f"size: {path} has {now} bytes, and {size} are fewer, which cuts off what is at its end; "
            "set shrink=true if nothing is"
        )
    part_file.check_itself("path", path)
    if in_use(path):
        raise Refusal(
            f"path: {path} is in use, by a running virtual machine it seems: the option size of qemu_disk or "
            "qemu_blockdev changes the size of its disk"
        )
    binary = QemuImg(want["qemu_img"], host.deadline).binary
    line = [binary, "resize", "-q", "-f", have["format"], *["--shrink"] * (size < now)]
    if size > now and options.get("preallocation", "off") != "off":
        line.append(f"--preallocation={options['preallocation']}")
    line += [path, str(size)]

    def resize(deadline: Deadline) -> None:
        QemuImg(binary, deadline).run(line, f"path: {path} could not be resized")

    return Step(do=resize, command_lines=[line])


# -- a new image -----------------------------------------------------------------------------------------------------


def _new_size(host: Host, want: Want) -> int:
    """Return the bytes of a new image: those that the task names, or those of its backing file. Raise Refusal."""
    size = _bytes(want["size"]) if "size" in want else None
    backing = want.get("backing_file")
    if backing in host.coming:
        return size or 0  # how large it will be is not known
    if backing is not None:
        if part_file.existing("backing_file", backing) is None:
            raise Refusal(f"backing_file: there is no {backing}")
        tool = QemuImg(want["qemu_img"], host.deadline)
        below = host.table(f"below {want['path']}", lambda: tool.info(backing, want["backing_format"]))["virtual-size"]
        if size is not None and size < below:
            raise Refusal(
                f"size: {size} bytes are fewer than the {below} of {backing}, which would cut off what is at its end"
            )
        return int(below) if size is None else size
    if size is None:
        raise Refusal(f"size: {want['path']} is not there, and a new image without a backing_file needs a size")
    return size


def _check_options(tool: QemuImg, kind: str, part: str, options: Dict[str, str]) -> None:
    """Raise Refusal for a format or an option that this qemu-img does not have."""
    known = tool.create_options(kind, part)
    for name in options if known else ():
        if name not in known:
            raise Refusal(f"options: {kind} images have no {name!r}{suggestion(name, known)}")
    subformat = options.get("subformat", _ONE_FILE[0])
    if kind == "vmdk" and subformat not in _ONE_FILE:
        raise Refusal(
            f"options: subformat={subformat} makes several files, which can't be made all or nothing: use "
            f"{' or '.join(_ONE_FILE)}"
        )
