# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network between two QEMUs of a migration, and what becomes of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class Relay:
    """Listens at `uri` and passes on to the TCP port `target`: all that the source sends, and the answers if `answers`.

    `most`: it reads no more than so many bytes from the source, as when the network falls silent; nothing is reset.
    `passes`: it reads all, and no more than so many bytes go on to the target before `deliver()`. `cut()` breaks the connections.
    `answer()` lets what was kept back through, and what comes after it.
    """

    def __init__(
        self, target: int | None, answers: bool = True, most: int | None = None, passes: int | None = None
    ) -> None:
        self._target, self._most, self._passes = target, most, passes
        self._lets, self._delivers = threading.Event(), threading.Event()
        if answers:
            self._lets.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._start(self._serve)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lets.set()
        self.cut()
        self._delivers.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, what: Any, *args: Any) -> None:
        threading.Thread(target=what, args=args, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                source = self._listener.accept()[0]
                self._ends.append(source)
                there = None
                if self._target is not None:
                    there = socket.create_connection(("127.0.0.1", self._target))
                    self._ends.append(there)
                    self._start(self._back, there, source)
                self._start(self._forth, source, there)

    def _forth(self, source: socket.socket, there: socket.socket | None) -> None:
        read, kept = 0, bytearray()
        with contextlib.suppress(OSError):
            while self._most is None or read < self._most:
                data = source.recv(1 << 16)
                if not data:
                    break
                room = len(data) if self._passes is None else max(0, self._passes - read)
                read += len(data)
                kept += data[room:]
                if there is not None:
                    there.sendall(data[:room])
            else:
                return
        with contextlib.suppress(OSError):
            if there is not None:
                if kept:
                    self._delivers.wait()
                    there.sendall(kept)
                there.shutdown(socket.SHUT_WR)

    def _back(self, there: socket.socket, source: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := there.recv(1 << 16):
                self._lets.wait()
                source.sendall(data)

    def answer(self) -> None:
        """Let the answers through from now on."""
        self._lets.set()

    def deliver(self) -> None:
        """Let the target have the rest, once the source has ended its part."""
        self._delivers.set()

    def cut(self) -> None:
        """Break all connections."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
