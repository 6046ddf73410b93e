# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a process is dead: the moment from which its files and locks are free."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.process import Process
from ansible_collections.vmm.qemu.plugins.module_utils._host.process import command_line

# The first thread ends; another holds the process until stdin does.
HALF_DEAD = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(") ")[2][0]


def test_one_that_nobody_noticed_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process(child.pid)
        assert process.alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert state(child.pid) == "Z"
        assert not process.alive
    assert not process.alive
    assert Process(child.pid).pid is None


def test_one_with_a_thread_left_is_not_dead() -> None:
    command: Any = [sys.executable, "-c", HALF_DEAD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        process = Process(child.pid)
        assert child.stdout and child.stdin
        child.stdout.readline()
        while state(child.pid) != "Z":
            pass
        assert command_line(child.pid) == []
        assert process.alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.alive


def test_a_number_that_nobody_has_is_worth_nothing() -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(2**22 + 1, 0)
    for pid in (2**22 + 1, None):
        process = Process(pid)
        assert process.pid is None and not process.alive
