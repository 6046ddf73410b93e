# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two disks that a writer numbers, one after the other, and images that tell how far it had come when they were made."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from support.modules import run_module
from support.nbd import listed
from support.observer import Observer
from support.timing import until
from support.vm import VM

BLOCK = 64 << 10
BLOCKS = 64
FORMATS = {"a": "raw", "b": "qcow2"}
_WATCHED = ("-chardev", "socket,id=watcher,path=watcher,server=on,wait=off", "-mon", "chardev=watcher,mode=control")


class NumberedDisks:
    """No guest; the writer is QEMU itself, through the devices. `a` is raw, on an NBD server if so told; `b` is a qcow2 image."""

    def __init__(self, version: str, by_nbd: bool, place: Path) -> None:
        """`place`: where their images are."""
        self.by_nbd = by_nbd
        self._server: subprocess.Popen[bytes] | None = None
        self._vector = bytearray(BLOCKS)
        self._states = {bytes(BLOCKS): 0}
        self.written = 0
        """The last number that is on both disks."""
        self.vm = VM(version, scsi=True, args=_WATCHED, start=False)
        images = {"a": f"{place}/a.img", "b": f"{place}/b.img"}
        self.images = {disk: self.vm.image(path, str(BLOCK * BLOCKS), FORMATS[disk]) for disk, path in images.items()}
        self.start()
        for _number in range(BLOCKS):
            self._write_next(threading.Event())

    def close(self) -> None:
        self.kill_server()
        self.vm.close()

    def start(self) -> None:
        """QEMU, with its disks, for the first time or again."""
        self.vm.start()
        if self.by_nbd:
            if self._server is None:
                self._serve()
            server = {"type": "unix", "path": self._socket}
            self.vm.observer.execute("blockdev-add", driver="nbd", node_name="a-node", export="a", server=server)
            self.vm.observer.execute("device_add", driver="scsi-hd", bus="scsi0.0", id="a", drive="a-node")
        else:
            run_module(
                self.vm, "qemu_disk", id="a", driver="scsi-hd", bus="scsi0.0", filename=self.images["a"], format="raw"
            )
        run_module(self.vm, "qemu_disk", id="b", bus="rp0", filename=self.images["b"], format="qcow2")
        self.vm.observer.execute("cont")

    # -- the NBD server ------------------------------------------------------

    @property
    def _socket(self) -> str:
        return f"{self.vm.directory}/nbd"

    def _serve(self) -> None:
        command = ["qemu-nbd", "-t", "-e", "8", "-x", "a", "-f", "raw", "-k", self._socket, self.images["a"]]
        self._server = subprocess.Popen(command)
        until(lambda: "export: 'a'" in listed("-k", self._socket))

    def kill_server(self) -> None:
        if self._server:
            self._server.kill()
            self._server.wait()

    def mend(self) -> None:
        """Start again what does not run."""
        if self._server and self._server.poll() is not None:
            self._serve()
            until(lambda: self._do("a", "read 0 64k"))  # what is asked for first still fails
        if not self.vm.alive:
            self.start()

    @contextmanager
    def watched(self) -> Iterator[Observer]:
        """A monitor of its own, beside the writer's."""
        with closing(Observer(f"{self.vm.directory}/watcher")) as watcher:
            yield watcher

    # -- the writer ----------------------------------------------------------

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """While this lasts, number after number, by the observer's monitor."""
        over = threading.Event()
        writer = threading.Thread(target=self._keep_writing, args=(over,))
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def _keep_writing(self, over: threading.Event) -> None:
        with suppress(ConnectionError, EOFError):  # QEMU has been killed
            while not over.is_set():
                self._write_next(over)

    def _write_next(self, over: threading.Event) -> None:
        number = self.written + 1
        self._vector[number % BLOCKS] = number % 251 + 1
        self._states[bytes(self._vector)] = number
        for device in ("a", "/machine/peripheral/b/virtio-backend"):
            write = f"write -P {self._vector[number % BLOCKS]} {number % BLOCKS * BLOCK} {BLOCK}"
            while not (self._do(device, write) and self._do(device, "flush")):
                if over.is_set():  # as a guest would, the next writer does it again
                    return
                time.sleep(0.01)
        self.written = number

    def _do(self, device: str, line: str) -> bool:
        """Whether it has succeeded, which only QEMU's own output tells."""
        before = self.vm.stderr_log.stat().st_size
        self.vm.observer.hmp(f'qemu-io -d {device} "{line}"')
        with self.vm.stderr_log.open() as said:
            said.seek(before)
            return "failed" not in said.read()

    # -- what is in images ---------------------------------------------------

    def numbers(self, directory: Path) -> tuple[int, ...]:
        """How far the writer had come, by the raw images of the disks there. Raise AssertionError for what was never on a disk."""
        return tuple(self._number(directory / f"{disk}.raw") for disk in self.images)

    def _number(self, image: Path) -> int:
        data = image.read_bytes()
        vector = data[::BLOCK]
        assert data == b"".join(bytes([block]) * BLOCK for block in vector), f"{image}: a block is not whole"
        assert vector in self._states, f"{image}: no disk ever was so: {list(vector)}"
        return self._states[vector]
