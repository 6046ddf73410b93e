# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source against monitors that do as they are told: what is told of them, and that none of them ends it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import resource
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.plugin_utils import _events_machine
from ansible_collections.vmm.qemu.plugins.plugin_utils._events_text import harmless
from support.events import source, tell, watching
from support.fakeqmp import GREETING, FakeQMP, Peer, Script


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="ev-", dir="/tmp") as directory:
        yield Path(directory)


def vm(then: Callable[[Peer], Any] = lambda peer: None, status: Any = "running", name: Any = None) -> Script:
    """A monitor that tells its state, and then does as it is told."""

    def script(peer: Peer) -> None:
        peer.negotiate()
        for answer in ({"status": status}, {} if name is None else {"name": name}):
            peer.reply(peer.command(), answer)
        then(peer)
        peer.closed()

    return script


@contextlib.contextmanager
def monitors(place: Path, **scripts: Script | list[Script]) -> Iterator[dict[str, FakeQMP]]:
    """Monitors with these names in a directory."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name, script in scripts.items():
            made[name] = stack.enter_context(FakeQMP(*(script if isinstance(script, list) else [script])))
            (place / f"{name}.events").symlink_to(made[name].address[5:])
        yield made


def test_the_state_comes_first_and_then_what_came_meanwhile(place: Path) -> None:
    def early(peer: Peer) -> None:
        peer.negotiate()
        peer.event("STOP")
        for answer in ({"status": "paused"}, {"name": "{{ x }}"}):
            peer.reply(peer.command(), answer)
        peer.event("SHUTDOWN", guest=True, reason="guest-shutdown")
        peer.event("gone", crashed=True)  # not QEMU's to say
        peer.event("RESUME")
        peer.closed()

    async def story() -> None:
        async with watching(sockets=[f"{place}/*.events"]) as heard:
            last = await heard.next("RESUME")
        assert last == {
            "vm": "web1",
            "socket": f"{place}/web1.events",
            "event": "RESUME",
            "data": {},
            "timestamp": 5.25,
        }
        assert heard.names("web1") == ["connected", "STOP", "SHUTDOWN", "RESUME"]
        assert heard.seen[0]["data"] == {"status": "paused", "version": "9.1.2", "name": "{ { x }}"}

    with monitors(place, web1=early):
        tell(story())


HOSTILE: dict[str, tuple[Script, str]] = {
    "http": (lambda peer: peer.raw(b"HTTP/1.1 200 OK\r\n\r\n"), "HTTP"),
    "hmp": (lambda peer: peer.raw(b"QEMU 9.1 monitor\r\n(qemu) "), "human monitor"),
    "binary": (lambda peer: peer.raw(b"\xff\x00\xfe" * 999), "not QMP|broken"),
    "greeting": (lambda peer: peer.send({"QMP": {"version": "x"}}), "without a QEMU version"),
    "leaves": (lambda peer: None, "no greeting within"),
    "silent": (lambda peer: peer.closed(), "no greeting within"),
    "deaf": (lambda peer: (peer.send(GREETING), peer.closed()), "was not answered"),
    "long": (vm(lambda peer: peer.raw(b'{"event": "A", "data": {"x": "' + b"x" * 99_999)), "longer than max_reply"),
    # from Python 3.12 on, json reads some ten thousand levels: then it is the length
    "deep": (
        vm(lambda peer: peer.raw(b'{"event": "A", "data": ' + b'{"a":' * 90_000 + b"1" + b"}" * 90_001)),
        "broken JSON|longer",
    ),
    "number": (vm(lambda peer: peer.send({"event": "A", "timestamp": {"seconds": 10**400}})), "OverflowError|broken"),
    "answers": (vm(lambda peer: peer.raw(b"{}\r\n" * 5000)), "what nobody has asked"),
    "state": (vm(status=["running"]), "not answered with a run state"),
    "refuses": (lambda peer: (peer.negotiate(), peer.error(peer.command()), peer.closed()), "query-status"),
    "stops": (lambda peer: (peer.negotiate(), peer.closed()), "no answer within"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_a_monitor_is_told_once_and_ends_nothing(place: Path, name: str) -> None:
    hostile, reason = HOSTILE[name]
    again, go_on = threading.Event(), threading.Event()
    scripts: list[Script] = [hostile, hostile, hostile, lambda peer: (again.set(), hostile(peer))]

    async def story() -> None:
        quick = {"connect_timeout": 0.3} if name in ("leaves", "silent", "deaf", "stops") else {}
        async with watching(sockets=[f"{place}/*.events"], **quick) as heard:
            told = await heard.next("unreachable", vm="bad")
            while not again.is_set():
                await asyncio.sleep(0.01)
            go_on.set()
            await heard.next("WAKEUP", vm="good")
        names = heard.names("bad")
        assert all(one != other for one, other in itertools.pairwise(names)), names
        assert re.search(reason, told["data"]["reason"]), told

    def awaited(peer: Peer) -> None:
        assert go_on.wait(60)
        peer.event("WAKEUP")

    good = vm(awaited)
    with monitors(place, bad=scripts, good=good):
        tell(story())


def test_a_text_is_no_template() -> None:
    texts = {
        "{% if %}": "{ % if %}",
        "{{{": "{ { { ",
        "{#": "{ #",
        "#jinja2:variable_start_string:'[['\n": "# jinja2:variable_start_string:'[['\ufffd",
        "$ANSIBLE_VAULT;1.1": "$ ANSIBLE_VAULT;1.1",
        "a\x1b[2J\ud800": "a\ufffd[2J\ufffd",
        "x" * 5000: "x" * 4096,
        'json:{"a": {"b": 1}}': 'json:{"a": {"b": 1}}',
    }
    for told, safe in texts.items():
        assert harmless({told: [told]}) == {safe: [safe]}
    assert harmless([2**64 - 1, 2**64, float("inf"), float("nan"), 1.5, True]) == [
        2**64 - 1,
        None,
        None,
        None,
        1.5,
        True,
    ]
    assert harmless([[[[[[[[[[1]]]]]]]]]]) == [[[[[[[[None]]]]]]]]


def test_one_that_floods_keeps_nobody_waiting_and_nothing_without_end(place: Path) -> None:
    """It is read no more than the rules take of it; another one's turn comes in between."""
    all_sent = threading.Event()
    other_speaks = threading.Event()

    def flood(peer: Peer) -> None:
        peer.sock.settimeout(60)
        for _turn in range(40):
            peer.send(*[{"event": "STOP", "data": {"x": "y" * 1000}}] * 100)  # 4 MB in all
        all_sent.set()

    def quiet(peer: Peer) -> None:
        assert other_speaks.wait(60)
        peer.event("WAKEUP")

    async def story() -> None:
        async with watching(sockets=[f"{place}/*.events"]) as heard:
            await heard.next("connected", vm="quiet")
            await heard.next("STOP")
            await asyncio.sleep(1)  # while the rules are at work
            assert not all_sent.is_set()
            other_speaks.set()
            await heard.next("WAKEUP")
            assert not all_sent.is_set()
            for _event in range(4000 - heard.names("flood").count("STOP")):
                await heard.next("STOP")

    with monitors(place, flood=vm(flood), quiet=vm(quiet)):
        tell(story())
    assert all_sent.is_set()


