# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Block nodes as QEMU lists them, and which of them a device has."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import Refusal
from .._qmp.values import human_size
from .kind import nest

if TYPE_CHECKING:
    from .._core.vm import VM

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


def is_removable(vm: VM, device: str) -> bool:
    """Tell whether a device has a drive whose medium can be taken out."""
    return device in vm.peripherals() and bool((drive_of(vm, device) or {}).get("removable"))


def node_of(vm: VM, device: str) -> str | None:
    """Return the node that a device has, by ``query-block``; None where that does not tell."""
    drive = drive_of(vm, device) or {}
    return str(drive["inserted"]["node-name"]) if "inserted" in drive else None


def inserted(vm: VM) -> List[str]:
    """Return the top nodes of what the VM's drives and devices have, without the filters that QEMU has put on top."""
    return [str(drive["inserted"]["node-name"]) for drive in vm.ask("query-block") if "inserted" in drive]


def node_meant(vm: VM, name: str) -> str | None:
    """Return the block node that a user means by its name, or by its drive's or device's; None where there is none."""
    if name in nodes(vm):
        return name
    for drive in vm.ask("query-block"):
        if name and name == drive["device"] and "inserted" in drive:
            return str(drive["inserted"]["node-name"])
    return node_of(vm, name)


def node_named(vm: VM, option: str, name: str) -> str:
    """Return the block node that a user means, as ``node_meant`` does. Raise Refusal where there is none."""
    node = node_meant(vm, name)
    if node is None:
        raise unknown_node(option, name, nodes(vm))
    return node


def unknown_node(option: str, name: str, known: Dict[str, Any]) -> Refusal:
    """Return the error for an option that names a block node which is not there. ``known``: those that are, by name."""
    names = ", ".join(sorted(node for node in known if not node.startswith("#")))
    return Refusal(f"{option}: there is no block node {name!r}; there are: {names or 'none with a name'}")


def held_by(device: str) -> str:
    """Return the name of the node by which a disk outlives its device for as long as a plan may have to give it back."""
    name = f"held-{device}"  # QEMU takes 31 characters, and long ids often differ at their ends alone
    return name if len(name) <= 31 else f"{name[:22]}-{zlib.crc32(device.encode()):08x}"


def file_of(node: str) -> str:
    """Return the name that a node's file has where it is made together with the node, and must have one."""
    return f"{node[:26]}-file"


def same_file(one: Any, other: Any) -> bool:
    """Tell whether two paths lead to one file, or to one device."""
    if one == other:
        return True
    try:
        first, second = os.stat(one), os.stat(other)
    except (OSError, TypeError, ValueError):
        return False
    devices = stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode)
    return os.path.samestat(first, second) or (devices and first.st_rdev == second.st_rdev)


def check_bytes(option: str, value: Any) -> None:
    """Raise Refusal for what is not a size, or one that QEMU does not take."""
    try:
        size = human_size(value)
    except ValueError as exc:
        raise Refusal(f"{option}: {exc}") from exc
    if size >= 2**63:
        raise Refusal(f"{option}: {size} is more than QEMU takes")


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
