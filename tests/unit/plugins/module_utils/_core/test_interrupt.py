# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGINT and SIGTERM while a module works: it takes back what it did, and then the signal does what it would have done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that reached the handlers that were there before."""
    came: list[int] = []

    def handler(number: int, frame: Any) -> None:
        came.append(number)

    before = {number: signal.signal(number, handler) for number in NUMBERS}
    yield came
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.parametrize("number", NUMBERS)
def test_once_is_enough(heard: list[int], number: signal.Signals) -> None:
    taken_back = False
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            for another in NUMBERS:
                signal.raise_signal(another)  # as Ansible does after a Ctrl-C
            taken_back = not heard
            raise
    assert taken_back and heard == [number]


def test_nothing_stays(heard: list[int]) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with interruptible():
        assert before != [signal.getsignal(number) for number in NUMBERS]
    assert before == [signal.getsignal(number) for number in NUMBERS]
    assert not heard


def test_an_ignored_signal_stays_ignored(heard: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_task_timeout_does_not_cut_it_short(heard: list[int]) -> None:
    signal.alarm(1000)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.alarm(0) == 0


def test_outside_of_the_main_thread(heard: list[int]) -> None:
    def work() -> None:
        with interruptible():
            seen.append(True)

    seen: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
