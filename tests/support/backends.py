# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makers of what devices stand on: objects, character devices, network backends and block nodes. Each chooses by a gene."""

from __future__ import annotations

from typing import Any

from support.state import Item
from support.vm_states import MIB, Gene, Part, World

# -- objects ------------------------------------------------------------------


def object(world: World, name: str, kind: str, options: dict[str, Any], real: dict[str, Any], *needs: Item) -> None:
    expects = {key.replace("_", "-"): value for key, value in real.items()}
    arguments = {"qom-type": kind, "id": name, **real}
    entry = {"id": name, "qom_type": kind, **({"options": options} if options else {})}
    world.add("objects", entry, Part(("object", name), "object-add", arguments, expects, frozenset(needs)))


def iothread(world: World, name: str, gene: Gene) -> None:
    real = {"poll-max-ns": 1000 * (gene.one % 3)}
    if gene.two % 3 == 2:
        return object(world, name, "rng-builtin", {}, {})
    return object(world, name, "iothread", {"poll_max_ns": str(real["poll-max-ns"])}, real)


def throttle(world: World, name: str, gene: Gene) -> None:
    limits = {"iops-total": 100 * (gene.one % 3), **({"bps-read": 4096} if gene.two % 2 else {})}
    object(world, name, "throttle-group", {"limits": limits}, {"limits": limits})


def text(world: World, name: str, gene: Gene) -> None:
    """What YAML would make something else of."""
    kind, key = (("secret", "data"), ("authz-simple", "identity"))[gene.two % 2]
    real = {key: ("hush", "12345678", "yes")[gene.one % 3]}
    object(world, name, kind, real, real)


def ram(world: World, name: str, gene: Gene) -> None:
    real = {"size": MIB * 2 * (1 + gene.one % 2), "share": bool(gene.two % 2)}
    object(world, name, "memory-backend-ram", {"size": f"{real['size'] // MIB}M", "share": real["share"]}, real)


# -- character devices, network backends --------------------------------------


def chardev(world: World, name: str, kind: str, data: dict[str, Any], more: dict[str, Any], *needs: Item) -> None:
    path = more.get("path", "") if kind == "socket" else ""
    filename = f"unix:{path}{',server=on' if more.get('server') else ''}" if path else kind
    arguments = {"id": name, "backend": {"type": kind, "data": data}}
    part = Part(("chardev", name), "chardev-add", arguments, {"type": kind, "filename": filename}, frozenset(needs))
    world.add("chardevs", {"id": name, "type": kind, **more}, part)


