# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a new device names: whether its drive, netdev, chardev and objects are there, and free for it. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from .._core import coercion
from .._core.errors import Refusal
from . import blockdev_steps, chardev, netdev
from .blockdev_nodes import nodes
from .device_properties import Properties

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

_BACKENDS = ("drive", "netdev", "chardev")


def check_backends(vm: VM, ident: str, arguments: Dict[str, Any], known: Properties, draft: Draft) -> None:
    """Raise Refusal for a backend that isn't there, or that another device holds. QEMU says so too, but not in check mode."""
    for name, value in arguments.items():
        if (name in _BACKENDS or _is_link(known, name)) and not isinstance(value, str):
            raise Refusal(f"options: {name}: {value!r} is not a valid id")
    _check_conflicts(vm, ident, arguments, draft)
    if arguments.get("drive"):
        shared = arguments.get("share-rw", False)
        blockdev_steps.check_free(vm, arguments["drive"], ident, draft, writes=_writes(arguments), shared=shared)
    if arguments.get("netdev"):
        netdev.check_free(vm, arguments["netdev"], ident, draft)
    if arguments.get("chardev"):
        chardev.check_free(vm, arguments["chardev"], ident, draft)
    for name, value in arguments.items():
        if not _is_link(known, name) or value.startswith("/"):
            continue
        if ("object", value) not in draft.adding and value not in vm.children("/objects"):
            raise Refusal(f"options: {name}: there is no object {value!r}")


def _check_conflicts(vm: VM, ident: str, arguments: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal for a backend that another device of the same plan has, and can't share."""
    wanted_ones = {name: arguments[name] for name in _BACKENDS if arguments.get(name)}
    for name, wanted in wanted_ones.items():
        for kind, rival in draft.naming.get(wanted, ()):
            other = draft.adding[kind, rival]
            options = other.get("options", {})
            if kind != "device" or rival == ident or options.get(name) != wanted:
                continue
            theirs = {option.replace("_", "-"): value for option, value in options.items()}
            theirs["driver"] = other.get("driver", "")
            if not _shared(vm, name, wanted, (arguments, theirs), draft):
                more = ": both need share-rw to share it" if name == "drive" else ""
                raise Refusal(f"{name}: {wanted} is wanted by device {rival} too{more}")


def _shared(vm: VM, name: str, backend: str, devices: Tuple[Dict[str, Any], Dict[str, Any]], draft: Draft) -> bool:
    """Tell whether two devices may have one backend: a multiplexer, a node that is only read, or one that both share."""
    if name == "chardev":
        return draft.adding.get((name, backend), {}).get("type", chardev.chardevs(vm).get(backend)) in ("mux", "hub")
    if name != "drive":
        return False
    node = draft.adding.get(("blockdev", backend), nodes(vm).get(backend, {}))
    reads = (node.get("read_only"), node.get("ro"), node.get("options", {}).get("read-only"))
    return any(reads) or all(_lets(*pair) for pair in (devices, devices[::-1]))


def _lets(one: Dict[str, Any], other: Dict[str, Any]) -> bool:
    """Tell whether a device lets another one do what that does with their drive."""
    return coercion.same(True, one.get("share-rw")) or not _writes(other)


def _writes(device: Dict[str, Any]) -> bool:
    return not device["driver"].endswith("-cd")


def _is_link(known: Properties, name: str) -> bool:
    return bool(known.get(name, {}).get("type", "").startswith("link<"))
