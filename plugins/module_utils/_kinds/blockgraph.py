# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The block graph: what each node stands on, and who holds it. Loaded only where that is asked for.

From ``x-debug-query-block-graph``; QEMU calls that query unstable, but every version from 5.2 to 10.0 answers it alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM


def users(vm: VM, node: str) -> List[tuple[str, str]]:
    """Who holds a block node, as ``(kind, id)``: devices, other nodes, jobs, or exports."""
    holders = vm.table("block graph", lambda: _graph(vm)).get(node, _ALONE).holders
    held = [_holder(item["type"], item["name"]) for item in holders if item["name"]]
    if len(held) < len(holders):  # an export's hold has no name, nor has that of a device that is about to let go
        held += [("export", export["id"]) for export in vm.ask("query-block-exports") if export["node-name"] == node]
    return [user for user in held if user[0] != "device" or not _half_gone(vm, user[1])]


def attached(vm: VM, node: str) -> bool:
    """Whether a device has the node, be it through nodes above it."""
    return any(kind == "device" or (kind == "blockdev" and attached(vm, name)) for kind, name in users(vm, node))


def _half_gone(vm: VM, device: str) -> bool:
    """Whether a device has left the tree, and will let go of its node in a moment. A ``-drive`` is held by its own name."""
    gone = "/" not in device and device not in vm.peripherals()
    return gone and device not in [drive["device"] for drive in vm.ask("query-block")]


def children(vm: VM, node: str) -> Dict[str, str]:
    """The nodes that a block node stands on, by their role: ``file``, ``backing``."""
    links: _Links = vm.table("block graph", lambda: _graph(vm)).get(node, _ALONE)
    return links.children


class _Links(NamedTuple):
    """What a node stands on, by role, and who holds it: items of the graph."""

    children: Dict[str, str]
    holders: List[Dict[str, Any]]


_ALONE = _Links({}, [])


def _graph(vm: VM) -> Dict[str, _Links]:
    """The block graph by node name."""
    graph = vm.ask("x-debug-query-block-graph")
    known = {item["id"]: item for item in graph["nodes"]}
    links = {item["name"]: _Links({}, []) for item in graph["nodes"] if item["type"] == "block-driver"}
    for edge in graph["edges"]:
        parent, child = known[edge["parent"]], known[edge["child"]]
        links[child["name"]].holders.append(parent)
        if parent["type"] == "block-driver":
            links[parent["name"]].children[edge["name"]] = child["name"]
    return links


def _holder(kind: str, name: str) -> tuple[str, str]:
    if kind == "block-driver":
        return "blockdev", name
    if kind == "block-job":
        return "block job", name
    if name.startswith("/machine/peripheral/"):
        return "device", name.split("/")[3]
    return "device", name
