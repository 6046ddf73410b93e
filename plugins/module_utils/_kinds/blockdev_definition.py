# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What block nodes are made of: as QEMU tells it of each, and as ``blockdev-add`` takes it, which is not the same.

Which nodes one stands on is in the block graph. Of itself each tells a ``json:`` text, the plain name of the file below it, or a
URL: what is in there of the nodes below is left to them.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, List

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Want
from .blockdev_graph import children
from .blockdev_nodes import file_of, is_cut, layers, nodes
from .kind import State, flatten, nest
from .references import NODES

if TYPE_CHECKING:
    from .._core.vm import VM

PROTOCOLS = frozenset(["file", "host_device", "host_cdrom"])
"""The drivers that take ``filename`` themselves; every other one has it in its ``file`` layer."""
_LISTS = ("children",)  # a quorum's, of nodes
_OF_THE_IMAGE = ("backing", "data-file")  # opened because the image names it, unless the node was made with another one
_NBD = re.compile(r"nbd://\[?(?P<host>[^/]*?)\]?:(?P<port>[^:/]*)(?:/(?P<export>.*))?\Z", re.DOTALL)
_NBD_UNIX = re.compile(r"nbd\+unix://(?:/(?P<export>.*))?\?socket=(?P<path>.*)\Z", re.DOTALL)
_SSH = re.compile(r"ssh://(?:(?P<user>[^@/]*)@)?(?P<host>[^/]*):(?P<port>\d+)(?P<path>/.*)\Z", re.DOTALL)


class Untold(Refusal):
    """QEMU does not tell enough of a node for it to be made again."""


def told(vm: VM, name: str, want: Want) -> State:
    """Return what QEMU tells of a node and, where ``want`` goes that deep, of those below it: flat, as ``blockdev-add`` has it.

    ``want``: the node's own options, those of the nodes below nested in them. What is not in here is not told.
    """
    node, below = nodes(vm)[name], children(vm, name)
    own = options(vm, name)
    flat: State = {"driver": node["drv"], "node-name": name, "detect-zeroes": node["detect_zeroes"]}
    flat.update({f"cache.{mode}": node["cache"][mode] for mode in ("direct", "no-flush")})
    flat.update(flatten(own or {}))
    if own is not None and not below:
        flat.setdefault("filename", coercion.without_password(node["file"]))  # what it is instead
    for role, wanted in want.items():
        if role in _LISTS:
            flat[role] = _listed(vm, below, role, wanted)
        elif role in NODES and isinstance(wanted, dict):
            # a node that is not there is another than the wanted one
            deeper = told(vm, below[role], wanted) if role in below else dict.fromkeys(flatten(wanted))
            flat.update({f"{role}.{key}": value for key, value in deeper.items()})
        elif role in NODES and (role in below or role in _OF_THE_IMAGE):
            flat[role] = below.get(role)
    return flat


def _listed(vm: VM, below: Dict[str, str], role: str, wanted: Any) -> List[Any]:
    """Return a list of nodes as ``wanted`` has it: by their names, or those that it describes by what is told of them."""
    found = [below[key] for key in _members(role, below)]
    if not isinstance(wanted, list) or len(wanted) != len(found):
        return found
    have: List[Any] = []
    for name, item in zip(found, wanted):
        flat = told(vm, name, item) if isinstance(item, dict) else {}
        have.append(
            nest({**flatten(item), **{key: flat[key] for key in flatten(item) if key in flat}}) if flat else name
        )
    return have


def _members(role: str, below: Dict[str, str]) -> List[str]:
    """Return the roles of a list of nodes, in their order: ``children.0``, ``children.1``."""
    found = [key for key in below if key.startswith(f"{role}.")]
    return sorted(found, key=lambda key: int(key.rpartition(".")[2]))


def options(vm: VM, name: str) -> Dict[str, Any] | None:
    """Return the options of a node's own driver that matter for its content; None where QEMU does not tell them."""
    node = nodes(vm)[name]
    text, driver = node.get("file", ""), node["drv"]
    encryption = node["image"].get("format-specific", {}).get("data", {}).get("encrypt", {})
    own: Dict[str, Any] | None
    if is_cut(text):  # all that matters of a qcow2 image is its key, and what it stands on
        return {} if driver == "qcow2" and not encryption else None
    if text.startswith("json:"):
        own = {key: value for key, value in layers(text).items() if not _is_below(key, value) and key != "driver"}
    else:
        own = {} if children(vm, name) else address(driver, text)
    if own is not None and isinstance(own.get("encrypt"), dict):
        kind = encryption.get("format") or ("aes" if driver == "qcow" else None)
        own["encrypt"] = {**({"format": kind} if kind else {}), **own["encrypt"]}
    return own


