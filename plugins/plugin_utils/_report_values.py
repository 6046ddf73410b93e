# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""Values of which nothing is certain: whatever answers at a socket may say what it likes."""

from __future__ import annotations

from typing import Any, Dict, List

_LONGEST = 400
_MOST = 500
"""How many of a kind a page has of one virtual machine."""
_LARGEST = 1 << 53


def text(value: Any) -> str:
    """Return a text with nothing in it that is not to be seen, and no longer than a page bears."""
    if not isinstance(value, str):
        return ""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in value[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "\u2026"


def number(value: Any) -> int | None:
    """Return a number that JavaScript can count with; None for anything else."""
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    return int(value) if fits else None


def mapping(value: Any) -> Dict[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any, most: int | None = _MOST) -> List[Dict[str, Any]]:
    """Return the mappings that are in a list; None: be they ever so many, as they are only counted or compared."""
    return [one for one in value[:most] if isinstance(one, dict)] if isinstance(value, list) else []


def members(value: Any) -> Dict[str, Dict[str, Any]]:
    """Return the mappings that are in a mapping."""
    found = [(key, one) for key, one in mapping(value).items() if isinstance(one, dict)]
    return dict(found[:_MOST])


def texts(value: Any) -> List[str]:
    """Return the texts that are in a list."""
    return [text(one) for one in value[:_MOST] if isinstance(one, str)] if isinstance(value, list) else []
