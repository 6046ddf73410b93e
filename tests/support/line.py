# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network between the two sides of a migration: a relay that breaks, or falls silent, at a certain byte."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

_LINGER_NOT = struct.pack("ii", 1, 0)  # close() sends a reset


class Line:
    """Listens at `uri` and passes on to the destination's socket until so many bytes have gone there; then `strike`s.

    `fault`: reset (both ends are told at once), silent (neither is told anything, and nothing passes any more),
    deaf (what the destination answers never arrives, from the first byte on, not even that it hangs up), torn (nor does that,
    but that it hangs up does), "" (passes on whatever happens).
    """

    def __init__(self, target: str, at: int | None, fault: str = "", strike: Callable[[], None] | None = None) -> None:
        self._target, self._at, self._fault = target, at, fault
        self._strike = strike
        self.passed = 0
        self.struck = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def strike_at(self, byte: int) -> None:
        """Break at the next byte after so many."""
        self._at = byte

    def close(self) -> None:
        """The line is gone, with a reset to whoever still holds it. Twice is fine."""
        if self._thread.is_alive():
            os.write(self._wake, b"x")
            self._thread.join(30)
        if self._stop >= 0:
            os.close(self._stop)
            os.close(self._wake)
            self._stop = -1
        self._listener.close()

    def _serve(self) -> None:
        ends: list[Any] = [self._listener, self._stop]
        served = []
        while self._stop not in select.select(ends, [], [])[0]:
            served.append(threading.Thread(target=self._connected, args=(self._listener.accept()[0],), daemon=True))
            served[-1].start()
        for thread in served:
            thread.join(30)

    def _connected(self, source: socket.socket) -> None:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        with source, socket.socket(socket.AF_UNIX) as there, contextlib.suppress(OSError):
            there.connect(self._target)
            self._pass_on(source, there)

    def _pass_on(self, source: socket.socket, there: socket.socket) -> None:
        ends: list[Any] = [source, there, self._stop]
        while True:
            ready = select.select(ends, [], [])[0]
            if self._stop in ready:
                return
            if source in ready:
                data = source.recv(1 << 16)
                if not data or not self._forth(data, there if there in ends else None):
                    return
            if there in ready:
                data = there.recv(1 << 16)
                if not data and self._fault != "deaf":
                    return
                if not data:
                    ends.remove(there)
                elif self._fault not in ("deaf", "torn"):
                    source.sendall(data)

    def _forth(self, data: bytes, there: socket.socket | None) -> bool:
        """Give the destination what the source has sent. Whether the line holds."""
        self.passed += len(data)
        if not self.struck and self._at is not None and self.passed >= self._at:
            self.struck = True
            until = len(data) - (self.passed - self._at)
            if there:
                there.sendall(data[:until])
            if self._strike:
                self._strike()
            if self._fault == "silent":
                select.select([self._stop], [], [])
            if self._fault in ("reset", "silent"):
                return False
            data = data[until:]
        if there:
            there.sendall(data)
        return True
