# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""A task on another host by the code that is kept there: one command, with JSON on its stdin.

The first task of a host puts the code there, byte-compiled: see ``module_utils/_runner_stub.py``. It leaves a process there for
a minute, which runs further tasks without importing anything again: see ``module_utils/_runner_process.py``.

A task that was begun, or may have been, is not run again by this. What the connection itself does again, as ssh does with
``ansible_ssh_retries``, is run again here as with every module.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.executor.interpreter_discovery import discover_interpreter
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display

from ansible_collections.vmm.qemu.plugins.plugin_utils import _runner_bundle

if TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

_IDLE = 60
_DAY = 86400
_DISCOVERED = "discovered_interpreter_python"
_NEVER_BEGUN = range(1, 128)
"""Exit statuses of a shell, of sudo, or of a Python that can't start: not the runner's, which ends with 0 or above."""

_BEGUN = ("begun", "result")
_ANSIBLES = ("ansible_facts", "add_host", "add_group")
"""What no module of the collection returns, and Ansible would act on."""


class Answer(NamedTuple):
    """What a host said: its last word (absent, old, odd, begun, result; "" for none of them), and what goes with it."""

    word: str
    value: Any
    rc: int
    said: str


def ask(
    execute: Callable[[str, bytes], dict[str, Any]],
    python: str,
    remote_tmp: str,
    task: dict[str, Any],
    bundle: Callable[[], bytes] = _runner_bundle.bundle,
    idle: int = 0,
) -> Answer:
    """Return what a host says to a task. Where it lacks the code, it is asked again with that.

    ``execute(command, stdin)`` runs a command there, and returns its ``rc``, ``stdout`` and ``stderr``. ``idle``: the seconds for
    which a process waits there for further tasks.
    """
    answer = _ask_once(execute, python, remote_tmp, task, b"", idle)
    return _ask_once(execute, python, remote_tmp, task, bundle(), idle) if answer.word == "absent" else answer


def _ask_once(
    execute: Callable[[str, bytes], dict[str, Any]],
    python: str,
    remote_tmp: str,
    task: dict[str, Any],
    bundle: bytes,
    idle: int,
) -> Answer:
    mark = f"vmm.qemu-{secrets.token_hex(8)}"
    # a bundle never gets the name of an older one, be it that this run has updated the collection
    pack = _runner_bundle.name(anew=bool(bundle))
    module = task.get("module", "").rpartition(".")[2]
    stub, code = _runner_bundle.STUB, _runner_bundle.PACK
    head = f"{mark} {pack} {idle} {module} {len(code)} {remote_tmp}\n".encode()
    command = f"import sys;exec(sys.stdin.buffer.read({len(stub)}))"
    sent = stub + head + code + json.dumps(task).encode() + b"\n" + bundle
    done = execute(f"{python} -I -S -c {shlex.quote(command)}", sent)
    word, value = "", None
    for line in done["stdout"].splitlines():
        if line.startswith(f"{mark} "):
            try:
                said, told = line.split(" ", 2)[1], json.loads(line.split(" ", 2)[2])
            except (IndexError, ValueError, RecursionError):
                continue  # cut off, or of a host in other hands
            if word not in _BEGUN or said in _BEGUN:  # what has begun is not run again, whatever is said then
                word, value = said, told
    lines = (done["stderr"] or done["stdout"]).splitlines()
    told = [line for line in lines if not line.startswith(("debug", "OpenSSH_"))]  # what ssh adds at -v
    return Answer(word, value, done["rc"], "\n".join(told).strip())


