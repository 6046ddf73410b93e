# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The block graph: what a device has, what each node stands on, and who holds it. Loaded only where that is asked for.

From ``x-debug-query-block-graph``; QEMU calls that query unstable, but every version from 5.2 to 10.0 answers it alike.

What a device has is a tree. Snapshots put overlays on its top, jobs and throttling put filters there: it is the same
disk, though its top node is another one than the task that plugged it had named.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Set, Tuple

from .blockdev_nodes import drive_of, held_by, node_meant, nodes

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

# They show what is below them as it is: a disk's content is the same with them or without.
_FILTERS = frozenset(
    [
        "throttle",
        "copy-on-read",
        "copy-before-write",
        "backup-top",
        "mirror_top",
        "commit_top",
        "compress",
        "preallocate",
    ]
)


class _Links(NamedTuple):
    """What a node stands on, by role, and who holds it: items of the graph."""

    children: Dict[str, str]
    holders: List[Dict[str, Any]]


_ALONE = _Links({}, [])


def top(vm: VM, device: str) -> str:
    """Return the top node of what a device has; empty where it has none, or is not there and has left none behind."""
    left = held(vm, device)
    if left:
        return children(vm, left)["file"]
    drive = drive_of(vm, device) if device in vm.peripherals() else None
    return str(tops(vm).get(drive["device"] or drive["qdev"], "")) if drive else ""


def chain(vm: VM, device: str) -> List[str]:
    """Return the nodes that are a device's disk, from the top one down: overlays, what they stand on, filters between."""
    return chain_from(vm, top(vm, device))


def chain_from(vm: VM, node: str) -> List[str]:
    """Return a node and those that its content comes from, from the top one down; none for an empty name."""
    found: List[str] = []
    while node and node not in found:
        found.append(node)
        below = children(vm, node)
        known = nodes(vm).get(node)  # None: a job's filter, which has come or gone between two looks
        filtered = below.get("file", "") if known is None or known["drv"] in _FILTERS else ""
        node = below.get("backing", filtered)
    return found


def images_from(vm: VM, node: str) -> List[str]:
    """Return the nodes of that chain which are images, and no filters over one."""
    known = nodes(vm)
    return [name for name in chain_from(vm, node) if name in known and known[name]["drv"] not in _FILTERS]


def above(vm: VM, device: str, node: str) -> List[str]:
    """Return the nodes of a device's disk that lie over this one, from the top one down; none where it is not its disk."""
    disk = chain(vm, device)
    return disk[: disk.index(node)] if node in disk else []


def image(vm: VM, device: str) -> str:
    """Return the first node of a device's disk that is not a filter; empty where it has none."""
    disk = chain(vm, device)
    return next((node for node in disk if nodes(vm)[node]["drv"] not in _FILTERS), disk[0] if disk else "")


def meant(vm: VM, name: str) -> str:
    """Return the node that a user means by its name, or by a device or drive, whose image it is; empty where there is none."""
    return name if name in nodes(vm) else image(vm, name) or node_meant(vm, name) or ""


def held(vm: VM, device: str) -> str:
    """Return the holding node where a run was stopped between a device's removal and its return; else an empty text."""
    return held_by(device) if device not in vm.peripherals() and held_by(device) in nodes(vm) else ""


def goes_along(vm: VM, device: str, draft: Draft) -> str:
    """Return the top node of a device's disk where QEMU may delete it with its device; empty where only the monitor does.

    It deletes the nodes of ``-drive``, and overlays that it made by itself for a snapshot. What a job works on stays, and
    what the plan deletes by name it also knows how to make again.
    """
    node = vm.prop(f"/machine/peripheral/{device}", "drive")
    if not isinstance(node, str) or node == f"{device}-node":
        return ""
    node = top(vm, device)
    if not node or jobs_on(vm, [node]):
        return ""
    if drive_id(vm, device):
        return node
    overlay = node.startswith("#") or any(not child.startswith("#") for child in chain(vm, device)[1:])
    return node if overlay and ("blockdev", node) not in draft.removing else ""


def drive_id(vm: VM, device: str) -> str:
    """Return the id of the ``-drive`` that a device has; empty where its disk was made otherwise."""
    return str((drive_of(vm, device) or {}).get("device", ""))


def jobs_on(vm: VM, disk: List[str]) -> List[str]:
    """Return the block jobs that work on any of these nodes."""
    return sorted({name for node in disk for kind, name in users(vm, node) if kind == "block job"})


