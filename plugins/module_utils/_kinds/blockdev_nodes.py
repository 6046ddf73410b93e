# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Block nodes as QEMU lists them, and which of them a device has."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Dict

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import nest
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM


_LONGEST = 4095


_URL = re.compile(r"[a-z][a-z0-9+-]*://")


def nodes(vm: VM) -> Dict[str, Dict[str, Any]]:
    """Return all block nodes by name; one command, whatever their number."""
    return vm.table("nodes", lambda: {node["node-name"]: node for node in vm.ask("query-named-block-nodes", flat=True)})


def drive_of(vm: VM, device: str) -> Dict[str, Any] | None:
    """Return ``query-block``'s entry for a device, without ``inserted`` where nothing is in it; None where it tells of none."""
    for drive in vm.ask("query-block"):
        holder = drive.get("qdev", "")  # a path within the device, or the bare id (scsi-hd)
        if holder == device or f"{holder}/".startswith(f"/machine/peripheral/{device}/"):
            found: Dict[str, Any] = drive
            return found
    return None


def node_of(vm: VM, device: str) -> str | None:
    """Return the node that a device has, by ``query-block``; None where that does not tell."""
    drive = drive_of(vm, device) or {}
    return str(drive["inserted"]["node-name"]) if "inserted" in drive else None


def held_by(device: str) -> str:
    """Return the name of the node by which a disk outlives its device for as long as a plan may have to give it back."""
    return f"held-{device}"[:31]


def same_file(one: Any, other: Any) -> bool:
    """Tell whether two paths lead to one file, or to one device."""
    try:
        first, second = os.stat(one), os.stat(other)
    except (OSError, TypeError, ValueError):
        return False
    devices = stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode)
    return os.path.samestat(first, second) or (devices and first.st_rdev == second.st_rdev)


def sectors(size: Any) -> int:
    return -(-human_size(size) // 512) * 512


def is_cut(text: str) -> bool:
    """Tell whether QEMU had more to tell of a node than it tells: a text has 4095 bytes at the most."""
    return len(text.encode("utf-8", "surrogatepass")) >= _LONGEST


def layers(text: str) -> Dict[str, Any]:
    """Parse QEMU's ``file`` member: a plain name, or ``json:{...}`` (dotted or nested) where options matter for the content.

    Empty where it is cut.
    """
    if is_cut(text):
        return {}
    if not text.startswith("json:"):
        return {"filename": text} if text and not _URL.match(text) else {}
    return nest(json.loads(text[len("json:") :]))
