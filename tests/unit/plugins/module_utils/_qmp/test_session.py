# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and events over one session: matching, waiting, cancelling, closing."""

from __future__ import annotations

import functools
import gc
import os
import socket
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import EventFilter
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from support.fakeqmp import Peer, pair, polite

SOON = 10.0  # "no hang": generous, for loaded machines
Opener = Callable[..., QMPSession]


@pytest.fixture
def open_session() -> Iterator[Opener]:
    """`open_session(script)`: a session with a peer that negotiates, then runs the script."""
    opened = []

    def make(script: Callable[[Peer], Any], **options: Any) -> QMPSession:
        sock, thread = pair(lambda peer: (peer.negotiate(), script(peer)))
        session = QMPSession.from_socket(sock, timeout=SOON, **options)
        opened.append((session, thread))
        return session

    yield make
    for session, thread in opened:
        session.close()
        thread.join(SOON)
        assert not thread.is_alive()


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run a function in a thread: a function that waits for its result, or raises its error."""
    box: list[Any] = []

    def work() -> None:
        try:
            box.append((function(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(SOON)
        assert box, "it hangs"
        value, error = box[0]
        if error is not None:
            raise error
        return value

    return result


# -- replies -----------------------------------------------------------------------------------------------------------


def test_any_return_value(open_session: Opener) -> None:
    values: list[Any] = [{}, [], None, 0, 1 << 63, 1.5, "text", True, [{"a": None}]]

    def script(peer: Peer) -> None:
        for value in values:
            peer.send({"return": value, "id": peer.command()["id"]})
        peer.serve()

    session = open_session(script)
    assert [session.execute("x") for _turn in values] == values


@pytest.mark.parametrize(
    ("error", "kind", "error_class", "desc"),
    [
        ({"class": "GenericError", "desc": "no"}, errors.CommandError, "GenericError", "no"),
        ({"class": "CommandNotFound", "desc": "x"}, errors.CommandNotFound, "CommandNotFound", "x"),
        ({"class": "DeviceNotFound", "desc": "x"}, errors.DeviceNotFound, "DeviceNotFound", "x"),
        ({"class": "DeviceNotActive", "desc": "x"}, errors.DeviceNotActive, "DeviceNotActive", "x"),
        ({"class": "NewOne", "desc": "x"}, errors.CommandError, "NewOne", "x"),
        (None, errors.CommandError, "GenericError", ""),
        ({}, errors.CommandError, "GenericError", ""),
        ([], errors.CommandError, "GenericError", "[]"),
        ("text", errors.CommandError, "GenericError", "text"),
        ({"class": 5, "desc": {"a": 1}}, errors.CommandError, "GenericError", "{'a': 1}"),
        ({"class": "KVMMissingCap", "desc": None}, errors.CommandError, "KVMMissingCap", ""),
    ],
)
def test_errors_of_any_shape(open_session: Opener, error: Any, kind: type, error_class: str, desc: str) -> None:
    session = open_session(lambda peer: (peer.send({"error": error, "id": peer.command()["id"]}), peer.serve()))
    with pytest.raises(errors.CommandError) as caught:
        session.execute("device_add")
    assert caught.value.__class__ is kind
    assert (caught.value.error_class, caught.value.desc, caught.value.command) == (error_class, desc, "device_add")
    assert str(caught.value).startswith("device_add failed: ")
    assert str(caught.value).endswith(f"({error_class})")
    assert session.execute("stop") == {}


def test_stale_and_foreign_replies_are_dropped(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        command = peer.command()
        peer.send(
            {"return": "stale", "id": "libvirt-1"}, {"error": {"class": "GenericError", "desc": "stale"}, "id": 7}
        )
        for odd in (None, [1], {"a": 1}, 5, True, 1.5):
            peer.send({"return": "stale", "id": odd})
        peer.send({"return": "stale"})  # this session's ids were echoed in the negotiation
        peer.send({"unknown": 1}, {"QMP": {}})
        peer.reply(command, "mine")
        peer.reply(command, "twice")
        peer.serve()

    session = open_session(script)
    assert session.execute("x") == "mine"
    assert session.execute("x") == {}


def test_peer_without_ids() -> None:
    def script(peer: Peer) -> None:
        peer.send({"return": "nobody asked"})
        peer.send({"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}}, "capabilities": []}})
        try:
            while True:
                command = peer.command()["execute"]
                peer.send(
                    {"error": {"class": "GenericError", "desc": "no"}} if command == "bad" else {"return": command}
                )
        except EOFError:
            pass

    sock, _thread = pair(script)
    with QMPSession.from_socket(sock, timeout=SOON) as session:
        assert session.execute("a") == "a"
        with pytest.raises(errors.CommandError):
            session.execute("bad")
        assert session.execute("b") == "b"


def test_id_less_error_is_the_one_outstanding_commands(open_session: Opener) -> None:
    error = {"error": {"class": "GenericError", "desc": "JSON parse error"}}

    def script(peer: Peer) -> None:
        peer.send(error)  # nobody's: nothing is outstanding
        peer.event("HEARD")
        peer.command()
        peer.send(error)
        peer.serve()

    session = open_session(script)
    session.wait_event(EventFilter("HEARD"), since=0, timeout=SOON)
    with pytest.raises(errors.CommandError, match="parse error"):
        session.execute("x")
    assert session.execute("y") == {}


def test_id_less_error_with_several_outstanding_ends_the_session(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        peer.command()
        peer.command()
        peer.send({"error": {"class": "GenericError", "desc": "whose?"}})
        peer.closed()

    session = open_session(script)
    first = in_thread(lambda: session.execute("slow", timeout=SOON))
    while not session._pump.busy:
        time.sleep(0.001)
    with pytest.raises(errors.ProtocolError, match=r"whose\?"):
        session.execute("yank", oob=True, timeout=SOON)
    with pytest.raises(errors.ProtocolError):
        first()
    assert session.closed
    with pytest.raises(errors.Disconnected) as caught:
        session.execute("more")
    assert not caught.value.outcome_unknown


def test_ids_are_random_unique_and_short(open_session: Opener) -> None:
    seen: list[str] = []
    for _turn in range(3):
        session = open_session(lambda peer: peer.serve(x=lambda command: seen.append(command["id"])))
        for _turn in range(50):
            session.execute("x")
    assert len(set(seen)) == 150
    assert max(map(len, seen)) <= 8


def test_ids_differ_in_a_forked_process(open_session: Opener) -> None:
    session = open_session(lambda peer: peer.serve(x=lambda command: command["id"]))
    before = session.execute("x")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, session.execute("x").encode())
            session.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert child
    assert abs(int.from_bytes(child.encode(), "big") - int.from_bytes(before.encode(), "big")) > 2
    assert session.execute("x") not in (child, before)


def test_oob_overtakes(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        slow = peer.command()
        yank = peer.command()
        assert (slow["execute"], yank["exec-oob"]) == ("slow", "yank")
        peer.reply(yank, "fast")
        peer.reply(slow, "slow")
        peer.serve()

    session = open_session(script)
    slow = in_thread(lambda: session.execute("slow"))
    while not session._pump.busy:
        time.sleep(0.001)
    assert session.execute("yank", oob=True) == "fast"
    assert slow() == "slow"


def test_60_mib_reply_and_the_limit(open_session: Opener) -> None:
    session = open_session(lambda peer: peer.serve(big="x" * (60 << 20), huge="x" * (70 << 20)))
    assert len(session.execute("big")) == 60 << 20
    with pytest.raises(errors.ProtocolError, match="max_reply"):
        session.execute("huge")
    assert session.closed
    session = open_session(lambda peer: peer.serve(big="x" * 2000), max_reply=1000)
    with pytest.raises(errors.ProtocolError, match="1000"):
        session.execute("big")


def test_pretty_and_slow_peers(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        peer.indent = 4
        peer.reply(peer.command(), [{"a": "}\r\n{", "b": []}])
        command = peer.command()
        for byte in b'{"return": {"a": "]}\\"{"}, "id": "%s"}' % command["id"].encode():
            peer.raw(bytes([byte]))
        peer.serve()

    session = open_session(script)
    assert session.execute("x") == [{"a": "}\r\n{", "b": []}]
    assert session.execute("x") == {"a": ']}"{'}


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["event", "reply"])
def test_wait_for_in_either_order(open_session: Opener, first: str) -> None:
    def script(peer: Peer) -> None:
        command = peer.command()
        if first == "reply":
            peer.reply(command, "done")
        peer.event("DEVICE_DELETED", path="/machine/peripheral/d0/virtio-backend")
        peer.event("DEVICE_DELETED", device="d1")
        peer.event("DEVICE_DELETED", device="d0")
        if first == "event":
            peer.reply(command, "done")
        peer.serve()

    session = open_session(script)
    wait = EventFilter("DEVICE_DELETED", device="d0")
    assert session.execute("device_del", {"id": "d0"}, wait_for=wait) == "done"
    assert [event.data.get("device") for event in session.events] == [None, "d1", "d0"]
    assert session.events[0].timestamp == 5.25


def test_unread_events_do_not_count(open_session: Opener) -> None:
    ready = threading.Event()

    def script(peer: Peer) -> None:
        peer.event("STOP")
        ready.set()
        peer.reply(peer.command())
        peer.serve()

    session = open_session(script)
    ready.wait(SOON)
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("stop", wait_for=EventFilter("STOP"), timeout=0.5)
    assert caught.value.phase == "event"
    assert [event.name for event in session.events] == ["STOP"]
    with pytest.raises(errors.CommandTimeout) as caught:
        session.wait_event(EventFilter("STOP"), timeout=0.1)
    assert (caught.value.phase, caught.value.command) == ("event", None)
    assert session.execute("query-status") == {}


def test_error_ends_a_wait_at_once(open_session: Opener) -> None:
    session = open_session(lambda peer: (peer.error(peer.command(), "DeviceNotFound"), peer.serve()))
    with pytest.raises(errors.DeviceNotFound):
        session.execute("device_del", wait_for=EventFilter("DEVICE_DELETED"), timeout=SOON)


def test_waiting_for_an_event_holds_up_nobody(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        peer.reply(peer.command())
        peer.reply(peer.command())
        peer.event("LATE", n=1)
        peer.serve()

    session = open_session(script)
    slow = in_thread(lambda: session.execute("slow", wait_for=EventFilter("LATE", n=1), timeout=SOON))
    plain = in_thread(lambda: session.wait_event(EventFilter("LATE"), timeout=SOON))
    while session._pump.busy or len(session._pump._calls) < 2:
        time.sleep(0.001)
    assert session.execute("quick") == {}
    assert slow() == {}
    assert plain().data == {"n": 1}


def test_cursors_and_listeners(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        for number in range(3):
            peer.event("E", n=number)
            peer.reply(peer.command())
        peer.serve()

    session = open_session(script)
    session.wait_event(EventFilter("E", n=0), since=0, timeout=SOON)
    listener = session.listen(EventFilter("E"))
    start = session.event_count
    session.execute("x")
    session.execute("x")
    session.execute("x")
    every = session.events
    assert ([event.data["n"] for event in every], start) == ([0, 1, 2], 1)
    assert session.wait_event(EventFilter("E", n=1), since=0, timeout=SOON).data == {"n": 1}
    assert session.wait_event(EventFilter("E"), since=start, timeout=SOON) == every[1]
    assert session.events_since(2) == every[2:]
    assert session.events_since(3) == []
    assert listener.next(timeout=SOON) == every[1]
    assert listener.pending() == [every[2]]
    assert listener.pending() == []
    assert session.wait_event(lambda event: event.data["n"] == 2, since=0).name == "E"


def test_history_is_bounded_and_numbers_stay(open_session: Opener) -> None:
    def script(peer: Peer) -> None:
        for start in range(0, 12_000, 1000):
            peer.send(*({"event": "E", "data": {"n": start + i}} for i in range(1000)))
        peer.serve()

    session = open_session(script)
    while session.event_count < 12_000:
        session.execute("x")
    assert len(session.events) == 10_000
    assert session.events[0].data == {"n": 2000}
    assert session.events_since(11_999)[0].data == {"n": 11_999}
    assert session.events[0].timestamp is None


def test_a_failing_predicate_is_its_owners(open_session: Opener) -> None:
    session = open_session(lambda peer: (peer.reply(peer.command()), peer.event("E"), peer.serve()))
    with pytest.raises(ZeroDivisionError):
        session.execute("x", wait_for=lambda event: 1 / 0)
    assert session.execute("x") == {}


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_timeout_in_each_phase(open_session: Opener) -> None:
    late = threading.Event()

    def script(peer: Peer) -> None:
        command = peer.command()
        late.wait(SOON)
        peer.reply(command, "late")
        assert peer.command()["execute"] == "third"
        peer.reply(peer.received[-1], "third")
        peer.serve()

    session = open_session(script)
    with pytest.raises(errors.CommandTimeout, match="first") as caught:
        session.execute("first", timeout=0.5)
    assert caught.value.phase == "reply"
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("second", timeout=0.5)
    assert caught.value.phase == "queue"
    assert caught.value.command == "second"
    late.set()
    assert session.execute("third") == "third"
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("fourth", timeout=0)
    assert caught.value.phase == "queue"
    assert session.execute("fifth", timeout=SOON, deadline=Deadline(SOON)) == {}


@pytest.mark.parametrize("which", ["timeout", "deadline"])
def test_the_earlier_limit_counts(open_session: Opener, which: str) -> None:
    session = open_session(lambda peer: peer.closed())
    limits = {"timeout": (0.1, Deadline(SOON)), "deadline": (SOON, Deadline(0.1))}[which]
    start = time.monotonic()
    with pytest.raises(errors.CommandTimeout):
        session.execute("x", timeout=limits[0], deadline=limits[1])
    assert time.monotonic() - start < SOON / 2
    session.default_timeout = 0.1
    with pytest.raises(errors.CommandTimeout):
        session.execute("x")


def test_cancel_in_each_phase(open_session: Opener) -> None:
    go = threading.Event()
    names: list[str] = []

    def script(peer: Peer) -> None:
        command = peer.command()
        go.wait(SOON)
        peer.reply(command)
        peer.serve(**{name: lambda command: names.append(command["execute"]) for name in ("queued", "evented", "last")})

    session = open_session(script)

    def cancelled(name: str, phase: str, **options: Any) -> None:
        deadline = Deadline(None)
        wait = in_thread(lambda: session.execute(name, deadline=deadline, **options))
        while phase not in [call.state for call in session._pump._calls if call.name == name]:
            time.sleep(0.001)
        deadline.cancel()
        with pytest.raises(errors.Cancelled) as caught:
            wait()
        assert caught.value.phase == phase
        with pytest.raises(errors.Cancelled):
            session.execute(name, deadline=deadline)

    cancelled("first", "reply")
    cancelled("queued", "queue")
    go.set()
    cancelled("evented", "event", wait_for=EventFilter("NEVER"))
    session.execute("last")
    assert names == ["evented", "last"]


def test_blocked_write(open_session: Opener) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        go.wait(SOON)
        peer.serve(big=lambda command: len(command["arguments"]["x"]))

    session = open_session(script)
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("big", {"x": "a" * 5_000_000}, timeout=2.0)
    assert caught.value.phase == "write"
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("after", timeout=0.5)
    assert caught.value.phase == "queue"
    go.set()
    assert session.execute("after") == {}
    assert session.execute("big", {"x": "b" * 5_000_000}) == 5_000_000


def test_a_command_given_up_half_written_does_not_run_when_the_session_ends(open_session: Opener) -> None:
    go = threading.Event()
    heard: list[dict[str, Any]] = []

    def script(peer: Peer) -> None:
        go.wait(SOON)
        try:
            while True:
                heard.append(peer.command())
        finally:
            ended.set()

    ended = threading.Event()
    session = open_session(script)
    with pytest.raises(errors.CommandTimeout) as caught:
        session.execute("big", {"x": "a" * 5_000_000}, timeout=2.0)
    assert caught.value.phase == "write"
    threading.Timer(0.2, go.set).start()
    session.close()
    assert ended.wait(SOON) and not heard


def test_blocked_write_is_cancelled_and_another_thread_finishes_it(open_session: Opener) -> None:
    go = threading.Event()
    session = open_session(lambda peer: (go.wait(SOON), peer.serve()))
    deadline = Deadline()
    big = in_thread(lambda: session.execute("big", {"x": "a" * 5_000_000}, deadline=deadline))
    while not session._pump._writing:
        time.sleep(0.001)
    after = in_thread(lambda: session.execute("after"))
    deadline.cancel()
    with pytest.raises(errors.Cancelled) as caught:
        big()
    assert caught.value.phase == "write"
    go.set()
    assert after() == {}


# -- threads -----------------------------------------------------------------------------------------------------------


def test_fifo_from_many_threads(open_session: Opener) -> None:
    go = threading.Event()
    order: list[int] = []

    def script(peer: Peer) -> None:
        command = peer.command()
        go.wait(SOON)
        peer.reply(command)
        peer.serve(n=lambda command: order.append(command["arguments"]["n"]))

    session = open_session(script)
    first = in_thread(lambda: session.execute("hold"))
    waits = []
    for number in range(20):
        while len(session._pump._calls) < number + 1:
            time.sleep(0.001)
        waits.append(in_thread(functools.partial(session.execute, "n", {"n": number})))
    while len(session._pump._calls) < 21:
        time.sleep(0.001)
    go.set()
    for wait in [first, *waits]:
        wait()
    assert order == list(range(20))


def test_many_threads_each_get_their_own(open_session: Opener) -> None:
    session = open_session(lambda peer: peer.serve(echo=lambda command: command["arguments"]["n"]))

    def work(base: int) -> bool:
        return all(session.execute("echo", {"n": base + i}, timeout=60) == base + i for i in range(200))

    waits = [in_thread(functools.partial(work, base)) for base in range(0, 8000, 1000)]
    assert all(wait() for wait in waits)


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_disconnect_wakes_all_and_says_what_is_unknown(open_session: Opener, how: str) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        if how == "eof":
            peer.command()
        go.wait(SOON)

    session = open_session(script)
    written = in_thread(lambda: session.execute("written"))
    while not session._pump.busy:
        time.sleep(0.001)
    queued = in_thread(lambda: session.execute("queued"))
    event = in_thread(lambda: session.wait_event(EventFilter("E")))
    while len(session._pump._calls) < 3:
        time.sleep(0.001)
    go.set()
    for wait, command, unknown in ((written, "written", True), (queued, "queued", False), (event, None, False)):
        with pytest.raises(errors.Disconnected) as caught:
            wait()
        assert (caught.value.command, caught.value.outcome_unknown) == (command, unknown)
    with pytest.raises(errors.Disconnected):
        session.execute("later")
    assert session.closed


def test_a_reply_that_came_before_the_end_counts(open_session: Opener) -> None:
    session = open_session(lambda peer: (peer.reply(peer.command(), "bye"), peer.event("SHUTDOWN")))
    assert session.execute("quit") == "bye"
    with pytest.raises(errors.Disconnected):
        session.execute("x")
    assert [event.name for event in session.events] == ["SHUTDOWN"]


def test_garbage_in_mid_session(open_session: Opener) -> None:
    session = open_session(lambda peer: (peer.command(), peer.raw(b"(qemu) \r\n"), peer.closed()))
    with pytest.raises(errors.ProtocolError, match="HMP"):
        session.execute("x")
    assert session.closed


def test_close_drains(open_session: Opener) -> None:
    states: list[Any] = []

    def script(peer: Peer) -> None:
        command = peer.command()
        time.sleep(0.7)
        peer.reply(command)
        states.append(peer.closed())

    session = open_session(script)
    with pytest.raises(errors.CommandTimeout):
        session.execute("slow", timeout=0.5)
    session.close()
    session.close()
    assert session.closed
    with pytest.raises(errors.Disconnected):
        session.execute("x")
    while not states:
        time.sleep(0.001)
    assert states == [True]


def test_close_gives_up_after_the_grace(open_session: Opener) -> None:
    session = open_session(lambda peer: (peer.command(), peer.closed()))
    with pytest.raises(errors.CommandTimeout):
        session.execute("never", timeout=0.5)
    start = time.monotonic()
    session.close()
    assert 1.5 < time.monotonic() - start < SOON


def test_close_wakes_every_waiter(open_session: Opener) -> None:
    go = threading.Event()
    session = open_session(
        lambda peer: (peer.command(), go.wait(SOON), peer.reply(peer.received[-1], "late"), peer.closed())
    )
    written = in_thread(lambda: session.execute("written"))
    while not session._pump.busy:
        time.sleep(0.001)
    queued = in_thread(lambda: session.execute("queued"))
    event = in_thread(lambda: session.wait_event(EventFilter("E")))
    while len(session._pump._calls) < 3:
        time.sleep(0.001)
    closing = in_thread(session.close)
    for wait in (queued, event):
        with pytest.raises(errors.Disconnected):
            wait()
    go.set()
    assert written() == "late"
    closing()


def test_nothing_leaks() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = (descriptors(), threading.active_count())
    kept = []
    for number in range(20):
        sock, thread = pair(polite)
        session = QMPSession.from_socket(sock, timeout=SOON)
        session.execute("x")
        if number % 2:
            session.close()
            kept.append(session)
        del session, sock
        thread.join(SOON)
    assert (descriptors(), threading.active_count()) == before


# -- before anything is written ----------------------------------------------------------------------------------------


def test_read_only(open_session: Opener) -> None:
    names: list[str] = []

    def script(peer: Peer) -> None:
        try:
            while True:
                names.append(peer.command()["execute"])
                peer.reply(peer.received[-1])
        except EOFError:
            pass

    session = open_session(script, read_only=True)
    session.execute("query-status")
    session.execute("qom-list", {"path": "/"})
    session.execute("human-monitor-command", {"command-line": "info network"})
    for name, arguments in (
        ("stop", None),
        ("human-monitor-command", {"command-line": "stop"}),
        ("query_status", None),
    ):
        with pytest.raises(errors.ReadOnly, match=name):
            session.execute(name, arguments)
    session.read_only = False
    session.execute("stop")
    assert names == ["query-status", "qom-list", "human-monitor-command", "stop"]


def test_not_json_is_refused_unsent(open_session: Opener) -> None:
    seen: list[Any] = []
    session = open_session(lambda peer: peer.serve(x=seen.append))
    for arguments in ({"a": float("nan")}, {"a": object()}, {"a": b""}, [1]):
        with pytest.raises(errors.InvalidCommand):
            session.execute("x", arguments)  # type: ignore[arg-type]
    session.execute("x")
    assert len(seen) == 1


def test_descriptors(open_session: Opener) -> None:
    texts: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.reply(peer.command())
        texts.extend(os.pread(number, 100, 0) for number in peer.fds)
        peer.serve()

    session = open_session(script)
    read, write = os.pipe()
    with open(__file__, "rb") as first, open(os.devnull, "rb") as second:
        session.execute("getfd", {"fdname": "x"}, fds=[first.fileno(), second.fileno()])
        os.fstat(first.fileno())
    os.close(read)
    os.close(write)
    refused: list[list[Any]] = [[read], [-1], ["0"], [1 << 40], [None]]
    for bad in refused:
        with pytest.raises(errors.InvalidCommand):
            session.execute("getfd", fds=bad)
    with pytest.raises(errors.InvalidCommand):
        session.execute("getfd", fds=[0] * 300)
    session.execute("x")
    assert len(texts) == 2
    assert texts[0].startswith(b"# Copyright")


def test_descriptors_need_a_unix_socket() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs = listener.accept()[0]
    threading.Thread(target=lambda: polite(Peer(theirs)), daemon=True).start()
    with QMPSession.from_socket(ours, timeout=SOON) as session:
        with pytest.raises(errors.InvalidCommand, match="UNIX"):
            session.execute("getfd", {"fdname": "x"}, fds=[0])
        assert session.execute("x") == {}
    listener.close()
