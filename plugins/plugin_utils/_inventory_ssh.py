# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""How the inventory asks a hypervisor for its monitors: by one SSH, and the code that the host keeps for tasks."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict

from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader
from ansible.template import Templar

from ansible_collections.vmm.qemu.plugins.module_utils._host.child import killed_by
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.plugin_utils import _runner_bundle
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_hosts import Unreachable, are_machines, texts
from ansible_collections.vmm.qemu.plugins.plugin_utils._runner import ask

if TYPE_CHECKING:
    from ansible.parsing.dataloader import DataLoader

Reader = Callable[[Dict[str, Any], Deadline], Dict[str, Any]]
"""Gets from a hypervisor what is asked for, by then. Raises Unreachable."""
_OWN_SHARE = 0.8
"""Of the time that is left: what a hypervisor has for its monitors, so that its answer is here in time."""


def readers(hosts: list[dict[str, Any]], loader: DataLoader) -> list[Reader]:
    """Return the reader of each hypervisor, by its variables. They are made here, since threads can't load plugins."""
    _runner_bundle.name()  # it reads each file, and keeps the answer
    bundle = _once(_runner_bundle.bundle)
    return [_reader(variables, loader, bundle) for variables in hosts]


def _once(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return a function that any thread may call, and that makes its value the first time."""
    lock, made = threading.Lock(), []  # type: tuple[threading.Lock, list[bytes]]

    def get() -> bytes:
        with lock:
            if not made:
                made.append(make())
        return made[0]

    return get


def _reader(variables: dict[str, Any], loader: DataLoader, bundle: Callable[[], bytes]) -> Reader:
    try:
        host = _Host(variables, loader)
        host.command("")
    except (AnsibleError, ValueError) as exc:  # the latter of options with an open quote
        told = Unreachable(str(exc))

        def fail(_request: dict[str, Any], _deadline: Deadline) -> dict[str, Any]:
            raise told

        return fail

    def read(request: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        task = {"monitors": {**request, "timeout": (deadline.remaining() or 0.0) * _OWN_SHARE}}
        answer = ask(partial(host.execute, deadline), host.python, host.remote_tmp, task, bundle)
        if answer.word == "result":
            return _checked(answer.value)
        told = answer.value if answer.word in ("old", "odd") else answer.said
        raise Unreachable(str(told or f"its process ended with status {answer.rc}"))

    return read


def _checked(told: Any) -> dict[str, Any]:
    """Return what a hypervisor has told. Raise Unreachable where that is something else than its monitors."""
    if not isinstance(told, dict) or not texts(told.get("unmatched")) or not are_machines(told.get("machines")):
        raise Unreachable("its answer is not a valid list of monitors")
    return told


class _Host:
    """How commands are run on a hypervisor: by Ansible's own ssh, with nobody there to answer a question."""

    def __init__(self, variables: dict[str, Any], loader: DataLoader) -> None:
        """Raise AnsibleError for variables by which it can't be reached."""
        variables = _templated(variables, loader)
        kind = variables.get("ansible_connection", "ssh")
        if kind not in ("ssh", "ansible.builtin.ssh", "smart"):
            raise AnsibleError(f"its connection is {kind}, and the inventory can only ask by ssh")
        self._connection = connection = connection_loader.get("ansible.builtin.ssh", PlayContext(), "/dev/null")
        connection.set_options(var_options=variables)
        connection.set_option("password", None)  # it would be sshpass's business
        connection.host = connection.get_option("host")
        shell = connection._shell
        shell.set_options(var_options=variables)
        self.remote_tmp: str = shell.get_option("remote_tmp")
        python = str(constants.config.get_config_value("INTERPRETER_PYTHON", variables=variables) or "auto")
        self.python = "python3" if python.startswith("auto") else python
        self._become = None
        if boolean(variables.get("ansible_become", constants.DEFAULT_BECOME), strict=False):
            self._become = become_loader.get(variables.get("ansible_become_method", constants.DEFAULT_BECOME_METHOD))
            self._become.set_options(var_options=variables)
            self._become.set_option("become_pass", None)  # it would be read from what is the task's

    def command(self, command: str) -> list[bytes]:
        """Return the ``ssh`` that runs a command. Raise ValueError for options that are not valid."""
        connection = self._connection
        if self._become:
            command = self._become.build_become_command(command, connection._shell)
        made: list[bytes] = connection._build_command(
            connection.get_option("ssh_executable"), "ssh", "-o", "BatchMode=yes", connection.host, command
        )
        return made

    def execute(self, deadline: Deadline, command: str, data: bytes) -> dict[str, Any]:
        """Run a command with that standard input. Raise Unreachable when the time is up."""
        ssh = self.command(command)
        # a connection that is kept open has standard error open, too, and would have to be waited for
        with tempfile.TemporaryFile() as errors:
            try:
                with subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process:
                    try:
                        with killed_by(deadline, process):
                            output, _none = process.communicate(data, timeout=deadline.remaining())
                    except BaseException:
                        process.kill()
                        raise
            except subprocess.TimeoutExpired:
                raise Unreachable(f"it has not answered within {deadline.seconds:.4g} s") from None
            except OSError as exc:
                raise Unreachable(f"ssh can't be run: {exc}") from None
            errors.seek(0)
            told = errors.read().decode(errors="replace")
        return {"rc": process.returncode, "stdout": output.decode(errors="replace"), "stderr": told}


def _templated(variables: dict[str, Any], loader: DataLoader) -> dict[str, Any]:
    """Return what tells how a host is reached, with its templates replaced. Raise AnsibleError."""
    templar = Templar(loader=loader, variables=variables)
    return {
        name: templar.template(value) if name.startswith("ansible_") else value for name, value in variables.items()
    }
