# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What keeps a guest from moving to another QEMU on its host, looked at before anything is done."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

from .._core.errors import Refusal
from .._host import program
from .._kinds import netdev
from .._kinds.device import DEVICE
from .._kinds.object import objects
from .._kinds.sections import SECTIONS
from .._operations.blocked import check_blocked
from .._qmp import errors
from .chain import gone_on
from .process import plug
from .upgrade_taps import is_ours

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._host.qemu_version import Build
    from .._qmp.deadline import Deadline
    from .options import Place
    from .record import Record

CPR = (10, 0)
"""The first QEMU that hands the guest's memory over as it is."""
_SERVER = re.compile(r"(?:disconnected:)?(\w+):(.*?),server(?:=on)?\b")
_SPARE = 64 << 20


def check_target(name: str, running: Build, target: Build, kind: str, binary: str, deadline: Deadline) -> None:
    """Raise Refusal for a QEMU that is older than the one that runs, or lacks its machine type (``kind``)."""
    if target.version < running.version:
        raise Refusal(
            f"binary: {name} runs on QEMU {running}, and {binary} is {target}, which is older: a guest moves to the same version "
            "or a newer one only"
        )
    if "-" not in kind and target.version[:2] != running.version[:2]:  # microvm, for one
        raise Refusal(
            f"machine: {name} has the machine type {kind}, which has no version, so that QEMU {target} may have another one "
            "of that name: restart it for that"
        )
    known = program.run([binary, "-machine", "help"], deadline, "binary")
    if kind not in (line.split(" ", 1)[0] for line in known.splitlines()):
        raise Refusal(
            f"machine: {name} has the machine type {kind}, which {binary} ({target}) does not have: restart it with another one"
        )


def check_guest(task: Task, vm: VM, place: Place, kept: Record) -> None:
    """Raise Refusal for what can't move with the guest: a device, what nobody has written down, what only one can have open."""
    name = place.name
    check_blocked(vm, f"{name} can't be migrated")
    for job in vm.ask("query-jobs"):
        raise Refusal(f"{name}: the job {job['id']} ({job['type']}) would be lost: let it end first (qemu_block_job)")
    for export in vm.ask("query-block-exports"):
        raise Refusal(f"{name}: the export {export['id']} would be lost: remove it first (qemu_export)")
    for _option, path, top in gone_on(vm, [("disk", image, "") for image in kept.images]):
        raise Refusal(
            f"{name}: its guest writes to {top}, which lies over {path}, the disk that it was started with: give the snapshot up "
            "first (qemu_disk_snapshot with state=absent)"
        )
    _check_document(task, vm, name, kept)
    for what in _shared(vm, place, [str(tap["name"]) for tap in kept.taps]):
        raise Refusal(f"{name}: {what}")


def _check_document(task: Task, vm: VM, name: str, kept: Record) -> None:
    """Raise Refusal where the VM has, or lacks, what its record does not tell: the new QEMU is given what that has."""
    document = {**{section: [] for section in SECTIONS}, **kept.document, "purge": True}
    found = plug(task, vm, kept._replace(document=document), None, True)["plan"]
    vm.forget()
    for action, why in (("remove", "was plugged in by somebody else"), ("add", "is not there any more")):
        others = [f"{entry['kind']} {entry['id']}" for entry in found if entry["action"] == action]
        if others:
            raise Refusal(
                f"{name}: {', '.join(others)} {why}, and its record ({name}/vm.json) tells nothing of that: have the role "
                "vmm.qemu.vm (qemu_vm) name what it shall have, and run this again"
            )


