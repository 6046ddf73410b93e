# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_info and qemu_guest_exec with a real agent, which runs on this machine; one in a guest is in test_cloud_image.py."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent
from support.guest_agent import GuestAgent, unpack
from support.modules import ModuleFailed, run_module
from support.vm import VM


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="module")
def agent(program: Path) -> Iterator[GuestAgent]:
    with GuestAgent(program) as running:
        yield running


def fails(target: GuestAgent | str, name: str, **options: Any) -> dict[str, Any]:
    with pytest.raises(ModuleFailed) as raised:
        run_module(target if isinstance(target, str) else target.path, name, **options)
    return raised.value.result


def test_info_asks_for_what_is_named_only(agent: GuestAgent) -> None:
    told = run_module(agent.path, "qemu_guest_info", gather_subset=["users", "time", "filesystems", "load"])
    guest = told["guest"]
    assert list(guest) == ["agent", "hostname", "os", "interfaces", "filesystems", "users", "time", "load"]
    assert guest["hostname"] == socket.gethostname() and guest["os"]["machine"] == platform.machine()
    assert "guest-exec" in guest["agent"]["commands"] and "guest-shutdown" in guest["agent"]["blocked"]
    (lo,) = (nic for nic in guest["interfaces"] if nic["name"] == "lo")
    assert "127.0.0.1" in [at["ip_address"] for at in lo["ip_addresses"]] and "127.0.0.1" not in told["addresses"]
    assert guest["load"] is None and "has no guest-get-load" in told["unavailable"]["load"]
    only = run_module(agent.path, "qemu_guest_info", gather_subset=["!all", "!min", "os"], check=True)
    assert list(only["guest"]) == ["os"] and "addresses" not in only and not only["changed"]


def test_what_the_guest_does_not_allow_is_named(program: Path) -> None:
    with GuestAgent(program, blocked=("guest-get-osinfo", "guest-exec")) as blocked:
        told = run_module(blocked.path, "qemu_guest_info")
        assert told["guest"]["os"] is None and told["guest"]["hostname"]
        assert "does not allow guest-get-osinfo" in told["unavailable"]["os"]
        assert "block-rpcs" in told["unavailable"]["os"]
        assert "does not allow guest-get-osinfo" in fails(blocked, "qemu_guest_info", gather_subset=["os"])["msg"]
        result = fails(blocked, "qemu_guest_exec", argv=["true"])
        assert "does not allow guest-exec" in result["msg"] and result["commands"] == [] and not result["changed"]
        assert result["error"]["class"] == "CommandNotFound"
    assert (
        "no subset 'user' (did you mean 'users'?)"
        in fails("/nonexistent/agent", "qemu_guest_info", gather_subset=["user"])["msg"]
    )


def test_exec(agent: GuestAgent) -> None:
    script = 'echo "$HOME $GREETING $PWD"; cat; echo problem >&2'
    options: dict[str, Any] = {"stdin": "hunter22", "environment": {"GREETING": "hunter23"}, "chdir": "/usr"}
    foretold = run_module(agent.path, "qemu_guest_exec", argv=["sh", "-c", script, "a b"], check=True, **options)
    ran = run_module(agent.path, "qemu_guest_exec", argv=["sh", "-c", script, "a b"], **options)
    assert ran["changed"] and ran["commands"] == foretold["commands"] and foretold["rc"] is None
    assert "hunter" not in str(ran["commands"])
    home = "/nonexistent" if os.getuid() == 0 else os.path.expanduser("~")
    assert ran["stdout_lines"] == [f"{home} hunter23 /usr", "hunter22"] and ran["stderr"] == "problem"
    assert run_module(agent.path, "qemu_guest_exec", cmd="echo $((1 + 1)) | cat")["stdout"] == "2"
    assert run_module(agent.path, "qemu_guest_exec", cmd="printf 'a\\377'", secrets=["a"])["stdout"].endswith(
        "\N{REPLACEMENT CHARACTER}"
    )
    hidden = run_module(agent.path, "qemu_guest_exec", argv=["echo", "--password=hunter24"], secrets=["hunter24"])
    assert "hunter24" not in str(hidden) and "--password=" in hidden["stdout"]


