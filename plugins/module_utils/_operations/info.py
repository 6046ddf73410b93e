# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Everything that can be told of a VM, in subsets, each with as few queries as it needs.

Values are QEMU's own, as its queries return them; in their keys hyphens become underscores, so that a template can
write ``vm.memory.base_memory``. Ids are kept as they are. Secrets are neither asked for nor shown.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict, List, Mapping, Sequence, Set

from .._core.coercion import with_underscores, without_password
from .._core.errors import Refusal
from .._core.option import Option, suggestion
from .._core.vm import NO_MACHINE
from .._kinds import netdev
from .._kinds.blockdev_nodes import drive_of, nodes
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._host.qemu_version import Build
    from .._kinds.kind import Kind

OPTIONS = {"gather_subset": Option("list", elements="str", default=["min"])}
MIN = ("status", "version", "name")


def run(task: Task, more: Mapping[str, Callable[[VM], Any]]) -> Dict[str, Any]:
    """Return ``{changed, commands, vm}``. Raise Refusal for an unknown subset. ``more``: further ones, which come last."""
    wanted = task.params["gather_subset"]
    known = {**SUBSETS, **more}
    if not wanted or not {*known, "min"}.issuperset(wanted):
        known = {**SUBSETS, **of_sections(), **more}
    names = select(wanted, known)
    vm = task.connect()
    return {"changed": False, "commands": [], "vm": {name: known[name](vm) for name in names}}


def of_sections() -> Dict[str, Callable[[VM], Any]]:
    """Return how those sections of a machine's document are read that have no subset of their own."""
    from .._kinds.sections import SECTIONS

    kinds = {name: section.kind for name, section in SECTIONS.items() if section.kind and name not in _TOLD}
    return {name: functools.partial(_described, kind) for name, kind in kinds.items()}


def _described(kind: Kind, vm: VM) -> Dict[str, Any]:
    """Return each one that is there, by its id, as the module that manages it returns it."""
    return {kind.ident(want): plain(kind.describe(vm, want)) for want in kind.list(vm)}


def select(wanted: Sequence[str], known: Collection[str], least: Collection[str] = MIN) -> List[str]:
    """Return the subsets out of ``known`` that ``gather_subset`` means, in that order. Raise Refusal for an unknown one.

    ``least``: what ``min`` stands for.

    As Ansible's own facts have it: what is named comes on top of ``min``, ``!x`` takes away, ``!all`` leaves ``min``,
    ``!all, !min`` leaves nothing, and exclusions alone take away from ``all``.
    """
    groups: Dict[str, Set[str]] = {"all": set(known), "min": set(least)}
    named: Set[str] = set()
    added: Set[str] = set()
    excluded: Set[str] = set()
    for item in wanted:
        name = item[1:].strip() if item.startswith("!") else item
        if name not in known and name not in groups:
            every = ["all", "min", *known]
            raise Refusal(
                f"gather_subset: there is no subset {name!r}{suggestion(name, every)}; known: {', '.join(every)}"
            )
        if item.startswith("!"):
            excluded |= groups["all"] - groups["min"] if name == "all" else groups.get(name, {name})
        else:
            added |= groups.get(name, {name})
            named |= {name} - set(groups)
    chosen = (added | groups["min"] if added else groups["all"]) - (excluded - named)
    return [name for name in known if name in chosen]


def plain(value: Any) -> Any:
    """Return QEMU's JSON with underscores in its keys, and without the passwords that URLs bear."""
    return with_underscores(value, lambda leaf: without_password(leaf) if isinstance(leaf, str) else leaf)


def _ask(vm: VM, query: str, none: Any, **arguments: Any) -> Any:
    """Return what a query does, or ``none`` where this machine or this QEMU lacks what is asked for."""
    try:
        return vm.ask(query, **arguments)
    except errors.CommandError:
        return none


def _listed(query: str) -> Callable[[VM], Any]:
    """Return the reader of a subset that is the list a query returns."""
    return lambda vm: plain(_ask(vm, query, []))


def _members(query: str) -> Callable[[VM], Any]:
    """Return the reader of a subset that is the dictionary a query returns."""
    return lambda vm: plain(_ask(vm, query, {}))


def _status(vm: VM) -> Dict[str, Any]:
    # older ones also tell of single-stepping
    answer = vm.ask("query-status")
    return {"status": answer["status"], "running": answer["running"]}


def _version(vm: VM) -> Dict[str, Any]:
    """Return what the greeting tells, without a query."""
    major, minor, micro = vm.session.version[:3]
    return {
        "full": f"{major}.{minor}.{micro}",
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": vm.session.version.package,
    }


def _name(vm: VM) -> str:
    return str(_ask(vm, "query-name", {}).get("name", ""))


def _uuid(vm: VM) -> str:
    return str(_ask(vm, "query-uuid", {}).get("UUID", ""))


def _block_nodes(vm: VM) -> Dict[str, Any]:
    return {name: plain(node) for name, node in reversed(list(nodes(vm).items()))}


def _images(vm: VM) -> Dict[str, Any]:
    from .disk_snapshot_disks import all_disks

    if vm.status == NO_MACHINE:
        return {}
    told = nodes(vm)
    return {
        name: {
            "size": disk.layers[0].size,
            "used": sum(told[layer.node]["image"].get("actual-size", 0) for layer in disk.layers),
            "top_used": told[disk.layers[0].node]["image"].get("actual-size", 0),
            "writable": not disk.layers[0].read_only,
            "files": [layer.source for layer in disk.layers],
        }
        for name, disk in all_disks(vm).items()
    }


