# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on the controller: in the task's own worker process where that is the managed host too.

``meta/runtime.yml`` sends every module here; ansible-test wants the name to be that of one. A task that runs on the controller
itself, as the same user, needs no payload and no other Python: the module's ``run()`` is called right here, and what it tells
of long work is shown as it goes on. On another host, as another user or by another interpreter, the same ``run()`` is called
there, by code that the host keeps (``plugin_utils/_runner.py``). Everything else, async for one, goes the ordinary way, with
the same result.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from contextlib import contextmanager
from datetime import date, time
from functools import lru_cache
from typing import Any, Iterator

from ansible import constants
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.validation import check_type_str
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vmm.qemu.plugins.module_utils._core.secrets import mask
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._runner import MODULES, SOCKET, call, finish
from ansible_collections.vmm.qemu.plugins.module_utils._vm.options import FROM_ROLES, FROM_VARIABLES
from ansible_collections.vmm.qemu.plugins.plugin_utils._image import with_images
from ansible_collections.vmm.qemu.plugins.plugin_utils._progress_lines import Lines
from ansible_collections.vmm.qemu.plugins.plugin_utils._runner import Runner
from ansible_collections.vmm.qemu.plugins.plugin_utils._variables import with_variables

_MODULE_UTILS = "ansible_collections.vmm.qemu.plugins.module_utils."
_FREQUENT = (
    *(MODULES + name for name in ("qemu_blockdev", "qemu_chardev", "qemu_device", "qemu_disk", "qemu_instance")),
    *(MODULES + name for name in ("qemu_machine", "qemu_netdev", "qemu_nic", "qemu_object", "qemu_power", "qemu_vm")),
    # what they import when there is something to change
    *(_MODULE_UTILS + name for name in ("_kinds.device_drive", "_kinds.disk_medium", "_qmp.scan")),
)
for _name in _FREQUENT:  # compiled here once in a run of Ansible, and not by the worker of each task
    importlib.import_module(_name)


class ActionModule(ActionBase):
    """Runs a module of this collection."""

    _supports_check_mode = True
    _supports_async = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        super().run(tmp, task_vars)
        _spare_shared_memory()
        task_vars = task_vars or {}
        if self._task.action.rpartition(".")[2] != "qemu_vm":
            return self._run(task_vars)
        args = self._task.args
        self._task.args = with_variables(args, FROM_VARIABLES, FROM_ROLES, task_vars, self._templar.template)
        try:
            return with_images(self, self._run(task_vars), task_vars, lambda: self._run(task_vars))
        finally:
            self._task.args = args  # `until` runs the same task once more

    def _run(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        if self._here(task_vars):
            return self._run_here(task_vars)
        done = self._run_there(task_vars)
        if done is not None:
            return done
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
        python = str(python)
        if python.startswith("auto") or python == sys.executable:
            return True
        return os.path.realpath(python) == os.path.realpath(sys.executable)

    def _run_here(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        name = self._task.action  # as the user wrote it, which is also how the module's process is told
        module = module_of(name)
        lines = Lines(lambda text: Display().display(f"[{task_vars.get('inventory_hostname', 'localhost')}] {text}"))
        with self._environment():
            params, error, hidden = validate(module, name, self._task.args)
            if error:
                result = {"failed": True, "msg": error}
            else:
                result = call(module, name, params, self._task.check_mode, self._task.diff, lines.on_progress)
        # the values that nothing may show are known from the parameters alone, as in the module's own process
        return finish(module, result, params, hidden, has_invocation(task_vars))

    def _run_there(self, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        """Return the task's result by the code that the host keeps, or None where the module has to be run."""
        runner = Runner(self, task_vars)
        if not runner.usable():
            return None
        environment: dict[str, Any] = {}
        self._compute_environment_string(environment)
        environment = {key: str(value) for key, value in environment.items()}
        name = self._task.action
        module = module_of(name)
        spec = host_spec(module.argument_spec, environment)
        if spec.get("socket", {}).get("required") and not {"socket", SOCKET} & {*self._task.args, *environment}:
            return None  # what the host's own environment tells comes too late for this
        params, error, hidden = validate(module, name, self._task.args, spec)
        if error:
            return finish(module, {"failed": True, "msg": error}, params, hidden, has_invocation(task_vars))
        quiet = self._task.no_log or constants.config.get_config_value("DEFAULT_NO_TARGET_SYSLOG", variables=task_vars)
        told = " ".join(f"{key}={value}" for key, value in mask(module.shown(params), [*hidden]).items())
        return runner.run(
            {
                "module": name,
                "params": params,
                "ready": module.prepare(params),
                "check_mode": self._task.check_mode,
                "diff_mode": self._task.diff,
                "environment": environment,
                "hidden": sorted(hidden),
                "invocation": has_invocation(task_vars),
                "log": "" if quiet else f"Invoked with {told}",
            }
        )

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Yield the task's ``environment``, for as long as it runs: this process has other tasks' to come."""
        wanted: dict[str, Any] = {}
        self._compute_environment_string(wanted)
        if not wanted:
            yield
            return
        before = dict(os.environ)
        os.environ.update({key: str(value) for key, value in wanted.items()})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@lru_cache(maxsize=None)
def _spare_shared_memory() -> None:
    """Leave what this worker has from the process that made it out of garbage collections: they would copy it page by page.

    Once in a worker: what each item of a loop leaves is collected.
    """
    gc.freeze()


def has_invocation(task_vars: dict[str, Any]) -> bool:
    """Tell whether results have the module's parameters: always, until ansible-core 2.21 made that a setting."""
    name = "INJECT_INVOCATION"
    return not hasattr(constants, name) or bool(constants.config.get_config_value(name, variables=task_vars))


def module_of(name: str) -> Module:
    """Return the module of a task's name, which may be the short one."""
    module: Module = importlib.import_module(MODULES + name.rpartition(".")[2]).MODULE
    return module


def host_spec(spec: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Return an argument specification that leaves to the host what only it can do: its paths are expanded there.

    ``environment``: the task's, which a value may come from.
    """
    result = {}
    for name, entry in spec.items():
        changed = dict(entry)
        for key in ("type", "elements"):
            if entry.get(key) == "path":
                changed[key] = path
        if "options" in entry:
            changed["options"] = host_spec(entry["options"], environment)
        if "fallback" in entry:
            changed["fallback"] = (environment.get, entry["fallback"][1])
        result[name] = changed
    return result


def path(value: Any) -> str:
    """Return a path as it was written. Named as the type is, which messages tell."""
    return str(check_type_str(value))


def validate(
    module: Module, name: str, given: dict[str, Any], spec: dict[str, Any] | None = None
) -> tuple[dict[str, Any], str, set[str]]:
    """Return what the module's process does to its arguments: ``(parameters, what is wrong or "", what nothing may show)``.

    ``spec``: another argument specification than the module's own.
    """
    given = {key: plain(value) for key, value in given.items() if not key.startswith("_ansible_")}
    checked = ArgumentSpecValidator(spec or module.argument_spec, **module.constraints).validate(given)
    params = checked.validated_parameters
    hidden = module.hidden(params, checked._no_log_values)
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
    if isinstance(value, (date, time)):  # what YAML reads a timestamp as
        return value.isoformat()
    return str.__str__(value) if isinstance(value, str) else str(value)


def _member(key: Any) -> str:
    """Return a key as JSON has it: YAML reads an ``on:`` as a truth value, and a ``1:`` as a number."""
    return key if isinstance(key, str) else json.dumps(key)