def test_exec_creates_and_removes(agent: GuestAgent) -> None:
    made = agent.directory / "made by it"
    options: dict[str, Any] = {"argv": ["touch", str(made)], "creates": str(agent.directory / "made*")}
    assert run_module(agent.path, "qemu_guest_exec", check=True, **options)["changed"] and not made.exists()
    assert run_module(agent.path, "qemu_guest_exec", **options)["changed"] and made.exists()
    for check in (True, False):
        again = run_module(agent.path, "qemu_guest_exec", check=check, **options)
        assert not again["changed"] and again["commands"] == [] and again["rc"] == 0 and "exists" in again["msg"]
    options = {"argv": ["rm", str(made)], "removes": made.name, "chdir": str(agent.directory)}
    assert run_module(agent.path, "qemu_guest_exec", **options)["changed"] and not made.exists()
    assert not run_module(agent.path, "qemu_guest_exec", **options)["changed"]


def test_exec_that_fails(agent: GuestAgent) -> None:
    result = fails(agent, "qemu_guest_exec", cmd="echo out; echo why >&2; exit 3")
    assert result["rc"] == 3 and result["stdout"] == "out" and result["changed"] and len(result["commands"]) == 1
    assert result["msg"] == "/bin/sh ended with status 3: why"
    result = fails(agent, "qemu_guest_exec", cmd="kill -9 $$")
    assert (result["rc"], result["signal"]) == (-9, 9) and "signal 9" in result["msg"]
    result = fails(agent, "qemu_guest_exec", argv=["/no/such"])
    assert "/no/such" in result["msg"] and not result["changed"] and result["error"]["class"] == "GenericError"
    result = fails(agent, "qemu_guest_exec", cmd="head -c 17000000 /dev/zero | tr '\\0' x")
    assert result["truncated"] and result["rc"] == 0 and len(result["stdout"]) == 16 << 20
    assert "chdir" not in fails(agent, "qemu_guest_exec", argv=["true"], chdir="/no/such")["msg"]
    for options, said in (
        ({"argv": []}, "argv: it is empty"),
        ({"argv": ["x" * (128 << 10)]}, "131072 bytes"),
        ({"argv": ["a\0b"]}, "argv[0]: it has a NUL character"),
        ({"argv": ["true"], "environment": {"A=B": 1}}, "'A=B' is not a valid variable's name"),
        ({}, "one of the following is required: argv, cmd"),
    ):
        assert said in fails("/nonexistent/agent", "qemu_guest_exec", **options)["msg"]


def test_an_end_that_is_not_known_in_time(agent: GuestAgent) -> None:
    """Neither ended nor run again, and the next client of the agent is not told of it."""
    result = fails(agent, "qemu_guest_exec", cmd=f"echo x >>{agent.directory}/once; sleep 30 & echo", timeout=1.5)
    assert result["outcome_unknown"] and result["pid"] > 1 and result["changed"] and "outcome unknown" in result["msg"]
    assert run_module(agent.path, "qemu_guest_exec", cmd=f"cat {agent.directory}/once")["stdout"] == "x"


def test_an_agent_that_stands_still_is_asked_for_nothing(program: Path, tmp_path: Path) -> None:
    """It would do later what it was asked, and tell the next client."""
    with GuestAgent(program) as agent:
        agent.pause()
        result = fails(agent, "qemu_guest_exec", argv=["touch", f"{agent.directory}/late"], connect_timeout=1.5)
        assert "no guest agent answered" in result["msg"] and not result["changed"]
        timer = threading.Timer(1.0, agent.go_on)
        timer.start()  # one that is waited for
        told = run_module(agent.path, "qemu_guest_exec", argv=["echo", "mine"], connect_timeout=30)
        timer.join()
        assert told["stdout"] == "mine" and not (agent.directory / "late").exists()


def test_one_that_stops_while_it_is_asked(program: Path) -> None:
    """What was sent is done when it goes on, once, and its answer is not the next client's."""
    with GuestAgent(program) as agent:
        marker = agent.directory / "marker"
        cmd = f"echo x >>{marker}; kill -STOP {agent.pid}; sleep 0.1"
        result = fails(agent, "qemu_guest_exec", cmd=cmd, timeout=2)
        assert result["outcome_unknown"] and result["changed"]
        agent.go_on()
        with Agent(agent.path) as witness:
            assert witness.execute("guest-ping") == {}
        assert marker.read_text() == "x\n"


def test_sockets_that_are_not_an_agents(tmp_path: Path) -> None:
    with VM("10.0") as vm:
        assert "this is a QMP monitor" in fails(vm.qmp, "qemu_guest_info")["msg"]
    result = fails(str(tmp_path / "none"), "qemu_guest_exec", argv=["true"], connect_timeout=0.3)
    assert "is the virtual machine running?" in result["msg"]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(1)
        result = fails(str(tmp_path / "silent"), "qemu_guest_info", connect_timeout=0.5)
        assert "no guest agent answered" in result["msg"]
