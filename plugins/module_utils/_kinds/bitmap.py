# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Dirty bitmaps: ``block-dirty-bitmap-add`` and its kin, and what ``query-named-block-nodes`` reads back.

Backups stand on them. An empty bitmap in the place of a full one makes the next incremental backup miss what was written
before, and nothing tells: so a bitmap is never removed and added again.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Set

from .._core.coercion import to_int
from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .blockdev_nodes import nodes, unknown_node
from .kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

_LONGEST_NAME = 1023
_GRANULARITIES = [1 << power for power in range(9, 32)]


class Bitmap(Kind):
    """A dirty bitmap: which parts of a block node were written to since it was made, or cleared."""

    name = "bitmap"
    keys = ("node", "name")
    options = {
        "node": Option("str", required=True),
        "name": Option("str", required=True),
        "granularity": Option("str"),
        "persistent": Option("bool"),
        "enabled": Option("bool"),
        "merge_from": Option("list", elements="raw"),
        "clear": Option("bool"),
    }
    changeable_keys = frozenset(["enabled", "count", "merge_from"])

    def check_ident(self, want: Want) -> None:
        """Raise Refusal for a name that QEMU does not take. It need not be an id: other tools give names of all sorts."""
        if not 0 < len(want["name"].encode("utf-8", "surrogatepass")) <= _LONGEST_NAME:
            raise Refusal(f"name: a bitmap's name has 1 to {_LONGEST_NAME} bytes, and {want['name'][:40]!r} has not")

    def check(self, want: Want) -> None:
        """Raise Refusal also for a granularity that no bitmap has, and for sources that are not named as bitmaps are."""
        super().check(want)
        try:
            fits = to_int(want.get("granularity", _GRANULARITIES[0])) in _GRANULARITIES
        except ValueError:
            fits = False
        if not fits:
            raise Refusal(f"granularity: {want['granularity']!r} is not a power of two from 512 bytes to 2 GiB")
        for item in want.get("merge_from", []):
            named = isinstance(item, dict) and item.keys() == {"node", "name"}
            if not all(isinstance(text, str) for text in (item.values() if named else [item])):
                raise Refusal(f"merge_from: {item!r} is neither a bitmap's name nor a dictionary of node and name")

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return it with the nodes of devices or drives that were named instead: the images that are written to."""
        named: Want = {"node": _meant(vm, want["node"])}
        if "merge_from" in want:
            named["merge_from"] = [
                {**item, "node": _meant(vm, item["node"])} if isinstance(item, dict) else item
                for item in want["merge_from"]
            ]
        return {**want, **named}

    def read(self, vm: VM, want: Want) -> State | None:
        """Return all that is told of it. ``merge_from`` is what of the wanted sources is in it for certain: nothing.

        Raise Refusal where those in the image can't be told: they leave together with the guest.
        """
        told = _told(vm, want["node"], want["name"])
        if not told:
            if want["node"] in nodes(vm):
                _check_node(vm, want, "looking for", writes=False)
            return None
        have: State = {"node": want["node"], "merge_from": [], "enabled": told["recording"], "inconsistent": False}
        names = ("name", "granularity", "count", "recording", "busy", "persistent", "inconsistent")
        return {**have, **{key: told[key] for key in names if key in told}}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it with ``clear`` as a count of 0, without sources that are empty, and never inconsistent."""
        full = {key: value for key, value in want.items() if key not in ("clear", "merge_from")}
        told = _told(vm, want["node"], want["name"])
        if want.get("clear") and told:
            full["count"] = 0
        sources = [item for item in want.get("merge_from", []) if not _is_empty(_source(vm, want, item))]
        if sources:
            full["merge_from"] = sources
        return {**full, "inconsistent": False} if told.get("inconsistent") else full

    def recreate_refusal(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        """Return why an empty bitmap must not take its place."""
        why = "its bits would be lost, and a backup that needs them would miss what was written"
        if have["inconsistent"]:
            why = "QEMU was killed while it recorded, so that it can't tell what was written"
        return f"{why}: remove it (state=absent), add it anew in another task, and let a full backup follow"

    def wanted_dependencies(self, want: Want) -> Set[Thing]:
        """Return its node."""
        return {("blockdev", want["node"])}

    def current_dependencies(self, vm: VM, want: Want) -> Set[Thing]:
        """Return its node."""
        return self.wanted_dependencies(want)

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-dirty-bitmap-add``, in one transaction with the bitmaps that are merged into it."""
        node = nodes(vm).get(want["node"])
        if node is None:
            raise unknown_node("node", want["node"], nodes(vm))
        _check_node(vm, want, "adding", writes=bool(want.get("persistent")))
        if want.get("persistent"):
            _check_keeps(node)
        made: Dict[str, Any] = {key: want[key] for key in ("node", "name", "granularity", "persistent") if key in want}
        if want.get("enabled") is False:
            made["disabled"] = True
        actions = [("block-dirty-bitmap-add", vm.schema.coerce("block-dirty-bitmap-add", made))]
        actions += _merging(vm, want, self.wanted(vm, want).get("merge_from", []))
        return [_together(actions).replace(undo=[_removing(want)])]

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return what lets it record, clears it and merges into it, as one transaction: all of it, or nothing."""
        differs = {change.key: change for change in changes}
        _check_free(want, have)
        _check_node(vm, want, "changing", writes=have["persistent"] and bool(differs.keys() - {"enabled"}))
        words = []
        if "enabled" in differs:
            words.append("enable" if want["enabled"] else "disable")
        if "count" in differs:
            words.append("clear")
        actions = [(f"block-dirty-bitmap-{word}", _where(want)) for word in words]
        actions += _merging(vm, want, differs["merge_from"].after if "merge_from" in differs else [])
        step = _together(actions)
        if differs.keys() == {"enabled"}:
            back = "disable" if want["enabled"] else "enable"
            return [step.replace(undo=[Step(f"block-dirty-bitmap-{back}", _where(want))])]
        return [step.replace(irreversible="its bits can't be given back")]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-dirty-bitmap-remove``. Nothing takes it back: an empty bitmap is not the same one."""
        have = self.read(vm, want) or {}
        _check_free(want, {**have, "inconsistent": False})
        _check_node(vm, want, "removing", writes=have["persistent"])
        return [_removing(want).replace(irreversible="its bits can't be given back")]

    def describe(self, vm: VM, want: Want) -> Any:
        """Return what is told of it, whether it records as QEMU calls that."""
        have = super().describe(vm, want)
        return {key: value for key, value in have.items() if key not in ("enabled", "merge_from")}


def _meant(vm: VM, name: str) -> str:
    """Return the node that a name stands for; the name itself where nothing is called so."""
    if name in nodes(vm):
        return name
    from . import blockdev_graph

    return blockdev_graph.meant(vm, name) or name


def _told(vm: VM, node: str, name: str) -> Dict[str, Any]:
    """Return what QEMU tells of a bitmap; empty where there is none. Those of a running job have no name."""
    bitmaps = nodes(vm).get(node, {}).get("dirty-bitmaps", [])
    return next((bitmap for bitmap in bitmaps if bitmap.get("name") == name), {})


def _where(want: Want) -> Dict[str, Any]:
    return {"node": want["node"], "name": want["name"]}


def _source(vm: VM, want: Want, item: Any) -> Dict[str, Any]:
    """Return what is told of a bitmap to be merged."""
    return _told(vm, item["node"], item["name"]) if isinstance(item, dict) else _told(vm, want["node"], item)


def _is_empty(told: Dict[str, Any]) -> bool:
    """Tell whether merging a bitmap changes nothing. What an inconsistent one had, nobody knows."""
    return told.get("count") == 0 and not told.get("inconsistent")


def _merging(vm: VM, want: Want, sources: List[Any]) -> List[Any]:
    """Return the action that merges these bitmaps into it, if there are any. Raise Refusal for one that can't be."""
    for item in sources:
        node, name = (item["node"], item["name"]) if isinstance(item, dict) else (want["node"], item)
        told = _source(vm, want, item)
        if not told:
            raise Refusal(f"merge_from: block node {node} has no bitmap {name!r}")
        _check_free({"node": node, "name": name}, told)
        size, other = (nodes(vm)[one]["image"]["virtual-size"] for one in (want["node"], node))
        if size != other:
            raise Refusal(
                f"merge_from: {node} has {other} bytes and {want['node']} {size}: such bitmaps can't be merged"
            )
    data = {"node": want["node"], "target": want["name"], "bitmaps": sources}
    return [("block-dirty-bitmap-merge", data)] if sources else []


def _together(actions: List[Any]) -> Step:
    """Return one step for all these commands."""
    if len(actions) == 1:
        return Step(*actions[0])
    return Step("transaction", {"actions": [{"type": name, "data": data} for name, data in actions]})


def _removing(want: Want) -> Step:
    node, name = want["node"], want["name"]
    return Step(
        "block-dirty-bitmap-remove", _where(want), removes=True, still_needed=lambda vm: bool(_told(vm, node, name))
    )


def _check_free(want: Want, have: Dict[str, Any]) -> None:
    """Raise Refusal for a bitmap that QEMU lets nobody touch now, or ever."""
    called = f"bitmap {want['node']}/{want['name']}"
    if have["busy"]:
        raise Refusal(f"{called} is in use by a job or an export: let that end first")
    if have.get("inconsistent"):
        raise Refusal(
            f"{called} is inconsistent: QEMU was killed while it recorded. It can only be removed (state=absent)"
        )


def _check_node(vm: VM, want: Want, what: str, writes: bool) -> None:
    """Raise Refusal where the disk is not this QEMU's own now, or where the image is to be written to and can't be.

    Some versions end themselves when they are told to remove a bitmap from the image of a guest that has left.
    """
    from .blockdev_active import check_active

    check_active(vm, f"{what} bitmap {want['name']}", want["node"])
    if writes and nodes(vm)[want["node"]]["ro"]:
        raise Refusal(
            f"{what} bitmap {want['name']}: it is kept in the image of {want['node']}, which is read-only: "
            "it would not be written there"
        )


def _check_keeps(node: Dict[str, Any]) -> None:
    """Raise Refusal for an image that can't keep bitmaps."""
    why = why_not_kept(node)
    if why:
        raise Refusal(f"persistent: {why}")


def why_not_kept(node: Dict[str, Any]) -> str:
    """Return why an image can't keep bitmaps, and what to do; empty where it can."""
    name, cure = node["node-name"], "leave it out, and make a full backup whenever the virtual machine was off"
    if node["drv"] != "qcow2":
        return f"only qcow2 images keep bitmaps, and {name} is of format {node['drv']}: {cure}"
    if node["image"].get("format-specific", {}).get("data", {}).get("compat") == "0.10":
        return (
            f"{name} is a qcow2 image of version 2, which can't keep bitmaps: "
            "upgrade it while nobody uses it (qemu-img amend -o compat=1.1)"
        )
    return ""


BITMAP = Bitmap()
