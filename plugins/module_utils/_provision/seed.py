# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A volume that cloud-init's NoCloud reads at a guest's first start."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Dict

from ansible_collections.vmm.qemu.plugins.module_utils._core import safe_open
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._host import part_file
from ansible_collections.vmm.qemu.plugins.module_utils._host.iso9660 import HEAD, label, volume
from ansible_collections.vmm.qemu.plugins.module_utils._host.ownership import OWNER, Ownership, owner

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task

# cloud-init's names for the files, by the option's.
_FILES = {
    "user_data": "user-data",
    "meta_data": "meta-data",
    "network_config": "network-config",
    "vendor_data": "vendor-data",
}
_CLOUD_CONFIG = ("user_data", "vendor_data")  # scripts and much else, unless the first line says so
_LABEL = "cidata"
_MOST = 64 << 20
SEED = {
    "path": Option("path", required=True),
    "user_data": Option("raw", no_log=True, default=""),
    "meta_data": Option("raw", required=True),
    "network_config": Option("raw", no_log=True),
    "vendor_data": Option("raw", no_log=True),
    **OWNER,
    "mode": Option("str", default="0600"),
    # Not used: what module_defaults of the action group set for the modules that speak to a monitor.
    "socket": Option("str"),
    "connect_timeout": Option("float", default=10.0),
    "timeout": Option("float", default=60.0),
    "tls": Option("dict"),
}


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal."""
    params, path = task.params, task.params["path"]
    part_file.check_absolute("path", path)
    whose = owner(params)
    content = volume(_LABEL, {_FILES[name]: _text(name, params[name]) for name in _FILES if params[name] is not None})
    there = part_file.existing("path", path)
    before = None if there is None else _read(path)
    if before == content:
        commands = whose.commands(there, path)
    else:
        part_file.check_itself("path", path)
        part_file.check_directory("path", path)
        part_file.check_leftover("path", path)
        commands = [["mv", part_file.part_path(path), path], *whose.commands(None, path)]
    if commands and not task.check_mode:
        if before == content:
            whose.apply_to_existing(path, task.account.did)
        else:
            _write(path, content, whose)
    return {
        "changed": bool(commands),
        "commands": commands,
        "diff": {"before": _told(path, before), "after": _told(path, content)},
        "path": path,
    }


def _text(name: str, value: Any) -> bytes:
    """A file's content: a text as it is, a mapping as JSON, which is YAML. Raises Refusal."""
    if isinstance(value, dict):
        head = "#cloud-config\n" if name in _CLOUD_CONFIG else ""
        value = f"{head}{json.dumps(value, indent=2, default=str)}\n"
    if not isinstance(value, str):
        raise Refusal(f"{name}: this is neither a text nor a mapping")
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        where = f"{name}: its character {exc.start + 1}"
        raise Refusal(f"{where} is half of a pair (U+D800 to U+DFFF), which no file can hold") from None


def _read(path: str) -> bytes:
    """What is there. Raises Refusal for what is not such a volume, and so not replaced: a disk's image, say."""
    try:
        with safe_open.regular(path, links=True) as file:  # whose links they are has been looked at
            head = file.read(HEAD)
            if head and (label(head) or "").lower() != _LABEL:
                raise Refusal(
                    f"path: {path} is there and is not a {_LABEL} volume: it is kept; remove it, or give another path"
                )
            content = head + file.read(_MOST)
    except OSError as exc:
        raise Refusal(f"path: {path} can't be read: {exc.strerror}") from exc
    if len(content) > _MOST:
        raise Refusal(f"path: {path} is there and larger than any seed ({_MOST} bytes): it is kept; remove it")
    return content


def _write(path: str, content: bytes, whose: Ownership) -> None:
    """All or nothing, its owner and mode included; nobody else can read it on the way."""
    with part_file.new_part("path", path, 0o600) as part:
        try:
            with open(part, "wb", closefd=False) as file:
                file.write(content)
        except OSError as exc:
            raise Refusal(f"path: {path} can't be written: {exc.strerror}") from exc
        whose.apply(part, path)
        part_file.move_into_place("path", path, replace=True)


def _told(path: str, content: bytes | None) -> Dict[str, Any]:
    """One side of the diff: there can be passwords in it."""
    if content is None:
        return {"path": path, "state": "absent"}
    return {"path": path, "state": "present", "sha256": hashlib.sha256(content).hexdigest()}