def users(vm: VM, node: str) -> List[tuple[str, str]]:
    """Return who holds a block node, as ``(kind, id)``: devices, other nodes, jobs, or exports."""
    holders = _links(vm, node).holders
    held = [_holder(vm, item["type"], item["name"]) for item in holders if item["name"]]
    if len(held) < len(holders):  # an export's hold has no name, nor has that of a device that is about to let go
        held += [("export", export["id"]) for export in vm.ask("query-block-exports") if export["node-name"] == node]
    return [user for user in held if user[1]]


def holds(vm: VM, node: str) -> List[Tuple[Thing, List[str], List[str]]]:
    """Return who holds a block node, and what it may do there and lets others do: ``write``, ``resize`` and more."""
    graph = vm.ask("x-debug-query-block-graph")
    known = {item["id"]: item for item in graph["nodes"]}
    edges = [(known[edge["parent"]], edge) for edge in graph["edges"] if known[edge["child"]]["name"] == node]
    exports = ", ".join(export["id"] for export in vm.ask("query-block-exports") if export["node-name"] == node)
    return [
        (
            _holder(vm, item["type"], item["name"]) if item["name"] else ("export", exports),
            edge["perm"],
            edge["shared-perm"],
        )
        for item, edge in edges
    ]


def attached(vm: VM, node: str) -> bool:
    """Tell whether a device has the node, be it through nodes above it."""
    return any(kind == "device" or (kind == "blockdev" and attached(vm, name)) for kind, name in users(vm, node))


def nodes_over(vm: VM, node: str) -> List[str]:
    """Return the nodes above a node, of whatever disk."""
    direct = [name for kind, name in users(vm, node) if kind == "blockdev"]
    return [name for own in direct for name in (own, *nodes_over(vm, own))]


def outside(vm: VM, device: str, node: str) -> List[tuple[str, str]]:
    """Return who holds a node of a device's disk, or one above it, but for the nodes of that disk."""
    disk = [*above(vm, device, node), node]
    return [user for part in disk for user in users(vm, part) if user not in [("blockdev", name) for name in disk]]


def children(vm: VM, node: str) -> Dict[str, str]:
    """Return the nodes that a block node stands on, by their role: ``file``, ``backing``."""
    return _links(vm, node).children


def is_held(vm: VM, node: str) -> bool:
    """Tell whether anything holds a block node, be it without a name."""
    return bool(_links(vm, node).holders)


def job_roles(vm: VM, ident: str) -> Set[str]:
    """Return the roles of the nodes that a block job works on, as the job names them: ``main node``, ``target``."""
    graph = vm.ask("x-debug-query-block-graph")
    jobs = {item["id"] for item in graph["nodes"] if item["type"] == "block-job" and item["name"] == ident}
    return {edge["name"] for edge in graph["edges"] if edge["parent"] in jobs}


def _links(vm: VM, node: str) -> _Links:
    links: _Links = vm.table("block graph", lambda: _graph(vm)).get(node, _ALONE)
    return links


def _graph(vm: VM) -> Dict[str, _Links]:
    """Return the block graph by node name."""
    graph = vm.ask("x-debug-query-block-graph")
    known = {item["id"]: item for item in graph["nodes"]}
    links = {item["name"]: _Links({}, []) for item in graph["nodes"] if item["type"] == "block-driver"}
    for edge in graph["edges"]:
        parent, child = known[edge["parent"]], known[edge["child"]]
        links[child["name"]].holders.append(parent)
        if parent["type"] == "block-driver":
            links[parent["name"]].children[edge["name"]] = child["name"]
    return links


def tops(vm: VM) -> Dict[str, str]:
    """Return the top nodes of what the devices have, by the device's name there: its ``-drive``, its id, or a path in it."""
    return vm.table("block tops", lambda: _tops(vm))


def _tops(vm: VM) -> Dict[str, str]:
    graph = vm.table("block graph", lambda: _graph(vm))
    holds = ((item, node) for node, links in graph.items() for item in links.holders)
    return {item["name"]: node for item, node in holds if item["type"] == "block-backend" and item["name"]}


def _holder(vm: VM, kind: str, name: str) -> tuple[str, str]:
    """Return kind and id of a holder; the id is empty for a device that has left the tree, and will let go in a moment."""
    if kind == "block-driver":
        return "blockdev", name
    if kind == "block-job":
        return "block job", name
    if name.startswith("/machine/peripheral/"):
        return "device", name.split("/")[3]
    if "/" in name or name in vm.peripherals():
        return "device", name
    # a -drive goes by its own name
    drives = {drive["device"]: drive.get("qdev", "") for drive in vm.ask("query-block")}
    if name not in drives:
        return "device", ""
    owner = drives[name]
    return "device", owner.split("/")[3] if owner.startswith("/machine/peripheral/") else owner or name
