# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An NBD client that stays connected to an export, and what `qemu-nbd --list` and `qemu-img` see of one."""

from __future__ import annotations

import socket
import struct
import subprocess


class Client:
    """Past the handshake with the export of that name, without TLS; it asks for nothing then. A context manager."""

    def __init__(self, path: str, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(path)
        assert self._receive(18).startswith(b"NBDMAGICIHAVEOPT")
        option = struct.pack(">II", 1, len(name)) + name.encode()  # NBD_OPT_EXPORT_NAME
        self._socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + option)
        self._receive(10)  # size and flags: the export is there

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            more = self._socket.recv(size - len(received))
            assert more, "the NBD server has hung up"
            received += more
        return received

    def cut_off(self) -> bool:
        """Whether the server has hung up."""
        return self._socket.recv(1) == b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def listed(*where: str) -> str:
    """What `qemu-nbd --list` tells; empty where nobody serves there."""
    return subprocess.run(["qemu-nbd", "--list", *where], check=False, capture_output=True, text=True).stdout


def first_bytes(uri: str, byte: int, image: str = "raw") -> bool:
    """Whether the first 64 KiB of what is there have this value."""
    line = f"read -P {byte:#x} 0 64k"
    done = subprocess.run(["qemu-io", "-r", "-f", image, "-c", line, uri], check=False, capture_output=True, text=True)
    return done.returncode == 0 and "failed" not in done.stdout
