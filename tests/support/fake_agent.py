# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for a guest's agent: it freezes nothing, remembers what it was asked, and can be told to fail."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any


class FakeAgent:
    """Listens at a path until it is closed.

    ``answers``: what it returns; ``errors``: what it says no to;
    ``silent``: what it does, and never answers; ``slow``: what it first needs an event for.
    """

    def __init__(
        self,
        path: Path | str,
        errors: dict[str, str] | None = None,
        silent: tuple[str, ...] = (),
        slow: dict[str, threading.Event] | None = None,
        answers: dict[str, Any] | None = None,
    ) -> None:
        self.path = str(path)
        self.errors = errors or {}
        self.silent = silent
        self.slow = slow or {}
        self.answers = answers or {}
        self.frozen = False
        self.asked: list[str] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                for line in client.makefile("rb"):
                    client.sendall(self._answer(json.loads(line.lstrip(b"\xff"))))

    def _answer(self, asked: dict[str, Any]) -> bytes:
        command = asked["execute"]
        if command == "guest-sync-delimited":
            silent = "guest-sync-delimited" in self.silent
            return b"" if silent else b"\xff" + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n"
        self.asked.append(command)
        if command in self.slow:
            self.slow[command].wait(60.0)
        if command in self.errors:
            return json.dumps({"error": {"class": "GenericError", "desc": self.errors[command]}}).encode() + b"\n"
        was = self.frozen
        self.frozen = {"guest-fsfreeze-freeze": True, "guest-fsfreeze-thaw": False}.get(command, self.frozen)
        result = (
            ("frozen" if self.frozen else "thawed") if command == "guest-fsfreeze-status" else int(was != self.frozen)
        )
        result = self.answers.get(command, result)
        return b"" if command in self.silent else json.dumps({"return": result}).encode() + b"\n"
