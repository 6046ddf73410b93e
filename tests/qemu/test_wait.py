# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_wait: events, run states, the guest's agent, and what a time-out says."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.timing import no_hang, until
from support.vm import VM

Later = Callable[[Callable[[], Any]], None]


@pytest.fixture
def later(paused_vm: VM) -> Iterator[Later]:
    """Does something 0.4 s after the module has come to its monitor; the test ends only after it, while the VM is there."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[], Any]) -> None:
        def wait_and_work() -> None:
            until(paused_vm.attended)
            time.sleep(0.4)
            work()

        for thread in threads:
            thread.join(20)
        until(lambda: not paused_vm.attended())  # by the module before it, which has gone: QEMU has yet to notice
        threads.append(threading.Thread(target=wait_and_work, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(20)


def test_an_event(paused_vm: VM, later: Later) -> None:
    later(lambda: paused_vm.observer.execute("cont"))
    done = run_module(paused_vm, "qemu_wait", event=["STOP", "RESUME"], timeout=10)
    assert done["event"]["name"] == "RESUME" and done["event"]["timestamp"] > 0
    assert (done["changed"], done["commands"]) == (False, [])


def test_only_with_these_data(paused_vm: VM, later: Later) -> None:
    for ident in ("r0", "r1"):
        paused_vm.observer.execute("object-add", qom_type="rng-builtin", id=f"{ident}rng")
    paused_vm.observer.execute("device_add", driver="virtio-serial-pci", id="vs", bus="rp0")
    for ident in ("p0", "p1"):
        paused_vm.observer.execute("chardev-add", id=f"{ident}c", backend={"type": "null", "data": {}})
        paused_vm.observer.execute("device_add", driver="virtserialport", id=ident, chardev=f"{ident}c", bus="vs.0")

    def remove() -> None:
        for ident in ("p0", "p1"):
            paused_vm.observer.execute("device_del", id=ident)

    later(remove)
    done = run_module(paused_vm, "qemu_wait", event="DEVICE_DELETED", data={"device": "p1"}, timeout=10)
    assert done["event"]["data"]["device"] == "p1"


def test_a_time_out_says_what_was_seen(paused_vm: VM, later: Later) -> None:
    later(lambda: paused_vm.observer.execute("cont"))
    with pytest.raises(ModuleFailed) as failed:
        run_module(paused_vm, "qemu_wait", event="SHUTDOWN", timeout=3)
    assert "SHUTDOWN did not come" in failed.value.result["msg"] and "RESUME (1)" in failed.value.result["msg"]


def test_a_state(paused_vm: VM, later: Later) -> None:
    assert run_module(paused_vm, "qemu_wait", status=["prelaunch"])["status"] == "prelaunch"
    assert run_module(paused_vm, "qemu_wait", status=["running"], check=True)["status"] == "prelaunch"
    later(lambda: paused_vm.observer.execute("cont"))
    assert run_module(paused_vm, "qemu_wait", status=["running", "shutdown"], timeout=10)["status"] == "running"
    later(lambda: paused_vm.observer.execute("stop"))
    with pytest.raises(ModuleFailed) as failed:
        run_module(paused_vm, "qemu_wait", status="shutdown", timeout=3)
    assert "running, then paused" in failed.value.result["msg"]


def test_a_vm_that_dies_while_waited_for(paused_vm: VM, later: Later) -> None:
    later(paused_vm.kill)
    with pytest.raises(ModuleFailed) as failed:
        run_module(paused_vm, "qemu_wait", event="SHUTDOWN", timeout=20)
    assert "lost QEMU" in failed.value.result["msg"]


def test_an_agent(paused_vm: VM) -> None:
    """A stand-in for the agent: deaf at first, with an answer to somebody else's question before ours."""
    path = f"{paused_vm.directory}/qga"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)

    def agent() -> None:
        client = server.accept()[0]
        client.recv(1 << 12)
        asked = client.recv(1 << 12)
        token = asked.split(b'"id":')[1].split(b"}")[0]
        client.sendall(
            b'{"error": {"class": "GenericError", "desc": "stray"}}\n{"return": 1}\n\xff{"return": ' + token + b"}\n"
        )

    threading.Thread(target=agent, daemon=True).start()
    run_module(paused_vm, "qemu_wait", guest_agent=path, timeout=10)
    server.close()


