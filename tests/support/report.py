# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet that was never there, as the playbook vmm.qemu.report has it registered: for pages of any size."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from support.collection import REPO

NOW = datetime(2026, 11, 29, 6, 0, tzinfo=timezone.utc)
MIB, GIB = 1 << 20, 1 << 30
FILES = REPO / "playbooks" / "files"
_SORTS = ("web", "db", "cache", "build", "mail")
_SILENT = {"busy": "another client is attached to this monitor (QEMU serves one at a time): process 1665 (python3)"}


def own_files() -> dict[str, str]:
    """The page's style and script, as the playbook reads them."""
    return {"style": (FILES / "report.css").read_text(), "script": (FILES / "report.js").read_text()}


def data_of(page: str) -> dict[str, Any]:
    """What a page shows."""
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def fleet(machines: int = 200, hypervisors: int = 4) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The hosts that ask, and the variables of all: the names and values differ, the same in each run."""
    hosts: dict[str, dict[str, Any]] = {}
    askers = []
    for number in range(hypervisors):
        names = [name_of(place) for place in range(machines) if place % hypervisors == number]
        for name in names:
            hosts[name] = {
                "qemu_hypervisor": f"hv{number + 1}.example.com",
                "qemu_socket": f"/var/lib/vmm-qemu/{name}/run/qmp",
                "qemu_status": "running",
            }
        told = {name: answer(place) for place, name in zip(range(number, machines, hypervisors), names)}
        hosts[names[0]].update(__report_names=names, __report_told={"machines": told}, __report_listed=backups(names))
        askers.append(names[0])
    return askers, hosts


def name_of(place: int) -> str:
    return f"{_SORTS[place % 5]}{place // 5 + 1}"


def answer(place: int) -> dict[str, Any]:
    """What `qemu_info` returns of a machine."""
    if place % 41 == 17:
        return {"failed": True, "msg": f"/var/lib/vmm-qemu/{name_of(place)}/run/qmp: connected, but {_SILENT['busy']}"}
    if place % 53 == 29:
        reason = "Connection refused; nothing listens there, is the virtual machine running?"
        return {"failed": True, "msg": f"/var/lib/vmm-qemu/{name_of(place)}/run/qmp: {reason}"}
    return {"changed": False, "commands": [], "vm": machine(place)}


def machine(place: int) -> dict[str, Any]:
    """A machine, with as much to show as those in the field have."""
    name, cpus = name_of(place), (1, 2, 2, 4, 8)[place % 5]
    status = "io-error" if place % 67 == 31 else "paused" if place % 23 == 9 else "running"
    old = place % 7 == 3
    version, package = ("7.2.17", "Debian 1:7.2+dfsg-7+deb12u13") if old else ("10.0.2", "Debian 1:10.0.2+ds-2")
    disks = {f"disk{number}": disk(name, number, place) for number in range(1 + place % 3)}
    ports = {
        f"rp{number}": {"driver": "pcie-root-port", "bus": "pcie.0", "addr": f"{2 + number:02x}.0"}
        for number in range(8)
    }
    cards = {
        f"nic{number}": {
            **{"driver": "virtio-net-pci", "bus": f"rp{3 + number}", "addr": "00.0"},
            **{"netdev": f"nic{number}-netdev", "mac": f"52:54:00:{place >> 8:02x}:{place & 255:02x}:{number:02x}"},
        }
        for number in range(1 + place % 2)
    }
    going = place % 31 == 12
    return {
        "status": {"status": status, "running": status == "running"},
        "name": name,
        "uuid": f"5f0c{place:04x}-1b7e-4d0c-9a55-0c5d1e2f{place:04x}",
        "version": {"full": version, "package": package},
        "cpus": [{"cpu_index": number} for number in range(cpus)],
        "hotpluggable_cpus": [{"vcpus_count": 1} for _number in range(max(cpus, 4))],
        "memory": {"base_memory": cpus * 2 * GIB, "plugged_memory": GIB if place % 6 == 1 else 0},
        "balloon": {"actual": cpus * 2 * GIB - (GIB if place % 9 == 4 else 0)},
        "block": [one["block"] for one in disks.values()],
        "images": {ident: one["image"] for ident, one in disks.items()},
        "jobs": [{"id": "copy0", "type": "mirror", "status": "running", "current_progress": 37, "total_progress": 100}]
        * going,
        "block_jobs": [{"device": "copy0", "speed": 20 * MIB}] * going,
        "netdevs": {
            card["netdev"]: {"type": "tap", "nic": ident, "queues": 1, "settings": {"ifname": f"tap-{name}"}}
            for ident, card in cards.items()
        },
        "devices": {
            **ports,
            **{ident: one["device"] for ident, one in disks.items()},
            **cards,
            "scsi0": {"driver": "virtio-scsi-pci", "bus": "rp5", "addr": "00.0"},
            "cd0": {"driver": "scsi-cd", "bus": "scsi0.0", "node": ""},
            "serial0": {"driver": "virtio-serial-pci", "bus": "pcie.0", "addr": "0b.0"},
            "agent": {"driver": "virtserialport", "bus": "serial0.0"},
            "balloon0": {"driver": "virtio-balloon-pci", "bus": "pcie.0", "addr": "0c.0"},
            **({"dimm0": {"driver": "pc-dimm", "bus": ""}} if place % 6 == 1 else {}),
        },
        "pci": [
            {
                "bus": 0,
                "devices": [
                    {"slot": slot, "function": function, "qdev_id": "", "class_info": {"desc": desc}}
                    for slot, function, desc in (
                        (0, 0, "Host bridge"),
                        (1, 0, "VGA controller"),
                        (31, 0, "ISA bridge"),
                        (31, 2, "SATA controller"),
                        (31, 3, "SMBus"),
                    )
                ],
            }
        ],
        "migration": {"status": "active", "ram": {"total": 8 * GIB, "remaining": 3 * GIB}} if place % 71 == 40 else {},
        "machine": {
            "arch": "x86_64",
            "type": f"pc-q35-{version[:-2] if old else '10.0'}".replace("7.2.", "7.2"),
            "kvm": True,
        },
        "binary": {
            "running": {"version": version, "package": package, "path": "/usr/bin/qemu-system-x86_64", "deleted": old},
            "installed": {"version": "10.0.2", "package": "Debian 1:10.0.2+ds-2"},
            "outdated": old,
        },
        "document": document(place, name),
    }


def document(place: int, name: str) -> dict[str, Any]:
    """How it differs from its document: most do not, some are not kept, and of some that can't be told."""
    told: dict[str, Any] = {
        "differences": [],
        "restart_required": False,
        "arguments": {"before": [], "after": []},
        "reason": "",
    }
    if place % 19 == 7:
        return {}
    if place % 37 == 11:
        return {
            **told,
            "restart_required": None,
            "reason": f"/var/lib/vmm-qemu/{name}/vm.json can't be read: Permission denied",
        }
    if place % 14 == 8:
        limits = {"limits.iops": {"before": 0, "after": 2000}, "limits.bps": {"before": 0, "after": 200 * MIB}}
        told["differences"] += [
            {"action": "change", "kind": "disk", "id": "disk1", "changes": limits},
            {"action": "add", "kind": "nic", "id": "nic1", "changes": {}},
        ]
    if place % 9 == 3:
        told["restart_required"] = True
        told["arguments"] = {"before": ["-m size=2G"], "after": ["-m size=4G", "-vnc unix:/run/vnc"]}
    return told


