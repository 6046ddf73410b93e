# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between a module and a real monitor: counts what the module sends, and does harm at a certain byte of it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

from support.proxy import Proxy


class Cutter(Proxy):
    """Passes on until the clients have sent `at` bytes in all, of which QEMU gets just those; then calls `strike`.

    `cut`: the connection ends there, and with `gone` nobody listens for another. Without, all goes on.
    """

    def __init__(
        self, target: str, at: int, strike: Callable[[], None] | None = None, cut: bool = False, gone: bool = False
    ) -> None:
        self.left, self._strike, self._cuts = at, strike, cut
        self.sent = 0
        self.heard = b""
        """What QEMU has got, each connection on lines of its own."""
        super().__init__(target, "", "", gone)

    def _pass_on(self, client: socket.socket, qemu: socket.socket) -> None:
        self.heard += b"\n"  # what an earlier connection left half said, QEMU forgets
        ends: list[Any] = [client, qemu, self._stop]
        while True:
            ready = select.select(ends, [], [])[0]
            if self._stop in ready:
                return
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    return
                self.sent += len(data)
                if not self.struck and len(data) >= self.left:
                    self.struck = True
                    self._tell(qemu, data[: self.left])
                    if self._strike:
                        self._strike()
                    if self._cuts:
                        return
                    data = data[self.left :]
                self.left -= len(data)
                self._tell(qemu, data)
            if qemu in ready:
                data = qemu.recv(1 << 16)
                if not data:
                    return
                client.sendall(data)

    def _tell(self, qemu: socket.socket, data: bytes) -> None:
        self.heard += data
        qemu.sendall(data)