def test_sockets_that_come_and_that_go(place: Path) -> None:
    dead = place / "dead.events"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(dead))
    patterns = [f"{place}/*.events", f"{place}/named"]
    later = contextlib.ExitStack()

    async def story() -> None:
        async with watching(sockets=patterns, vms=["d*", "web?", "named"]) as heard:
            reasons: dict[str, str] = {}
            while len(reasons) < 2:
                told = await heard.next("unreachable")
                reasons[told["vm"]] = told["data"]["reason"]
            assert "nothing listens there" in reasons["dead"] and "No such file" in reasons["named"]
            later.enter_context(monitors(place, web1=vm(), other=vm()))
            await heard.next("connected", vm="web1")
            dead.unlink()
            later.enter_context(monitors(place, dead=vm()))
            await heard.next("connected", vm="dead")
        assert not heard.names("other")
        assert heard.names("dead") == ["unreachable", "connected"] and heard.names("named") == ["unreachable"]

    with later:
        tell(story())


def test_only_events_that_are_asked_for(place: Path) -> None:
    async def story() -> None:
        async with watching(sockets=str(place / "*.events"), events=["WAKEUP"]) as heard:
            await heard.next("WAKEUP")
        assert len(heard.seen) == 1

    with monitors(place, web1=vm(lambda peer: (peer.event("STOP"), peer.event("WAKEUP")))):
        tell(story())


def test_the_end_lets_go_of_all(place: Path) -> None:
    """Cancelled, as by SIGTERM: each monitor is free at once, those that never answered, too."""

    async def story() -> None:
        async with watching(sockets=[f"{place}/*.events"], connect_timeout=3600) as heard:
            await heard.next("connected", vm="web1")
            while not fakes["silent"].peers:
                await asyncio.sleep(0.01)

    with monitors(place, web1=vm(), silent=Peer.closed) as fakes:
        tell(story())  # closing the monitors waits for their clients to leave


def test_files_are_left_for_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events_machine, "_RESERVE", resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    async def story() -> None:
        async with watching(sockets=[f"{place}/*.events"]) as heard:
            told = await heard.next("unreachable")
            assert "LimitNOFILE" in told["data"]["reason"]

    with monitors(place, web1=vm()):
        tell(story())


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"socket": "/x"}, "there is no argument socket; there are sockets, vms"),
        ({"sockets": [1]}, r"sockets: \[1\] is not a list of strings"),
        ({"sockets": ["hv1"]}, "sockets: 'hv1' is not a valid monitor address"),
        ({"events": {"a": 1}}, "events: .* is not a list of strings"),
        ({"rescan": 0}, "rescan: 0 is not a number of seconds above 0"),
        ({"connect_timeout": True}, "connect_timeout: True is not"),
        ({"rescan": "often"}, "rescan: 'often' is not"),
    ],
)
def test_arguments_that_are_not_valid(args: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^vmm\.qemu\.qmp_events: {problem}"):
        tell(source()(asyncio.Queue(1), {**args, "eda_feedback_queue": None}))