class Runner:
    """Runs a task on its host."""

    def __init__(self, action: ActionBase, task_vars: dict[str, Any]) -> None:
        """Take the task's action plugin and its variables."""
        self._action = action
        self._connection = action._connection
        self._task_vars = task_vars
        delegate = action._task.delegate_to
        self._host_vars = task_vars.get("ansible_delegated_vars", {}).get(delegate, {}) if delegate else task_vars
        self._host = str(delegate or task_vars.get("inventory_hostname", "localhost"))
        self.facts: dict[str, Any] = {}

    def usable(self) -> bool:
        """Tell whether the connection can send a command its stdin, as the user that the task becomes."""
        connection, become = self._connection, self._connection.become
        wanted = self._action._templar.template(self._host_vars.get("vmm_qemu_runner", True))
        return (
            boolean(wanted, strict=False)
            and not self._action._task.async_val
            and not constants.DEFAULT_KEEP_REMOTE_FILES
            and connection.has_pipelining
            and not connection.always_pipeline_modules
            and not getattr(connection, "_remote_is_local", False)
            and connection._shell.SHELL_FAMILY == "sh"
            # before ansible-core 2.19 become plugins don't tell, and su can't
            and (not become or (getattr(become, "pipelining", become.name != "su") and not become.require_tty))
            and not (become and self._gets_a_terminal())
        )

    def _gets_a_terminal(self) -> bool:
        """Tell whether Ansible gives a command a terminal for its stdin: without pipelining, a local one with a password."""
        connection = self._connection
        asks = connection.transport == "local" and not connection.get_option("pipelining")
        return asks and bool(self._action.get_become_option("become_pass"))

    def run(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Return the result of a task as ``module_utils/_runner.py`` takes it, or None where the module has to be run."""
        python = self._python()
        key = (self._host, self._connection.transport, self._action.get_become_option("become_user"), python)
        refused = Path(constants.DEFAULT_LOCAL_TMP, f"vmm.qemu-{hashlib.sha256(repr(key).encode()).hexdigest()}")
        if refused.exists():  # in this run of Ansible
            return None
        action = self._action
        remote_tmp = action.get_shell_option("remote_tmp", default="~/.ansible/tmp")

        def execute(command: str, data: bytes) -> dict[str, Any]:
            return dict(action._low_level_execute_command(command, in_data=data))

        answer = ask(execute, python, remote_tmp, task, idle=self._idle())
        if answer.word == "result" and isinstance(answer.value, dict):
            return self._result(answer.value)
        if answer.word == "old":
            return self._result({"failed": True, "msg": str(answer.value)})
        if answer.word in ("absent", "odd") or (not answer.word and answer.rc in _NEVER_BEGUN):
            reason = answer.value or answer.said or f"status {answer.rc}"
            Display().v(f"{self._host}: this and further tasks run as ordinary modules: {reason}")
            refused.touch()
            return None
        return self._result(
            {
                "failed": True,
                "msg": f"the answer of {task['module']} was lost: its process ended with status {answer.rc}. "
                "It may have done some or all of its work, and was not run again",
                "rc": answer.rc,
                "module_stderr": answer.said,
            }
        )

    def _idle(self) -> int:
        value = self._action._templar.template(self._host_vars.get("vmm_qemu_runner_idle", _IDLE))
        try:
            seconds = int(value)
        except (TypeError, ValueError):
            seconds = -1
        if not 0 <= seconds <= _DAY:
            raise AnsibleActionFail(f"vmm_qemu_runner_idle: {value!r} is not a number of seconds between 0 and {_DAY}")
        return seconds

    def _python(self) -> str:
        """Return the host's interpreter by Ansible's rules, which it looks for at most once."""
        action = self._action
        wanted = constants.config.get_config_value("INTERPRETER_PYTHON", variables=self._host_vars)
        python = str(action._templar.template(wanted) or "auto")
        if not python.startswith("auto"):
            return python
        facts = self._host_vars.setdefault("ansible_facts", {})
        if _DISCOVERED not in facts:
            facts[_DISCOVERED] = discover_interpreter(action, "python", python, self._host_vars)
            if not action._task.delegate_to or action._task.delegate_facts:
                self.facts = {_DISCOVERED: facts[_DISCOVERED]}
                # what tells it where the module has to be run after all
                action._discovered_interpreter_key, action._discovered_interpreter = _DISCOVERED, facts[_DISCOVERED]
        return str(facts[_DISCOVERED])

    def _result(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return what a host says, without what only Ansible itself may say."""
        result = {
            key: value for key, value in result.items() if key not in _ANSIBLES and not key.startswith("_ansible_")
        }
        # before ansible-core 2.19 what runs a module has to add these
        warnings = [*result.get("warnings", []), *getattr(self._action, "_discovery_warnings", [])]
        result = {**result, "warnings": warnings} if warnings else result
        return {**result, "ansible_facts": self.facts} if self.facts else result
