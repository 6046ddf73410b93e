# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Many devices read at once: what ``info qtree`` prints stands for the answers of hundreds of ``qom-get``s.

Only what it prints without ambiguity is taken: text, truth values, small numbers, slots and buses. Who wants to know all of them
has those on the machine's own buses, and on none, by one ``qom-list-get`` where QEMU has that (since 11.1): of all devices that
would take five times as long as the tree. All else is asked for one by one, as ever.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, DefaultDict, Dict, List, NamedTuple

from .._core.vm import PERIPHERAL
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.vm import VM

_DEVICE = re.compile(r'dev: (\S+), id "(.*)"\Z')
_BUS = re.compile(r"bus: (\S+)\Z")
_NUMBER = re.compile(r"(\d{1,9}) \(.*\)\Z")
_SLOT = re.compile(r"([0-9a-f]{2})\.([0-7])\Z")
_NOWHERE: Dict[str, Any] = {"addr": None, "dev_id": None}
_INNER = "virtio-backend"
_INDENT = 2
# A device has them, and only its own text can have such a line.
_NOT_PRINTED = frozenset(["parent_bus", "hotpluggable", "hotplugged", "realized", "type"])
_TRUTH = {"true": True, "false": False}


class _Place(NamedTuple):
    """A line of the tree that others stand below: how far in it is, and its QOM path where that can be told."""

    indent: int
    path: str


def read_devices(vm: VM) -> None:
    """Let the VM know what its devices with ids are like, so that reading them asks nothing more. One command.

    QEMU prints a text as it is, line breaks and all, which can look like further lines: what is told twice is not taken, and
    nothing at all where a line is not in its place.
    """
    found: Dict[str, Dict[str, Any]] = {}
    above: List[_Place] = []
    told: DefaultDict[str, List[str]] = defaultdict(list)
    for line in vm.monitor("info qtree").replace("\r\n", "\n").split("\n"):
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        while above and above[-1].indent >= indent:
            above.pop()
        if text and indent != (above[-1].indent + _INDENT if above else 0):
            return
        here = above[-1].path if above else ""
        device = _DEVICE.match(text) if text.startswith("dev: ") else None
        bus = _BUS.match(text) if text.startswith("bus: ") else None
        if device:
            path = _enter(found, device.group(2), here)
            above.append(_Place(indent, path))
            told[path].append("")
        elif bus:
            above.append(_Place(indent, f"{here}/{bus.group(1)}" if here else ""))
        elif here:
            name, equals, value = text.partition(" = ")
            if equals and " " not in name and name not in _NOT_PRINTED:
                _learn(found.setdefault(here, {}), name, value)
                told[here].append(name)
    for path, names in told.items():
        if len(set(names)) < len(names):
            _drop_twice_told(found.get(path, {}), names)
    for path, properties in list(found.items()):
        outer, _slash, inner = path.rpartition("/")
        if inner == _INNER:  # the inner half's are the outer one's too, unless that has one of the same name
            found[outer] = {**properties, **found.get(outer, {})}
    vm.properties.update(found)


def _drop_twice_told(known: Dict[str, Any], names: List[str]) -> None:
    """Drop of a device's properties those that are told twice, or all where the device is (its own line has an empty name)."""
    count = Counter(names)
    for name in list(known):
        if count[name] > 1 or count[""] > 1:
            del known[name]


def read_all(vm: VM) -> None:
    """Let the VM know the same of all its devices with ids, also of those whose bus the tree does not tell."""
    read_devices(vm)
    places = (f"{PERIPHERAL}/{ident}" for ident in vm.peripherals())
    paths = tuple(path for path in places if "parent_bus" not in vm.properties.get(path, ()))
    if len(paths) < 2:
        return
    try:
        told = vm.ask("qom-list-get", paths=paths)
    except errors.CommandError:  # it has not, or one of them is just leaving
        return
    for path, entry in zip(paths, told):
        values = {item["name"]: item["value"] for item in entry["properties"] if "value" in item}
        vm.properties[path] = {**_NOWHERE, **vm.properties.get(path, {}), **values}


def _enter(found: Dict[str, Dict[str, Any]], ident: str, bus: str) -> str:
    """Return the path of a device on a bus. A virtio device without an id is the inner half of the one whose bus it sits on."""
    if ident:
        path = f"{PERIPHERAL}/{ident}"
        found[path] = dict(_NOWHERE)  # unless a line says so
        if bus:
            found[path]["parent_bus"] = bus
        return path
    outer, _slash, name = bus.rpartition("/")
    return f"{outer}/{_INNER}" if name == "virtio-bus" else ""


def _learn(properties: Dict[str, Any], name: str, text: str) -> None:
    """Add what a line tells of a device: nothing where ``qom-get`` could return something else."""
    if name == "addr":
        place = _SLOT.match(text)
        if place:
            properties[name] = int(place.group(1), 16) << 3 | int(place.group(2))
            return
    if text in _TRUTH:
        properties[name] = _TRUTH[text]
    elif text[:1] == '"' and text[-1] == '"' and len(text) > 1:
        properties[name] = text[1:-1]
    elif text[:1].isdigit():
        number = _NUMBER.match(text)
        if number:
            properties[name] = int(number.group(1))
