# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a world can be made of: for each kind of thing a few makers, which choose by a gene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.state import Item
from support.vm import ROOT_PORTS
from support.worlds import MIB, Gene, Part, World

# -- objects ------------------------------------------------------------------


def _object(world: World, name: str, kind: str, options: dict[str, Any], real: dict[str, Any], *needs: Item) -> None:
    expects = {key.replace("_", "-"): value for key, value in real.items()}
    arguments = {"qom-type": kind, "id": name, **real}
    entry = {"id": name, "qom_type": kind, **({"options": options} if options else {})}
    world.add("objects", entry, Part(("object", name), "object-add", arguments, expects, frozenset(needs)))


def _iothread(world: World, name: str, gene: Gene) -> None:
    real = {"poll-max-ns": 1000 * (gene.one % 3)}
    if gene.two % 3 == 2:
        return _object(world, name, "rng-builtin", {}, {})
    return _object(world, name, "iothread", {"poll_max_ns": str(real["poll-max-ns"])}, real)


def _throttle(world: World, name: str, gene: Gene) -> None:
    limits = {"iops-total": 100 * (gene.one % 3), **({"bps-read": 4096} if gene.two % 2 else {})}
    _object(world, name, "throttle-group", {"limits": limits}, {"limits": limits})


def _text(world: World, name: str, gene: Gene) -> None:
    """What YAML would make something else of."""
    kind, key = (("secret", "data"), ("authz-simple", "identity"))[gene.two % 2]
    real = {key: ("hush", "12345678", "yes")[gene.one % 3]}
    _object(world, name, kind, real, real)


def _ram(world: World, name: str, gene: Gene) -> None:
    real = {"size": MIB * 2 * (1 + gene.one % 2), "share": bool(gene.two % 2)}
    _object(world, name, "memory-backend-ram", {"size": f"{real['size'] // MIB}M", "share": real["share"]}, real)


# -- character devices, network backends --------------------------------------


def _chardev(world: World, name: str, kind: str, data: dict[str, Any], more: dict[str, Any], *needs: Item) -> None:
    path = more.get("path", "") if kind == "socket" else ""
    filename = f"unix:{path}{',server=on' if more.get('server') else ''}" if path else kind
    arguments = {"id": name, "backend": {"type": kind, "data": data}}
    part = Part(("chardev", name), "chardev-add", arguments, {"type": kind, "filename": filename}, frozenset(needs))
    world.add("chardevs", {"id": name, "type": kind, **more}, part)


