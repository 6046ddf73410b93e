# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a world can be made of: for each kind of thing a few makers, which choose by a gene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.backends import (
    block_node,
    client,
    egd,
    file_chardev,
    filter,
    hubport,
    image,
    iothread,
    null,
    over,
    overlay,
    plain_chardev,
    protocol,
    ram,
    server,
    text,
    throttle,
    user,
)
from support.state import Item
from support.vm import ROOT_PORTS
from support.vm_states import MIB, Gene, Part, World

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
    below = block_node(node, {"driver": "raw", "file": {"driver": "file", "filename": path}}, expects)
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
    below = block_node(
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
    below = block_node(node, {"driver": "raw", "file": file}, {"driver": "raw", "file": path})
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


def _memory(world: World, name: str, gene: Gene) -> None:
    size, backend = 64 * MIB * (1 + gene.one % 2), f"{name}-mem"
    below = Part(
        ("object", backend),
        "object-add",
        {"qom-type": "memory-backend-ram", "id": backend, "size": size},
        {"size": size},
    )
    arguments = {"driver": "pc-dimm", "id": name, "memdev": backend}
    expects = {"driver": "pc-dimm", "size": size, "memdev": f"/objects/{backend}"}
    device = Part(("device", name), "device_add", arguments, expects, frozenset({("object", backend)}))
    world.add("memory", {"id": name, "size": size}, below, device)


Maker = Callable[[World, str, Gene], None]
# In the order in which things can stand on each other: p are objects over others, u controllers, d what sits on them,
# v and m what only a guest gives back.
MAKERS: dict[str, list[Maker]] = {
    "o": [iothread, throttle, text, ram],
    "c": [plain_chardev, file_chardev, server, client],
    "n": [user, hubport],
    "p": [egd, filter],
    "b": [image, null, protocol],
    "t": [over, overlay],
    "u": [_controller],
    "d": [_disk, _stick, _plain_disk, _port, _card, _gadget],
    "v": [_virtio_disk, _virtio_nic],
    "m": [_memory],
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
# What may have the same name as something else, which is of another kind.
_ALIKE = {"p": "y", "t": "y", "u": "y", "v": "z", "m": "m"}
LIVE_SLOTS = (*SLOTS, "v0", "v1", "v2", "m0", "m1")


def build(genes: dict[str, Gene], directory: str, alike: bool) -> World:
    """The world of these genes; what finds no backend is left out. `alike`: things of different kinds bear one name."""
    world = World(directory)
    for prefix, makers in MAKERS.items():
        for slot, gene in genes.items():
            if slot[0] == prefix and gene.variant % (len(makers) + 1):
                world.slot = slot
                name = (_ALIKE.get(prefix, "x")) + slot[1:] if alike else slot
                makers[gene.variant % (len(makers) + 1) - 1](world, name, gene)
    return world


def variants(prefix: str) -> int:
    return len(MAKERS[prefix])
