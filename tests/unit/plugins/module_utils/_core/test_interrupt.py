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

from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import (
    heard as let_through,
)
from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import (
    held,
    interruptible,
)

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


def test_a_task_timeout_that_comes_first_is_kept_back_too() -> None:
    class TimedOut(BaseException):
        pass

    def on_alarm(number: int, frame: Any) -> None:
        raise TimedOut

    reached = False
    signal.signal(signal.SIGALRM, on_alarm)
    try:
        with pytest.raises(TimedOut), interruptible(), held():
            signal.raise_signal(signal.SIGALRM)
            reached = True
            with let_through():
                pytest.fail("it was lost")
        assert reached and signal.getsignal(signal.SIGALRM) is on_alarm
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with interruptible():
            assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_outside_of_the_main_thread(heard: list[int]) -> None:
    def work() -> None:
        with interruptible():
            seen.append(True)

    seen: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen


def test_it_is_kept_back_until_a_place_that_hears_it(heard: list[int]) -> None:
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt), interruptible(), held():
        signal.raise_signal(signal.SIGTERM)
        reached.append("the end of the work")
        with let_through():
            reached.append("where it should have been heard")
    assert reached == ["the end of the work"] and heard == [signal.SIGTERM]


def test_where_it_is_let_through_it_acts_at_once_and_once(heard: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(), held():
        try:
            with let_through():
                signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            with let_through():  # as what takes back does
                signal.raise_signal(signal.SIGINT)
            raise
    assert heard == [signal.SIGTERM]


def test_one_that_is_kept_back_to_the_end_acts_there(heard: list[int]) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), interruptible():
        with held():
            signal.raise_signal(signal.SIGTERM)
            done = True
        pytest.fail("it was lost")
    assert done


def test_another_thread_neither_keeps_nor_hears(heard: list[int]) -> None:
    def work() -> None:
        with held():
            holds.set()
            done.wait(30)

    holds, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    with pytest.raises(KeyboardInterrupt), interruptible():
        thread.start()
        holds.wait(30)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            done.set()
            thread.join()
