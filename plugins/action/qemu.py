# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on the controller: in the task's own worker process where that is the managed host too.

``meta/runtime.yml`` sends every module here. A task that runs on the controller itself, as the same user, needs no payload
and no other Python: the module's ``run()`` is called right here, and what it tells of long work is shown as it goes on.
Everything else (another host, become, async, another interpreter) goes the ordinary way, with the same result.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import contextmanager
from typing import Any, Iterator, cast

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vmm.qemu.plugins.module_utils._core.failure import internal_error
from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.plugin_utils._progress_lines import Lines

_MODULES = "ansible_collections.vmm.qemu.plugins.modules."


class ActionModule(ActionBase):
    """Runs a module of this collection."""

    _supports_check_mode = True
    _supports_async = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        if self._here(task_vars):
            return self._run_here(task_vars)
        result: dict[str, Any] = self._execute_module(task_vars=task_vars, wrap_async=self._task.async_val)
        return result

    def _here(self, task_vars: dict[str, Any]) -> bool:
        """Tell whether the module's process would be on this host, as this user, with this Python or one that nobody chose."""
        if self._connection.transport != "local" or self._connection.become or self._task.async_val:
            return False
        delegate = self._task.delegate_to
        where = task_vars.get("ansible_delegated_vars", {}).get(delegate, {}) if delegate else task_vars
        python = where.get("ansible_python_interpreter", "auto")
        if hasattr(python, "__ansible_template__") or "{{" in str(python):
            python = self._templar.template(python)
        return str(python).startswith("auto") or os.path.realpath(str(python)) == os.path.realpath(sys.executable)

    def _run_here(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        name = self._task.action  # as the user wrote it, which is also how the module's process is told
        module: Module = importlib.import_module(_MODULES + name.rpartition(".")[2]).MODULE
        with self._environment():
            params, error, hidden = validate(module, name, self._task.args)
            host = str(task_vars.get("inventory_hostname", "localhost"))
            result = {"failed": True, "msg": error} if error else self._call(module, name, params, host)
        if not result.get("warnings"):
            result.pop("warnings", None)
        result["invocation"] = {"module_args": params}
        # the values that nothing may show are known from the parameters alone, as in the module's own process
        return cast("dict[str, Any]", remove_values(result, hidden)) if hidden else result

    def _call(self, module: Module, name: str, params: dict[str, Any], host: str) -> dict[str, Any]:
        lines = Lines(lambda text: Display().display(f"[{host}] {text}"))
        try:
            with interruptible():
                return module.run(params, self._task.check_mode, self._task.diff, on_progress=lines.on_progress)
        except Exception as exc:
            return internal_error(name, exc)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Yield the task's ``environment``, for as long as it runs: this process has other tasks' to come."""
        wanted: dict[str, Any] = {}
        self._compute_environment_string(wanted)
        before = dict(os.environ)
        os.environ.update({key: str(value) for key, value in wanted.items()})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def validate(module: Module, name: str, given: dict[str, Any]) -> tuple[dict[str, Any], str, set[str]]:
    """Return what the module's process does to its arguments: ``(parameters, what is wrong or "", what nothing may show)``."""
    spec = module.argument_spec
    given = {key: plain(value) for key, value in given.items() if not key.startswith("_ansible_")}
    checked = ArgumentSpecValidator(spec, **module.constraints).validate(given)
    params = checked.validated_parameters
    hidden = {*checked._no_log_values, *module.secrets(params)}
    if not checked.error_messages:
        return params, "", hidden
    message = checked.errors.msg
    if isinstance(checked.errors[0], UnsupportedError):
        message = f"Unsupported parameters for ({name}) module: {message}"
    return params, message, hidden


def plain(value: Any) -> Any:
    """Return a value as a module's process gets it: JSON's own types, without what Ansible knows of its origin."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {_member(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str.__str__(value) if isinstance(value, str) else str(value)


def _member(key: Any) -> str:
    """Return a key as JSON has it: YAML reads an ``on:`` as a truth value, and a ``1:`` as a number."""
    return key if isinstance(key, str) else json.dumps(key)
