# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of a guest's agent: one that is not there yet, and answers that are somebody else's."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import agent, errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from support.fake_agent import FakeAgent


def test_a_socket_full_of_questions_is_a_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU reads nothing while the guest has not opened its port: some 300 questions fill the socket."""
    monkeypatch.setattr(agent, "_ASK_EVERY", 0.0001)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "qga"))
        server.listen(1)
        with pytest.raises(errors.CommandTimeout):
            agent.wait_for_agent(str(tmp_path / "qga"), Deadline(3.0))


def agent_that(answers: Callable[[bytes], bytes], path: Path) -> None:
    """One that takes a client, answers each line that is asked, and ends with it."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        with server, server.accept()[0] as client, contextlib.suppress(ConnectionError):
            for line in client.makefile("rb"):
                client.sendall(answers(line))

    threading.Thread(target=serve, daemon=True).start()


def test_an_answer_to_a_command_that_was_given_up_is_dropped(tmp_path: Path) -> None:
    late: list[bytes] = []

    def answers(line: bytes) -> bytes:
        asked = json.loads(line.lstrip(b"\xff"))
        if asked["execute"] == "guest-sync-delimited":
            before, late[:] = b"".join(late), []
            return before + b"\xff" + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n"
        if asked["execute"] == "slow":
            late.append(b'{"return": "late"}\n')
            return b""
        if asked["execute"] == "bad":
            return b'{"error": {"class": "GenericError", "desc": "not allowed"}}\n'
        if asked["execute"] == "garbage":
            return b"{[\n"
        return json.dumps({"return": asked["arguments"]}).encode() + b"\n"

    agent_that(answers, tmp_path / "qga")
    with agent.Agent(str(tmp_path / "qga"), Deadline(10.0)) as client:
        assert client.execute("echo", Deadline(10.0), one_two=3) == {"one-two": 3}
        with pytest.raises(errors.CommandTimeout, match="slow"):
            client.execute("slow", Deadline(0.3))
        with pytest.raises(errors.CommandError, match="bad failed: not allowed"):
            client.execute("bad", Deadline(10.0))
        with pytest.raises(errors.ProtocolError, match="garbage"):
            client.execute("garbage", Deadline(10.0))
        cancelled = Deadline(10.0)
        cancelled.cancel()
        with pytest.raises(errors.Cancelled):
            client.execute("slow", cancelled)


def test_the_late_answer_comes_before_the_token(tmp_path: Path) -> None:
    """What a client before had asked for is answered to the next one, which takes it for nothing of its own."""

    def answers(line: bytes) -> bytes:
        asked = json.loads(line.lstrip(b"\xff"))
        if asked["execute"] == "guest-sync-delimited":
            return b'{"return": 7}\n' + b"\xff" + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n"
        return b'{"return": "thawed"}\n'

    agent_that(answers, tmp_path / "qga")
    with agent.Agent(str(tmp_path / "qga"), Deadline(10.0)) as client:
        assert client.execute("guest-fsfreeze-status", Deadline(10.0)) == "thawed"


def test_answers_to_questions_asked_again_are_not_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow one is asked whether it is there several times, and answers each, with an error line before."""
    monkeypatch.setattr(agent, "_ASK_EVERY", 0.05)

    def answers(line: bytes) -> bytes:
        asked = json.loads(line.lstrip(b"\xff"))
        if asked["execute"] == "guest-sync-delimited":
            time.sleep(0.2)
            stray = json.dumps({"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}).encode()
            return stray + b"\n\xff" + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n"
        return b'{"return": "mine"}\n'

    agent_that(answers, tmp_path / "qga")
    with agent.Agent(str(tmp_path / "qga"), Deadline(30.0)) as client:
        assert client.execute("guest-get-host-name", Deadline(30.0)) == "mine"


def test_a_command_that_nobody_reads_was_not_run(tmp_path: Path) -> None:
    """It is larger than the socket holds, and the agent stops reading once it has said that it is there."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "qga"))
        server.listen(1)

        def serve() -> None:
            peer = server.accept()[0]
            line = peer.makefile("rb").readline()
            peer.sendall(b"\xff" + json.dumps({"return": json.loads(line[1:])["arguments"]["id"]}).encode() + b"\n")
            gone.wait(60)
            peer.close()

        gone = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        with agent.Agent(str(tmp_path / "qga"), Deadline(30.0)) as client:
            with pytest.raises(errors.CommandTimeout) as raised:
                client.execute("guest-exec", Deadline(0.5), input_data="x" * (8 << 20))
            assert raised.value.phase == "write"
        gone.set()


def test_an_answer_of_too_many_values_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take a hundred bytes of the host's memory, and two of the guest's."""
    monkeypatch.setattr(agent, "_MOST_VALUES", 3)
    answers = {"guest-info": [1, 2, 3, 4], "guest-get-time": [1, 2]}
    with FakeAgent(tmp_path / "qga", answers=answers) as fake, agent.Agent(fake.path, Deadline(60.0)) as client:
        with pytest.raises(errors.ProtocolError, match="what is not a reply"):
            client.execute("guest-info", Deadline(60.0))
        assert client.execute("guest-get-time", Deadline(60.0)) == [1, 2]
