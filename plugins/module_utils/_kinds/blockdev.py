# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Block nodes: ``blockdev-add`` and what ``query-named-block-nodes`` reads back."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List, Set, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._kinds import roles, typed
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import (
    Change,
    Kind,
    Option,
    State,
    Want,
    flatten,
    nest,
)
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM

_LONGEST = 4095
_URL = re.compile(r"[a-z][a-z0-9+-]*://")
_REOPENED = frozenset(["read_only", "cache.direct", "cache.no_flush", "detect_zeroes"])


class Blockdev(Kind):
    """A block node that the monitor owns: a format over a file or a host device, or a protocol alone."""

    own = frozenset(["node-name", "driver", "read-only", "detect-zeroes", "cache", "discard"])
    name = "blockdev"
    key = "node_name"
    options = {
        "node_name": Option("str", required=True),
        "driver": Option("str"),
        "filename": Option("str"),
        "file": Option("dict"),
        "read_only": Option("bool"),
        "cache": Option("dict", options={"direct": Option("bool"), "no_flush": Option("bool")}),
        "discard": Option("str", choices=["ignore", "unmap"]),
        "detect_zeroes": Option("str", choices=["off", "on", "unmap"]),
        "aio": Option("str", choices=["threads", "native", "io_uring"]),
        "size": Option("str"),
        "options": Option("dict"),
    }

    def meant(self, vm: VM, want: Want) -> Want:
        """The id of a ``-drive`` stands for the node that it has, where nothing says what else to make under that name."""
        name, made_of = self.ident(want), ("filename", "file", "options")
        if len(want) == 1 or any(option in want for option in made_of) or name in nodes(vm):
            return want
        drives = {drive["device"]: drive["inserted"] for drive in vm.ask("query-block") if "inserted" in drive}
        return {**want, "node_name": drives[name]["node-name"]} if name in drives else want

    def check_ident(self, want: Want) -> None:
        """QEMU's own names begin with a number sign: nobody can make such a node, but it may be there."""
        if not self.ident(want).startswith("#"):
            super().check_ident(want)

    def check(self, want: Want) -> None:
        """Also: QEMU's limit of 31 characters for node names, and options that contradict each other."""
        super().check(want)
        if len(self.ident(want)) > 31:
            raise Refusal(f"node_name: {self.ident(want)!r} has more than 31 characters, which QEMU does not take")
        if "filename" in want and "file" in want:
            raise Refusal("filename and file say the same thing: give one of them")
        if "size" in want:
            try:
                human_size(want["size"])
            except ValueError as exc:
                raise Refusal(f"size: {exc}") from exc

    def read(self, vm: VM, want: Want) -> State | None:
        """Driver, place, cache mode and size, from ``query-named-block-nodes``.

        ``discard``, ``aio`` and locking can't be read back from any QEMU.
        """
        node = nodes(vm).get(self.ident(want))
        if node is None:
            return None
        have: State = {
            "node_name": node["node-name"],
            "driver": node["drv"],
            "read_only": node["ro"],
            "cache.direct": node["cache"]["direct"],
            "cache.no_flush": node["cache"]["no-flush"],
            "detect_zeroes": node["detect_zeroes"],
            "size": node["image"]["virtual-size"],
        }
        text = node.get("file", "")
        told = layers(text)
        below = told.get("file") or told
        if "filename" in below:
            have["filename"] = below["filename"]
            if vm.local and "filename" in want and same_file(below["filename"], want["filename"]):
                have["filename"] = want["filename"]  # by another of its names
        elif "filename" in want and not is_cut(text):
            have["filename"] = typed.without_password(text)  # what it has instead
        have.update(_nested(vm, want))
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """A size counts in whole sectors, as QEMU does."""
        flat = super().wanted(vm, want)
        if "size" in flat:
            flat["size"] = sectors(flat["size"])
        return flat

    def live(self, vm: VM, have: State) -> FrozenSet[str]:
        """Size always; how the file is opened where this QEMU has ``blockdev-reopen`` (6.1 and later).

        Not whether it can be written to while a device has it: QEMU lets no writer go on, and the guest would not notice.
        """
        if not vm.has_command("blockdev-reopen"):
            return frozenset(["size"])
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph

        kept = ["read_only"] if blockgraph.attached(vm, have["node_name"]) else []
        return (_REOPENED | {"size"}).difference(kept)

    def needs(self, want: Want) -> Set[Tuple[str, str]]:
        """The nodes and the objects that its options name."""
        return roles.layered(want.get("options", {})) | roles.layered(want.get("file", {}))

    def stands_on(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """The nodes below it, by the block graph, and the objects that it tells of."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockgraph

        name = self.ident(want)
        told = {below for below in roles.layered(layers(nodes(vm)[name].get("file", ""))) if below[0] == "object"}
        return told | {("blockdev", child) for child in blockgraph.children(vm, name).values()}

    def create(self, vm: VM, want: Want) -> List[Step]:
        """``blockdev-add``, and ``block_resize`` where the image is smaller than wanted."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blocknode

        return blocknode.create(vm, want)

    def inherit(self, vm: VM, want: Want, have: State) -> Want:
        """The image, its format, and how it is opened."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blocknode

        return blocknode.inherit(vm, want, have)

    def change(self, vm: VM, want: Want, have: State, changes: List[Change]) -> List[Step]:
        """``block_resize`` to grow (nothing takes that back), ``blockdev-reopen`` for the rest."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blocknode

        return blocknode.change(vm, want, have, changes)

    def remove(self, vm: VM, want: Want) -> List[Step]:
        """``blockdev-del``, refused here while something uses the node that does not go before it."""
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blocknode

        return blocknode.remove(vm, want)


def nodes(vm: VM) -> Dict[str, Dict[str, Any]]:
    """All block nodes by name; one command, whatever their number."""
    return vm.table("nodes", lambda: {node["node-name"]: node for node in vm.ask("query-named-block-nodes", flat=True)})


def drive_of(vm: VM, device: str) -> Dict[str, Any] | None:
    """``query-block``'s entry for what a device has, without ``inserted`` where nothing is in it; None where it tells of none."""
    for drive in vm.ask("query-block"):
        holder = drive.get("qdev", "")  # a path within the device, or the bare id (scsi-hd)
        if holder == device or f"{holder}/".startswith(f"/machine/peripheral/{device}/"):
            found: Dict[str, Any] = drive
            return found
    return None


def node_of(vm: VM, device: str) -> str | None:
    """The node that a device has, by ``query-block``; None where that does not tell."""
    drive = drive_of(vm, device) or {}
    return str(drive["inserted"]["node-name"]) if "inserted" in drive else None


def held_by(device: str) -> str:
    """The name of the node by which a disk outlives its device for as long as a plan may have to give it back."""
    return f"held-{device}"[:31]


def same_file(one: Any, other: Any) -> bool:
    """Whether two paths lead to one file, or to one device."""
    try:
        first, second = os.stat(one), os.stat(other)
    except (OSError, TypeError, ValueError):
        return False
    devices = stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode)
    return os.path.samestat(first, second) or (devices and first.st_rdev == second.st_rdev)


