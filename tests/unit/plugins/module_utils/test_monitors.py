# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitors of a host: which there are, and what each tells, whatever listens there."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils import _monitors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.agent import Agent
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline, Stop
from support.fake_agent import FakeAgent
from support.fakeqmp import FakeQMP, Peer


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mon-", dir="/tmp") as directory:
        yield Path(directory)


def listener(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    return server


def test_each_monitor_is_found_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    for name in ("b.qmp", "a.qmp", "c.sock"):
        listener(place / name).close()
    (place / "z.qmp").symlink_to("a.qmp")
    (place / "dangling.qmp").symlink_to("nowhere")
    (place / "log.qmp").write_text("")
    patterns = [
        "~/*.qmp",
        "unix:~/x",
        f"unix:{place}/[c]*",
        f"{place}/b.qmp",
        f"{place}/none",
        f"{place}/*.none",
        "hv:4444",
    ]
    paths, unmatched = _monitors.find(patterns)
    assert paths == [f"{place}/a.qmp", f"{place}/b.qmp", "unix:~/x", f"{place}/c.sock", f"{place}/none", "hv:4444"]
    assert unmatched == [f"{place}/*.none"]


def read(*addresses: str, **request: Any) -> list[dict[str, Any]]:
    asked = {"sockets": [*addresses], "connect_timeout": 60.0, "timeout": 60.0, "guest_agent": False, **request}
    machines: list[dict[str, Any]] = _monitors.read_all(asked)["machines"]
    return machines


def served(**answers: Any) -> FakeQMP:
    def script(peer: Peer) -> None:
        peer.negotiate()
        peer.serve(**{"query_status": {"status": "paused"}, **answers})

    return FakeQMP(script)


def test_what_a_monitor_tells() -> None:
    with served(query_name={"name": "vm"}, query_uuid={"UUID": "u"}) as one, served(
        query_uuid={"UUID": _monitors._NO_UUID}
    ) as bare:
        found = read(one.address, bare.address)
    assert found[0] == {"socket": one.address[5:], "status": "paused", "name": "vm", "uuid": "u", "version": "9.1.2"}
    assert found[1].keys() == {"socket", "status", "version"}


@pytest.mark.parametrize(
    "answer",
    [
        {"query_status": []},
        {"query_status": {"status": "{{ x }}"}},
        {"query_status": {}},
        {"query_status": {"status": 7}},
    ],
)
def test_one_that_answers_anything_is_unreachable(answer: dict[str, Any]) -> None:
    with served(**answer) as odd, served() as other:
        found = read(odd.address, other.address)
    assert [one["status"] for one in found] == ["unreachable", "paused"]
    assert "query-status" in found[0]["reason"]


def test_what_does_not_answer_is_told_apart(place: Path) -> None:
    """A client that holds a monitor, one that nobody serves, and one whose server says nothing."""
    listener(place / "dead").close()
    with FakeQMP(Peer.closed) as silent, listener(place / "held") as held:
        held.listen(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place / "held"))
            accepted = held.accept()[0]
            addresses = [str(place / "dead"), silent.address, str(place / "held"), str(place / "none")]
            found = read(*addresses, connect_timeout=0.5)
            accepted.close()
        assert [one["status"] for one in found] == ["unreachable", "unreachable", "busy", "unreachable"]
        assert "not a QMP monitor" in found[1]["reason"]
        assert found[2]["client"]["pid"] > 0


def test_those_that_say_nothing_do_not_keep_the_others_from_their_turn() -> None:
    asked, in_time = threading.Event(), []

    def silent(peer: Peer) -> None:
        in_time.append(asked.wait(20))

    def talks(peer: Peer) -> None:
        asked.set()
        peer.negotiate()
        peer.serve(query_status={"status": "paused"})

    with ExitStack() as stack:
        fakes = [stack.enter_context(FakeQMP(silent)) for _number in range(_monitors.AT_A_TIME - 1)]
        last = stack.enter_context(FakeQMP(talks))
        found = read(*(fake.address for fake in fakes), last.address, connect_timeout=2.0, timeout=60.0)
    assert found[-1]["status"] == "paused" and in_time and all(in_time)


