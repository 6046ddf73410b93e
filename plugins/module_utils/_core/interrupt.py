# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Ctrl-C, SIGTERM and the end of a task's "timeout" as an exception, so that what was begun is taken back.

Python lets a signal act between any two steps of the program, so also between a command and the ``try`` that would take it back.
So the engine keeps signals back (``held``) from the first step of a plan to the end of its task, and hears them (``heard``) only
where it sends or waits.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator


class _Signals:
    """What has come to the main thread, which alone runs the handlers of signals."""

    def __init__(self) -> None:
        self.came = 0
        self.held = False
        self.raised = False

    def stop(self, number: int, frame: Any) -> None:
        """Handle a signal: the first counts."""
        if not self.came:
            self.came = number
            signal.alarm(0)  # nor does a task's "timeout" cut that short
            self.raise_if_due()

    def raise_if_due(self) -> None:
        """Raise KeyboardInterrupt once, where a signal has come and is not kept back."""
        if self.came and not self.held and not self.raised:
            self.raised = True
            raise KeyboardInterrupt


_signals = _Signals()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn these signals into KeyboardInterrupt in here, so that what was begun is taken back; then let them act.

    Later ones count for nothing: after a Ctrl-C Ansible sends its workers SIGTERM at once, and taking back has an end of
    its own. Does nothing outside of the main thread, nor to a signal that is ignored.
    """
    global _signals
    if not _in_main_thread():
        yield
        return
    outer, mine = _signals, _Signals()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    if not callable(before.get(signal.SIGALRM)):  # no task's "timeout"
        before.pop(signal.SIGALRM, None)
    try:
        _signals = mine
        for number in before:
            signal.signal(number, mine.stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signals = outer
        if mine.came:
            signal.raise_signal(mine.came)


@contextmanager
def held() -> Iterator[None]:
    """Keep signals back in here, but where ``heard`` lets them through. One that has come acts at the end."""
    with _holding(True):
        yield


@contextmanager
def heard() -> Iterator[None]:
    """Let signals through in here: it is in a ``try`` that takes back what was begun."""
    with _holding(False):
        yield


def pause(seconds: float) -> None:
    """Sleep, and hear signals meanwhile."""
    with heard():
        time.sleep(seconds)


@contextmanager
def _holding(hold: bool) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    signals = _signals
    before = signals.held
    try:
        signals.held = hold
        signals.raise_if_due()
        yield
    finally:
        signals.held = before
    signals.raise_if_due()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
