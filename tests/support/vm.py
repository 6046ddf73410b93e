# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real QEMU for a test: with no guest and stopped, or with a Linux that answers hot-plug.

with VM("10.0") as vm:                      # -S, no guest: there in about 0.1 s
with VM("7.2", guest=True) as vm:           # has printed GUEST-UP: about 3 s
    vm.qmp                                  # the monitor for the modules under test
    vm.observer.devices()                   # what is really there, seen over a second monitor
    vm.guest_sees(blk={"vda"})              # wait until the guest sees just these
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from support.architectures import architecture
from support.observer import Observer

REPO = Path(__file__).resolve().parents[2]
BED = REPO / ".bed"
VERSIONS = ("7.2", "10.0", "11.1")
OLDEST = "5.2"
PCIE = ("q35", "virt")  # the machines that have it
ROOT_PORTS = tuple(f"rp{number}" for number in range(8))
CMDLINE = architecture("7.2").cmdline


class BedError(Exception):
    """The test bed itself failed, not what is tested."""


def is_since(version: str, first: str) -> bool:
    """Whether a QEMU of the bed is that one or a newer one."""
    there, wanted = ([int(part) for part in one.partition("-")[0].split(".")] for one in (version, first))
    return there >= wanted


def qemu_binary(version: str) -> Path:
    """The wrapper of that QEMU. A missing one is an error and never a skip: the tests are there to run."""
    path = BED / "bin" / f"qemu-{version}"
    if not path.exists():
        raise BedError(f"there is no QEMU {version} in {BED}: run scripts/setup")
    return path


def wait_stopped(pid: int) -> None:
    """Wait until a SIGSTOP has reached every thread of a process."""
    tasks = Path(f"/proc/{pid}/task")
    while any("\nState:\tT" not in (task / "status").read_text() for task in tasks.iterdir()):
        time.sleep(0.01)


def expand(names: str) -> set[str]:
    """`0-1,3` -> {"0", "1", "3"}, as the kernel writes CPU lists."""
    found: set[str] = set()
    for part in names.split(","):
        first, _dash, last = part.partition("-")
        found |= {str(number) for number in range(int(first), int(last or first) + 1)}
    return found