def test_no_agent(paused_vm: VM) -> None:
    address = {"type": "unix", "data": {"path": f"{paused_vm.directory}/qga"}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    paused_vm.observer.send("chardev-add", {"id": "qga", "backend": backend})
    for path, word in ((f"{paused_vm.directory}/qga", "guest-sync-delimited"), ("/nosuch/qga", "/nosuch/qga")):
        with no_hang(4), pytest.raises(ModuleFailed) as failed:
            run_module(paused_vm, "qemu_wait", guest_agent=path, timeout=4)
        assert word in failed.value.result["msg"]


@pytest.mark.parametrize("left", ["nothing", "socket"])
def test_a_monitor_and_an_agent_that_are_yet_to_come(start_vm: Callable[..., VM], tmp_path: Path, left: str) -> None:
    """No file yet, or the socket of a process that is dead."""
    vm = start_vm()
    backend = {"server": True, "wait": False, "addr": {"type": "unix", "data": {"path": f"{vm.directory}/qga"}}}
    vm.observer.send("chardev-add", {"id": "qga", "backend": {"type": "socket", "data": backend}})
    late, came = [vm.qmp, f"{vm.directory}/qga"], [f"{tmp_path}/qmp", f"{tmp_path}/qga"]
    results: list[str] = []

    def wait(**options: Any) -> None:
        try:
            results.append(str(run_module(came[0], "qemu_wait", **options).get("status")))
        except ModuleFailed as failed:
            results.append(str(failed))

    if left == "socket":
        for path in came:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(path)
    assert run_module(came[0], "qemu_wait", status="prelaunch", check=True) == {"changed": False, "commands": []}
    threads = [
        threading.Thread(target=wait, kwargs={"status": "prelaunch", "timeout": 30}),
        threading.Thread(target=wait, kwargs={"guest_agent": came[1], "timeout": 6}),
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert results == []
    for there, here in zip(late, came, strict=True):
        os.rename(there, here)
    for thread in threads:
        thread.join(60)
    assert sorted(results)[1] == "prelaunch" and "no guest agent answered" in sorted(results)[0]


def test_nobody_comes_to_listen(tmp_path: Path) -> None:
    waits: list[dict[str, Any]] = [{"status": "running"}, {"event": "STOP"}]
    for options in waits:
        with no_hang(1), pytest.raises(ModuleFailed, match="nobody came to listen within 1 s"):
            run_module(f"{tmp_path}/qmp", "qemu_wait", timeout=1, **options)


def leave(server: socket.socket) -> None:
    """Take one client, and be gone."""
    server.accept()[0].close()


@pytest.mark.parametrize("how", ["line", "gone"])
def test_an_agent_that_others_wait_for_or_that_goes(paused_vm: VM, how: str) -> None:
    """Other clients stand in line, so many that the kernel takes no more; or the other end leaves between two questions."""
    path = f"{paused_vm.directory}/qga"
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(path)
        server.listen(0)
        if how == "line":
            one = clients.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(path)
        else:
            threading.Thread(target=leave, args=(server,), daemon=True).start()
        with pytest.raises(ModuleFailed) as failed:
            run_module(paused_vm, "qemu_wait", guest_agent=path, timeout=4)
    assert ("other clients hold its socket" if how == "line" else "agent's socket") in failed.value.result["msg"]


def test_nothing_to_wait_for(paused_vm: VM) -> None:
    nothing: list[tuple[str, Any]] = [("event", []), ("status", []), ("guest_agent", "")]
    for option, empty in nothing:
        with pytest.raises(ModuleFailed) as failed:
            run_module(paused_vm, "qemu_wait", **{option: empty})
        assert f"{option}: it is empty" in failed.value.result["msg"]


def test_exactly_one_thing(paused_vm: VM) -> None:
    for options in ({}, {"event": "STOP", "status": "running"}, {"data": {"a": 1}, "status": "running"}):
        with pytest.raises(ModuleFailed):
            run_module(paused_vm, "qemu_wait", **options)


def test_as_ansible_runs_it(paused_vm: VM, ansible_task: Any) -> None:
    done = ansible_task("qemu_wait", {"socket": paused_vm.qmp, "status": "prelaunch"})
    assert done.status == "ok" and not done.changed and done.result["status"] == "prelaunch"
