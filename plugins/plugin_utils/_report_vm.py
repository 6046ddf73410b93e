# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What the report shows of one virtual machine, by what ``qemu_info`` tells: few values, each of a known type."""

from __future__ import annotations

from typing import Any, Dict, List

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_buses import buses
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_drift import drift
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_values import (
    mapping,
    mappings,
    members,
    number,
    text,
    texts,
)

Row = Dict[str, Any]

_LIMITS = [f"{what}{way}{more}" for what in ("bps", "iops") for way in ("", "_rd", "_wr") for more in ("", "_max")]
_PERIPHERAL = "/machine/peripheral/"
_OVER = ("none", "completed", "failed", "cancelled")


def shown(vm: Dict[str, Any]) -> Row:
    """Return what is shown of a machine that has answered."""
    version, memory = mapping(vm.get("version")), mapping(vm.get("memory"))
    machine, binary = mapping(vm.get("machine")), mapping(vm.get("binary"))
    slots = [number(one.get("vcpus_count")) or 0 for one in mappings(vm.get("hotpluggable_cpus"), None)]
    running = mapping(binary.get("running"))
    return {
        "state": text(mapping(vm.get("status")).get("status")),
        "own_name": text(vm.get("name")),
        "uuid": text(vm.get("uuid")),
        "cpus": len(mappings(vm.get("cpus"), None)),
        "most_cpus": sum(slots),
        "memory": (number(memory.get("base_memory")) or 0) + (number(memory.get("plugged_memory")) or 0),
        "plugged": number(memory.get("plugged_memory")) or 0,
        "balloon": number(mapping(vm.get("balloon")).get("actual")),
        "disks": disks(vm),
        "nics": nics(vm),
        "jobs": jobs(vm),
        "migration": migration(mapping(vm.get("migration"))),
        "buses": buses(vm),
        "machine": text(machine.get("type")),
        "arch": text(machine.get("arch")),
        "kvm": machine.get("kvm") is True,
        "version": text(version.get("full")),
        "package": text(version.get("package")),
        "binary": text(running.get("path")),
        "outdated": binary.get("outdated") is True,
        "installed": text(mapping(binary.get("installed")).get("version")),
        "drift": drift(vm.get("document")),
    }


def disks(vm: Dict[str, Any]) -> List[Row]:
    """Return the disks, each with its images from the top one down, and the limits that are set."""
    drives = {_drive_of(one): one for one in mappings(vm.get("block"))}
    devices = members(vm.get("devices"))
    found = []
    for ident, image in members(vm.get("images")).items():
        drive = drives.get(ident, {})
        inserted = mapping(drive.get("inserted"))
        limits = {name: number(inserted.get(name)) for name in _LIMITS}
        found.append(
            {
                "id": text(ident),
                "driver": text(devices.get(ident, {}).get("driver")),
                "format": text(inserted.get("drv")),
                "size": number(image.get("size")),
                "used": number(image.get("used")),
                "read_only": image.get("writable") is False,
                "files": texts(image.get("files")),
                "limits": {name: value for name, value in limits.items() if value},
                "io": text(drive.get("io_status")),
            }
        )
    return found


def _drive_of(drive: Dict[str, Any]) -> str:
    """Return what ``qemu_info`` calls a drive of ``query-block`` in its subset ``images``."""
    qdev = text(drive.get("qdev"))
    if qdev.startswith(_PERIPHERAL):
        return qdev[len(_PERIPHERAL) :].partition("/")[0]
    ident = qdev if "/" not in qdev else text(drive.get("device"))
    return ident or text(mapping(drive.get("inserted")).get("node_name"))


def nics(vm: Dict[str, Any]) -> List[Row]:
    """Return the network cards, and the backends that none of them uses."""
    backends = members(vm.get("netdevs"))
    cards = [
        {
            "id": text(ident),
            "driver": text(one.get("driver")),
            "mac": text(one.get("mac")),
            "netdev": text(one.get("netdev")),
        }
        for ident, one in members(vm.get("devices")).items()
        if "mac" in one
    ]
    used = {card["netdev"] for card in cards}
    cards += [{"id": "", "driver": "", "mac": "", "netdev": text(ident)} for ident in backends if ident not in used]
    for card in cards:
        backend = backends.get(card["netdev"], {})
        settings = [f"{text(key)}={text(value)}" for key, value in mapping(backend.get("settings")).items()]
        card.update(type=text(backend.get("type")), settings=text(", ".join(settings)))
    return cards


def jobs(vm: Dict[str, Any]) -> List[Row]:
    """Return the jobs, with how far they are."""
    speeds = {text(one.get("device")): number(one.get("speed")) for one in mappings(vm.get("block_jobs"))}
    return [
        {
            "id": text(one.get("id")),
            "type": text(one.get("type")),
            "status": text(one.get("status")),
            "done": _share(one.get("current_progress"), one.get("total_progress")),
            "speed": speeds.get(text(one.get("id"))),
            "error": text(one.get("error")),
        }
        for one in mappings(vm.get("jobs"))
    ]


def migration(told: Dict[str, Any]) -> Row | None:
    """Return the migration that is under way, or has failed; None where there is none."""
    status = text(told.get("status"))
    if not status or (status in _OVER and status != "failed"):
        return None
    ram = mapping(told.get("ram"))
    left, total = number(ram.get("remaining")), number(ram.get("total"))
    done = _share(total - left, total) if left is not None and total is not None else None
    return {"status": status, "done": done, "error": text(told.get("error_desc")), "going": status not in _OVER}


def _share(part: Any, whole: Any) -> int | None:
    """Return so many percent."""
    part, whole = number(part), number(whole)
    return min(100, part * 100 // whole) if part is not None and whole else None
