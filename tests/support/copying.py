# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest with a disk of its own, which goes with it to another QEMU of the test bed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from support.migration import MACHINE, incoming, migrate
from support.vm import VM

IDENT = "vmm-migrate-data"
BACKEND = "/machine/peripheral/data/virtio-backend"
# Each block of the first 4 MiB says which round of the guest has written it last; /run/last, which is on the disk by now. It
# is empty for a moment in each round.
_WRITER = (
    "n=$(cat /run/last || echo 0); until [ -e /run/stop ]; do n=$((n+1)); "
    "printf '%08d' $n | dd of=/dev/vda bs=4096 seek=$((n%1024)) conv=notrunc,fsync 2>/dev/null; "
    "echo $n >/run/last; sleep 0.05; done; rm /run/stop"
)
_CHECK = (
    'echo 3 >/proc/sys/vm/drop_caches; until last=$(cat /run/last); [ "$last" ]; do :; done; '
    'until now=$(cat /run/last); [ "${now:-$last}" != $last ]; do sleep 0.1; done; '
    ": >/run/stop; while [ -e /run/stop ]; do sleep 0.1; done; "
    "last=$(cat /run/last); n=$((last>200 ? last-200 : 1)); while [ $n -le $last ]; do "
    "has=$(dd if=/dev/vda bs=4096 skip=$((n%1024)) count=1 2>/dev/null | head -c 8); "
    "[ $has = $(printf '%08d' $n) ] || { echo round $n: $has, last $last; exit 1; }; n=$((n+23)); done"
)
MD5 = "dd if=/dev/vda bs=1M skip=10 count=4 2>/dev/null | md5sum"


def image_arguments(vm: VM, fmt: str = "qcow2", size: str = "32M", base: Path | None = None) -> list[str]:
    """The options of QEMU for a new image that is the disk `data`, and may stand on a raw one."""
    node = f"driver={fmt},node-name=data-node,discard=unmap,file.driver=file,file.discard=unmap"
    image = f"{node},file.filename={vm.image('data', size, fmt)}"
    if base:
        on = ["-b", str(base), "-F", "raw", str(vm.directory / "data")]
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *on, size], check=True)
    return ["-blockdev", image, "-device", "virtio-blk-pci,id=data,drive=data-node,bus=rp0"]


def fill(vm: VM) -> str:
    """Random data on the disk; the checksum of what the writer leaves alone."""
    vm.run_in_guest("dd if=/dev/urandom of=/dev/vda bs=1M seek=10 count=3 && sync")
    return vm.run_in_guest(MD5)


def keep_writing(vm: VM) -> None:
    """Let the guest write from now on."""
    vm.run_in_guest(f"({_WRITER}) </dev/null >/dev/null 2>&1 &")
    vm.run_in_guest("until [ -s /run/last ]; do sleep 0.1; done")


class Move:
    """A source whose guest counts and writes, and a destination that waits for it and its disk."""

    def __init__(
        self,
        here: str,
        to: str,
        fmt: str = "qcow2",
        size: str = "32M",
        guest: bool = True,
        bases: tuple[Path | None, Path | None] = (None, None),
    ) -> None:
        """`bases`: what the disk stands on here, and there."""
        self.fmt, self.size, self.guest, self.bases = fmt, size, guest, bases
        self.to = to
        self.source = self.start(here)
        self.there = self.start(to, waits=True)
        self.uri = f"unix:{self.there.directory}/migrate"
        self.disks: dict[str, Any] = {"address": f"{self.there.directory}/nbd"}

    def start(self, version: str, waits: bool = False, fmt: str = "", size: str = "") -> VM:
        fmt = fmt or self.fmt
        args = ["-incoming", "defer"] if waits else []
        vm = VM(version, guest=self.guest, append="bed.count", machine=MACHINE, ports=["rp0"], start=False)
        vm.command += [*image_arguments(vm, fmt, size or self.size, self.bases[int(waits)]), *args]
        vm.start()
        if not self.guest:
            vm.observer.execute("cont")  # one that waits runs then what has come
        return vm

    def fill(self) -> str:
        """Random data and zeroes on the disk; the checksum of what the writer leaves alone."""
        return fill(self.source)

    def write(self) -> None:
        """Let the guest write from now on."""
        keep_writing(self.source)

    def put(self, byte: int, at: str = "1M") -> None:
        """Write to the disk of a source without a guest, as its device does."""
        self.source.observer.hmp(f'qemu-io -d {BACKEND} "write -P {byte:#x} {at} 1M"')

    def take(self, **options: Any) -> dict[str, Any]:
        return migrate(self.source, **{"uri": self.uri, "copy_disks": self.disks, **options})

    def listen(self, **disks: Any) -> dict[str, Any]:
        return incoming(self.there, self.uri, copy_disks={**self.disks, **disks})

    def replace_destination(self) -> None:
        """Another one that waits."""
        self.there.close()
        self.there = self.start(self.to, waits=True)
        self.uri = f"unix:{self.there.directory}/migrate"
        self.disks["address"] = f"{self.there.directory}/nbd"

    def close(self) -> None:
        self.source.close()
        self.there.close()


def written(vm: VM) -> None:
    """What the guest has written is on its disk, to the last block. Stops the writer."""
    vm.run_in_guest(_CHECK)


def has(vm: VM, byte: int, at: str = "1M", fmt: str = "qcow2") -> bool:
    """Whether the disk of a VM has what was put there."""
    line = ["qemu-io", "-U", "-r", "-f", fmt, "-c", f"read -P {byte:#x} {at} 1M", str(vm.directory / "data")]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    return done.returncode == 0 and "failed" not in done.stdout


def clean(vm: VM) -> bool:
    """Whether nothing that copies disks is there."""
    look = vm.observer
    return not [name for name in look.nodes() if name.startswith("vmm-")] and look.look("query-jobs") == []


def wait_job(vm: VM, status: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while [job["status"] for job in vm.observer.look("query-jobs")] != [status]:
        assert time.monotonic() < deadline, vm.observer.look("query-jobs")
        time.sleep(0.02)
