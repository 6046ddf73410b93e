# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What a document does not name and may go: hot-plugged things of the kinds that it lists, nothing the VM started with.

QEMU tells of a device whether it was hot-plugged. Of all else only the process's command line tells what it started with.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, Iterator, List, Sequence, Set, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import PERIPHERAL
from ansible_collections.vmm.qemu.plugins.module_utils._engine.comparison import Item
from ansible_collections.vmm.qemu.plugins.module_utils._host.process import command_line
from ansible_collections.vmm.qemu.plugins.module_utils._kinds import blockdev_graph, netdev
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev import BLOCKDEV
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import held_by, nodes
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.chardev import CHARDEV, chardevs
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.chardev import users as users_of_chardev
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device import Device
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device_steps import beside, devices_on
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.netdev import NETDEV, wiring
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.object import OBJECT, objects
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.object import users as users_of_object
from ansible_collections.vmm.qemu.plugins.module_utils._machine.document import SECTIONS, Entry

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Kind

_MEMORY = ("pc-dimm", "nvdimm", "virtio-mem-pci", "virtio-pmem-pci")
# What QEMU names by itself (-serial, -monitor, -net and others) is never purged. All else of that sort starts with no letter.
_OWN = {
    "chardev": re.compile(r"(?:(?:serial|parallel|compat_monitor)\d+|gdb|debugcon|braille)(?:-base)?\Z"),
    "netdev": re.compile(r"hub\d+port\d+\Z"),
}
_NAMES = re.compile(r"(?:^|,)(?:id|node-name)=((?:,,|[^,])*)")
_MONITORS = {"qmp", "qmp-pretty", "mon", "monitor"}
_CONFIGURED = ("-readconfig", "--readconfig")


def unnamed(vm: VM, params: Dict[str, Any], document: Sequence[Entry]) -> List[Entry]:
    """Entries that remove what ``document`` does not name. Raises Refusal where it can't be told what the VM started with."""
    listed = {name for name in SECTIONS if params.get(name) is not None}
    known = {_key(item) for entry in document for item in entry.items}
    found = list(_devices(vm, listed, known))
    backends = listed & {"objects", "chardevs", "netdevs", "blockdevs"}
    if backends or any(len(entry.items) > 1 for entry in found):
        started = _started_with(vm)
        keep = known | {(kind, name) for name in started for kind in ("object", "chardev", "netdev", "blockdev")}
        keep |= {("chardev", f"{name}-base") for name in started}  # below a multiplexer
        keep.add(("object", str(vm.prop("/machine", "memory-backend", "")).rpartition("/")[2]))  # of the machine itself
        keep |= _held(vm, document)
        found = [entry._replace(items=_without(entry.items, keep)) for entry in found]
        keep |= {name for entry in found for item in entry.items for name in _takes(vm, item)}
        found += _backends(vm, backends, keep)
    return [entry for entry in _unused(vm, document, found) if entry.items]


def _unused(vm: VM, document: Sequence[Entry], found: List[Entry]) -> List[Entry]:
    """``found`` without what something uses that stays; one that stays can itself be such a user."""
    named = {_key(item): item for entry in document for item in entry.items}
    while True:
        leaving = {_key(item) for entry in [*document, *found] for item in entry.items if not item.present}
        left = [
            entry._replace(items=[item for item in entry.items if _free(vm, item, leaving, named)]) for entry in found
        ]
        if left == found:
            return found
        found = left


def _free(vm: VM, item: Item, leaving: Set[Tuple[str, str]], named: Dict[Tuple[str, str], Item]) -> bool:
    """Whether all its users leave, or are wanted on something else, and the other functions of its slot leave."""
    key = _key(item)
    if key[0] == "device" and not leaving.issuperset(("device", name) for name in beside(vm, key[1])):
        return False
    users = set(_users(vm, item)) - leaving
    return all(user in named and _parts_with(vm, named[user], key) for user in users)


def _users(vm: VM, item: Item) -> List[Tuple[str, str]]:
    """Who uses it; of a disk's node, who uses the disk: what lies above it goes with it."""
    kind, ident = _key(item)
    if kind == "blockdev" and "device" in item.want:
        return blockdev_graph.outside(vm, item.want["device"], ident)
    return _USERS[kind](vm, ident)


def _parts_with(vm: VM, user: Item, used: Tuple[str, str]) -> bool:
    """Whether what is asked of a user takes it off what it uses now: another one in its place, or another thing itself."""
    needs = user.kind.wanted_dependencies(user.want)
    if used in needs or (used[0] == "blockdev" and _is_its_disk(vm, user, needs)):
        return False
    if any(kind == used[0] for kind, _name in needs):
        return True
    have = user.kind.read(vm, user.want)
    changes = user.kind.compare(have, user.kind.wanted(vm, user.want))[0] if have is not None else []
    return any(change.key in ("driver", "type", "qom_type", "bus") for change in changes)