def _plain_chardev(world: World, name: str, gene: Gene) -> None:
    if gene.one % 3 == 2:
        remote = {"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}}
        return _chardev(world, name, "udp", {"remote": remote}, {"host": "127.0.0.1", "port": 9})
    kind, data = (("null", {}), ("ringbuf", {"size": 4096}))[gene.one % 3]
    return _chardev(world, name, kind, data, {"options": data} if data else {})


def _file_chardev(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path}.log"
    _chardev(world, name, "file", {"out": path}, {"path": path})


def _server(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path},{gene.one % 2}"
    address = {"type": "unix", "data": {"path": path}}
    _chardev(
        world,
        name,
        "socket",
        {"addr": address, "server": True, "wait": False},
        {"path": path, "server": gene.two % 2 == 0 or "yes"},
    )


def _client(world: World, name: str, gene: Gene) -> None:
    path = f"{world.directory}/nobody{gene.one % 2}"
    data = {"addr": {"type": "unix", "data": {"path": path}}, "server": False, "reconnect": 60}
    _chardev(world, name, "socket", data, {"path": path, "reconnect": 60})


def _netdev(
    world: World, name: str, arguments: dict[str, Any], entry: dict[str, Any], *needs: Item, **wired: Any
) -> None:
    part = Part(("netdev", name), "netdev_add", {"id": name, **arguments}, wired, frozenset(needs))
    world.add("netdevs", {"id": name, **entry}, part)


def _user(world: World, name: str, gene: Gene) -> None:
    restrict = bool(gene.one % 2)
    settings = [["net=10.0.2.0", f"restrict={'on' if restrict else 'off'}", "type=user"]]
    entry = {"type": "user", "options": {"restrict": restrict}}
    _netdev(world, name, {"type": "user", "restrict": restrict}, entry, settings=settings)


def _hubport(world: World, name: str, gene: Gene) -> None:
    """A port of a hub; n2's has a netdev in it."""
    options: dict[str, Any] = {"hubid": gene.one % 2}
    below = world.free("netdev", gene.two)
    if world.slot == "n2":
        if below is None:
            return
        options["netdev"] = below
    needs = [("netdev", below)] if "netdev" in options and below else []
    entry = {"type": "hubport", "options": options}
    _netdev(world, name, {"type": "hubport", **options}, entry, *needs, wired=f"hub {options['hubid']}")
    world.taken.add(("netdev", name))  # a NIC on a port of a hub is another story


def _egd(world: World, name: str, gene: Gene) -> None:
    if below := world.free("chardev", gene.one):
        _object(world, name, "rng-egd", {"chardev": below}, {"chardev": below}, ("chardev", below))


def _filter(world: World, name: str, gene: Gene) -> None:
    if below := world.free("netdev", gene.one):
        real = {"netdev": below, "interval": 1000 + gene.two % 2}
        _object(world, name, "filter-buffer", real, real, ("netdev", below))
        world.taken.discard(("netdev", below))


# -- block nodes --------------------------------------------------------------


def _how(gene: Gene) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """How a node is opened: as the document, the wire and the second monitor have it."""
    if gene.two % 4 == 1:
        return {"read_only": "yes"}, {"read-only": True}, {"read-only": True}
    if gene.two % 4 == 2:
        return {"read_only": False, "detect_zeroes": True}, {"detect-zeroes": "on"}, {"detect-zeroes": "on"}
    if gene.two % 4 == 3:
        cache = {"direct": False, "no-flush": True}
        return {"read_only": False, "cache": {"no_flush": True}}, {"cache": cache}, {"cache": (False, True)}
    return {"read_only": False}, {}, {"read-only": False}


def _node(name: str, arguments: dict[str, Any], expects: dict[str, Any], needs: frozenset[Item] = frozenset()) -> Part:
    return Part(("blockdev", name), "blockdev-add", {"node-name": name, **arguments}, expects, needs)


def _image(world: World, name: str, gene: Gene) -> None:
    """An image of its own, raw or qcow2."""
    fmt = ("raw", "qcow2")[gene.one % 2]
    path = f"{world.path}.{gene.one // 2 % 2}.{fmt}"
    document, wire, read = _how(gene)
    entry = {"node_name": name, "driver": fmt, "filename": path, **document}
    if gene.one // 4 % 2 and not entry["read_only"]:
        entry["size"], read = "4M", {**read, "size": 4 * MIB}
    arguments = {"driver": fmt, "file": {"driver": "file", "filename": path}, **wire}
    world.add("blockdevs", entry, _node(name, arguments, {"driver": fmt, "file": path, **read}))


def _protocol(world: World, name: str, gene: Gene) -> None:
    path = f"{world.path}.{gene.one % 2}.raw"
    document, wire, read = _how(gene)
    arguments = {"driver": "file", "filename": path, **wire}
    part = _node(name, arguments, {"driver": "file", "file": path, **read})
    world.add("blockdevs", {"node_name": name, "driver": "file", "filename": path, **document}, part)


def _null(world: World, name: str, gene: Gene) -> None:
    size = MIB * (1 + gene.one % 2)
    part = _node(name, {"driver": "null-co", "size": size}, {"driver": "null-co", "size": size})
    world.add(
        "blockdevs", {"node_name": name, "driver": "null-co", "read_only": False, "options": {"size": size}}, part
    )


def _over(world: World, name: str, gene: Gene) -> None:
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
    part = _node(name, {"driver": driver, **options}, {"driver": driver, "below": {"file": base}}, frozenset(needs))
    world.add("blockdevs", {"node_name": name, "driver": driver, **more, "options": document}, part)


def _overlay(world: World, name: str, gene: Gene) -> None:
    base = world.free("blockdev", gene.one)
    if base is None or world.grows(base):
        return
    path = f"{world.path}.{gene.two % 2}.qcow2"
    arguments = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": base}
    part = _node(
        name, arguments, {"driver": "qcow2", "below": {"file": "#", "backing": base}}, frozenset({("blockdev", base)})
    )
    entry = {"node_name": name, "driver": "qcow2", "filename": path, "read_only": False, "options": {"backing": base}}
    world.add("blockdevs", entry, part)


# -- devices ------------------------------------------------------------------


def _device(name: str, driver: str, bus: str, more: dict[str, Any], *needs: Item, **how: Any) -> Part:
    on = bus.partition(".")[0]
    below = frozenset([*needs, *([("device", on)] if on not in ("scsi0", "vs0", "usb0", *ROOT_PORTS) else [])])
    arguments = {"driver": driver, "id": name, "bus": bus, **more}
    expects = {"driver": driver, "bus": bus, **more, **how.get("expects", {})}
    return Part(("device", name), "device_add", arguments, expects, below, frozenset(how.get("claims", ())))


def _scsi_place(world: World, gene: Gene) -> tuple[str, int, int]:
    """A bus with a place on it: the VM's own, or one of a hot-plugged controller."""
    carrier = world.carrier("usb-uas", gene.one) if gene.two % 2 else None
    if carrier:
        return f"{carrier}.0", 0, world.place(f"{carrier}.0", gene.two % 3)
    return "scsi0.0", world.place("scsi0.0", gene.one % 4), gene.two % 2


def _disk(world: World, name: str, gene: Gene) -> None:
    """A disk of the document: both halves."""
    bus, scsi_id, lun = _scsi_place(world, gene)
    path = f"{world.path}.{gene.one % 2}.raw"
    node = f"{name}-node"
    serial = f"S{gene.two % 3}"
    entry = {
        "id": name,
        "filename": path,
        "driver": "scsi-hd",
        "bus": bus,
        "scsi_id": scsi_id,
        "lun": lun,
        "serial": serial,
    }
    expects: dict[str, Any] = {"driver": "raw", "file": path}
    if gene.one % 3 == 2:
        entry["size"], expects["size"] = 3 * MIB, 3 * MIB
    below = _node(node, {"driver": "raw", "file": {"driver": "file", "filename": path}}, expects)
    more = {"scsi-id": scsi_id, "lun": lun, "serial": serial, "drive": node}
    claims = [(bus, scsi_id if bus == "scsi0.0" else lun)]
    world.add("disks", entry, below, _device(name, "scsi-hd", bus, more, ("blockdev", node), claims=claims))


def _stick(world: World, name: str, gene: Gene) -> None:
    """A disk on USB, whose own drive property reads empty."""
    path, node = f"{world.path}.{gene.one % 2}.raw", f"{name}-node"
    removable = bool(gene.two % 2)
    entry = {
        "id": name,
        "filename": path,
        "driver": "usb-storage",
        "bus": "usb0.0",
        "options": {"removable": removable},
    }
    below = _node(
        node, {"driver": "raw", "file": {"driver": "file", "filename": path}}, {"driver": "raw", "file": path}
    )
    device = _device(
        name,
        "usb-storage",
        "usb0.0",
        {"removable": removable, "drive": node},
        ("blockdev", node),
        expects={"drive": ""},
    )
    world.add("disks", entry, below, device)


def _plain_disk(world: World, name: str, gene: Gene) -> None:
    """A device on a node that is an entry of its own."""
    node = world.free("blockdev", gene.one)
    if node is None:
        return
    read_only = world.parts["blockdev", node].arguments.get("read-only", False)
    driver = "scsi-cd" if read_only else "scsi-hd"
    bus, scsi_id, lun = _scsi_place(world, gene)
    more = {"scsi-id": scsi_id, "lun": lun, "drive": node}
    claims = [(bus, scsi_id if bus == "scsi0.0" else lun)]
    part = _device(name, driver, bus, more, ("blockdev", node), claims=claims)
    world.add("devices", {"id": name, "driver": driver, "bus": bus, "options": dict(more)}, part)


def _port(world: World, name: str, gene: Gene) -> None:
    chardev = world.free("chardev", gene.one)
    if chardev is None:
        return
    driver, bus = (("virtserialport", "vs0.0"), ("usb-serial", "usb0.0"), ("virtconsole", "vs0.0"))[gene.two % 3]
    more = {"chardev": chardev, **({"name": f"{name}.{gene.one % 2}"} if driver == "virtserialport" else {})}
    part = _device(name, driver, bus, more, ("chardev", chardev))
    world.add("devices", {"id": name, "driver": driver, "bus": bus, "options": dict(more)}, part)


def _card(world: World, name: str, gene: Gene) -> None:
    """A NIC on a backend of its own, or on an entry's."""
    mac = f"52:54:00:00:00:{gene.two % 2:02x}"
    if gene.one % 2:
        backend, parts = (
            f"{name}-netdev",
            [
                Part(
                    ("netdev", f"{name}-netdev"),
                    "netdev_add",
                    {"type": "user", "id": f"{name}-netdev"},
                    {"wired": name},
                )
            ],
        )
        section, entry = (
            "nics",
            {"id": name, "netdev": {"type": "user"}, "driver": "usb-net", "mac": mac, "bus": "usb0.0"},
        )
    else:
        found, parts = world.free("netdev", gene.two), []
        if found is None:
            return
        backend, section = found, "devices"
        entry = {"id": name, "driver": "usb-net", "bus": "usb0.0", "options": {"mac": mac.upper(), "netdev": backend}}
    world.add(
        section, entry, *parts, _device(name, "usb-net", "usb0.0", {"mac": mac, "netdev": backend}, ("netdev", backend))
    )


def _gadget(world: World, name: str, gene: Gene) -> None:
    driver = ("usb-tablet", "usb-kbd", "usb-ccid", "usb-hub")[gene.two % 4]
    more = {"serial": f"G{gene.one % 2}"}
    part = _device(name, driver, "usb0.0", more)
    world.add("devices", {"id": name, "driver": driver, "bus": "usb0.0", "options": dict(more)}, part)


def _controller(world: World, name: str, gene: Gene) -> None:
    more = {"serial": f"U{gene.one % 2}"}
    entry = {"id": name, "driver": "usb-uas", "bus": "usb0.0", "options": dict(more)}
    world.add("devices", entry, _device(name, "usb-uas", "usb0.0", more))


def _root_port(world: World, choice: int) -> str:
    """One that nothing sits in: the first two of the VM's have its own controllers."""
    free = [port for port in ROOT_PORTS[2:] if (port, 0) not in world.taken]
    return free[choice % len(free)]


def _inside(driver: str, port: str, more: dict[str, Any]) -> dict[str, Any]:
    """What is read of such a device: it hands all that matters on to the one inside it."""
    inner = {f"virtio-bus/{driver}-device/{key}": value for key, value in more.items()}
    return {"driver": f"{driver}-pci", "bus": port, **inner}


def _virtio_disk(world: World, name: str, gene: Gene) -> None:
    port, path, node = _root_port(world, gene.one), f"{world.path}.{gene.one % 2}.raw", f"{name}-node"
    serial = f"V{gene.two % 2}"
    entry = {"id": name, "filename": path, "driver": "virtio-blk-pci", "bus": port, "serial": serial}
    file = {"driver": "file", "filename": path}
    below = _node(node, {"driver": "raw", "file": file}, {"driver": "raw", "file": path})
    more = {"drive": node, "serial": serial}
    device = _device(name, "virtio-blk-pci", port, more, ("blockdev", node), claims=[(port, 0)])
    world.add("disks", entry, below, device._replace(expects=_inside("virtio-blk", port, more)))


def _virtio_nic(world: World, name: str, gene: Gene) -> None:
    port, mac, backend = _root_port(world, gene.one), f"52:54:00:00:01:{gene.two % 2:02x}", f"{name}-netdev"
    entry = {"id": name, "netdev": {"type": "user"}, "driver": "virtio-net-pci", "mac": mac, "bus": port}
    below = Part(("netdev", backend), "netdev_add", {"type": "user", "id": backend}, {"wired": name})
    more = {"mac": mac, "netdev": backend}
    device = _device(name, "virtio-net-pci", port, more, ("netdev", backend), claims=[(port, 0)])
    world.add("nics", entry, below, device._replace(expects=_inside("virtio-net", port, more)))


Maker = Callable[[World, str, Gene], None]
# In the order in which things can stand on each other: p are objects over others, u controllers, d what sits on them,
# v what only a guest gives back.
MAKERS: dict[str, list[Maker]] = {
    "o": [_iothread, _throttle, _text, _ram],
    "c": [_plain_chardev, _file_chardev, _server, _client],
    "n": [_user, _hubport],
    "p": [_egd, _filter],
    "b": [_image, _null, _protocol],
    "t": [_over, _overlay],
    "u": [_controller],
    "d": [_disk, _stick, _plain_disk, _port, _card, _gadget],
    "v": [_virtio_disk, _virtio_nic],
}
SLOTS = (
    "o0",
    "o1",
    "o2",
    "c0",
    "c1",
    "c2",
    "n0",
    "n1",
    "n2",
    "p0",
    "p1",
    "b0",
    "b1",
    "b2",
    "t0",
    "t1",
    "u0",
    "d0",
    "d1",
    "d2",
    "d3",
    "d4",
)
LIVE_SLOTS = (*SLOTS, "v0", "v1", "v2")


def build(genes: dict[str, Gene], directory: str, alike: bool) -> World:
    """The world of these genes; what finds no backend is left out. `alike`: things of different kinds bear one name."""
    world = World(directory)
    for prefix, makers in MAKERS.items():
        for slot, gene in genes.items():
            if slot[0] == prefix and gene.variant % (len(makers) + 1):
                world.slot = slot
                name = ("z" if prefix == "v" else "y" if prefix in "ptu" else "x") + slot[1:] if alike else slot
                makers[gene.variant % (len(makers) + 1) - 1](world, name, gene)
    return world


def variants(prefix: str) -> int:
    return len(MAKERS[prefix])
