# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A picture of the guest's screen, taken under another name and compared with the one that is there."""
# Private to the collection: may change without notice.

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Sequence

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, suggestion
from .._core.plan import Plan
from .._core.step import Step
from .._engine.operation import Operation, Params, Run
from .._host import part_file

if TYPE_CHECKING:
    from .._core.vm import VM

_DEFAULT_FORMAT = "ppm"  # which is what every QEMU writes unless told
_PICTURES = (b"P6", b"\x89PNG")
_NOT_YET = "known when it is taken"


class Current(NamedTuple):
    """What was read."""

    local: bool = True
    """Whether the path means the same here and for QEMU."""
    sha256: str | None = None
    """Of the picture that is there; None: there is none, or nobody can look."""
    devices: Sequence[str] = ()
    """The ids of the VM's devices, where the task names one."""
    has_format: bool = True
    """Whether this QEMU can write the wanted format."""


class Screendump(Operation):
    """Take a picture of the guest's screen. It replaces the one that is there only where it shows something else."""

    options = {
        "path": Option("path", required=True),
        "format": Option("str", choices=["png", "ppm"], default="png"),
        "device": Option("str"),
        "head": Option("int"),
    }

    def check(self, params: Params) -> Params:
        """Raise Refusal for a relative path, and for a screen of no device."""
        part_file.check_absolute("path", params["path"])
        head = params["head"]
        if head is not None and params["device"] is None:
            raise Refusal(f"head: {head} is the number of one of a device's screens: name the device, too")
        if head is not None and head < 0:
            raise Refusal(f"head: {head} is less than 0, which is a device's first screen")
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return the file at the path, and what this QEMU has of what the task names. Raise Refusal for a file to keep."""
        return Current(
            vm.local,
            _existing_sha256(params["path"]) if vm.local else None,
            () if params["device"] is None else sorted(vm.peripherals()),
            # the schema is large: asked only where it matters
            params["format"] == _DEFAULT_FORMAT or vm.schema.has("screendump", "format", params["format"]),
        )

    def plan(self, current: Current, params: Params) -> Plan:
        """Return the one command. Raise Refusal for a device that is not there, and a format that QEMU can't write."""
        device, path = params["device"], params["path"]
        if device is not None and device not in current.devices:
            hint = suggestion(device, current.devices)
            raise Refusal(f"device: the virtual machine has no device with the id {device!r}{hint}")
        if not current.has_format:
            raise Refusal(f"format: this QEMU can't write {params['format']} pictures; set format={_DEFAULT_FORMAT}")
        arguments = {"filename": part_file.part_path(path) if current.local else path}
        arguments.update({name: params[name] for name in ("device", "head") if params[name] is not None})
        if params["format"] != _DEFAULT_FORMAT:
            arguments["format"] = params["format"]
        before = {"path": path, "state": "unknown"}  # behind TCP nobody can look
        if current.local:
            before["state"] = "absent" if current.sha256 is None else "present"
        if current.sha256 is not None:
            before["sha256"] = current.sha256
        after = {"path": path, "state": "present", "sha256": _NOT_YET}
        return Plan(later=[Step("screendump", arguments)], before=before, after=after)

    def follow(self, run: Run, current: Current, params: Params) -> str | None:
        """Take the picture, give it its name where it is another one, and return its SHA-256; None where nobody can look."""
        path, part = params["path"], part_file.part_path(params["path"])
        with part_file.written_by_qemu(path, current.local):
            super().follow(run, current, params)
        if not current.local:
            return None
        sha256 = _new_sha256(part)
        if sha256 == current.sha256:
            part_file.remove(part)
        else:
            part_file.move_into_place("path", path, replace=True)
        return sha256

    def describe(self, current: Current, params: Params, plan: Plan, end: str | None) -> Dict[str, Any]:
        """Return where the picture is and, once it is taken, its SHA-256 and whether it is another one."""
        result = {"path": params["path"], "format": params["format"]}
        if end is None:
            return result
        diff = {"before": plan.before, "after": {**plan.after, "sha256": end}}
        return {**result, "sha256": end, "changed": end != current.sha256, "diff": diff}


def _existing_sha256(path: str) -> str | None:
    """Return the SHA-256 of the picture that is there, None where there is none. Raise Refusal where none can be put.

    What is there and is not a picture is kept: a disk's image, say.
    """
    there = part_file.existing("path", path)
    try:
        if there is not None and there.st_size:
            with safe_open.regular(path, links=True) as file:
                if not file.read(4).startswith(_PICTURES):
                    raise Refusal(
                        f"path: {path} is there and is not a picture: it is kept; remove it, or give another path"
                    )
        part_file.check_directory("path", path)
        part_file.check_leftover("path", path)
        return None if there is None else _sha256(path)
    except OSError as exc:
        raise Refusal(f"path: can't read {path}: {exc.strerror}") from exc


def _new_sha256(path: str) -> str:
    """Return the SHA-256 of the picture that QEMU has taken. Raise OperationFailed where it can't be read."""
    try:
        return _sha256(path)
    except FileNotFoundError as exc:
        raise OperationFailed(
            f"path: {path} should have been written, and is not there. Does QEMU see other directories than the task?"
        ) from exc
    except OSError as exc:
        raise OperationFailed(
            f"path: can't read {path}: {exc.strerror}. Does QEMU run as another user, whose files the task's may not read?"
        ) from exc


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with safe_open.regular(path, links=True) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


SCREENDUMP = Screendump()