def plain_chardev(world: World, name: str, gene: Gene) -> None:
    if gene.one % 3 == 2:
        remote = {"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}}
        return chardev(world, name, "udp", {"remote": remote}, {"host": "127.0.0.1", "port": 9})
    kind, data = (("null", {}), ("ringbuf", {"size": 4096}))[gene.one % 3]
    return chardev(world, name, kind, data, {"options": data} if data else {})


def file_chardev(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path}.log"
    chardev(world, name, "file", {"out": path}, {"path": path})


def server(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path},{gene.one % 2}"
    address = {"type": "unix", "data": {"path": path}}
    chardev(
        world,
        name,
        "socket",
        {"addr": address, "server": True, "wait": False},
        {"path": path, "server": gene.two % 2 == 0 or "yes"},
    )


def client(world: World, name: str, gene: Gene) -> None:
    path = f"{world.directory}/nobody{gene.one % 2}"
    data = {"addr": {"type": "unix", "data": {"path": path}}, "server": False, "reconnect": 60}
    chardev(world, name, "socket", data, {"path": path, "reconnect": 60})


def netdev(
    world: World, name: str, arguments: dict[str, Any], entry: dict[str, Any], *needs: Item, **wired: Any
) -> None:
    part = Part(("netdev", name), "netdev_add", {"id": name, **arguments}, wired, frozenset(needs))
    world.add("netdevs", {"id": name, **entry}, part)


def user(world: World, name: str, gene: Gene) -> None:
    restrict = bool(gene.one % 2)
    settings = [["net=10.0.2.0", f"restrict={'on' if restrict else 'off'}", "type=user"]]
    entry = {"type": "user", "options": {"restrict": restrict}}
    netdev(world, name, {"type": "user", "restrict": restrict}, entry, settings=settings)


def hubport(world: World, name: str, gene: Gene) -> None:
    """A port of a hub; n2's has a netdev in it."""
    options: dict[str, Any] = {"hubid": gene.one % 2}
    below = world.free("netdev", gene.two)
    if world.slot == "n2":
        if below is None:
            return
        options["netdev"] = below
    needs = [("netdev", below)] if "netdev" in options and below else []
    entry = {"type": "hubport", "options": options}
    netdev(world, name, {"type": "hubport", **options}, entry, *needs, wired=f"hub {options['hubid']}")
    world.taken.add(("netdev", name))  # a NIC on a port of a hub is another story


def egd(world: World, name: str, gene: Gene) -> None:
    if below := world.free("chardev", gene.one):
        object(world, name, "rng-egd", {"chardev": below}, {"chardev": below}, ("chardev", below))


def filter(world: World, name: str, gene: Gene) -> None:
    if below := world.free("netdev", gene.one):
        real = {"netdev": below, "interval": 1000 + gene.two % 2}
        object(world, name, "filter-buffer", real, real, ("netdev", below))
        world.taken.discard(("netdev", below))


# -- block nodes --------------------------------------------------------------


def how(gene: Gene) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """How a node is opened: as the document, the wire and the second monitor have it."""
    if gene.two % 4 == 1:
        return {"read_only": "yes"}, {"read-only": True}, {"read-only": True}
    if gene.two % 4 == 2:
        return {"read_only": False, "detect_zeroes": True}, {"detect-zeroes": "on"}, {"detect-zeroes": "on"}
    if gene.two % 4 == 3:
        cache = {"direct": False, "no-flush": True}
        return {"read_only": False, "cache": {"no_flush": True}}, {"cache": cache}, {"cache": (False, True)}
    return {"read_only": False}, {}, {"read-only": False}


def block_node(
    name: str, arguments: dict[str, Any], expects: dict[str, Any], needs: frozenset[Item] = frozenset()
) -> Part:
    return Part(("blockdev", name), "blockdev-add", {"node-name": name, **arguments}, expects, needs)


def image(world: World, name: str, gene: Gene) -> None:
    """An image of its own, raw or qcow2."""
    fmt = ("raw", "qcow2")[gene.one % 2]
    path = f"{world.path}.{gene.one // 2 % 2}.{fmt}"
    document, wire, read = how(gene)
    entry = {"node_name": name, "driver": fmt, "filename": path, **document}
    if gene.one // 4 % 2 and not entry["read_only"]:
        entry["size"], read = "4M", {**read, "size": 4 * MIB}
    arguments = {"driver": fmt, "file": {"driver": "file", "filename": path}, **wire}
    world.add("blockdevs", entry, block_node(name, arguments, {"driver": fmt, "file": path, **read}))


def protocol(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path}.{gene.one % 2}.raw"
    document, wire, read = how(gene)
    arguments = {"driver": "file", "filename": path, **wire}
    part = block_node(name, arguments, {"driver": "file", "file": path, **read})
    world.add("blockdevs", {"node_name": name, "driver": "file", "filename": path, **document}, part)


def null(world: World, name: str, gene: Gene) -> None:
    size = MIB * (1 + gene.one % 2)
    part = block_node(name, {"driver": "null-co", "size": size}, {"driver": "null-co", "size": size})
    world.add(
        "blockdevs", {"node_name": name, "driver": "null-co", "read_only": False, "options": {"size": size}}, part
    )


def over(world: World, name: str, gene: Gene) -> None:
    """A node over another: a filter, or a format whose file is a node."""
    base = world.free("blockdev", gene.one)
    group = world.object_of("throttle-group", gene.two)
    driver = ("copy-on-read", "raw", "throttle")[gene.two % 3]
    if base is None or (driver == "throttle" and group is None) or world.grows(base):
        return
    if driver == "copy-on-read" and world.parts["blockdev", base].arguments.get("read-only"):
        return
    options: dict[str, Any] = {"file": base}
    needs: set[Item] = {("blockdev", base)}
    if driver == "throttle" and group:
        options["throttle-group"] = group
        needs.add(("object", group))
    if world.parts["blockdev", base].arguments.get("read-only"):
        options["read-only"] = True
    more = {"read_only": "read-only" in options}
    document = {key: value for key, value in options.items() if key != "read-only"}
    part = block_node(
        name, {"driver": driver, **options}, {"driver": driver, "below": {"file": base}}, frozenset(needs)
    )
    world.add("blockdevs", {"node_name": name, "driver": driver, **more, "options": document}, part)


def overlay(world: World, name: str, gene: Gene) -> None:
    base = world.free("blockdev", gene.one)
    if base is None or world.grows(base):
        return
    path = f"{world.path}.{gene.two % 2}.qcow2"
    arguments = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": base}
    part = block_node(
        name, arguments, {"driver": "qcow2", "below": {"file": "#", "backing": base}}, frozenset({("blockdev", base)})
    )
    entry = {"node_name": name, "driver": "qcow2", "filename": path, "read_only": False, "options": {"backing": base}}
    world.add("blockdevs", entry, part)
