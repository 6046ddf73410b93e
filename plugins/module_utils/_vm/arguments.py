# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's arguments for a whole VM. Pure."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict, List

from .._host import command_line
from . import machine_type
from .options import Place

_SHARED = {"memory-backend": "vm-memory", "aux-ram-share": "on"}
_SOCKETS = ("console", command_line.PEOPLE, "agent")


def arguments(params: Dict[str, Any], place: Place, uefi_code: str | None) -> Dict[str, Any]:
    """Return the arguments as ``qemu_instance`` takes them. ``uefi_code``: the firmware, None: the BIOS."""
    made = {**_beginning(params), **_machine(params, place)}
    made["blockdev"], made["device"] = _blockdevs(params, place), _devices(params)
    if params["upgradable"]:
        made["object"] = [_shared_memory(params["memory"])]
    if uefi_code:
        code = {"if": "pflash", "unit": 0, "format": "raw", "readonly": True, "file": uefi_code}
        made["drive"] = [code, {"if": "pflash", "unit": 1, "format": "raw", "file": place.uefi_vars}]
    # of what there is a list of, one more may be written without a list
    for name, value in params["arguments"].items():
        name = str(name).lstrip("-")
        own = made.get(name)
        if isinstance(own, list):
            value = [*own, *(value if isinstance(value, list) else [value])]
        made[name] = value
    return made


def _beginning(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return how its guest begins: not before all is plugged in, or when it has come from elsewhere."""
    return {"S": not params["incoming"], "incoming": "defer" if params["incoming"] else False}


def _machine(params: Dict[str, Any], place: Place) -> Dict[str, Any]:
    hot = params["vcpus_max"] > 1
    memory = {"slots": params["memory_slots"], "maxmem": params["memory_max"]} if params["memory_max"] else {}
    sockets = [
        {"backend": "socket", "id": name, "path": f"{place.run}/{name}", "server": True, "wait": False}
        for name in _SOCKETS
    ]
    sockets[0].update(logfile=place.console_log, logappend=True)
    return {
        "nodefaults": True,
        "no-user-config": True,
        "display": "none",
        "machine": {
            "type": params["machine"],
            "accel": params["accel"],
            **(_SHARED if params["upgradable"] else {}),
            **params["machine_options"],
        },
        "cpu": params["cpu"] or False,
        "smp": {"cpus": 1, "maxcpus": params["vcpus_max"]} if hot else {"cpus": params["vcpus"]},
        "m": {"size": params["memory"], **memory},
        "kernel": params["kernel"] or False,
        "initrd": params["initrd"] or False,
        "append": params["append"] or False,
        "vnc": params["vnc"] or False,
        "serial": ["chardev:console"],
        "chardev": sockets,
        "mon": [{"chardev": command_line.PEOPLE, "mode": params["monitor_mode"]}],
    }


def _shared_memory(size: str) -> Dict[str, Any]:
    """Return the object that has the guest's memory where another QEMU can take it over. A plain number is in MiB, as in -m."""
    size = f"{size}M" if size.isdigit() else size
    return {"qom-type": "memory-backend-memfd", "id": _SHARED["memory-backend"], "size": size, "share": True}


def has_disk(params: Dict[str, Any]) -> bool:
    """Tell whether it has a disk of its own."""
    return bool(params["image"] or params["disk_size"])


def has_seed(params: Dict[str, Any]) -> bool:
    """Tell whether it has a seed for cloud-init."""
    return bool(params["user_data"] or params["network_config"])


def instance_id(params: Dict[str, Any]) -> str:
    """Return what cloud-init knows the VM by: it reads a seed once for each."""
    return str(params["meta_data"].get("instance-id", params["name"]))


def _blockdevs(params: Dict[str, Any], place: Place) -> List[Any]:
    disk = {"driver": "qcow2", "node-name": "disk-node", "discard": "unmap", "file": _file(params["disk"])}
    seed = {"driver": "raw", "node-name": "seed-node", "read-only": True, "file": _file(place.seed)}
    return [*([disk] if has_disk(params) else []), *([seed] if has_seed(params) else [])]


def _file(path: str) -> Dict[str, str]:
    return {"driver": "file", "filename": path}


def _devices(params: Dict[str, Any]) -> List[Any]:
    count, suffix = params["root_ports"] if machine_type.has_ports(params) else 0, machine_type.transport(params)
    ports: List[Any] = [
        f"pcie-root-port,id=rp{number},chassis={number + 1},slot={number + 1}" for number in range(count)
    ]
    always = [
        {"driver": f"virtio-serial-{suffix}", "id": "serial0"},
        {
            "driver": "virtserialport",
            "id": "agent0",
            "bus": "serial0.0",
            "chardev": "agent",
            "name": "org.qemu.guest_agent.0",
        },
        {"driver": f"virtio-balloon-{suffix}", "id": "balloon0"},
        {"driver": f"virtio-rng-{suffix}", "id": "rng0"},
    ]
    disk = [{"driver": f"virtio-blk-{suffix}", "id": "disk", "drive": "disk-node", "bootindex": 1}]
    seed = [{"driver": f"virtio-blk-{suffix}", "id": "seed", "drive": "seed-node", **_serial(params)}]
    return [
        *ports,
        *always,
        *(disk if has_disk(params) else []),
        *(seed if has_seed(params) else []),
        *(_screen(params, suffix) if params["vnc"] else []),
    ]


def _screen(params: Dict[str, Any], suffix: str) -> List[str]:
    """Return a graphics card, with a keyboard where the machine has none."""
    if machine_type.is_pc(params["machine"], command_line.architecture(params["binary"])):
        return ["VGA"]
    return [f"virtio-{name}-{suffix}" for name in ("gpu", "keyboard", "tablet")]


def _serial(params: Dict[str, Any]) -> Dict[str, str]:
    """Return the serial number that tells the seed's instance-id, so that another one asks for a restart."""
    ident = instance_id(params)
    if ident == params["name"]:
        return {}
    import hashlib

    return {"serial": hashlib.sha1(ident.encode()).hexdigest()[:20]}
