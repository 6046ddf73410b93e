# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The options by which a thing names what it stands on. QEMU's schema has them as plain strings, so they are listed here."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict, Set, Tuple

_CREDENTIALS = dict.fromkeys(("tls-creds", "tls-authz", "keyid", "passwordid", "authz"), "object")
PROPERTIES = {
    "drive": "blockdev",
    "netdev": "netdev",
    **dict.fromkeys(("chardev", "indev", "outdev", "primary-in", "secondary-in", "notify-dev"), "chardev"),
    **dict.fromkeys(("memdev", "iothread", "rng", "cryptodev", "canbus", "canbus0", "canbus1"), "object"),
    **_CREDENTIALS,
}
"""Of devices, objects, character devices and network backends: name to kind."""
NODES = ("file", "backing", "data-file", "image", "test", "raw", "log", "target", "bottom")
"""Of block nodes: the roles of the nodes below."""
_LAYERS = {
    **dict.fromkeys(NODES, "blockdev"),
    **dict.fromkeys(("throttle-group", "key-secret", "password-secret", *_CREDENTIALS), "object"),
}


def named(options: Dict[str, Any]) -> Set[Tuple[str, str]]:
    """Return what the properties of a thing name, as ``(kind, id)``."""
    kinds = ((PROPERTIES.get(name.replace("_", "-")), value) for name, value in options.items())
    return {(kind, value) for kind, value in kinds if kind and isinstance(value, str) and value}


def layered(options: Dict[str, Any]) -> Set[Tuple[str, str]]:
    """Return what the options of a block node name, those of the layers inside it too."""
    found: Set[Tuple[str, str]] = set()
    for name, value in options.items():
        if isinstance(value, dict):
            found |= layered(value)
        elif isinstance(value, list) and name == "children":  # a quorum's
            found |= {("blockdev", item) for item in value if isinstance(item, str)}
            found |= {thing for item in value if isinstance(item, dict) for thing in layered(item)}
        else:
            kind = _LAYERS.get(name.rpartition(".")[2].replace("_", "-"))
            if kind and isinstance(value, str):
                found.add((kind, value))
    return found
