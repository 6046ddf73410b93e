# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module in this process: what Ansible does to its options, then its `run`, without a process of its own."""

from __future__ import annotations

import importlib
from typing import Any

from support.vm import VM


class ModuleFailed(Exception):
    """The module failed; `result` is what Ansible would have shown."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(str(result.get("msg", result)))
        self.result = result


def run_module(
    target: VM | str | None, module_name: str, /, check: bool = False, diff: bool = False, **options: Any
) -> dict[str, Any]:
    """`run_module(vm, "qemu_disk", id="d0", filename=...)` gives the result; a failure raises ModuleFailed.

    `target`: a VM, the address of a monitor, or None for a module that has no `socket` option or shall lack it.
    """
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    module = importlib.import_module(f"ansible_collections.vmm.qemu.plugins.modules.{module_name}")
    task_module = module.MODULE
    if target is not None:
        options.setdefault("socket", target.qmp if isinstance(target, VM) else target)
    validated = ArgumentSpecValidator(task_module.argument_spec, **getattr(task_module, "constraints", {})).validate(
        options
    )
    if validated.error_messages:
        what = "Unsupported parameters for" if validated.unsupported_parameters else "Parameters of"
        raise ModuleFailed(
            {"failed": True, "msg": f"{what} ({module_name}) module: {'; '.join(validated.error_messages)}"}
        )
    result: dict[str, Any] = task_module.run(validated.validated_parameters, check_mode=check, diff_mode=diff)
    if result.get("failed"):
        raise ModuleFailed(result)
    return result
