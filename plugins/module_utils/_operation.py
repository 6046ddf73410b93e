# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The modules of one operation."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any

from ._engine.operation import Operation, run_operation
from ._module import Module


def operation(what: Operation, **constraints: Any) -> Module:
    """Return the module of an operation. ``constraints`` are AnsibleModule's: ``required_if`` and so on."""
    return Module(what.options, lambda task: run_operation(what, task), **constraints)
