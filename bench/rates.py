# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands a second on one connection of a real QEMU: our session, a bare socket-and-json loop, PyPI's qemu.qmp.

Each has a monitor of its own in the same QEMU, and they take turns of some 0.1 s in one process.

There are two bare loops, since QEMU reads its monitor byte by byte, at some 4 microseconds each: one that sends no ids,
and one whose commands are as long as ours. The second tells what our own work costs, the first what an id costs, too.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from qemu.qmp import QMPClient

from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from bench.table import Bar, Row, ratio_of
from support.vm import VERSIONS, VM

ROUNDS = 20
# commands in one turn
BATCHES = {"query-status": 200, "query-qmp-schema": 4}
ID = "abcd"  # as long as a session's
BARE = Bar(">=", 0.9)
PYPI = Bar(">=", 1.0)

Turn = Callable[[str, int], None]


class BareLoop:
    """The least that talks QMP: no events, no deadline, no check of anything. What a script would do."""

    def __init__(self, path: str, command_id: str = "") -> None:
        self._id = {"id": command_id} if command_id else {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._message()
        self.execute("qmp_capabilities")

    def _message(self) -> Any:
        data = self._socket.recv(1 << 16)
        if not data.endswith(b"\n"):
            chunks = [data]
            while not chunks[-1].endswith(b"\n"):
                chunks.append(self._socket.recv(1 << 16))
            data = b"".join(chunks)
        return json.loads(data)

    def execute(self, command: str) -> Any:
        request = {"execute": command, **self._id}
        self._socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")
        return self._message()["return"]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def ours(path: str) -> Iterator[Turn]:
    """Turns of a QMPSession."""
    with QMPSession.connect(path) as session:

        def turn(command: str, count: int) -> None:
            for _turn in range(count):
                session.execute(command)

        yield turn


@contextmanager
def bare(path: str, command_id: str = "") -> Iterator[Turn]:
    """Turns of the bare loop."""
    loop = BareLoop(path, command_id)

    def turn(command: str, count: int) -> None:
        for _turn in range(count):
            loop.execute(command)

    yield turn
    loop.close()


@contextmanager
def pypi(path: str) -> Iterator[Turn]:
    """Turns of qemu.qmp, in one asyncio loop for all of them."""
    loop = asyncio.new_event_loop()
    client = QMPClient("bench")
    loop.run_until_complete(client.connect(path))

    async def many(command: str, count: int) -> None:
        for _turn in range(count):
            await client.execute(command)

    yield lambda command, count: loop.run_until_complete(many(command, count))
    loop.run_until_complete(client.disconnect())
    loop.close()


def _rounds(turns: list[Turn], command: str) -> list[list[float]]:
    """Commands a second: for each client, one number a round."""
    count = BATCHES[command]
    rates: list[list[float]] = [[] for _turn in turns]
    for number in range(ROUNDS + 1):
        # whoever comes first in a round is another one each time; the first round only warms up
        for place in range(len(turns)):
            index = (number + place) % len(turns)
            start = time.perf_counter()
            turns[index](command, count)
            if number:
                rates[index].append(count / (time.perf_counter() - start))
    return rates


def _measure(version: str) -> Iterator[Row]:
    with VM(version, start=False, ports=()) as vm, ExitStack() as clients:
        for name in ("ours", "bare", "ids", "pypi"):
            vm.command += ["-chardev", f"socket,id={name},path={vm.directory}/{name},server=on,wait=off"]
            vm.command += ["-mon", f"chardev={name},mode=control"]
        vm.start()
        path = vm.directory
        turns = [
            clients.enter_context(client)
            for client in (ours(f"{path}/ours"), bare(f"{path}/bare"), bare(f"{path}/ids", ID), pypi(f"{path}/pypi"))
        ]
        for command in BATCHES:
            mine, *others = _rounds(turns, command)
            for what, theirs, limit in zip(("bare loop", "bare loop with ids", "qemu.qmp"), others, (BARE, BARE, PYPI)):
                shown = [f"{median(rate):.0f}/s" for rate in (mine, theirs)]
                yield Row(f"{command}, QEMU {version}: {what}", shown, ratio_of(mine, theirs), limit)


def measure() -> Iterator[Row]:
    """Commands a second on both QEMUs."""
    for version in VERSIONS:
        yield from _measure(version)
