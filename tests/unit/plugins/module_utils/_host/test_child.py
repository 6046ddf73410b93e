# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes: what they say, and their end with the deadline."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._host import child
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from support.timing import until
from support.vm import process_exists


def test_what_it_says() -> None:
    done = child.run(["sh", "-c", "echo $X; echo no >&2; exit 3"], Deadline(60.0), env={"X": "yes"})
    assert (done.returncode, done.stdout, done.stderr) == (3, b"yes\n", b"no\n")


def test_it_ends_with_the_deadline(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    forever = ["sh", "-c", f"echo $$ >{pid}; exec sleep 1000"]
    with pytest.raises(subprocess.TimeoutExpired):
        child.run(forever, Deadline(0.3))
    assert not pid.exists() or not process_exists(int(pid.read_text()))
    pid.unlink(missing_ok=True)

    deadline = Deadline(1000.0)

    def wait() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.run(forever, deadline)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: pid.exists() and bool(pid.read_text()))
    deadline.cancel()
    waiter.join(60)
    assert not waiter.is_alive() and not process_exists(int(pid.read_text()))
