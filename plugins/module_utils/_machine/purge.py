# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a document does not name and may go: hot-plugged things of the kinds that it lists, nothing the VM started with.

QEMU tells of a device whether it was hot-plugged. Of all else only the process's command line tells what it started with.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Iterator, List, Sequence, Set, Tuple

from .._core.errors import Refusal
from .._core.vm import PERIPHERAL
from .._engine.comparison import Item
from .._host.process import command_line
from .._kinds import blockdev_graph
from .._kinds.blockdev_nodes import held_by, is_removable
from .._kinds.device import DEVICE, Device
from .._kinds.device_steps import beside
from .._kinds.sections import SECTIONS
from .document import Entry

if TYPE_CHECKING:
    from .._core.plan import Thing
    from .._core.vm import VM
    from .._kinds.kind import Kind

_MEMORY = ("pc-dimm", "nvdimm", "virtio-mem-pci", "virtio-pmem-pci")
_NAMES = re.compile(r"(?:^|,)(?:id|node-name)=((?:,,|[^,])*)")
_MONITORS = {"qmp", "qmp-pretty", "mon", "monitor"}
_CONFIGURED = ("-readconfig", "--readconfig")


def unnamed(vm: VM, params: Dict[str, Any], document: Sequence[Entry]) -> List[Entry]:
    """Return entries that remove what ``document`` does not name. Raise Refusal where it can't be told what the VM started with."""
    listed = {name for name in SECTIONS if params.get(name) is not None}
    known = {item.kind.thing(item.want) for entry in document for item in entry.items}
    found = list(_devices(vm, listed, known))
    kinds = {name: section.kind for name, section in SECTIONS.items() if section.kind and section.kind is not DEVICE}
    backends = [kind for name, kind in kinds.items() if name in listed]
    if backends or any(len(entry.items) > 1 for entry in found):
        started = _started_with(vm)
        keep = known | {(kind.name, name) for name in started for kind in kinds.values()}
        keep |= {("chardev", f"{name}-base") for name in started}  # below a multiplexer
        keep.add(("object", str(vm.prop("/machine", "memory-backend", "")).rpartition("/")[2]))  # of the machine itself
        keep |= _held(vm, document)
        found = [entry._replace(items=_without(entry.items, keep)) for entry in found]
        keep |= {name for entry in found for item in entry.items for name in _takes(vm, item)}
        found += _backends(vm, backends, keep)
    return [entry for entry in _unused(vm, document, found) if entry.items]


def _unused(vm: VM, document: Sequence[Entry], found: List[Entry]) -> List[Entry]:
    """Return ``found`` without what something uses that stays; one that stays can itself be such a user."""
    named = {item.kind.thing(item.want): item for entry in document for item in entry.items}
    while True:
        leaving = {
            item.kind.thing(item.want) for entry in [*document, *found] for item in entry.items if not item.present
        }
        left = [
            entry._replace(items=[item for item in entry.items if _free(vm, item, leaving, named)]) for entry in found
        ]
        if left == found:
            return found
        found = left


def _free(vm: VM, item: Item, leaving: Set[Thing], named: Dict[Thing, Item]) -> bool:
    """Tell whether all its users leave, or are wanted on something else, and the other functions of its slot leave."""
    key = item.kind.thing(item.want)
    if key[0] == "device" and not leaving.issuperset(("device", name) for name in beside(vm, key[1])):
        return False
    users = set(item.kind.users(vm, item.want)) - leaving
    return all(user in named and _parts_with(vm, named[user], key) for user in users)


def _parts_with(vm: VM, user: Item, used: Thing) -> bool:
    """Tell whether what is asked of a user takes it off what it uses now: another one in its place, or another thing itself."""
    needs = user.kind.wanted_dependencies(user.want)
    if used in needs or (used[0] == "blockdev" and _keeps_disk(vm, user, needs)):
        return False
    if any(kind == used[0] for kind, _name in needs):
        return True
    have = user.kind.read(vm, user.want)
    changes = user.kind.compare(have, user.kind.wanted(vm, user.want))[0] if have is not None else []
    return any(change.key in ("driver", "type", "qom_type", "bus") for change in changes)


def _keeps_disk(vm: VM, user: Item, needs: Set[Thing]) -> bool:
    """Tell whether a device is to have the disk that it has, though that is named by a node below the one it uses.

    A medium is taken out after all else has been removed, so that the next run purges it.
    """
    if not isinstance(user.kind, Device):
        return False
    ident = user.kind.ident(user.want)
    return is_removable(vm, ident) or any(("blockdev", node) in needs for node in blockdev_graph.chain(vm, ident))


def _takes(vm: VM, item: Item) -> Set[Thing]:
    """Return what goes with an entry: a disk's node takes along all that lies above it."""
    kind, ident = item.kind.thing(item.want)
    over = blockdev_graph.above(vm, item.want["device"], ident) if "device" in item.want else []
    return {(kind, ident), *(("blockdev", node) for node in over)}


def _held(vm: VM, document: Sequence[Entry]) -> Set[Thing]:
    """Return the disks that a stopped run has left held, and which devices of the document take up again."""
    found: Set[Thing] = set()
    for item in (item for entry in document for item in entry.items if item.present and isinstance(item.kind, Device)):
        ident = item.kind.ident(item.want)
        disk = (
            {("blockdev", node) for node in blockdev_graph.chain(vm, ident)}
            if blockdev_graph.held(vm, ident)
            else set()
        )
        if disk & item.kind.wanted_dependencies(item.want):
            found |= {*disk, ("blockdev", held_by(ident))}
    return found


