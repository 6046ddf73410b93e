# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Many devices read at once: what ``info qtree`` prints stands for the answers of hundreds of ``qom-get``s.

Only what it prints without ambiguity is taken: text, truth values, small numbers, slots and buses. All else is asked
for one by one, as ever.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, List, NamedTuple

from .._core.vm import PERIPHERAL

if TYPE_CHECKING:
    from .._core.vm import VM

_DEVICE = re.compile(r'dev: (\S+), id "(.*)"\Z')
_BUS = re.compile(r"bus: (\S+)\Z")
_PROPERTY = re.compile(r"(\S+) = (.*)\Z")
_NUMBER = re.compile(r"(\d{1,9}) \(.*\)\Z")
_SLOT = re.compile(r"([0-9a-f]{2})\.([0-7])\Z")


class _Place(NamedTuple):
    """A line of the tree that others stand below: how far in it is, and its QOM path where that can be told."""

    indent: int
    path: str


def read_devices(vm: VM) -> None:
    """Let the VM know what its devices with ids are like, so that reading them asks nothing more. One command."""
    above: List[_Place] = []
    for line in vm.monitor("info qtree").splitlines():
        text = line.lstrip()
        indent = len(line) - len(text)
        while above and above[-1].indent >= indent:
            above.pop()
        here = above[-1].path if above else ""
        device, bus = _DEVICE.match(text), _BUS.match(text)
        if device:
            above.append(_Place(indent, _enter(vm, device.group(2), here)))
        elif bus:
            above.append(_Place(indent, f"{here}/{bus.group(1)}" if here else ""))
        elif here:
            found = _PROPERTY.match(text)
            if found:
                _learn(vm, here, *found.groups())


def _enter(vm: VM, ident: str, bus: str) -> str:
    """Return the path of a device on a bus. A virtio device without an id is the inner half of the one whose bus it sits on."""
    if ident:
        path = f"{PERIPHERAL}/{ident}"
        for name in ("addr", "dev_id"):
            vm.know(None, "qom-get", path=path, property=name)  # unless a line says so
        if bus:
            vm.know(bus, "qom-get", path=path, property="parent_bus")
        return path
    outer, _slash, name = bus.rpartition("/")
    return f"{outer}/virtio-backend" if name == "virtio-bus" else ""


def _learn(vm: VM, path: str, name: str, text: str) -> None:
    """Return a property of a device; the inner half's are the outer one's too, unless that has one of the same name."""
    inner = path.endswith("/virtio-backend")
    place = _SLOT.match(text) if name == "addr" and not inner else None
    if place:
        vm.know(int(place.group(1), 16) << 3 | int(place.group(2)), "qom-get", path=path, property="addr")
    value = _value(text)
    if value is None:
        return
    vm.know(value, "qom-get", path=path, property=name)
    if inner:
        outer = path.rpartition("/")[0]
        if not vm.knows("qom-get", path=outer, property=name):
            vm.know(value, "qom-get", path=outer, property=name)


def _value(text: str) -> Any:
    """Return what ``qom-get`` would return, or None where the print does not tell."""
    if text in ("true", "false"):
        return text == "true"
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    number = _NUMBER.match(text)
    return int(number.group(1)) if number else None