def _is_below(key: str, value: Any) -> bool:
    return key in _LISTS or (key in NODES and isinstance(value, dict))


def address(driver: str, text: str) -> Dict[str, Any] | None:
    """Return the options of a driver that stands on no other, from the name or URL that QEMU shows; None where it does not tell.

    What a URL has no place for is not in there: QEMU shows ``json:`` for that, save for the credentials of NBD over TLS.
    """
    if driver in PROTOCOLS:
        return {"filename": text}
    if driver in ("null-co", "null-aio"):
        return {} if text == f"{driver}://" else None
    if driver in ("http", "https", "ftp", "ftps"):
        return {"url": text} if text.startswith(f"{driver}://") else None
    found = {"nbd": _NBD.match(text) or _NBD_UNIX.match(text), "ssh": _SSH.match(text)}.get(driver)
    if not found:
        return None
    part = {key: value for key, value in found.groupdict().items() if value is not None}
    server: Dict[str, Any] = {key: part.pop(key) for key in ("host", "port") if key in part}
    if driver == "ssh":
        return {**part, "server": server}
    place: Dict[str, Any] = {"type": "inet", **server} if server else {"type": "unix", "path": part["path"]}
    return {"server": place, "export": part.get("export", "")}


def definition(vm: VM, name: str) -> Dict[str, Any]:
    """Return a node as ``blockdev-add`` takes it, without its name: its driver, its options, and the nodes below it.

    Those that have names by these, in full the nameless ones, unless the image names them, and one that comes and goes with it.
    Raise Untold.
    """
    text, made = nodes(vm)[name].get("file", ""), _own(vm, name)
    for role, below in references(vm, name).items():
        if isinstance(below, list):
            made[role] = [_whole(vm, child) for child in below]
        elif not below.startswith("#") or role not in _OF_THE_IMAGE or role in layers(text) or is_cut(text):
            made[role] = _whole(vm, below)
            if below == file_of(name):
                made[role] = {"node-name": below, **definition(vm, below)}
    return made


def references(vm: VM, name: str) -> Dict[str, Any]:
    """Return the nodes that a node stands on as its options name them: by role, a quorum's as a list."""
    below = children(vm, name)
    found: Dict[str, Any] = {role: child for role, child in below.items() if role.partition(".")[0] not in _LISTS}
    lists = {role: [below[key] for key in _members(role, below)] for role in _LISTS}
    return {**found, **{role: members for role, members in lists.items() if members}}


def _own(vm: VM, name: str) -> Dict[str, Any]:
    own, driver = options(vm, name), nodes(vm)[name]["drv"]
    if own is None:
        raise Untold(
            f"QEMU does not tell how block node {name} ({driver}) was made, so it can't be made again as it is"
        )
    return {"driver": driver, **own}


def _whole(vm: VM, name: str) -> Any:
    return definition(vm, name) if name.startswith("#") else name


def as_it_is(vm: VM, name: str, whole: bool = True) -> Want:
    """Return a node as an entry that makes it again, as far as QEMU tells: options that matter for the content, no others.

    ``whole``: with the nodes below. Raise Untold.
    """
    node, parts = nodes(vm)[name], definition(vm, name) if whole else _own(vm, name)
    made: Want = {
        "node_name": name,
        "driver": parts.pop("driver"),
        "read_only": node["ro"],
        "cache": {"direct": node["cache"]["direct"], "no_flush": node["cache"]["no-flush"]},
        "detect_zeroes": node["detect_zeroes"],
    }
    file = parts.get("file")
    if made["driver"] in PROTOCOLS:
        made["filename"] = parts.pop("filename")
    elif isinstance(file, dict):
        del parts["file"]
        if file["driver"] in PROTOCOLS and set(file) == {"driver", "filename"}:
            made["filename"] = file["filename"]
        else:
            made["file"] = file
    return {**made, "options": parts}
