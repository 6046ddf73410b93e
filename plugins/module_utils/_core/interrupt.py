# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Ctrl-C and SIGTERM as an exception, so that what was begun is taken back."""
# Private to the collection: may change without notice.

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt in here, so that what was begun is taken back; then let them act.

    Later ones count for nothing: after a Ctrl-C Ansible sends its workers SIGTERM at once, and taking back has an end of
    its own. Does nothing outside of the main thread, nor to a signal that is ignored.
    """
    came: List[int] = []

    def stop(number: int, frame: Any) -> None:
        if came:
            return
        came.append(number)
        signal.alarm(0)  # nor does a task's "timeout" cut that short
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