def disk(name: str, number: int, place: int) -> dict[str, Any]:
    """A disk: its device, its images, and the drive that `query-block` has of it."""
    ident, size = f"disk{number}", (20, 100, 500)[number] * GIB
    top = f"/var/lib/vmm-qemu/{name}/{ident}.qcow2"
    files = [f"{top[:-6]}@monday.qcow2", top] if number == 0 and place % 4 == 1 else [top]
    limits = {"bps": 200 * MIB, "iops": 2000} if number == 1 else {"bps": 0, "iops": 0}
    return {
        "device": {"driver": "virtio-blk-pci", "bus": f"rp{number}", "addr": "00.0", "node": f"{ident}-node"},
        "image": {"size": size, "used": size // 100 * (11 + place * 7 % 80), "writable": True, "files": files},
        "block": {
            "qdev": f"/machine/peripheral/{ident}/virtio-backend",
            "io_status": "nospace" if place % 67 == 31 and number == 0 else "ok",
            "inserted": {"drv": "qcow2", "node_name": f"{ident}-node", **limits},
        },
    }


def backups(names: list[str]) -> dict[str, Any]:
    """What `find` prints of their lists. Every eleventh machine has none, and every ninth an old one."""
    output = ""
    for place, name in enumerate(names):
        if place % 11 == 5:
            continue
        when = NOW - timedelta(hours=3 + place % 5 + (50 if place % 9 == 4 else 0))
        chain = {"version": 1, "name": "daily", "vm": {"name": name, "uuid": ""}}
        listed = [{"number": 1, "level": "incremental", "time": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "disks": {}}]
        packed = base64.b64encode(json.dumps({**chain, "backups": listed}).encode()).decode()
        output += f"/backup/{name}\0{packed}\0"
    return {"rc": 0, "stdout": output, "stderr": ""}
