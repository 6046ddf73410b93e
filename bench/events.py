# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source on 1,000 scripted monitors: how soon an event is there, what it costs to wait for one, and its memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import IO, cast

from bench.plays import BenchError
from bench.table import Bar, Row
from support.collection import collection_root
from support.events import FILE
from support.fakeqmp import GREETING

MONITORS = 1000
EVENTS = 20
IDLE = 5.0
SECONDS, MEGABYTES, BUSY = 0.2, 32.0, 0.01


class Monitors:
    """Monitors in one thread, which greet, negotiate and tell a state."""

    def __init__(self, home: Path) -> None:
        import selectors

        self._selector = selectors.DefaultSelector()
        self._files: list[IO[bytes]] = []
        self.peers: dict[str, socket.socket] = {}
        for number in range(MONITORS):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{home}/vm{number:04}.events")
            listener.listen(1)
            self._selector.register(listener, selectors.EVENT_READ, f"vm{number:04}")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            for key, _mask in self._selector.select():
                listener, name = cast(socket.socket, key.fileobj), key.data
                if name:
                    peer, _address = listener.accept()
                    peer.sendall(json.dumps(GREETING).encode() + b"\r\n")
                    self._selector.register(peer, 1, "")
                    self.peers[name] = peer
                elif not self._answer(listener):
                    self._selector.unregister(listener)

    def _answer(self, peer: socket.socket) -> bool:
        data = peer.recv(65536)
        for line in data.splitlines():
            command = json.loads(line)
            reply = {"status": "running"} if command["execute"] == "query-status" else {}
            peer.sendall(json.dumps({"return": reply, "id": command["id"]}).encode() + b"\r\n")
        return bool(data)


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """MB that are there for it alone, the interpreter and its modules included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _next(told: IO[str], name: str) -> str:
    for line in told:
        if f"'event': '{name}'" in line:
            return line
    raise BenchError("the event source has ended")


def _row(what: str, mine: float, unit: str, limit: float) -> Row:
    return Row(what, [f"{mine:.3g} {unit}", f"{limit:g} {unit}"], mine / limit, Bar("<=", 1.0))


def measure() -> Iterator[Row]:
    """The table's rows."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        home = Path(name)
        monitors = Monitors(home)
        command = [sys.executable, "-u", f"{collection_root()}/{FILE}", f"{home}/*.events"]
        begun = time.monotonic()
        source = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert source.stdout is not None
            for _number in range(MONITORS):
                _next(source.stdout, "connected")
            what = f"events of {MONITORS} monitors"
            started = time.monotonic() - begun
            yield Row(f"{what}: all connected", [f"{started:.2f} s", f"{MONITORS / started:.0f} a second"], started)
            waits = []
            for number in range(EVENTS):
                sent = time.monotonic()
                monitors.peers[f"vm{number * 37 % MONITORS:04}"].sendall(b'{"event": "STOP"}\r\n')
                _next(source.stdout, "STOP")
                waits.append(time.monotonic() - sent)
            yield _row(f"{what}: an event is there, its bar", median(waits), "s", SECONDS)
            before = _processor(source.pid)
            time.sleep(IDLE)
            idle = (_processor(source.pid) - before) / IDLE
            yield _row(f"{what}: processor while nothing happens, its bar", idle, "of one", BUSY)
            yield _row(f"{what}: memory, its bar", _resident(source.pid), "MB", MEGABYTES)
        finally:
            source.terminate()
            source.wait()
