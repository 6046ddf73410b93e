# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever rules the guest can have its agent answer anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors, guest
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.agent import Agent
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from support.fake_agent import FakeAgent
from support.modules import ModuleFailed, run_module

PRINTED = {"exited": True, "exitcode": 0, "out-data": "SE9NRT0v"}


@pytest.mark.parametrize("odd", [None, 7, "x", [], ["x"], {}, {"name": 1}])
def test_what_is_asked_for_is_told_as_unavailable(odd: Any, tmp_path: Path) -> None:
    names = ["agent", "hostname", "interfaces", "time"]
    commands = ("guest-info", "guest-get-host-name", "guest-network-get-interfaces", "guest-get-time")
    answers = {**dict.fromkeys(commands, odd), "guest-fsfreeze-status": "thawed"}
    with FakeAgent(tmp_path / "agent", answers=answers) as agent:
        told = run_module(agent.path, "qemu_guest_info", gather_subset=["!all", "!min", *names, "frozen"])
    assert told["guest"]["frozen"] is False
    for name, command in zip(names, commands):
        known = (name == "time" and odd == 7) or (name == "interfaces" and odd in ([], {}))
        assert known or told["unavailable"][name] == f"the guest's agent has no valid answer to {command}"


@pytest.mark.parametrize("odd", [10**400, [[]] * 2])
def test_a_value_that_can_not_be_counted_with(odd: Any, tmp_path: Path) -> None:
    deep: Any = []
    for _level in range(900):
        deep = [deep]
    with FakeAgent(tmp_path / "agent", answers={"guest-get-time": odd, "guest-get-fsinfo": deep}) as agent:
        told = run_module(
            agent.path, "qemu_guest_info", gather_subset=["!all", "!min", "time", "filesystems", "frozen"]
        )
    # how deep is too deep is Python's affair
    assert told["guest"]["time"] is None and told["guest"]["frozen"] is False
    assert told["unavailable"]["time"] == "the guest's agent has no valid answer to guest-get-time"


def test_an_address_is_nothing_else(tmp_path: Path) -> None:
    own = ["127.0.0.2", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.1.1", "fe90::1", "ff02::1", 7]
    texts = ["-oProxyCommand=id", "", "{{ 1 }}", "10.0.0.1/24", "2001:db8::7%-x", *own, "192.0.2.7", "2001:DB8::7"]
    interfaces = [{"name": "eth0", "ip-addresses": [{"ip-address": text, "prefix": 8} for text in texts]}]
    with FakeAgent(tmp_path / "agent", answers={"guest-network-get-interfaces": interfaces}) as agent:
        told = run_module(agent.path, "qemu_guest_info", gather_subset=["!all", "!min", "interfaces"])
    assert told["addresses"] == ["192.0.2.7", "2001:db8::7"]


@pytest.mark.parametrize("began", [None, {}, {"pid": "x"}, {"pid": [1]}])
def test_a_program_that_may_have_been_started(began: Any, tmp_path: Path) -> None:
    with FakeAgent(tmp_path / "agent", answers={"guest-exec": began}) as agent, pytest.raises(ModuleFailed) as failed:
        run_module(agent.path, "qemu_guest_exec", argv=["true"])
    assert "without a valid pid" in failed.value.result["msg"] and "Traceback" not in str(failed.value.result)


@pytest.mark.parametrize("status", [None, {}, {"exited": "x"}, {"exited": True}, {**PRINTED, "out-data": "a"}])
def test_a_program_whose_end_is_not_told(status: Any, tmp_path: Path) -> None:
    answers = {"guest-exec": {"pid": 1}, "guest-exec-status": status}
    with FakeAgent(tmp_path / "agent", answers=answers) as agent, pytest.raises(ModuleFailed) as failed:
        run_module(agent.path, "qemu_guest_exec", argv=["true"])
    assert "without a valid" in failed.value.result["msg"]


def test_a_file_without_an_end(tmp_path: Path) -> None:
    answers = {"guest-exec": {"pid": 1}, "guest-exec-status": PRINTED, "guest-file-open": 5}
    nothing = {"guest-file-read": {"count": 0, "buf-b64": "", "eof": False}, "guest-file-close": {}}
    with FakeAgent(tmp_path / "agent", answers={**answers, **nothing}) as fake, Agent(
        fake.path, Deadline(30.0)
    ) as agent, pytest.raises(errors.ProtocolError, match="sends nothing, and does not come to the end"):
        guest.fetch(agent, "/file", io.BytesIO(), Deadline(30.0))


@pytest.mark.parametrize(
    ("option", "where"),
    [
        ({"argv": ["a\ud800"]}, "argv[0]"),
        ({"cmd": "a\udcff"}, "cmd"),
        ({"argv": ["true"], "creates": "\ud800"}, "creates"),
        ({"argv": ["true"], "stdin": "a\udcff"}, "stdin"),
        ({"argv": ["true"], "environment": {"a": "\ud800"}}, "environment.a"),
    ],
)
def test_what_is_no_text_is_not_sent(option: dict[str, Any], where: str, tmp_path: Path) -> None:
    with FakeAgent(tmp_path / "agent") as agent, pytest.raises(ModuleFailed) as failed:
        run_module(agent.path, "qemu_guest_exec", **option)
    assert str(failed.value) == f"{where}: it is not text in UTF-8" and not agent.asked
