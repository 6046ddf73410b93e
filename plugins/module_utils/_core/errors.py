# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a task raises when it can't do what was asked. The text of each is the whole message for the user.

    TaskError
    ├── Refusal            nothing was sent: reading tells that it can't be done
    ├── OperationFailed    it was begun and failed; ``commands`` in the result says what was sent
    ├── NotDoneInTime      the deadline passed, and what was begun goes on in QEMU
    └── Pending            QEMU took the request, the guest has not answered it yet; a later run finishes the job

Below these are the session's errors (``_qmp/errors.py``): QEMU's own refusals, lost connections, time-outs of a command.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import sys
from typing import Any, Dict

from . import _python, _zip

_python.check()
_zip.compile_once(__spec__.loader, sys.meta_path)


class TaskError(Exception):
    """The task can't be done. The message names the thing, the value and what to do."""

    def __init__(self, message: str, **details: Any) -> None:
        """``details``: further keys of the failed task's result, such as the figures that a job had come to."""
        super().__init__(message)
        self.details: Dict[str, Any] = details


class Refusal(TaskError):
    """The request can't be fulfilled, and nothing was sent for it."""


class OperationFailed(TaskError):
    """What was begun has failed."""


class NotDoneInTime(TaskError):
    """The deadline passed while the work went on."""

    def __init__(self, message: str = "not done in time", found: Any = None, **details: Any) -> None:
        """``found``: what was read last; None when there was no time to read anything."""
        super().__init__(message, **details)
        self.found = found


class Pending(TaskError):
    """QEMU took the request, but the guest has not answered it yet."""
