# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Programs of the host that a step runs: what they said is the error."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Sequence

from .._core.errors import OperationFailed
from . import child

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline


def run(command: Sequence[str], deadline: Deadline, what: str) -> str:
    """Return what a command printed. Raise OperationFailed, begun with ``what``, when it fails or lasts too long."""
    try:
        done = child.run(command, deadline, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired as exc:
        raise OperationFailed(f"{what}: {' '.join(command)} was not done within the timeout, and was ended") from exc
    except OSError as exc:
        raise OperationFailed(f"{what}: {command[0]} can't be run: {exc.strerror}") from exc
    if done.returncode:
        said = "; ".join((done.stderr or done.stdout).decode(errors="replace").split("\n")).strip("; ")
        raise OperationFailed(f"{what}: {said or f'{command[0]} failed and does not say why'}")
    return done.stdout.decode(errors="replace")
