# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between a module and a real monitor: lets everything through until a certain command, then does harm."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any


class Proxy:
    """Listens on `address` and passes on to the monitor at `target`, one client at a time.

    `fault`, at the first command named `at`: `lose` closes both sides before QEMU gets it, `cut` closes the client's side
    when QEMU has answered it, `after` when the client has that answer and asks on, `stall` keeps QEMU's answer and all
    after it back; a function is called before QEMU gets it, and harms nothing here. Later clients are served faithfully, or,
    with `gone`, not at all. So many as `spare` says come through.
    """

    def __init__(
        self, target: str, fault: str | Callable[[], None], at: str, gone: bool = False, spare: int = 0
    ) -> None:
        self.target, self.fault, self.at, self.gone = target, fault, f'"{at}"'.encode(), gone
        self.spare = spare
        self.struck = False
        self._directory = tempfile.mkdtemp(prefix="p", dir="/tmp")
        self.address = f"{self._directory}/s"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(4)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        os.write(self._wake, b"x")
        self._thread.join(10)
        for end in (self._stop, self._wake):
            os.close(end)
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _serve(self) -> None:
        ends: list[Any] = [self._listener, self._stop]
        while self._stop not in select.select(ends, [], [])[0]:
            client = self._listener.accept()[0]
            with client, socket.socket(socket.AF_UNIX) as qemu, contextlib.suppress(ConnectionError):
                qemu.connect(self.target)
                self._pass_on(client, qemu)
            if self.struck and self.gone:
                self._listener.close()
                os.unlink(self.address)
                return

    def _strikes(self, data: bytes) -> bool:
        if self.struck or self.at not in data:
            return False
        self.spare -= 1
        self.struck = self.spare < 0
        if self.struck and callable(self.fault):
            self.fault()
        return self.struck

    def _pass_on(self, client: socket.socket, qemu: socket.socket) -> None:
        withheld = asked = False
        ends: list[Any] = [client, qemu, self._stop]
        while True:
            ready = select.select(ends, [], [])[0]
            if self._stop in ready:
                return
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    return
                if self.struck and self.fault == "after":
                    return
                if self._strikes(data):
                    asked = True
                    if self.fault == "lose":
                        return
                    withheld = self.fault in ("cut", "stall")
                qemu.sendall(data)
            if qemu in ready:
                data = qemu.recv(1 << 16)
                if not data:
                    return
                if not withheld:
                    client.sendall(data)
                elif asked and self.fault == "cut":
                    return
