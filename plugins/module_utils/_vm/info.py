# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What can be told of a VM, and beside that how it differs from its record."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

from .._operations import info

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM


def run(task: Task) -> Dict[str, Any]:
    """Return the result of ``qemu_info``. Raise Refusal for an unknown subset."""

    def document(vm: VM) -> Dict[str, Any]:
        # much to import, and seldom asked for
        from .drift import look

        return look(task, vm)

    return info.run(task, {"document": document})
