# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection vmm.qemu.guest_agent with a real agent, which runs on this machine; one in a guest is in test_cloud_image.py."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import guest
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.agent import Agent
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from support.guest_agent import GuestAgent, unpack
from support.plays import PlayRun
from support.sshd import Sshd
from support.timing import until

Playbook = Callable[..., PlayRun]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def agent(program: Path) -> Iterator[GuestAgent]:
    with GuestAgent(program) as running:
        yield running


def variables(agent: GuestAgent, **more: Any) -> dict[str, Any]:
    """Those of a host behind an agent. Its programs are nobody's, who may write to its directory only."""
    return {
        "ansible_connection": "vmm.qemu.guest_agent",
        "ansible_guest_agent_socket": agent.path,
        "ansible_guest_agent_connect_timeout": 20,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_remote_tmp": f"{agent.directory}/tmp",
        "ansible_async_dir": f"{agent.directory}/async",
        **more,
    }


def play(*tasks: dict[str, Any], **keywords: Any) -> list[dict[str, Any]]:
    named = [{"name": f"task {number}", **task} for number, task in enumerate(tasks)]
    return [{"hosts": "all", "gather_facts": False, "tasks": named, **keywords}]


@pytest.mark.parametrize("pipelining", [False, True])
def test_what_a_play_does(agent: GuestAgent, playbook: Playbook, tmp_path: Path, pipelining: bool) -> None:
    """Modules with and without pipelining, files of several chunks in both directions, scripts, facts, async."""
    there, data = agent.directory, tmp_path / "data"
    data.write_bytes(os.urandom((5 << 20) + 3))
    script = tmp_path / "script.sh"
    script.write_text('#!/bin/sh\necho "$HOME $1"\n')
    line = f"printf 'a\\nb'; cat; : {'x' * 200_000}"  # longer than one word may be
    run = playbook(
        play(
            {"wait_for_connection": {"timeout": 60}},
            {"ping": {}},
            {"copy": {"src": str(data), "dest": f"{there}/copied", "mode": "0640"}},
            {"fetch": {"src": f"{there}/copied", "dest": str(tmp_path / "fetched"), "flat": True}},
            {"script": {"cmd": f"{script} word"}},
            {"setup": {"gather_subset": ["!all"]}},
            {"command": {"cmd": "sleep 1"}, "async": 60, "poll": 1},
            {"raw": line},
            {"meta": "reset_connection"},
            {
                "shell": {"cmd": "cat; echo $A; echo problem >&2; exit 3", "stdin": "in"},
                "environment": {"A": "b c"},
                "ignore_errors": True,
            },
            {"raw": "kill -9 $$", "ignore_errors": True},
            {
                "fetch": {
                    "src": f"{there}/none",
                    "dest": str(tmp_path / "none"),
                    "flat": True,
                    "fail_on_missing": True,
                },
                "ignore_errors": True,
            },
        ),
        variables=variables(agent, ansible_pipelining=pipelining),
    )
    assert run.rc == 0, run.output
    assert (there / "copied").read_bytes() == (tmp_path / "fetched").read_bytes() == data.read_bytes()
    assert (there / "copied").stat().st_mode & 0o777 == 0o640
    home = "/nonexistent" if os.getuid() == 0 else os.path.expanduser("~")
    assert run["task 4"].result["stdout_lines"] == [f"{home} word"]
    assert run["task 5"].result["ansible_facts"]["ansible_env"]["HOME"] == home
    assert run["task 7"].result["stdout"] == "a\nb"
    result = run["task 9"].result
    assert (result["rc"], result["stdout_lines"], result["stderr"]) == (3, ["in", "b c"], "problem")
    assert run["task 10"].result["rc"] == 137
    assert run["task 11"].status == "failed" and not (tmp_path / "none").exists()
    until(lambda: not list(there.glob("tmp/*")))  # what watches an asynchronous task looks every five seconds


def test_a_new_file_is_nobody_elses(agent: GuestAgent) -> None:
    """The agent itself makes files that all may write to: what is put must not be one for a moment."""
    there = agent.directory / "seen"
    modes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        over = False
        while not over:
            over = done.is_set()
            modes.update(path.stat().st_mode & 0o777 for path in [there] if path.is_file())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Agent(agent.path, Deadline(60.0)) as client:
            guest.put(client, io.BytesIO(bytes(4 << 20)), str(there), Deadline(60.0))
    finally:
        done.set()
    watcher.join()
    assert modes == {0o600} and there.stat().st_size == 4 << 20