def _shared(vm: VM, place: Place, made: List[str]) -> Iterator[str]:
    """Yield what two QEMUs can't have at the same time, and what to do."""
    for chardev in vm.ask("query-chardev"):
        found = _SERVER.match(chardev["filename"])
        if found and not (found.group(1) == "unix" and found.group(2).startswith(f"{place.run}/")):
            yield (
                f"the chardev {chardev['label']} listens at {found.group(1)}:{found.group(2)}, where two QEMUs can't: a UNIX "
                f"socket in {place.run} can be handed over"
            )
    yield from _screens(vm, place)
    for ident, line in netdev.wiring(vm).items():
        name = line.info.get("ifname", "") if line.info.get("type") == "tap" else ""
        if name and not (name in made and is_ours(place, name)):
            yield (
                f"the netdev {ident} has the tap {name}, which two QEMUs can't open and which was not made for it: one of "
                "taps is handed over"
            )
    for path, driver in vm.devices().items():
        if driver.startswith(("vhost-user-", "vhost-vsock")):
            yield f"the device {path.rpartition('/')[2]} ({driver}) has a backend that only one QEMU can use"
    for ident, kind in objects(vm).items():
        path = str(vm.prop(f"/objects/{ident}", "mem-path") or "")
        if kind == "memory-backend-file" and vm.prop(f"/objects/{ident}", "share") and os.path.isfile(path):
            yield f"the object {ident} has its memory in the file {path}, which both would write to"


def _screens(vm: VM, place: Place) -> Iterator[str]:
    try:
        servers = vm.ask("query-vnc-servers") if vm.ask("query-vnc").get("enabled") else []
    except errors.CommandError:  # it was built without
        return
    for address in (address for server in servers for address in server["server"]):
        if address["family"] != "unix" or not address["service"].startswith(f"{place.run}/"):
            yield (
                f"vnc: it listens at {address['host']}:{address['service']}, where two QEMUs can't: a UNIX socket in {place.run} "
                f"can be handed over (vnc: unix:{place.run}/vnc)"
            )


def why_not_cpr(vm: VM, running: Build, target: Build) -> str:
    """Return why the guest's memory can't be handed over as it is; empty where it can."""
    for build in (running, target):
        if build.version < CPR:
            return f"it takes QEMU 10.0 on both sides, and one is {build}"
    backends = [str(vm.prop("/machine", "memory-backend") or "")]
    backends += [str(module["data"]["memdev"]) for module in vm.ask("query-memory-devices")]
    if not vm.prop("/machine", "aux-ram-share") or not all(path and vm.prop(path, "share") for path in backends):
        return "its memory is not in a shared memfd (upgradable, which takes a restart)"
    return ""


def check_memory(name: str, vm: VM) -> None:
    """Raise Refusal where the host has no room for the guest's memory a second time."""
    found = vm.ask("query-memory-size-summary")
    needed = found["base-memory"] + found.get("plugged-memory", 0) + _SPARE
    with open("/proc/meminfo", encoding="ascii") as file:
        table = dict(line.split(":", 1) for line in file)
    free = int(table["MemAvailable"].split()[0]) << 10
    if free < needed:
        raise Refusal(
            f"{name}: while its guest moves it takes {needed >> 20} MiB more, and the host has {free >> 20} MiB free: free some, "
            "or have it upgradable (which takes a restart, and QEMU 10.0)"
        )


def differences(old: VM, new: VM) -> List[str]:
    """Return what the new QEMU does not have as the old one has it: the guest's memory would meet another machine."""
    mine, theirs = _shape(old), _shape(new)
    return [
        f"{what} is {mine.get(what, 'not there')} and would be {theirs.get(what, 'not there')}"
        for what in sorted({*mine, *theirs})
        if mine.get(what) != theirs.get(what)
    ]


def _shape(vm: VM) -> Dict[str, Any]:
    """Return a machine's devices and where they sit, the files of its disks, its processors and its memory."""
    vm.forget()
    found: Dict[str, Any] = {"cpus": len(vm.ask("query-cpus-fast"))}
    found["memory"] = sum(vm.ask("query-memory-size-summary").values())
    for ident in vm.peripherals():
        device = DEVICE.read(vm, {"id": ident}) or {}
        found[f"device {ident}"] = " ".join(str(device.get(key, "")) for key in ("driver", "bus", "addr")).strip()
    for drive in vm.ask("query-block"):
        found[f"disk {drive.get('qdev') or drive['device']}"] = str(drive.get("inserted", {}).get("file"))
    return found
