# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Large replies: time and peak memory must grow with the size, not with its square.

This process is QEMU's stand-in; the client is a new process for each reply (`python -m bench.replies` below), so that
its peak memory is that of the one reply.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.table import Bar, Row, ratio_of
from support.collection import collection_root

MIB = 1 << 20
SIZES = (10, 40)
ROUNDS = 4
BAR = Bar("<=", 5.0)
REPO = Path(__file__).resolve().parents[1]
GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}, "capabilities": []}}
NODE = {"node-name": "node", "drv": "raw", "ro": False, "iops": 0, "cache": {"direct": False, "no-flush": False}}


def body(shape: str, size: int) -> bytes:
    """A `return` of that many bytes: many small objects, as lists of block nodes are, or one long string."""
    if shape == "string":
        return b'"' + b"x" * (size - 2) + b'"'
    node = json.dumps(NODE).encode()
    return b"[" + b", ".join([node] * (size // (len(node) + 2))) + b"]"


def exchange(how: str, value: bytes) -> dict[str, float]:
    """One client takes one reply: what `client` prints."""
    here, there = socket.socketpair()
    with here:
        with there:
            client = subprocess.Popen(
                [sys.executable, "-m", "bench.replies", how, str(there.fileno())],
                env={"PYTHONPATH": f"{collection_root()}:{REPO}:{REPO}/tests"},
                pass_fds=[there.fileno()],
                stdout=subprocess.PIPE,
            )
        with client:
            here.sendall(json.dumps(GREETING).encode() + b"\r\n")
            with here.makefile("rb") as lines:
                for line in lines:
                    command = json.loads(line)
                    returned = b"{}" if command["execute"] == "qmp_capabilities" else value
                    tail = f', "id": {json.dumps(command["id"])}' if "id" in command else ""
                    here.sendall(b'{"return": ' + returned + tail.encode() + b"}\r\n")
            assert client.stdout is not None
            found: dict[str, float] = json.loads(client.stdout.read())
    return found


def measure() -> Iterator[Row]:
    """40 MiB beside 10 MiB in time and memory, and the session beside a bare loop at 40 MiB."""
    for shape in ("objects", "string"):
        values = {size: body(shape, size * MIB) for size in SIZES}
        seen: dict[tuple[str, int], list[dict[str, float]]] = {}
        for _turn in range(ROUNDS):
            for size, value in values.items():
                for how in ("session", "bare"):
                    seen.setdefault((how, size), []).append(exchange(how, value))
        label = f"{SIZES[1]} MiB of {shape}" if shape == "objects" else f"{SIZES[1]} MiB in one {shape}"
        for what, unit, scale in (("wall", "ms", 1000.0), ("processor", "ms", 1000.0), ("memory", "MiB", 1 / MIB)):
            figures = {key: [found[what] for found in rounds] for key, rounds in seen.items()}
            large = figures["session", SIZES[1]]
            for beside, key, limit in (
                (f"{SIZES[0]} MiB", ("session", SIZES[0]), BAR),
                ("bare loop", ("bare", SIZES[1]), None),
            ):
                shown = [f"{median(numbers) * scale:.0f} {unit}" for numbers in (large, figures[key])]
                measured = what if what == "memory" else f"{what} time"
                yield Row(f"{label}, {measured}: {beside}", shown, ratio_of(large, figures[key]), limit)


# -- the client ---------------------------------------------------------------------------------------------------


def _memory(which: str) -> int:
    """A figure of /proc/self/status in bytes. The peak that getrusage tells is, after vfork, the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(which)


def _bare(sock: socket.socket) -> Any:
    sock.sendall(b'{"execute": "query-large"}\n')
    chunks = [b""]
    while not chunks[-1].endswith(b"\n"):
        chunks.append(sock.recv(1 << 16))
    return json.loads(b"".join(chunks))["return"]


def client(how: str, descriptor: int) -> None:
    """Ask once; print the seconds by the clock and by the processor, and by how many bytes the peak memory grew."""
    sock = socket.socket(fileno=descriptor)
    if how == "session":
        from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession

        session = QMPSession.from_socket(sock)
        before, start, used = _memory("VmRSS"), time.perf_counter(), time.process_time()
        value = session.execute("query-large")
    else:
        with sock.makefile("rb") as lines:
            lines.readline()
        before, start, used = _memory("VmRSS"), time.perf_counter(), time.process_time()
        value = _bare(sock)
    found = {"wall": time.perf_counter() - start, "processor": time.process_time() - used}
    print(json.dumps({**found, "memory": _memory("VmHWM") - before}))
    assert value


if __name__ == "__main__":
    client(sys.argv[1], int(sys.argv[2]))
