# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection plugin: into a guest by its agent."""

from __future__ import annotations

DOCUMENTATION = r"""
name: guest_agent
short_description: Run tasks in a guest by its agent, without network or SSH
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Runs commands and copies files in a QEMU guest through the socket of its agent, C(qemu-ga), on the controller or on a
    hypervisor.
  - The guest needs the agent, a shell, and for modules Python. It needs no network, and no account but the agent's, which is
    root.
extends_documentation_fragment:
  - connection_pipelining
options:
  socket:
    description:
      - The socket of the guest's agent. The role P(vmm.qemu.vm#role) makes it as C(run/agent) in the virtual machine's directory.
      - C(/path), C(unix:/path), C(unix:@name) (abstract), C(HOST:PORT), C(tcp:HOST:PORT) or C(tcp:[v6]:PORT). With
        O(hypervisor) an absolute path.
    type: str
    required: true
    vars:
      - name: ansible_guest_agent_socket
  connect_timeout:
    description:
      - Seconds until the agent answers. One that is still to be started is waited for, and so is another client's end.
      - Until it answers nothing is asked of it but whether it is there, so that M(ansible.builtin.wait_for_connection)
        does no harm.
    type: float
    default: 10.0
    vars:
      - name: ansible_guest_agent_connect_timeout
  answer_timeout:
    description:
      - Seconds that the agent may take to answer while a command runs or a file is copied. That is how long the guest may be
        paused.
      - A command may take any time. Limit it by the task's C(timeout), or let it be C(async).
    type: float
    default: 60.0
    vars:
      - name: ansible_guest_agent_answer_timeout
  hypervisor:
    description:
      - Where the socket is, as C(ssh) takes it. For example V(root@hv1.example.org). There must be Python. Nothing is left
        there.
      - If not set, the socket is on the controller.
    type: str
    vars:
      - name: ansible_guest_agent_hypervisor
  hypervisor_python:
    description: Python there. V(sudo -n python3) where the user who logs in may not open the socket.
    type: str
    default: python3
    vars:
      - name: ansible_guest_agent_hypervisor_python
  ssh_args:
    description: Words for C(ssh). By default a connection to the hypervisor is kept for a minute, and shared.
    type: str
    default: -o ControlMaster=auto -o ControlPersist=60s -o ControlPath=~/.ssh/vmm-qemu-%C
    vars:
      - name: ansible_guest_agent_ssh_args
notes:
  - A command whose end is not known (the guest was paused for too long, the virtual machine ended) fails the task, and is
    never run again.
  - What a command prints past 16 MiB the agent drops. The task fails then.
  - Commands run as the agent's user, whatever C(ansible_user) says. C(become) works to another user, without a password,
    as root needs none. There is no terminal, and no password prompt can be answered.
  - A file that is new in the guest gets the mode 0600.
  - What a command has started, and keeps its output open, keeps the task waiting.
  - Guests with SELinux confine the agent, and all that it runs. Some distributions block its commands. The message says
    which, and where the guest allows them.
  - Windows guests are not supported.
seealso:
  - module: vmm.qemu.qemu_guest_exec
  - ref: ansible_collections.vmm.qemu.docsite.guests
    description: Guests from within.
"""

EXAMPLES = r"""
# an inventory
guests:
  hosts:
    vm1:
      ansible_connection: vmm.qemu.guest_agent
      ansible_guest_agent_socket: /var/lib/vmm-qemu/vm1/run/agent
    vm2:
      ansible_connection: vmm.qemu.guest_agent
      ansible_guest_agent_socket: /var/lib/vmm-qemu/vm2/run/agent
      ansible_guest_agent_hypervisor: root@hv1.example.org
"""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING, Any, cast

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors, guest
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.agent import Agent, NoAnswer
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

# Between the guest's agent and this process, on the hypervisor. The agent answers one request after the other.
_RELAY = """
import os, select, socket, sys
agent = socket.socket(socket.AF_UNIX)
try:
    agent.connect(sys.argv[1])
except OSError as exc:
    raise SystemExit("%s: %s" % (sys.argv[1], exc.strerror))
while True:
    ready = select.select([0, agent], [], [])[0]
    for end in ready:
        data = agent.recv(1 << 18) if end is agent else os.read(0, 1 << 18)
        if not data:
            raise SystemExit(0)
        if end is agent:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            agent.sendall(data)
"""
_FOREVER = Deadline()