def _without(items: Sequence[Item], keep: Set[Thing]) -> List[Item]:
    """Return the items but for backends that stay."""
    return [item for item in items if isinstance(item.kind, Device) or not _stays(item, keep)]


def _stays(item: Item, keep: Set[Thing]) -> bool:
    """Tell whether a backend is never purged, or kept. What QEMU names by itself and has no pattern starts with no letter."""
    name = item.kind.ident(item.want)
    own = item.kind.own_names and re.fullmatch(item.kind.own_names, name)
    return bool(own) or not name[:1].isalpha() or item.kind.thing(item.want) in keep


def _devices(vm: VM, listed: Set[str], known: Set[Thing]) -> Iterator[Entry]:
    """Return the hot-plugged devices of the listed kinds that nobody named, with the backends that they stand on."""
    for ident, driver in vm.peripherals().items():
        name, backend = _section(vm, ident, driver)
        if (
            name not in listed
            or ("device", ident) in known
            or vm.prop(f"{PERIPHERAL}/{ident}", "hotplugged") is not True
        ):
            continue
        section, want = SECTIONS[name], _identity(name, ident, backend)
        place = f"purge of {section.name} {ident}"
        parts = section.parts(want, False)
        items = [Item(part.kind, part.kind.identity(part.want), False, place) for part in parts]
        yield Entry(section.name, ident, place, items)


def _section(vm: VM, ident: str, driver: str) -> Tuple[str, str]:
    """Return which list a device belongs to, and the backend that it stands on. CPUs belong to none."""
    path = f"{PERIPHERAL}/{ident}"
    if driver.endswith("-cpu") or "-cpu-" in driver or "cpu-core" in driver:
        return "", ""
    if driver in _MEMORY:
        return "memory", str(vm.prop(path, "memdev", "")).rpartition("/")[2]
    for name, prop in (("disks", "drive"), ("nics", "netdev")):
        backend = vm.prop(path, prop)
        if prop == "drive" and backend not in (None, f"{ident}-node"):
            disk = blockdev_graph.chain(vm, ident)
            backend = next((node for node in disk if node == f"{ident}-node"), disk[0] if disk else "")
        if prop == "drive" and backend == "" and driver.endswith("-cd"):
            return name, f"{ident}-node"  # empty
        if isinstance(backend, str) and backend:
            return name, backend
    return "devices", ""


def _identity(name: str, ident: str, backend: str) -> Dict[str, Any]:
    """Return as much of an entry as its removal needs."""
    where: Dict[str, Dict[str, Any]] = {
        "disks": {"node_name": backend},
        "nics": {"netdev": {"id": backend}},
        "memory": {"options": {"memdev": backend}},
    }
    return {"id": ident, **where.get(name, {})}


def _backends(vm: VM, kinds: Sequence[Kind], keep: Set[Thing]) -> Iterator[Entry]:
    """Yield the backends of these kinds that are neither named, nor started with, nor in use by what stays."""
    for kind in kinds:
        for want in kind.list(vm):
            place = f"purge of {kind.name} {kind.ident(want)}"
            item = Item(kind, want, False, place)
            if not _stays(item, keep):
                yield Entry(kind.name, kind.ident(want), place, [item])


def _started_with(vm: VM) -> FrozenSet[str]:
    """Return the ids on QEMU's command line. Raise Refusal where that can't be read, or doesn't tell all."""
    pid = vm.session.process
    arguments = command_line(pid) if pid is not None else []
    if not arguments:
        raise Refusal(
            "purge: what this virtual machine was started with can't be told, since the command line of its process can't be "
            "read from here (a monitor on TCP, or another user's process): run the task on its host as its user, or purge nothing"
        )
    if any(argument in _CONFIGURED for argument in arguments):
        raise Refusal("purge: this virtual machine was started with -readconfig: what that file made can't be told")
    names = frozenset(name for argument in arguments for name in _names(argument))
    if not _is_its_own(vm, arguments, names):
        raise Refusal(
            f"purge: what this virtual machine was started with can't be told, since process {pid}, which listens at its "
            "monitor, does not have its command line (a relay, or a service manager that made the socket): use a socket that "
            "QEMU itself has made, or purge nothing"
        )
    return names


def _is_its_own(vm: VM, arguments: List[str], names: FrozenSet[str]) -> bool:
    """Tell whether it can be this QEMU's command line: it makes a monitor, and names devices that were there at the start.

    Not all of them: some have a name that QEMU itself has given them (``-debugcon``).
    """
    options = {argument.lstrip("-") for argument in arguments if argument.startswith("-")}
    makes_monitor = bool(options & _MONITORS) or any("monitor-qmp" in argument for argument in arguments)
    unnamed = [ident for ident in vm.peripherals() if ident not in names]
    named = len(unnamed) < len(vm.peripherals())
    return makes_monitor and (
        named or all(vm.prop(f"{PERIPHERAL}/{ident}", "hotplugged") is not False for ident in unnamed)
    )


def _names(argument: str) -> Iterator[str]:
    """Return the ids and node names in an option's value, be it JSON or ``key=value``."""
    if argument.startswith("{"):
        try:
            tree = json.loads(argument)
        except ValueError:
            return
        yield from _in_tree(tree)
    else:
        yield from (name.replace(",,", ",") for name in _NAMES.findall(argument))


def _in_tree(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from (str(tree[key]) for key in ("id", "node-name") if key in tree)
        for value in tree.values():
            yield from _in_tree(value)