class VM:
    """One QEMU process and all that belongs to it. Close it, or use it as a context manager."""

    def __init__(
        self,
        version: str,
        guest: bool = False,
        args: Iterable[str] = (),
        append: str = "",
        machine: str | None = None,
        memory: str | None = None,
        ports: Iterable[str] | None = None,
        scsi: bool = False,
        start: bool = True,
        name: str = "bed",
    ) -> None:
        """`args`: more QEMU options; `append`: more words on the guest's kernel command line (tests/support/guest/init
        lists them); `machine`: that of the architecture, on QEMU 5.2 pc, whose guests answer hot-plug there; `memory`: all
        of `-m` (`256,slots=4,maxmem=2G`); `ports`: the pcie-root-ports to make (one with PCIe has eight unless told);
        `scsi`: a virtio-scsi `scsi0`, where there is PCIe on a port of its own."""
        self.version = version
        processor = architecture(version)
        machine = machine or ("pc" if version == OLDEST else processor.machine)
        if ports is None:
            ports = ROOT_PORTS if machine.startswith(PCIE) else ()
        self.guest = guest
        self.binary = qemu_binary(version)
        # a socket's path may have 107 bytes: not below pytest's own long directories
        self.directory = Path(tempfile.mkdtemp(prefix="bed-", dir="/tmp"))
        self.qmp = str(self.directory / "qmp")
        self.serial_log = self.directory / "serial.log"
        self.stderr_log = self.directory / "stderr.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._observer: Observer | None = None
        self._cold: set[str] = set()
        self.command = [str(self.binary), "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
        self.command += processor.arguments
        self.command += ["-name", name, "-M", machine, "-m", memory or processor.memory]
        for label, path in (("bed-qmp", self.qmp), ("bed-observer", f"{self.directory}/observer")):
            self.command += ["-chardev", f"socket,id={label},path={path},server=on,wait=off"]
            self.command += ["-mon", f"chardev={label},mode=control"]
        log = f"server=on,wait=off,logfile={self.serial_log}"
        self.command += ["-chardev", f"socket,id=bed-serial,path={self.directory}/serial,{log}"]
        self.command += ["-serial", "chardev:bed-serial"]
        own_port = scsi and machine.startswith(PCIE)
        for number, port in enumerate([*ports, *(["bed-scsi-port"] if own_port else [])], start=1):
            self.command += ["-device", f"pcie-root-port,id={port},chassis={number},slot={number}"]
        if scsi:
            self.command += ["-device", "virtio-scsi,id=scsi0" + (",bus=bed-scsi-port" if own_port else "")]
        if guest:
            files = BED / processor.guest
            self.command += ["-kernel", f"{files}/vmlinux", "-initrd", f"{files}/initrd.gz"]
            self.command += ["-append", f"{processor.cmdline} {append}".strip()]
        else:
            self.command += ["-S"]
        self.command += list(args)
        if start:
            self.start()

    # -- its life -----------------------------------------------------------

    def start(self, timeout: float = 180.0) -> VM:
        """Start it; with a guest, wait until that is up (unless it waits for a migration)."""
        try:
            with self.stderr_log.open("wb") as stderr:
                self._process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, cwd=self.directory
                )
            self._observer = self._connect(f"{self.directory}/observer", timeout)
            self._cold = set(self._observer.devices())
            if self.guest and "-incoming" not in self.command:
                self.wait_serial("GUEST-STATE", timeout)
        except BaseException:
            self.close()
            raise
        return self

    def _connect(self, path: str, timeout: float) -> Observer:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return Observer(path)
            except (FileNotFoundError, ConnectionError, EOFError):
                # no monitor yet; or one of a QEMU that then finds its command line wrong
                self._must_be_alive("did not start")
            if time.monotonic() > deadline:
                raise BedError(f"QEMU {self.version} made no monitor within {timeout} s: {self.stderr}")
            time.sleep(0.01)

    def _must_be_alive(self, what: str) -> None:
        if not self.alive:
            raise BedError(f"QEMU {self.version} {what}, and is gone (exit {self.exit_code}): {self.stderr}")

    def wait_stopped(self) -> None:
        """Wait until a SIGSTOP has reached every thread of QEMU."""
        wait_stopped(self.pid)

    def kill(self) -> None:
        """SIGKILL, as the power cord would; the files stay until close()."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_exit(self, timeout: float = 60.0) -> int:
        """Wait until the process has gone by itself; gives its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def close(self) -> None:
        """Kill what is left and remove the files. Twice is fine."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> VM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- what it is ---------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def observer(self) -> Observer:
        assert self._observer is not None, "this VM has not been started"
        return self._observer

    @property
    def stderr(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.stderr_log.read_text(errors="replace")
        return ""

    def image(self, name: str, size: str = "16M", fmt: str = "raw") -> str:
        """Make a disk image that goes away with the VM; gives its path."""
        path = str(self.directory / name)
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, size], check=True)
        return path

    def attended(self) -> bool:
        """Whether a client is at the monitor for the modules, as far as QEMU has noticed."""
        chardevs = {item["label"]: item["filename"] for item in self.observer.look("query-chardev")}
        return not chardevs["bed-qmp"].startswith("disconnected:")

    def plugged(self) -> dict[str, str]:
        """The devices that were not there at the start: {id: driver}."""
        return {name: kind for name, kind in self.observer.devices().items() if name not in self._cold}

    def fingerprint(self) -> dict[str, Any]:
        """Everything that hot-plug can leave behind: equal before and after means that a test tidied up."""
        look = self.observer
        return {
            "devices": look.devices(),
            # QEMU numbers the nodes that nobody named at random
            "nodes": sorted("#" if name.startswith("#") else name for name in look.nodes()),
            "chardevs": set(look.chardevs()),
            "objects": look.objects(),
            "network": look.hmp("info network"),
            # how far they are is their own doing
            "jobs": [(job["id"], job["type"], job["status"]) for job in look.look("query-jobs")],
            "status": look.status(),
        }

    # -- the guest ----------------------------------------------------------

    @property
    def serial(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.serial_log.read_text(errors="replace")
        return ""

    def wait_serial(self, pattern: str, timeout: float = 120.0, since: int = 0) -> re.Match[str]:
        """Wait for a whole line on the serial log that matches; `since` is an offset into `vm.serial`."""
        wanted = re.compile(rf"^{pattern}.*\n", re.MULTILINE)
        deadline = time.monotonic() + timeout
        while True:
            text = self.serial.replace("\r", "")
            if found := wanted.search(text, since):
                return found
            if time.monotonic() > deadline:
                raise BedError(f"no '{pattern}' on the serial line within {timeout} s; its end:\n{text[-2000:]}")
            self._must_be_alive(f"never printed '{pattern}'")
            time.sleep(0.02)

    def guest_state(self) -> dict[str, Any]:
        """What the guest said last: {"cpus": {"0"}, "memkb": 223632, "blk": {"vda"}, "net": {"eth0", "lo"}}."""
        said = re.compile(r"^GUEST-STATE cpus=(\S+) memkb=(\d+) blk=\[(.*)\] net=\[(.*)\]\r?\n", re.MULTILINE)
        lines = said.findall(self.serial)
        if not lines:
            raise BedError("the guest has not said what it sees")
        cpus, memkb, blk, net = lines[-1]
        return {"cpus": expand(cpus), "memkb": int(memkb), "blk": set(blk.split()), "net": set(net.split())}

    def guest_sees(self, timeout: float = 60.0, **wanted: Any) -> dict[str, Any]:
        """Wait until the guest sees just this: `blk={"vda"}`, `net={"lo"}`, `cpus={"0", "1"}` (or a number of them),
        `memkb=lambda kb: kb > 300000`. Gives the state."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.guest_state()
            if all(self._agrees(state[key], want) for key, want in wanted.items()):
                return state
            if time.monotonic() > deadline:
                raise BedError(f"the guest should see {wanted} within {timeout} s, and sees {state}")
            self._must_be_alive("should have shown its guest something")
            time.sleep(0.05)

    def guest_has_rng(self) -> None:
        """Wait until the guest uses a virtio-rng that was plugged in: its kernel crashes when it loses one half set up."""
        current = "/sys/class/misc/hw_random/rng_current"
        self.run_in_guest(f"until grep -q virtio {current}; do sleep 0.1; done", timeout=60)

    @staticmethod
    def _agrees(have: Any, want: Any) -> bool:
        if callable(want):
            return bool(want(have))
        if isinstance(want, int) and isinstance(have, set):
            return len(have) == want
        return bool(have == (want if isinstance(want, int) else set(want)))

    def run_in_guest(self, command: str, timeout: float = 60.0) -> str:
        """Run a shell line in the guest; gives what it printed, and raises if it failed."""
        tag = f"t{time.monotonic_ns()}"
        deadline = time.monotonic() + timeout
        # a client that stays connected and doesn't read can stall the guest: connected only as long as it takes
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout)
            line.connect(f"{self.directory}/serial")
            line.sendall(f"{tag} echo {tag}; {command}\n".encode())
            heard = ""
            while not (done := re.search(rf"{tag}\r?\n((?s:.*))GUEST-DONE {tag} (\d+)\r?\n", heard)):
                line.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    received = line.recv(1 << 16)
                except TimeoutError:
                    raise BedError(f"the guest did not finish '{command}' within {timeout} s: {heard!r}") from None
                if not received:
                    raise BedError(f"QEMU went away during '{command}': {heard!r}")
                heard += received.decode(errors="replace")
        output = re.sub(r"^GUEST-(STATE|COUNT) .*\n", "", done.group(1).replace("\r", ""), flags=re.MULTILINE)
        if done.group(2) != "0":
            raise BedError(f"'{command}' failed in the guest with {done.group(2)}: {output}")
        return output


def process_exists(pid: int) -> bool:
    """Whether anything of it still runs. What has ended is gone, whether its parent has noticed or not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status or "Threads:\t1\n" not in status
