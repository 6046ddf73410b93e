# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""Text that is never a template, whatever is in it: a virtual machine can be named ``{{ lookup('pipe', 'id') }}``."""

from __future__ import annotations

from typing import Any

from ansible import template
from ansible.utils.unsafe_proxy import wrap_var


def unsafe(value: Any) -> Any:
    """Return a value that is not taken for a template. From 2.19 on nothing is that was not said to be one."""
    return value if hasattr(template, "trust_as_template") else wrap_var(value)