def sectors(size: Any) -> int:
    return -(-human_size(size) // 512) * 512


def _nested(vm: VM, want: Want) -> State:
    """What is told of the options that the task gives as QEMU has them, and of the layers in them."""
    tree = {**want.get("options", {}), **({"file": want["file"]} if "file" in want else {})}
    if not tree:
        return {}
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockdef

    flat = blockdef.told(vm, want["node_name"], tree)
    wanted = flatten({part: want[part] for part in ("options", "file") if part in want})
    keys = {key: key[len("options.") :] if key.startswith("options.") else key for key in wanted}
    return {key: flat[name] for key, name in keys.items() if name in flat}


def is_cut(text: str) -> bool:
    """Whether QEMU had more to tell of a node than it tells: a text has 4095 bytes at the most."""
    return len(text.encode("utf-8", "surrogatepass")) >= _LONGEST


def layers(text: str) -> Dict[str, Any]:
    """QEMU's ``file`` member: a plain name, or ``json:{...}`` (dotted or nested) where options matter for the content.

    Empty where it is cut.
    """
    if is_cut(text):
        return {}
    if not text.startswith("json:"):
        return {"filename": text} if text and not _URL.match(text) else {}
    return nest(json.loads(text[len("json:") :]))


BLOCKDEV = Blockdev()
