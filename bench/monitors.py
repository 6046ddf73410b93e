# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many scripted monitors in one thread: a thread each would take most of the second core from what is measured."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from support.fakeqmp import GREETING


class Monitors:
    """Monitors which greet, negotiate, and tell a state, a name and a UUID, or say nothing at all."""

    def __init__(self, paths: list[Path], silent: bool = False) -> None:
        self._selector = selectors.DefaultSelector()
        self.peers: dict[str, socket.socket] = {}
        self._silent, self._over = silent, False
        self._listeners: list[socket.socket] = []
        for path in paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1)
            self._listeners.append(listener)
            self._selector.register(listener, selectors.EVENT_READ, (path.stem, True))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over:
            for key, _mask in self._selector.select(1.0):
                sock, (name, listens) = cast(socket.socket, key.fileobj), key.data
                if listens:
                    peer, _address = sock.accept()
                    if not self._silent:
                        peer.sendall(json.dumps(GREETING).encode() + b"\r\n")
                    self._selector.register(peer, selectors.EVENT_READ, (name, False))
                    self.peers[name] = peer
                elif not self._answer(sock, name):
                    self._selector.unregister(sock)
                    sock.close()

    @staticmethod
    def _answer(peer: socket.socket, name: str) -> bool:
        data = peer.recv(65536)
        for line in data.splitlines():
            command = json.loads(line)
            replies: dict[str, Any] = {
                "query-status": {"status": "running"},
                "query-name": {"name": name},
                "query-uuid": {"UUID": f"00000000-0000-0000-0000-{int(name[2:]) + 1:012}"},
            }
            reply = {"return": replies.get(command["execute"], {}), "id": command["id"]}
            peer.sendall(json.dumps(reply).encode() + b"\r\n")
        return bool(data)

    def close(self) -> None:
        """End all of them."""
        self._over = True
        self._thread.join()
        for sock in (*self._listeners, *self.peers.values()):
            sock.close()


@contextmanager
def monitors(paths: list[Path], silent: bool = False) -> Iterator[Monitors]:
    """Have monitors at paths, whose names without their ending are those of the machines (`vm0001.qmp`)."""
    found = Monitors(paths, silent)
    try:
        yield found
    finally:
        found.close()
