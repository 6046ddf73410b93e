# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QEMU that is too old gets one clear sentence, and nothing else; one that is newer than all we know is used as it is."""

from __future__ import annotations

from typing import Any

import pytest

from support.fakeqmp import FakeQMP, Peer
from support.modules import ModuleFailed, run_module


def qemu(major: int, minor: int) -> Any:
    def script(peer: Peer) -> None:
        peer.negotiate(version={"qemu": {"major": major, "minor": minor, "micro": 1}, "package": ""})
        peer.serve(query_status={"status": "running", "running": True}, query_balloon={"actual": 1 << 30})

    return script


@pytest.mark.parametrize("version", [(5, 1), (4, 2), (2, 12)])
@pytest.mark.parametrize("check", [True, False])
def test_older_than_the_oldest(version: tuple[int, int], check: bool) -> None:
    with FakeQMP(qemu(*version)) as fake:
        cases: list[tuple[str, dict[str, Any]]] = [("qemu_balloon", {"size": "1G"}), ("qemu_info", {})]
        for module, options in cases:
            with pytest.raises(ModuleFailed) as failed:
                run_module(fake.address, module, check=check, **options)
            said = f"this virtual machine runs on QEMU {version[0]}.{version[1]}.1: 5.2 is the oldest that is supported"
            assert failed.value.result["msg"] == said
            assert fake.peers[-1].received[1:] == []  # after qmp_capabilities


@pytest.mark.parametrize("version", [(5, 2), (10, 0)])
def test_new_enough(version: tuple[int, int]) -> None:
    with FakeQMP(qemu(*version)) as fake:
        assert not run_module(fake.address, "qemu_balloon", size="1G")["changed"]


def member(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "default": None, "since": "99.0"}


# what no QEMU has said yet: a sort of entity, a type of JSON, and keys
TOMORROW: list[dict[str, Any]] = [
    {"name": "h", "meta-type": "hologram", "shards": [{"name": "x"}]},
    {"name": "t", "meta-type": "builtin", "json-type": "duration"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [member("shape", "h"), member("time", "t")], "sealed": True},
    {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "teleport", "meta-type": "command", "arg-type": "1", "ret-type": "h", "stability": 7},
    {"name": "ARRIVED", "meta-type": "event", "arg-type": "h"},
]


def tomorrow(peer: Peer) -> None:
    version = {"qemu": {"major": 99, "minor": 0, "micro": 0, "era": "late"}, "package": "v99"}
    peer.negotiate(version=version, capabilities=["oob", "telepathy"], mood="calm")
    peer.event("ARRIVED", where={"x": [1]})
    status = {"status": "levitating", "running": True, "height": 3}
    peer.serve(
        query_status=status, query_qmp_schema=TOMORROW, query_balloon={"actual": 1 << 30}, query_name={"name": "vm"}
    )


@pytest.mark.parametrize("check", [True, False])
def test_newer_than_all_that_is_known(check: bool) -> None:
    with FakeQMP(tomorrow) as fake:
        vm = run_module(fake.address, "qemu_info", check=check, gather_subset=["status"])["vm"]
        assert vm["status"]["status"] == "levitating" and vm["version"]["qemu"]["major"] == 99
        assert not run_module(fake.address, "qemu_balloon", check=check, size="1G")["changed"]
        sent = {"execute": "teleport", "arguments": {"shape": {"a": [1]}, "time": "5 min"}}
        assert run_module(fake.address, "qemu_command", check=check, commands=[sent])["commands"] == [sent]
        received = [{key: message[key] for key in message if key != "id"} for message in fake.peers[-1].received]
        assert (sent in received) == (not check)
