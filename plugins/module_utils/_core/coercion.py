# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Values as YAML has them against values as QEMU's properties have them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import Any, Callable

from .._qmp.values import human_size, parse_bool, parse_int

# A URL may bring a password along: https://user:password@host/image
_URL_PASSWORD = re.compile(r"(\w://[^/@:\s\"]*):[^/@\s\"]*@")


def without_password(text: str) -> str:
    """Text as it may be shown: the passwords in its URLs are hidden."""
    return _URL_PASSWORD.sub(r"\1:********@", text)


def with_underscores(value: Any, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return QEMU's JSON with underscores for the hyphens in its keys. ``leaf`` is called with what is not a dict or a list."""
    if isinstance(value, dict):
        return {key.replace("-", "_"): with_underscores(item, leaf) for key, item in value.items()}
    return [with_underscores(item, leaf) for item in value] if isinstance(value, list) else leaf(value)


def to_int(value: Any) -> int:
    """Return an integer from a number, ``0x5``, or a size such as ``4k``; raises ValueError otherwise."""
    try:
        return parse_int(value)
    except ValueError:
        return human_size(value)


def to_text(value: Any) -> str:
    """Return a string: YAML reads ``on`` and ``off`` as booleans, QEMU's enumerations want the words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def coerce(value: Any, kind: str) -> Any:
    """Return ``value`` as the JSON type of a property of type ``kind`` (as ``device-list-properties`` names types).

    Since 9.2 QEMU takes no other type; older ones parse the same text. Raise ValueError where it can't be.
    """
    if value is None:
        raise ValueError("null is not a value: leave it out")
    if isinstance(value, (list, dict)):
        return value
    if kind == "bool":
        return parse_bool(value)
    if kind.startswith(("int", "uint")) or kind == "size":
        return to_int(value)
    return to_text(value)


def same(have: Any, want: Any) -> bool:
    """Tell whether a property's current value (typed, as ``qom-get`` gives it) is what the user wrote."""
    try:
        if isinstance(have, bool):
            return have == parse_bool(want)
        if isinstance(have, int):
            return have == to_int(want)
    except ValueError:
        return False
    if not isinstance(have, str):
        return bool(have == want)
    text = to_text(want)
    if text == "auto" and have in ("on", "off"):  # resolved when the device was made
        return True
    if have.startswith("/") and not text.startswith("/"):  # a link reads as a path: /objects/io0
        return os.path.basename(have) == text
    return have == text or (_mac(have) is not None and _mac(have) == _mac(text))


def _mac(text: str) -> str | None:
    """Return a MAC address in QEMU's spelling, or None for anything else."""
    plain = text.lower().replace("-", ":")
    parts = plain.split(":")
    return plain if len(parts) == 6 and all(len(part) == 2 for part in parts) else None


def like(value: Any, model: Any) -> Any:
    """Return ``value`` in the JSON type of ``model``, a property's current value. Raise ValueError where it can't be."""
    if isinstance(model, bool):
        return parse_bool(value)
    if isinstance(model, int):
        return to_int(value)
    if isinstance(model, dict) and isinstance(value, dict):
        return {name: like(item, model[name]) if name in model else item for name, item in value.items()}
    return to_text(value) if isinstance(model, str) and not isinstance(value, (list, dict)) else value