def test_a_pipe_is_not_waited_for(agent: GuestAgent) -> None:
    """The agent would stand still until somebody reads there."""
    os.mkfifo(agent.directory / "pipe")
    with Agent(agent.path, Deadline(60.0)) as client:
        with pytest.raises(OSError, match="not a regular file"):
            guest.put(client, io.BytesIO(b"x"), str(agent.directory / "pipe"), Deadline(60.0))
        guest.put(client, io.BytesIO(b"x"), str(agent.directory / "after"), Deadline(60.0))
    assert (agent.directory / "after").read_bytes() == b"x"


def test_what_a_command_can_not_give_back(agent: GuestAgent, playbook: Playbook) -> None:
    """More output than the agent keeps; an agent that stands still while a command runs, which is not run again."""
    once = agent.directory / "once"
    run = playbook(
        play(
            {"raw": "head -c 17000000 /dev/zero | tr '\\0' x", "ignore_errors": True},
            {"raw": f"echo x >>{once}; kill -STOP {agent.pid}; sleep 0.1", "retries": 3, "until": "false"},
            {"raw": f"touch {agent.directory}/after"},
        ),
        variables=variables(agent, ansible_guest_agent_answer_timeout=10),
    )
    assert "the agent keeps 16 MiB" in run["task 0"].result["msg"] and run["task 0"].status == "failed"
    assert "outcome unknown" in run["task 1"].result["msg"] and run.rc != 0
    agent.go_on()
    assert once.read_text() == "x\n" and not (agent.directory / "after").exists()


def test_agents_that_are_not_there(program: Path, agent: GuestAgent, playbook: Playbook, tmp_path: Path) -> None:
    """A host is unreachable, and nothing was asked of its agent. One that blocks commands is told of."""
    agent.pause()
    run = playbook(
        play({"raw": f"touch {agent.directory}/late"}),
        variables=variables(agent, ansible_guest_agent_connect_timeout=1),
    )
    agent.go_on()
    assert run["task 0"].status == "unreachable" and "no guest agent answered" in run["task 0"].result["msg"]
    gone = variables(agent, ansible_guest_agent_socket=str(tmp_path / "none"), ansible_guest_agent_connect_timeout=0.2)
    assert "is the virtual machine running?" in playbook(play({"ping": {}}), variables=gone)["task 0"].result["msg"]
    with GuestAgent(program, blocked=("guest-exec",)) as blocked:
        run = playbook(play({"ping": {}}), variables=variables(blocked))
        assert run["task 0"].failed and "does not allow guest-exec" in run["task 0"].result["msg"]
    assert not (agent.directory / "late").exists()


def test_through_a_hypervisor(agent: GuestAgent, playbook: Playbook, tmp_path: Path) -> None:
    with Sshd() as sshd:
        key, own = sshd.variables["ansible_ssh_private_key_file"], sshd.variables["ansible_ssh_common_args"]
        sockets = Path(key).with_name("cp")
        sockets.mkdir()
        kept = f"-o ControlMaster=auto -o ControlPersist=20s -o ControlPath={sockets}/%C"
        through = variables(
            agent,
            ansible_guest_agent_hypervisor="127.0.0.1",
            ansible_guest_agent_ssh_args=f"-F none -p {sshd.port} -i {key} {own} {kept}",
        )
        (tmp_path / "data").write_bytes(os.urandom(3 << 20))
        run = playbook(
            play(
                {"copy": {"src": str(tmp_path / "data"), "dest": f"{agent.directory}/copied"}},
                {"fetch": {"src": f"{agent.directory}/copied", "dest": str(tmp_path / "fetched"), "flat": True}},
                {"command": {"cmd": "echo it"}},
            ),
            variables=through,
        )
        assert run.rc == 0, run.output
        assert (tmp_path / "fetched").read_bytes() == (tmp_path / "data").read_bytes()
        run = playbook(play({"ping": {}}), variables={**through, "ansible_guest_agent_socket": "/no/socket"})
        assert run["task 0"].status == "unreachable" and "No such file or directory" in run["task 0"].result["msg"]
        run = playbook(play({"ping": {}}), variables={**through, "ansible_guest_agent_socket": "@name"})
        assert "'@name' is not an absolute path" in run["task 0"].result["msg"]
    nobody = {**through, "ansible_guest_agent_ssh_args": "-F none -p 1"}
    assert "Connection refused" in playbook(play({"ping": {}}), variables=nobody)["task 0"].result["msg"]
