# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A task on the managed host without a module's process: its parameters are validated already, and the code is there.

``_runner_stub.py`` runs it; the controller's side is ``plugin_utils/_runner.py``.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict

from ._core.failure import internal_error
from ._core.interrupt import interruptible
from ._core.secrets import mask

if TYPE_CHECKING:
    from ._core.option import Option
    from ._core.progress import Progress
    from ._module import Module

MODULES = "ansible_collections.vmm.qemu.plugins.modules."
SOCKET = "QEMU_QMP_SOCKET"


def imported(module: str) -> None:
    """Import what the tasks of a module need. Raise ImportError."""
    if module:
        import_module(MODULES + module)


def prepare(task: Dict[str, Any]) -> Callable[[], Dict[str, Any]]:
    """Return the task as a function that gives its result, with all imported that it needs. Nothing is begun."""
    if "monitors" in task:
        from ._monitors import read_all

        return partial(read_all, task["monitors"])
    os.environ.update(task["environment"])
    _leave_unreadable_directory()
    module: Module = import_module(MODULES + task["module"].rpartition(".")[2]).MODULE
    params = expand(task["params"], module.options)
    if params.get("socket") is None and "socket" in params and not module.agent:
        params["socket"] = os.environ.get(SOCKET)

    def run() -> Dict[str, Any]:
        _log(task["module"], task["log"])
        ready = {**params, **task["ready"]}
        result = call(module, task["module"], ready, task["check_mode"], task["diff_mode"])
        return finish(module, result, params, task["hidden"], task["invocation"])

    return run


def call(
    module: Module,
    name: str,
    params: Dict[str, Any],
    check_mode: bool,
    diff_mode: bool,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Dict[str, Any]:
    """Return what the module's ``run()`` does, and that of a fault of its own as a result, too."""
    try:
        with interruptible():
            return module.run(params, check_mode, diff_mode, on_progress=on_progress)
    except Exception as exc:
        return internal_error(name, exc)


def finish(
    module: Module, result: Dict[str, Any], params: Dict[str, Any], hidden: Collection[str], invocation: bool
) -> Dict[str, Any]:
    """Return the result as the module's process gives it: without what nothing may show.

    ``invocation``: whether with the parameters, too.
    """
    if not result.get("warnings"):
        result.pop("warnings", None)
    if invocation:
        result["invocation"] = {"module_args": module.shown(params)}
    return dict(mask(result, list(hidden))) if hidden else result


def expand(params: Dict[str, Any], options: Dict[str, Option]) -> Dict[str, Any]:
    """Return the parameters with ``~`` and variables in paths replaced, as they are on this host."""
    known = {name: options[name] for name in params if name in options}  # the rest are aliases, which are there twice
    return {**params, **{name: _expand(params[name], option.kind, option.fields) for name, option in known.items()}}


def _expand(value: Any, kind: str, fields: Dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_expand(item, fields.get("elements", ""), fields) for item in value]
    if isinstance(value, dict) and "options" in fields:
        return expand(value, fields["options"])
    return os.path.expanduser(os.path.expandvars(value)) if kind == "path" and value is not None else value


def _leave_unreadable_directory() -> None:
    """Go where this user can read, if that is not so here, as a module's process does."""
    for place in (".", os.path.expanduser("~"), "/"):
        if os.access(place, os.R_OK | os.X_OK):
            os.chdir(place)
            return


def _log(name: str, text: str) -> None:
    """Tell the host's log what is run, as each module does."""
    if text:
        import syslog

        syslog.openlog(f"ansible-{name}")
        syslog.syslog(syslog.LOG_INFO, text.encode(errors="backslashreplace").decode())
