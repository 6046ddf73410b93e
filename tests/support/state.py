# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a VM is made of, read over the second monitor by raw queries: what property tests compare.

`{(table, name): {property: value}}` with the tables device, object, chardev, netdev, blockdev. Whatever QEMU draws at random
(names of nodes that nobody named, numbers of descriptors and ports) is left out, so equal states are equal dictionaries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from support.observer import Observer, ObserverError

Item = tuple[str, str]
State = dict[Item, dict[str, Any]]

_LINE = re.compile(
    r'( *)(?:dev: (?P<driver>[^,]+), id "(?P<id>.*)"|bus: (?P<bus>\S+)|(?P<name>\S+) = (?P<value>.*))\r?'
)
_NUMBER = re.compile(r"(-?\d+) \(.*\)")


def read_state(look: Observer) -> State:
    """Everything that can be hot-plugged and has a name."""
    return {(kind.name, ident): props for kind in KINDS for ident, props in kind.read(look).items()}


def _all_devices(look: Observer) -> dict[str, dict[str, Any]]:
    """Those of the device tree, and the memory modules."""
    found = _devices(look)
    for module in look.look("query-memory-devices"):
        data = module["data"]
        known = {key: data[key] for key in ("size", "memdev")}
        found[data["id"]] = {"driver": {"dimm": "pc-dimm"}.get(module["type"], module["type"]), **known}
    return found


def _devices(look: Observer) -> dict[str, dict[str, Any]]:
    """By id, from `info qtree`: driver, bus and what it prints as `name = value`, with those of nameless devices below."""
    found: dict[str, dict[str, Any]] = {}
    above: list[tuple[int, str, str]] = []  # indent, the id that counts, and the path below it
    for line in look.hmp("info qtree").splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            continue
        indent = len(match[1])
        while above and above[-1][0] >= indent:
            above.pop()
        owner, path = above[-1][1:] if above else ("", "")
        if match["driver"]:
            if match["id"]:
                found[match["id"]] = {"driver": match["driver"], "bus": path.rpartition("/")[2] or owner}
                above.append((indent, match["id"], ""))
            else:
                above.append((indent, owner, f"{path}/{match['driver']}"))
        elif match["bus"]:
            above.append((indent, owner, f"{path}/{match['bus']}"))
        elif owner:
            found[owner][f"{path}/{match['name']}".lstrip("/")] = _value(match["value"])
    return found


def _value(text: str) -> Any:
    if number := _NUMBER.fullmatch(text):
        return int(number[1])
    return {"true": True, "false": False}.get(text, text.strip('"'))


def _properties(look: Observer, path: str) -> dict[str, Any]:
    """Every property of an object that can be read."""
    found = {}
    for name in look.qom_list(path):
        try:
            found[name] = look.qom_get(path, name)
        except ObserverError:  # some can only be set
            continue
    return found


def _objects(look: Observer) -> dict[str, dict[str, Any]]:
    return {name: _properties(look, f"/objects/{name}") for name in look.objects() if name != "pc.ram"}


def _chardevs(look: Observer) -> dict[str, dict[str, Any]]:
    """Type and address; not who is connected, nor the number of a pty."""
    kinds = look.children("/chardevs")
    found = {}
    for name, printed in look.chardevs().items():
        address = re.sub(r"/pts/\d+", "/pts/N", printed.removeprefix("disconnected:").partition(" <-> ")[0])
        found[name] = {"type": kinds[name].removeprefix("chardev-"), "filename": address}
    return found


def _netdevs(look: Observer) -> dict[str, dict[str, Any]]:
    """Settings, one list a queue, as `info network` prints them, and the NIC, hub or port that each is wired to."""
    found: dict[str, dict[str, Any]] = {}
    above = ""
    for line in look.hmp("info network").splitlines():
        if line.startswith("  - ") or line.strip() == "filters:":  # objects, and read as such
            continue
        below = line.startswith(" \\ ")
        name, colon, printed = line.lstrip(" \\").strip().rstrip(":").partition(": ")
        if not below:
            above = name if not colon or "type=nic" in printed else ""
            if above:
                continue
        port, inner, settings = name, *printed.partition(": ")[::2]
        if settings:  # a hub's port, and what is plugged into it
            found[port] = {"settings": [], "wired": above}
            name, printed, wired = inner, settings, port
        else:
            wired = above
        parts = sorted(part for part in printed.split(",") if part and not part.startswith(("index=", "fd=")))
        found.setdefault(name, {"settings": [], "wired": wired})["settings"].append(parts)
    for name in found:
        found[name]["forwards"] = _forwards(look, name)
    return found


def _forwards(look: Observer, netdev: str) -> list[str]:
    hubs = re.split(r"^Hub .*\((.+)\):\r?$", look.hmp("info usernet"), flags=re.MULTILINE)
    mine = dict(zip(hubs[1::2], hubs[2::2])).get(netdev, "")
    return sorted(" ".join(words.split()) for words in re.findall(r"(?m)^\s+\w+\[HOST_FORWARD\]\s+\d+\s+(.+)$", mine))


def _nodes(look: Observer) -> dict[str, dict[str, Any]]:
    """Named block nodes, each with the named ones that it stands on."""
    graph = look.look("x-debug-query-block-graph")
    names = {item["id"]: item["name"] for item in graph["nodes"] if item["type"] == "block-driver"}
    found = {}
    for node in look.look("query-named-block-nodes", flat=True):
        name, printed = node["node-name"], node["file"]
        if name.startswith("#"):
            continue
        below = {edge["name"]: names[edge["child"]] for edge in graph["edges"] if names.get(edge["parent"]) == name}
        found[name] = {
            "driver": node["drv"],
            "file": json.loads(printed[len("json:") :]) if printed.startswith("json:") else printed,
            "read-only": node["ro"],
            "cache": (node["cache"]["direct"], node["cache"]["no-flush"]),
            "detect-zeroes": node["detect_zeroes"],
            "size": node["image"]["virtual-size"],
            "backing": node.get("backing_file"),
            "below": {role: "#" if child.startswith("#") else child for role, child in below.items()},
        }
    return found


class Kind(NamedTuple):
    """A kind of thing: its section in a document, how it is read and removed, and the commands that are about one."""

    name: str
    section: str
    read: Callable[[Observer], dict[str, dict[str, Any]]]
    key: str
    removal: str
    commands: tuple[str, ...]


# A new kind is a line here, and its makers in things.MAKERS.
KINDS = (
    Kind("device", "devices", _all_devices, "id", "device_del", ("device_add",)),
    Kind("object", "objects", _objects, "id", "object-del", ("object-add", "qom-set")),
    Kind("chardev", "chardevs", _chardevs, "id", "chardev-remove", ("chardev-add",)),
    Kind("netdev", "netdevs", _netdevs, "id", "netdev_del", ("netdev_add",)),
    Kind(
        *("blockdev", "blockdevs", _nodes, "node-name", "blockdev-del"),
        ("blockdev-add", "blockdev-reopen", "block_resize"),
    ),
)
