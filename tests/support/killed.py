# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks in processes of their own, which are killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine import apply
from ansible_collections.vmm.qemu.plugins.module_utils._engine.operation import Run

_KILLED = 9
_BREAK = """
import os, signal, sys
from importlib import import_module
where, name, after, deed = {where!r}, {name!r}, {after!r}, {deed!r}
module = import_module("ansible_collections.vmm.qemu.plugins.module_utils._vm." + where)
*owner, function = name.split(".")
owner = getattr(module, owner[0]) if owner else module
was = getattr(owner, function)
def broken(self, *args, **how):
    if after:
        was(self, *args, **how)
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.kill(args[0].pid, signal.SIGKILL)
    return None if after else was(self, *args, **how)
setattr(owner, function, broken)
"""


def forked(task: Callable[[], Any], send: Callable[..., None] = apply._send) -> int:
    """Begin a task, with this in the place of what sends its steps; gives its process id."""
    pid = os.fork()
    if pid == 0:
        apply._send = send
        with contextlib.suppress(BaseException):
            task()
            os._exit(0)
        os._exit(1)
    return pid


def kill(pid: int) -> None:
    """SIGKILL, and it is gone."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def killed_before(step: int, task: Callable[[], Any]) -> bool:
    """Run a task that is killed before its step of that number; False where it had fewer, and came to its end."""
    count, sent = [step], apply._send

    def send(*arguments: Any) -> None:
        if count[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] -= 1
        sent(*arguments)

    ended = os.waitpid(forked(task, send), 0)[1]
    assert ended in (0, signal.SIGKILL)
    return ended != 0


def killed(run: Callable[[], Any], before: Callable[[int, Step], bool]) -> bool:
    """`run()`, until it is about to send a step for which `before(number, step)` is true. Tells whether there was one."""
    child = os.fork()
    if not child:
        sent: list[Step] = []
        real = Run.send

        def send(self: Run, step: Step, *rest: Any, **more: Any) -> None:
            sent.append(step)
            if before(len(sent) - 1, step):
                os._exit(_KILLED)
            real(self, step, *rest, **more)

        Run.send = send  # type: ignore[method-assign]
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED


class Broken(NamedTuple):
    """Where a task comes to its end: a function of the collection that it is killed before, or after."""

    where: str
    name: str
    after: bool = False

    def broken(self, deed: str) -> str:
        """Python that a task's process runs first: there it kills itself, or (`end`) the QEMU that is the first argument."""
        return _BREAK.format(**self._asdict(), deed=deed)
