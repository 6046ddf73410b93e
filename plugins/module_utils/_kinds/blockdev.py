# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Block nodes: ``blockdev-add`` and what ``query-named-block-nodes`` reads back."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, FrozenSet, List, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want
from . import references
from .blockdev_nodes import check_bytes, is_cut, layers, nodes, sectors
from .kind import Change, Kind, State, flatten

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.step import Step
    from .._core.vm import VM

_REOPENED = frozenset(["read_only", "cache.direct", "cache.no_flush", "detect_zeroes"])
_REOPENS = (6, 1)
"""The first version of QEMU that has ``blockdev-reopen`` for certain. An older one is asked."""


class Blockdev(Kind):
    """A block node that the monitor owns: a format over a file or a host device, or a protocol alone."""

    reserved_options = frozenset(["node-name", "driver", "read-only", "detect-zeroes", "cache", "discard"])
    name = "blockdev"
    section = "blockdevs"
    keys = ("node_name",)
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
    changeable_keys = frozenset(["size"])

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return the node of a ``-drive`` for its id, where nothing says what else to make under that name."""
        name, made_of = self.ident(want), ("filename", "file", "options")
        if len(want) == 1 or any(option in want for option in made_of) or name in nodes(vm):
            return want
        drives = {drive["device"]: drive["inserted"] for drive in vm.ask("query-block") if "inserted" in drive}
        return {**want, "node_name": drives[name]["node-name"]} if name in drives else want

    def check_ident(self, want: Want) -> None:
        """Let QEMU's own names pass, which begin with a number sign: nobody can make such a node, but it may be there."""
        if not self.ident(want).startswith("#"):
            super().check_ident(want)

    def check(self, want: Want) -> None:
        """Raise Refusal also for more than QEMU's 31 characters in a node's name, and for options that contradict each other."""
        super().check(want)
        if len(self.ident(want)) > 31:
            raise Refusal(f"node_name: {self.ident(want)!r} has more than 31 characters, which QEMU does not take")
        if "filename" in want and "file" in want:
            raise Refusal("filename and file say the same thing: give one of them")
        check_bytes("size", want.get("size", 0))

    def read(self, vm: VM, want: Want) -> State | None:
        """Return driver, place, cache mode and size, from ``query-named-block-nodes``.

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
            if "filename" in want and _is_same_image(vm, below["filename"], want["filename"]):
                have["filename"] = want["filename"]  # by another of its names
        elif "filename" in want and not is_cut(text):
            have["filename"] = coercion.without_password(text)  # what it has instead
        have.update(_nested(vm, want))
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return a size in whole sectors, as QEMU counts."""
        flat = super().wanted(vm, want)
        if "size" in flat:
            flat["size"] = sectors(flat["size"])
        return flat

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return also how the file is opened, where this QEMU has ``blockdev-reopen`` (6.1 and later).

        Not whether it can be written to while a device has it: QEMU lets no writer go on, and the guest would not notice.
        """
        if vm.session.version[:2] < _REOPENS and not vm.has_command("blockdev-reopen"):
            return self.changeable_keys
        if have["node_name"].startswith("#"):  # blockdev-reopen takes no such name
            return self.changeable_keys
        from . import blockdev_graph

        kept = ["read_only"] if blockdev_graph.attached(vm, have["node_name"]) else []
        return (_REOPENED | self.changeable_keys).difference(kept)

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return the nodes and the objects that its options name."""
        return references.layered(want.get("options", {})) | references.layered(want.get("file", {}))

    def current_dependencies(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """Return the nodes below it, by the block graph, and the objects that it tells of."""
        from . import blockdev_graph

        name = self.ident(want)
        told = {below for below in references.layered(layers(nodes(vm)[name].get("file", ""))) if below[0] == "object"}
        return told | {("blockdev", child) for child in blockdev_graph.children(vm, name).values()}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``blockdev-add``, and a ``block_resize`` where the image is smaller than wanted."""
        from . import blockdev_steps

        return blockdev_steps.create(vm, want)

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with the image, its format, and how that is opened."""
        from . import blockdev_steps

        return blockdev_steps.complete(vm, want, have)

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return a ``block_resize`` to grow (nothing takes that back), and a ``blockdev-reopen`` for the rest."""
        from . import blockdev_steps

        return blockdev_steps.change(vm, want, have, changes)

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``blockdev-del``. Raise Refusal while something uses the node that does not go before it."""
        from . import blockdev_steps

        self.check_unused(vm, want, draft)
        return blockdev_steps.remove(vm, want)

    def list(self, vm: VM) -> List[Want]:
        """Return the node names."""
        return [{"node_name": name} for name in nodes(vm)]

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return who holds it: devices, other nodes, jobs, exports."""
        from . import blockdev_graph

        return blockdev_graph.users(vm, self.ident(want))


def _is_same_image(vm: VM, one: object, other: object) -> bool:
    """Tell whether two paths lead to one image."""
    if one == other:
        return True
    from .host_path import is_one_file  # only where names differ

    return is_one_file(vm, "filename", one, other)


def _nested(vm: VM, want: Want) -> State:
    """Return what is told of the options that the task gives as QEMU has them, and of the layers in them."""
    tree = {**want.get("options", {}), **({"file": want["file"]} if "file" in want else {})}
    if not tree:
        return {}
    from . import blockdev_definition

    flat = blockdev_definition.told(vm, want["node_name"], tree)
    wanted = flatten({part: want[part] for part in ("options", "file") if part in want})
    keys = {key: key[len("options.") :] if key.startswith("options.") else key for key in wanted}
    return {key: flat[name] for key, name in keys.items() if name in flat}


BLOCKDEV = Blockdev()