def _is_its_disk(vm: VM, user: Item, needs: Set[Tuple[str, str]]) -> bool:
    """Whether a device is to have the disk that it has, though that is named by a node below the one it uses."""
    if not isinstance(user.kind, Device):
        return False
    return any(("blockdev", node) in needs for node in blockdev_graph.chain(vm, user.kind.ident(user.want)))


_USERS: Dict[str, Callable[[VM, str], List[Tuple[str, str]]]] = {
    "object": users_of_object,
    "chardev": users_of_chardev,
    "netdev": netdev.users,
    "blockdev": blockdev_graph.users,
    "device": lambda vm, ident: [("device", name) for name in devices_on(vm, ident)],
}


def _key(item: Item) -> Tuple[str, str]:
    kind = "device" if isinstance(item.kind, Device) else item.kind.name
    return kind, item.kind.ident(item.want)


def _takes(vm: VM, item: Item) -> Set[Tuple[str, str]]:
    """What goes with an entry: a disk's node takes along all that lies above it."""
    kind, ident = _key(item)
    over = blockdev_graph.above(vm, item.want["device"], ident) if "device" in item.want else []
    return {(kind, ident), *(("blockdev", node) for node in over)}


def _held(vm: VM, document: Sequence[Entry]) -> Set[Tuple[str, str]]:
    """The disks that a stopped run has left held, and which devices of the document take up again."""
    found: Set[Tuple[str, str]] = set()
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


def _without(items: Sequence[Item], keep: Set[Tuple[str, str]]) -> List[Item]:
    """The items but for backends that stay."""
    return [item for item in items if isinstance(item.kind, Device) or not _stays(_key(item), keep)]


def _stays(key: Tuple[str, str], keep: Set[Tuple[str, str]]) -> bool:
    kind, name = key
    return key in keep or not name[:1].isalpha() or (kind in _OWN and _OWN[kind].match(name) is not None)


def _devices(vm: VM, listed: Set[str], known: Set[Tuple[str, str]]) -> Iterator[Entry]:
    """The hot-plugged devices of the listed kinds that nobody named, with the backends that they stand on."""
    for ident, driver in vm.peripherals().items():
        name, backend = _section(vm, ident, driver)
        if (
            name not in listed
            or ("device", ident) in known
            or vm.prop(f"{PERIPHERAL}/{ident}", "hotplugged") is not True
        ):
            continue
        section, want = SECTIONS[name], _identity(name, ident, backend)
        place = f"purge of {section.kind} {ident}"
        parts = section.parts(want, False)
        items = [Item(part.kind, part.kind.identity(part.want), False, place) for part in parts]
        yield Entry(section.kind, ident, place, items)


def _section(vm: VM, ident: str, driver: str) -> Tuple[str, str]:
    """Which list a device belongs to, and the backend that it stands on. CPUs belong to none."""
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
        if isinstance(backend, str) and backend:
            return name, backend
    return "devices", ""


def _identity(name: str, ident: str, backend: str) -> Dict[str, Any]:
    """As much of an entry as its removal needs."""
    where: Dict[str, Dict[str, Any]] = {
        "disks": {"node_name": backend},
        "nics": {"netdev": {"id": backend}},
        "memory": {"options": {"memdev": backend}},
    }
    return {"id": ident, **where.get(name, {})}


def _backends(vm: VM, listed: Set[str], keep: Set[Tuple[str, str]]) -> Iterator[Entry]:
    """The backends of the listed kinds that are neither named, nor started with, nor in use by what stays."""
    there: Dict[str, Tuple[Kind, Sequence[str]]] = {
        "objects": (OBJECT, _own_objects(vm) if "objects" in listed else []),
        "chardevs": (CHARDEV, list(chardevs(vm)) if "chardevs" in listed else []),
        "netdevs": (NETDEV, list(wiring(vm)) if "netdevs" in listed else []),
        "blockdevs": (BLOCKDEV, list(nodes(vm)) if "blockdevs" in listed else []),
    }
    for kind, idents in there.values():
        for ident in idents:
            if not _stays((kind.name, ident), keep):
                place = f"purge of {kind.name} {ident}"
                yield Entry(kind.name, ident, place, [Item(kind, {kind.keys[0]: ident}, False, place)])


def _own_objects(vm: VM) -> List[str]:
    """All but monitors, which are objects since QEMU 11.1: one that is taken away leaves the VM without its master."""
    return [ident for ident, kind in objects(vm).items() if not kind.startswith("monitor-")]


def _started_with(vm: VM) -> FrozenSet[str]:
    """The ids on QEMU's command line. Raises Refusal where that can't be read, or doesn't tell all."""
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
    """Whether it can be this QEMU's command line: it makes a monitor, and names devices that were there at the start.

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
    """The ids and node names in an option's value, be it JSON or ``key=value``."""
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
