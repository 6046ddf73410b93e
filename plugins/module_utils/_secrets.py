# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Taking secrets out of results: whoever wrote the text, be it QEMU in an error."""

from __future__ import annotations

from typing import Any, Sequence

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import REDACTED


def hide(value: Any, secrets: Sequence[str]) -> Any:
    """``value``, a JSON structure, without the secrets: alone, or within a text, or as a number."""
    if isinstance(value, dict):
        return {key: hide(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide(item, secrets) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return REDACTED if str(value) in secrets else value
    if isinstance(value, str) and value != REDACTED:
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, REDACTED)
    return value
