# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What a virtual machine tells, made fit for a rule.

A rule hands an event on to playbooks as extra variables, and in those everything is a template that looks like one.
"""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 4096
"""Characters of a text."""
_DEEPEST = 8
"""Levels of an event's data: QEMU's have three."""
_NUMBERS = range(-(1 << 63), 1 << 64)
_MARKS = re.compile(r"\{(?=[{%#]|\Z)|#(?=jinja2:)|\$(?=ANSIBLE_VAULT)", re.IGNORECASE)
"""Where a template begins, one whose marks are others, or a vault. A text may be put before another: so the end counts, too."""


def harmless(value: Any, levels: int = _DEEPEST) -> Any:
    """Return a value of JSON that is no template, of limited depth, and that can be written as JSON for any reader.

    ``{{`` becomes ``{ {``. What can't be shown in a terminal becomes U+FFFD, and a number of more than 64 bits None.
    """
    if isinstance(value, str):
        text = value[:_LONGEST]
        if not text.isprintable():
            text = "".join(character if character.isprintable() else "\ufffd" for character in text)
        return _MARKS.sub(r"\g<0> ", text)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # not a number is not less, either
    if isinstance(value, int):
        return value if value in _NUMBERS else None
    if not levels:
        return None
    if isinstance(value, dict):
        return {harmless(key): harmless(item, levels - 1) for key, item in value.items()}
    return [harmless(item, levels - 1) for item in value] if isinstance(value, list) else None