class Connection(ConnectionBase):
    """A guest's agent as a way to run commands and copy files."""

    transport = "vmm.qemu.guest_agent"
    has_pipelining = True
    has_tty = False
    default_user = "root"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._agent: Agent | None = None
        self._ssh: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes]
        self._environment: dict[str, str] | None = None

    def _connect(self) -> Connection:
        """Return when the agent answers."""
        if self._agent is None:
            self._play_context.remote_user = self.default_user
            Display().vvv("CONNECT TO GUEST AGENT", host=self._where)
            try:
                self._agent = self._opened()
            except errors.QMPError as exc:
                told = self._end_ssh()
                raise AnsibleConnectionFailure(f"{self._where}: {exc}{told and f'; ssh said: {told}'}") from None
            self._connected = True
        return self

    @property
    def _where(self) -> str:
        hypervisor = self.get_option("hypervisor")
        return f"{hypervisor}:{self.get_option('socket')}" if hypervisor else str(self.get_option("socket"))

    def _opened(self) -> Agent:
        where, hypervisor = self.get_option("socket"), self.get_option("hypervisor")
        deadline, patience = Deadline(self.get_option("connect_timeout")), self.get_option("answer_timeout")
        if not hypervisor:
            return Agent(where, deadline, patience=patience)
        path = where.removeprefix("unix:")
        if not path.startswith("/"):
            raise AnsibleError(
                f"ansible_guest_agent_socket: {where!r} is not an absolute path, as it must be on a hypervisor"
            )
        relay = f"{self.get_option('hypervisor_python')} -c {shlex.quote(_RELAY)} {shlex.quote(path)}"
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, round(deadline.seconds or 1))}"]
        command = ["ssh", "-T", *options, *shlex.split(self.get_option("ssh_args")), "--", hypervisor, relay]
        ours, theirs = socket.socketpair()
        # not a pipe, which the connection that is kept for others would keep open
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the connection
        with theirs:
            end = theirs.fileno()
            self._ssh = subprocess.Popen(command, stdin=end, stdout=end, stderr=self._complaints)
        return Agent(ours, deadline, name=self._where, patience=patience)

    def _end_ssh(self) -> str:
        """End the way to the hypervisor, and return what it has complained of."""
        ssh, self._ssh = self._ssh, None
        if ssh is None:
            return ""
        try:
            ssh.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            ssh.kill()
            ssh.wait()
        with self._complaints as told:
            told.seek(0)
            return told.read().decode(errors="replace").strip()

    @contextlib.contextmanager
    def _asked(self, about: str) -> Iterator[Agent]:
        """Yield the agent, and turn what it raises into Ansible's errors."""
        self._connect()
        agent = cast(Agent, self._agent)
        try:
            yield agent
        except NoAnswer as exc:
            raise AnsibleConnectionFailure(f"{self._where}: {exc}") from None
        except errors.CommandError as exc:
            raise AnsibleError(f"{about}: {agent.explain(exc, Deadline(5.0))}") from None
        except (errors.QMPError, OSError) as exc:
            raise AnsibleError(f"{about}: {exc}") from None

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Return the exit status and what was printed."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        Display().vvv(f"EXEC {cmd}", host=self._where)
        with self._asked("a command in the guest") as agent:
            if self._environment is None:
                self._environment = guest.environment(agent, _FOREVER)
            argv, stdin = guest.shell(cmd, in_data)
            ended = guest.run(agent, argv, _FOREVER, stdin, self._environment)
        if ended.cut:
            raise AnsibleError(
                f"a command in the guest has ended with status {ended.rc}, and part of what it printed is lost: the agent keeps "
                f"{guest.KEPT >> 20} MiB"
            )
        return (128 + ended.signal if ended.signal else ended.rc), ended.out, ended.err

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the guest."""
        super().put_file(in_path, out_path)
        Display().vvv(f"PUT {in_path} TO {out_path}", host=self._where)
        if not os.path.exists(in_path):
            raise AnsibleFileNotFound(f"there is no {in_path} to be copied")
        with self._asked(f"put {out_path}") as agent, open(in_path, "rb") as source:
            guest.put(agent, source, out_path, _FOREVER)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the guest. One that is here already stays where that fails."""
        super().fetch_file(in_path, out_path)
        Display().vvv(f"FETCH {in_path} TO {out_path}", host=self._where)
        beside = os.path.dirname(out_path) or "."
        with self._asked(f"fetch {in_path}") as agent, tempfile.TemporaryFile(dir=beside) as whole:
            guest.fetch(agent, in_path, whole, _FOREVER)
            whole.seek(0)
            with open(out_path, "wb") as target:
                shutil.copyfileobj(whole, target)

    def reset(self) -> None:
        """Begin anew with the next command: nothing is left of what was asked before."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._agent is not None:
            self._agent.close()
        self._end_ssh()
        self._agent = self._environment = None
        self._connected = False