def _chardevs(vm: VM) -> Dict[str, Any]:
    from .._kinds.chardev import chardevs

    types = chardevs(vm)
    found = {}
    for chardev in _ask(vm, "query-chardev", []):
        rest = {key: value for key, value in chardev.items() if key != "label"}
        found[chardev["label"]] = {"type": types.get(chardev["label"], ""), **plain(rest)}
    return found


def _netdevs(vm: VM) -> Dict[str, Any]:
    found = {}
    for ident, line in netdev.wiring(vm).items():
        # A NIC goes on showing a netdev that was removed from under it.
        if line.nic is None or netdev.exists(vm, ident):
            settings = {key: value for key, value in line.info.items() if key not in ("index", "type")}
            found[ident] = {
                "type": line.info.get("type", ""),
                "nic": line.nic or "",
                "queues": line.queues,
                "settings": plain(settings),
            }
    return found


def _devices(vm: VM) -> Dict[str, Any]:
    """Return what is known of each device, and which node, netdev and MAC it has."""
    from .._kinds import device_qtree
    from .._kinds.device import DEVICE

    device_qtree.read_all(vm)
    macs = dict(
        re.findall(r"^(\S+): .*\btype=nic\b.*\bmacaddr=([0-9a-fA-F:]+)", vm.monitor("info network"), re.MULTILINE)
    )
    netdevs = {line.nic: ident for ident, line in netdev.wiring(vm).items() if line.nic in macs}
    found = {}
    for ident in vm.peripherals():
        device = {"bus": "", **(DEVICE.read(vm, {"id": ident}) or {})}
        del device["id"]
        drive = drive_of(vm, ident)
        if drive is not None:
            device["node"] = drive.get("inserted", {}).get("node-name", "")
        if ident in macs:
            backend = netdevs.get(ident, "")
            device.update(netdev=backend if backend and netdev.wired(vm, backend, ident) else "", mac=macs[ident])
        found[ident] = device
    return found


def _objects(vm: VM) -> Dict[str, Any]:
    """Return id and type, and what two queries tell of memory backends and I/O threads.

    Nothing is read from the objects themselves, some of which hold secrets.
    """
    from .._kinds.object import objects

    found: Dict[str, Dict[str, Any]] = {ident: {"qom_type": kind} for ident, kind in objects(vm).items()}
    for query in ("query-memdev", "query-iothreads"):
        for told in _ask(vm, query, []):
            if told.get("id") in found:
                rest = {key: value for key, value in told.items() if key != "id"}
                found[told["id"]].update(plain(rest))
    return found


def _machine(vm: VM) -> Dict[str, Any]:
    kind = str(vm.prop("/machine", "type") or "")
    return {
        "arch": _ask(vm, "query-target", {}).get("arch", ""),
        "type": kind[: -len("-machine")] if kind.endswith("-machine") else kind,
        "kvm": _kvm(vm),
        **plain(_ask(vm, "query-current-machine", {})),
    }


def _kvm(vm: VM) -> bool:
    """Tell whether KVM runs the guest. From QEMU 11.1 on the second query is on its way out, and the first one is there."""
    accelerators = _ask(vm, "query-accelerators", {})
    return bool(accelerators["enabled"] == "kvm" if accelerators else _ask(vm, "query-kvm", {}).get("enabled"))


def _binary(vm: VM) -> Dict[str, Any]:
    """Return which QEMU runs, and which one its path gives now. What can't be told of a process elsewhere is None."""
    from .._host import qemu_version

    build = qemu_version.greeted(vm.session)
    program = qemu_version.program_of(vm.session.process) if vm.local else None
    now, there = None, program is not None and os.path.isfile(program.path)
    if program is not None and there and qemu_version.may_run(program.path):
        now = qemu_version.installed(program.path, vm.deadline)
    running = {
        **_build(build),
        "path": program.path if program else None,
        "deleted": program.deleted if program else None,
    }
    outdated = None if program is None else True if program.deleted else None if now is None else now != build
    return {"running": running, "installed": None if now is None else _build(now), "outdated": outdated}


def _build(build: Build) -> Dict[str, str]:
    return {"version": ".".join(map(str, build.version)), "package": build.package}


def _commands(vm: VM) -> List[str]:
    return sorted(item["name"] for item in vm.ask("query-commands"))


def _events(vm: VM) -> List[str]:
    return sorted(vm.schema.events)


SUBSETS: Dict[str, Callable[[VM], Any]] = {
    "status": _status,
    "version": _version,
    "name": _name,
    "uuid": _uuid,
    "cpus": _listed("query-cpus-fast"),
    "hotpluggable_cpus": _listed("query-hotpluggable-cpus"),
    "memory": _members("query-memory-size-summary"),
    "memory_devices": _listed("query-memory-devices"),
    "balloon": _members("query-balloon"),
    "block": _listed("query-block"),
    "block_nodes": _block_nodes,
    "block_jobs": _listed("query-block-jobs"),
    "images": _images,
    "jobs": _listed("query-jobs"),
    "chardevs": _chardevs,
    "netdevs": _netdevs,
    "devices": _devices,
    "pci": _listed("query-pci"),
    "objects": _objects,
    "iothreads": _listed("query-iothreads"),
    "migration": _members("query-migrate"),
    "machine": _machine,
    "binary": _binary,
    "commands": _commands,
    "events": _events,
}
# What is in here, and the block nodes, which are called otherwise.
_TOLD = frozenset([*SUBSETS, "blockdevs"])
