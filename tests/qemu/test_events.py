# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source and real QEMUs: their events, how each ends, and a monitor that another client has."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from support.events import tell, watching
from support.vm import OLDEST, VERSIONS, VM


@pytest.fixture(params=[*VERSIONS, OLDEST])
def vm(request: pytest.FixtureRequest) -> Iterator[VM]:
    with VM(request.param, name="{{ web1 }}") as machine:
        yield machine


def test_a_crash_is_no_end(vm: VM) -> None:
    async def story() -> None:
        async with watching(sockets=[vm.qmp], rescan=0.05) as heard:
            told = await heard.next("connected")
            version = vm.observer.execute("query-version")["qemu"]
            assert told["data"] == {
                "status": "prelaunch",
                "version": "{major}.{minor}.{micro}".format(**version),
                "name": "{ { web1 }}",
            }
            vm.observer.execute("cont")
            assert (await heard.next("RESUME"))["timestamp"] >= told["timestamp"] - 60
            vm.observer.execute("stop")
            await heard.next("STOP")
            for end, data in (
                (vm.kill, {"crashed": True, "reason": "crash"}),
                (lambda: vm.observer.execute("quit"), {"crashed": False, "reason": "host-qmp-quit"}),
            ):
                end()
                gone = await heard.next("gone")
                assert gone["data"] == data
                vm.wait_exit()
                vm.start()
                await heard.next("connected")
        names = [event["event"] for event in heard.seen]
        assert [name for name in names if name.islower()] == ["connected", "gone"] * 2 + ["connected"]
        assert "SHUTDOWN" in names

    tell(story())


def test_what_another_client_has_is_told_once_and_then_connected(start_vm: Callable[..., VM]) -> None:
    vm = start_vm()

    async def story() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(vm.qmp)
            assert client.recv(10)
            async with watching(sockets=[vm.qmp], connect_timeout=0.5) as heard:
                told = await heard.next("unreachable")
                assert "another client is attached" in told["data"]["reason"]
                client.close()
                await heard.next("connected")
                vm.observer.execute("cont")
                await heard.next("RESUME")
        assert len(heard.seen) == 3, heard.seen

    tell(story())
