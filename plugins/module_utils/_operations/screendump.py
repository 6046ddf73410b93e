# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A picture of the guest's screen, taken under another name and compared with the one that is there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Dict

from ansible_collections.vmm.qemu.plugins.module_utils._core import safe_open
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, suggestion
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._host import part_file
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

SCREENDUMP = {
    "path": Option("path", required=True),
    "format": Option("str", choices=["png", "ppm"], default="png"),
    "device": Option("str"),
    "head": Option("int"),
}
_PICTURES = (b"P6", b"\x89PNG")
_NOT_YET = "known when it is taken"


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal, ConnectError and its kin."""
    params, path = task.params, task.params["path"]
    _check(params)
    vm = task.connect()
    before = _files(path) if vm.local else None
    plan = decide(vm, params)
    if task.check_mode:
        return _result(params, plan, vm.local, before, _NOT_YET, True)
    _take(vm, plan, path)
    if not vm.local:
        return _result(params, plan, False, before, _NOT_YET, True)
    picture = _sha256(part_file.part_path(path))
    if picture == before:
        part_file.remove(part_file.part_path(path))
    else:
        part_file.move_into_place("path", path, replace=True)
    result = _result(params, plan, True, before, picture, picture != before)
    return {**result, "sha256": picture}


def _check(params: Dict[str, Any]) -> None:
    """Raise Refusal for what is wrong whatever the VM is like."""
    part_file.check_absolute("path", params["path"])
    head = params["head"]
    if head is not None and params["device"] is None:
        raise Refusal(f"head: {head} is the number of one of a device's screens: name the device, too")
    if head is not None and head < 0:
        raise Refusal(f"head: {head} is less than 0, which is a device's first screen")


def _files(path: str) -> str | None:
    """The SHA-256 of the picture that is there, None: there is none. Raises Refusal where no picture can be put.

    What is there and is not a picture is kept: a disk's image, say.
    """
    there = part_file.existing("path", path)
    if there is not None and there.st_size and not _head(path).startswith(_PICTURES):
        raise Refusal(f"path: {path} is there and is not a picture: it is kept; remove it, or give another path")
    part_file.check_directory("path", path)
    part_file.check_leftover("path", path)
    return None if there is None else _sha256(path)


def decide(vm: VM, params: Dict[str, Any]) -> Plan:
    """The one command. Raises Refusal for a device that is not there, and a format that this QEMU can't write."""
    device, path = params["device"], params["path"]
    arguments: Dict[str, Any] = {"filename": part_file.part_path(path) if vm.local else path}
    if device is not None:
        known = vm.peripherals()
        if device not in known:
            raise Refusal(
                f"device: the virtual machine has no device with the id {device!r}{suggestion(device, known)}"
            )
        arguments["device"] = device
    if params["head"] is not None:
        arguments["head"] = params["head"]
    if params["format"] != "ppm":  # which is what every QEMU writes unless told
        if not vm.schema.has("screendump", "format", params["format"]):
            raise Refusal(f"format: this QEMU can't write {params['format']} pictures; set format=ppm")
        arguments["format"] = params["format"]
    return Plan([Step("screendump", arguments)])


def _take(vm: VM, plan: Plan, path: str) -> None:
    """Take it. Raises Refusal, with nothing left behind, when QEMU refuses."""
    part = part_file.part_path(path)
    if vm.local:
        part_file.remove(part)
    try:
        execute_step(plan.steps[0], vm, vm.deadline)
    except errors.CommandError as exc:
        if vm.local:
            part_file.remove(part)
        error = {"class": exc.error_class, "desc": exc.desc}
        raise Refusal(f"the screen could not be dumped: {exc}", error=error) from exc


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4)
    except OSError as exc:
        raise Refusal(f"path: can't read {path}: {exc.strerror}") from exc


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with safe_open.regular(path, links=True) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except FileNotFoundError as exc:
        raise Refusal(
            f"path: {path} should have been written, and is not there. Does QEMU see other directories than the task?"
        ) from exc
    except OSError as exc:
        raise Refusal(
            f"path: can't read {path}: {exc.strerror}. Does QEMU run as another user, whose files the task's may not read?"
        ) from exc
    return digest.hexdigest()


def _result(
    params: Dict[str, Any], plan: Plan, local: bool, before: str | None, picture: str, changed: bool
) -> Dict[str, Any]:
    old: Dict[str, Any] = {"path": params["path"], "state": "unknown"}  # behind TCP nobody can look
    if local:
        old["state"] = "absent" if before is None else "present"
    if before is not None:
        old["sha256"] = before
    new = {"path": params["path"], "state": "present", "sha256": picture}
    return {
        "changed": changed,
        "commands": plan.commands,
        "path": params["path"],
        "format": params["format"],
        "diff": {"before": old, "after": new},
    }
