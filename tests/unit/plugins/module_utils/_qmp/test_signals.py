# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An exception of a signal handler (a task's time-out) at any moment leaves the session right."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import Any, Iterator

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import EventFilter
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.fakeqmp import Peer, pair


class TaskTimeout(BaseException):
    """What the handler raises: nothing that the session could take for its own."""


@pytest.fixture
def alarm() -> Iterator[Any]:
    def handler(number: int, frame: Any) -> None:
        raise TaskTimeout

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def script(peer: Peer) -> None:
    peer.negotiate()

    def echo(command: dict) -> Any:
        if command["arguments"].get("event"):
            peer.event("E", n=command["arguments"]["n"])
        return {"n": command["arguments"]["n"], "x": len(command["arguments"].get("x", ""))}

    peer.serve(echo=echo)


@pytest.mark.parametrize("others", [0, 2])
def test_any_moment(alarm: Any, others: int) -> None:
    chance = random.Random(others)
    sock, _thread = pair(script)
    session = QMPSession.from_socket(sock, timeout=10)
    stop, wrong, ran = threading.Event(), [], []

    def other(base: int) -> None:
        number = base
        try:
            while not stop.is_set():
                number += 1
                got = session.execute("echo", {"n": number}, timeout=30)
                assert got["n"] == number, got
                ran.append(number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=other, args=(1_000_000 * (i + 1),), daemon=True) for i in range(others)]
    for thread in threads:
        thread.start()
    cut = 0
    until = time.monotonic() + 2
    number = 0
    while time.monotonic() < until or cut <= 50:
        try:
            alarm(chance.random() * chance.choice((0.0004, 0.002)) + 1e-6)
            for _turn in range(200):  # an exception in a callback of the garbage collection's is lost
                number += 1
                big = chance.random() < 0.05
                arguments: dict[str, Any] = {"n": number, "x": "y" * (300_000 if big else 1), "event": number % 3 == 0}
                wait = EventFilter("E", n=number) if number % 3 == 0 else None
                got = session.execute("echo", arguments, timeout=30, wait_for=wait)
                assert got == {"n": number, "x": len(arguments["x"])}
        except TaskTimeout:
            cut += 1
    alarm(0)
    for number in range(-50, 0):
        assert (
            session.execute("echo", {"n": number, "event": True}, timeout=30, wait_for=EventFilter("E", n=number))["n"]
            == number
        )
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not others or ran
    seen = [event.data["n"] for event in session.events]
    assert len(seen) == len(set(seen)), "an event was recorded twice"
    assert not session._pump.busy
    assert not session._pump._calls
    session.close()


def test_wait_event_is_interrupted(alarm: Any) -> None:
    sock, _thread = pair(script)
    with QMPSession.from_socket(sock, timeout=10) as session:
        alarm(0.05)
        with pytest.raises(TaskTimeout):
            session.wait_event(EventFilter("NEVER"), timeout=30)
        assert session.execute("echo", {"n": 1}) == {"n": 1, "x": 0}


def test_a_written_command_stays_owned(alarm: Any) -> None:
    go = threading.Event()
    order: list[str] = []

    def slow(peer: Peer) -> None:
        peer.negotiate()
        first = peer.command()
        go.wait(10)
        peer.reply(first, "late")
        order.append("late")
        second = peer.command()
        order.append(second["execute"])
        peer.reply(second, "second")
        peer.serve()

    sock, _thread = pair(slow)
    with QMPSession.from_socket(sock, timeout=10) as session:
        alarm(0.05)
        with pytest.raises(TaskTimeout):
            session.execute("first")
        with pytest.raises(errors.CommandTimeout) as caught:
            session.execute("never", timeout=0.5)
        assert caught.value.phase == "queue"
        go.set()
        assert session.execute("second") == "second"
    assert order == ["late", "second"]


def test_cancel_from_a_handler() -> None:
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

    sock, _thread = pair(script)
    deadline = Deadline(30)
    before = signal.signal(signal.SIGALRM, lambda *_: deadline.cancel())
    try:
        with QMPSession.from_socket(sock, timeout=10) as session:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(errors.Cancelled):
                session.wait_event(EventFilter("NEVER"), deadline=deadline)
    finally:
        signal.signal(signal.SIGALRM, before)
