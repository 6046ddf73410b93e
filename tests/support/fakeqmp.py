# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QMP server that does as it is told: for faults, orders and timings that a real QEMU shows too rarely to test.

    with FakeQMP() as fake:                     # listens, in a thread of its own
        fake.script(lambda peer: ...)           # what it does with each connection, in order; the last one repeats

A script is a function of a `Peer`. What goes wrong in it is raised when the server is closed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections import deque
from typing import Any, Callable

GREETING = {
    "QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 2}, "package": "fake"}, "capabilities": ["oob"]}
}


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, pretty: bool = False) -> None:
        sock.settimeout(20)
        self.sock = sock
        self.indent = 4 if pretty else None
        self.fds: list[int] = []
        self.received: list[dict[str, Any]] = []
        self._buffer = b""
        self._ready: deque[dict[str, Any]] = deque()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def send(self, *messages: Any) -> None:
        """Send messages, in one piece."""
        self.raw(b"".join(json.dumps(message, indent=self.indent).encode() + b"\r\n" for message in messages))

    def command(self) -> dict[str, Any]:
        """The next command. Raises EOFError when the client is gone."""
        while not self._ready:
            data, ancillary, _flags, _address = self.sock.recvmsg(65536, socket.CMSG_SPACE(64))
            for _level, _kind, numbers in ancillary:
                self.fds.extend(memoryview(numbers).cast("i"))
            if not data:
                raise EOFError("the client is gone")
            self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            self._ready.extend(json.loads(line) for line in lines if line.strip())
        message = self._ready.popleft()
        self.received.append(message)
        return message

    def reply(self, command: dict[str, Any], value: Any = None) -> None:
        """Answer a command."""
        self.send({"return": {} if value is None else value, "id": command["id"]})

    def error(self, command: dict[str, Any], error_class: str = "GenericError", desc: str = "no") -> None:
        """Answer a command with an error."""
        self.send({"error": {"class": error_class, "desc": desc}, "id": command["id"]})

    def event(self, name: str, /, **data: Any) -> None:
        """Send an event."""
        self.send({"event": name, "data": data, "timestamp": {"seconds": 5, "microseconds": 250000}})

    def negotiate(self, **greeting: Any) -> None:
        """Greet, and answer qmp_capabilities."""
        self.send({"QMP": {**GREETING["QMP"], **greeting}})
        command = self.command()
        assert command["execute"] == "qmp_capabilities", command
        self.reply(command)

    def serve(self, **answers: Any) -> None:
        """Answer commands until the client leaves: ``answers`` by name ("_" for "-"), a value or a function of it."""
        try:
            while True:
                command = self.command()
                answer = answers.get(command.get("execute", command.get("exec-oob", "")).replace("-", "_"), {})
                self.reply(command, answer(command) if callable(answer) else answer)
        except (EOFError, ConnectionError):
            pass

    def closed(self) -> bool:
        """Wait for the client to leave; whether it sent nothing before."""
        seen = b""
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    return not seen
                seen += data
        except ConnectionError:
            return not seen

    def close(self) -> None:
        """Leave."""
        self.sock.close()
        for number in self.fds:
            os.close(number)
        self.fds = []


Script = Callable[[Peer], Any]


def polite(peer: Peer) -> None:
    """A script: negotiate, and answer everything with {}."""
    peer.negotiate()
    peer.serve()


class FakeQMP:
    """A listening server on a UNIX socket (or TCP), which runs one script for each connection, one at a time."""

    def __init__(self, *scripts: Script, tcp: bool = False, pretty: bool = False, backlog: int = 16) -> None:
        self._scripts = list(scripts) or [polite]
        self._pretty = pretty
        self.peers: list[Peer] = []
        self._problem: BaseException | None = None
        self._directory = tempfile.mkdtemp(prefix="q")
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(f"{self._directory}/s")
            self._listener.listen(backlog)
            self.address = f"unix:{self._directory}/s"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        number = 0
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            peer = Peer(sock, self._pretty)
            self.peers.append(peer)
            script = self._scripts[min(number, len(self._scripts) - 1)]
            number += 1
            try:
                script(peer)
            except (EOFError, ConnectionError):
                pass
            except Exception as error:
                self._problem = error
            finally:
                peer.close()

    def __enter__(self) -> FakeQMP:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        if exc[0] is None and self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Stop listening, and wait for the script at work."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)
        shutil.rmtree(self._directory, ignore_errors=True)


def pair(script: Script) -> tuple[socket.socket, threading.Thread]:
    """A connected socket whose other end runs ``script`` in a thread."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        peer = Peer(theirs)
        try:
            script(peer)
        except (EOFError, ConnectionError):
            pass
        finally:
            peer.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return ours, thread
