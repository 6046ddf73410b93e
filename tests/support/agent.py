# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent of a guest as a witness, written without the code under test."""

from __future__ import annotations

import base64
import json
import socket
import time
from types import TracebackType
from typing import Any


class AgentError(Exception):
    """The agent did not do what a test asked of it."""


class Agent:
    """The agent behind a socket. Nobody else may be connected to that."""

    def __init__(self, path: str, timeout: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")
        # what a client before left unread comes first
        token = time.monotonic_ns() & 0x7FFFFFFF
        self._send("guest-sync", {"id": token})
        while self._receive().get("return") != token:
            pass

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lines.close()
        self._socket.close()

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise AgentError("the agent's socket was closed")
        reply: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return reply

    def execute(self, command: str, **arguments: Any) -> Any:
        """What the command returns; `_` in the arguments' names is `-`."""
        self._send(command, {name.replace("_", "-"): value for name, value in arguments.items()})
        reply = self._receive()
        if "error" in reply:
            raise AgentError(f"{command}: {reply['error']}")
        return reply["return"]

    def run(self, program: str, *arguments: str, timeout: float = 60.0) -> str:
        """Run a program in the guest; gives what it printed, and raises if it failed."""
        pid = self.execute("guest-exec", path=program, arg=list(arguments), capture_output=True)["pid"]
        deadline = time.monotonic() + timeout
        while not (status := self.execute("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                raise AgentError(f"{program} {arguments} did not end within {timeout} s")
            time.sleep(0.2)
        out, err = (base64.b64decode(status.get(name, "")).decode() for name in ("out-data", "err-data"))
        if status.get("exitcode") != 0:
            raise AgentError(f"{program} {arguments}: {status}: {out}{err}")
        return out

    def read(self, path: str) -> str:
        """A file of the guest, of at most 48 MB."""
        handle = self.execute("guest-file-open", path=path)
        content = self.execute("guest-file-read", handle=handle, count=48 << 20)["buf-b64"]
        self.execute("guest-file-close", handle=handle)
        return base64.b64decode(content).decode()
