# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are not just a file: behind a key, behind a server, in a long chain; and whether a file was altered."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from support.vm import BED, VM


def altered_at(path: Path) -> tuple[int, int]:
    """Return which file it is, and when something of it was altered last. Reading it alters nothing but the time of that."""
    found = path.stat()
    return found.st_ino, found.st_ctime_ns


def encrypted(vm: VM, name: str, driver: str = "qcow2") -> str:
    """A qcow2 or luks image, with `pw` as its key; gives its path.

    It is a copy of one in the bed: to make one takes seconds, for which qemu-img measures how often it can hash a key.
    """
    made, path = BED / f"encrypted.{driver}", vm.directory / name
    if not made.exists():
        part = made.with_name(f"{made.name}-{os.getpid()}")
        prefix = "encrypt." if driver == "qcow2" else ""
        options = [f"{prefix}key-secret=s", f"{prefix}iter-time=10", *(["encrypt.format=luks"] if prefix else [])]
        secret = ["--object", "secret,id=s,data=pw"]
        command = ["qemu-img", "create", "-q", "-f", driver, *secret, "-o", ",".join(options), str(part), "8M"]
        for _attempt in range(20):
            done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
            if "accurate CPU usage" not in done.stderr:  # on a busy machine it can't measure that
                break
        assert done.returncode == 0, done.stderr
        part.rename(made)
    shutil.copyfile(made, path)
    return str(path)


def long_chain(vm: VM, length: int = 24) -> str:
    """Nodes `n0`, `n1`, ... each on the one before, so many that QEMU does not tell all of the last; gives its path."""
    directory = Path(vm.directory) / ("x" * 120)
    directory.mkdir()
    below: dict[str, Any] = {}
    path = ""
    for number in range(length):
        path = str(directory / f"{'y' * 40}-{number}.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        file = {"driver": "file", "filename": path}
        vm.observer.send("blockdev-add", {"node-name": f"n{number}", "driver": "qcow2", "file": file, **below})
        below = {"backing": f"n{number}"}
    text = vm.observer.node(f"n{length - 1}")["file"]
    assert len(text) == 4095 and text.startswith("json:")
    return path


class NBDServer:
    """Serves a raw image under the name of an export, to many clients, on a UNIX socket or on a port."""

    def __init__(self, image: str, export: str, path: str = "") -> None:
        self.path, self.export, self.port = path, export, 0
        if not path:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        where = ["-k", path] if path else ["-b", "127.0.0.1", "-p", str(self.port)]
        command = ["qemu-nbd", "-t", "--shared=0", "-f", "raw", "-x", export, *where, image]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self._listens():
            assert self._process.poll() is None and time.monotonic() < deadline, "qemu-nbd did not start"
            time.sleep(0.02)

    def _listens(self) -> bool:
        if self.path:
            return Path(self.path).is_socket()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def layer(self) -> dict[str, Any]:
        """The block layer that leads there."""
        server: dict[str, Any] = {"type": "unix", "path": self.path}
        if not self.path:
            server = {"type": "inet", "host": "127.0.0.1", "port": str(self.port)}
        return {"driver": "nbd", "server": server, "export": self.export}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> NBDServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