def test_who_is_interrupted_asks_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = [], threading.Event()

    def ask(address: str, request: Any, deadline: Deadline) -> dict[str, Any]:
        begun.append(address)
        over.wait(20)
        return {}

    def interrupted(futures: Any, timeout: float) -> None:
        threading.Timer(0.1, over.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(_monitors, "_read", ask)
    monkeypatch.setattr(_monitors, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(*(f"h:{number}" for number in range(1, 9 * _monitors.AT_A_TIME)))
    assert len(begun) <= _monitors.AT_A_TIME


@pytest.mark.parametrize("stopped", [True, False])
def test_what_is_not_asked_in_time_is_not_said_to_be_busy(place: Path, stopped: bool) -> None:
    stop = Stop()
    if stopped:
        stop.call()
    with served() as fake:
        asked = {"sockets": [fake.address], "connect_timeout": 60.0, "timeout": 60.0 if stopped else 1e-9}
        (found,) = _monitors.read_all({**asked, "guest_agent": False}, stop)["machines"]
    assert (found["status"], "before its turn" in found["reason"]) == ("unreachable", True)


def with_agent(path: str, name: str = "org.qemu.guest_agent.0") -> FakeQMP:
    children = [{"name": "d0", "type": "child<virtio-net>"}, {"name": "p0", "type": "child<virtserialport>"}]
    return served(
        qom_list=lambda command: children if command["arguments"]["path"] == "/machine/peripheral-anon" else [],
        qom_get=lambda command: {"name": name, "chardev": "ga"}[command["arguments"]["property"]],
        query_chardev=[{"label": "x", "filename": "pty:/dev/pts/0"}, {"label": "ga", "filename": path}],
    )


def test_the_interfaces_of_a_guest(place: Path) -> None:
    told = [
        {
            "name": "eth0",
            "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [
                {"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "fe80::1%-oProxyCommand=x", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "-oProxyCommand=x", "prefix": 8},
                {"ip-address": "10.0.0.6", "prefix": "x"},
                "odd",
            ],
        },
        "odd",
        {"name": 7, "ip-addresses": 7},
    ]
    with FakeAgent(place / "agent", answers={"guest-network-get-interfaces": told}):
        with with_agent(f"disconnected:unix:{place}/agent,server=on") as fake:
            (found,) = read(fake.address, guest_agent=True)
        assert found["agent"] == f"{place}/agent"
        assert found["interfaces"] == [
            {"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.0.5/24"]},
            {"name": "", "mac": "", "addresses": []},
        ]
        with with_agent(f"unix:{place}/agent,server") as fake:
            assert "agent" not in read(fake.address)[0]  # it is not asked unless that is wanted
        for other in (with_agent(f"unix:{place}/agent"), with_agent(f"unix:{place}/agent,server=on", "another.port")):
            with other as fake:
                assert "agent" not in read(fake.address, guest_agent=True)[0]


def test_a_guest_without_an_agent(place: Path) -> None:
    agent = FakeAgent(place / "agent", silent=("guest-sync-delimited",))
    with agent, with_agent(f"unix:{place}/agent,server=on") as fake:
        (found,) = read(fake.address, guest_agent=True, connect_timeout=0.5)
    assert (
        found["status"] == "paused" and "interfaces" not in found and "no guest agent answered" in found["agent_reason"]
    )


def test_an_agents_socket_that_is_somebody_elses(place: Path) -> None:
    """Nothing is written there: a monitor in other hands can name any socket of its host."""
    silent = FakeAgent(place / "agent", silent=("guest-sync-delimited",))  # it would be asked until the time is up
    with silent as agent, pytest.raises(errors.ConnectError, match="not of the user 65534"):
        Agent(agent.path, Deadline(30.0), user=65534)
    with FakeAgent(place / "mine") as mine:
        Agent(mine.path, Deadline(30.0), user=os.getuid()).close()
