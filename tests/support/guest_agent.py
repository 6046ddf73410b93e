# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real qemu-ga on this machine, out of the cloud image, as a user who can do no harm: what is true of a guest's is of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ansible_collections.vmm.qemu.plugins.module_utils._qmp.agent import wait_for_agent
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.errors import QMPError
from support.timing import until
from support.vm import BED

NOBODY = 65534
#: It shall neither freeze nor end the machine that it runs on, whoever runs the tests.
NEVER = (
    *("guest-shutdown", "guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "guest-fstrim"),
    *("guest-suspend-disk", "guest-suspend-ram", "guest-suspend-hybrid", "guest-set-time", "guest-set-vcpus"),
    *("guest-set-memory-blocks", "guest-set-user-password"),
)


def unpack(directory: Path) -> Path:
    """The agent of the cloud image, which lies in its file system of ext4; its libraries are QEMU's, and here."""
    raw, program = directory / "raw", directory / "qemu-ga"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(BED / "image" / "cloud.qcow2"), str(raw)], check=True)
    dump = f"dump /usr/sbin/qemu-ga {program}"
    subprocess.run(["/sbin/debugfs", "-R", dump, f"{raw}?offset={1 << 20}"], check=True, capture_output=True)
    raw.unlink()
    return program


class GuestAgent:
    """Runs until it is closed. ``directory``: one that its programs may write to."""

    def __init__(self, program: Path, blocked: Iterable[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bed-agent-", dir="/tmp"))
        self.directory.chmod(0o777)
        self._path = str(self.directory / "qga")
        self._paused = False
        self._program = self.directory / "qemu-ga"
        shutil.copyfile(program, self._program)
        self._program.chmod(0o755)
        self._blocked = ",".join([*NEVER, *blocked])
        self._start()
        until(self._listens)

    def _start(self) -> None:
        listen = ["-m", "unix-listen", "-p", self._path]
        state = ["-t", str(self.directory), "-f", str(self.directory / "pid")]
        root = os.getuid() == 0
        self._process = subprocess.Popen(
            [str(self._program), *listen, *state, "-b", self._blocked],
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
            cwd="/",
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
            start_new_session=True,
        )

    def __enter__(self) -> GuestAgent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def path(self) -> str:
        """Its socket, when it listens there: it does not while it has a client, and until it sees that one leave."""
        if not self._paused:
            until(self._answers)
            until(self._listens)
        return self._path

    def _answers(self) -> bool:
        """Whether it does; it is started again if it has ended.

        One that has a socket here, and not a VM's port, ends when a client leaves with something unread, or aborts (in
        ga_channel_client_add) when the next one comes at that moment.
        """
        if self._process.poll() is not None:
            self._start()
        try:
            wait_for_agent(self._path, Deadline(10.0))
        except QMPError:
            return False
        return True

    def _listens(self) -> bool:
        lines = Path("/proc/net/unix").read_bytes().split(b"\n")  # the names of others' sockets are any bytes
        mine = [line.split() for line in lines if line.endswith(f" {self._path}".encode())]
        return any(words[3] == b"00010000" for words in mine)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def pause(self) -> None:
        """Stop it: it takes nothing, and does later what it is asked meanwhile."""
        self._paused = True
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it do all that."""
        self._paused = False
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and what it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
