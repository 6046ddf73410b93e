# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An SSH server of a test's own on this host, and the variables by which Ansible reaches it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from support.collection import COMPILED
from support.timing import until

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {here}/host
AuthorizedKeysFile {here}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxSessions 100
MaxStartups 100
# or bash would read the user's own .bashrc, whatever that does
SetEnv SHLVL=2 PYTHONPATH={python_path}
"""


class Sshd:
    """Runs while it is entered. `variables` are those of its host, whose connection stays open.

    `python_path`: the PYTHONPATH there, by which what Ansible compiles is kept.
    """

    def __init__(self, python_path: Path | str = COMPILED) -> None:
        self._here = Path(tempfile.mkdtemp(prefix="sshd-", dir="/tmp"))
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._here / name)], check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (self._here / "config").write_text(CONFIG.format(here=self._here, port=self.port, python_path=python_path))
        self.variables: dict[str, Any] = {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self._here / "user"),
            "ansible_ssh_args": "-F none -o ControlMaster=auto -o ControlPersist=60s",
            "ansible_ssh_common_args": f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={self._here}/known",
            "ansible_control_path_dir": str(self._here / "cp"),
            "ansible_control_path": f"{self._here}/cp/{{{{ inventory_hostname }}}}",
        }

    def __enter__(self) -> Sshd:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [
            shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd",
            "-D",
            "-f",
            str(self._here / "config"),
        ]
        self._server = subprocess.Popen([*command, "-E", str(self._here / "log")])
        until(self._listens)
        return self

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._here.glob("cp/*"):  # the connections that are kept open
            subprocess.run(
                ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "x"], check=False, stderr=-3
            )
        self._server.terminate()
        self._server.wait()
        shutil.rmtree(self._here)
