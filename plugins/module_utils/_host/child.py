# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Child processes that do not outlive a deadline."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any, Iterator, Sequence

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline


def run(command: Sequence[str], deadline: Deadline, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, as ``subprocess.run`` does, with what it prints. ``how``: what else ``Popen`` is told.

    Raise OSError where it can't be run, and TimeoutExpired at the deadline, when it is killed. It is killed, too, when another
    thread cancels the deadline.
    """
    pipe = subprocess.PIPE
    # There is no AnsibleModule in the task's own process: pylint: disable-next=ansible-bad-function
    with subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **how) as process:
        try:
            with killed_by(deadline, process):
                output, said = process.communicate(timeout=deadline.remaining())
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, output, said)


@contextlib.contextmanager
def killed_by(deadline: Deadline, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process if the deadline is cancelled meanwhile: a thread that waits for it can't be told otherwise."""
    deadline.attach(process, process.kill)
    try:
        yield
    finally:
        deadline.detach(process)
