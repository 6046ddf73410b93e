# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_migrate and qemu_migrate_incoming: whatever goes wrong, the guest runs where it was, and the message says why."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.lifecycle import names
from support.migration import MACHINE, count, incoming, migrate, refused, wait_for
from support.modules import ModuleFailed, run_module
from support.vm import VM, is_since


def test_a_destination_that_is_killed(start_vm: Callable[..., VM]) -> None:
    """At ten moments that nobody chose, the guest stays."""
    options = {"machine": MACHINE, "ports": ["rp0"]}
    source = start_vm(guest=True, append="bed.count", **options)
    chance = random.Random(7)
    for _turn in range(10):
        there = start_vm(guest=True, args=["-incoming", "defer"], **options)
        uri = f"unix:{there.directory}/migrate"
        incoming(there, uri)
        killer = threading.Timer(chance.uniform(0.0, 1.0), there.kill)
        killer.start()
        # slow enough not to be over before
        failed = refused(source, "still here", uri=uri, parameters={"max-bandwidth": 8 << 20}, timeout=30)
        killer.join()
        assert failed["migration"]["status"] in ("failing", "failed", "setup", "active") and failed["guest"] == "here"
        assert source.observer.status() == "running"
        there.close()
    # and when all but the last has been sent
    there = start_vm(guest=True, args=["-incoming", "defer"], **options)
    uri = f"unix:{there.directory}/migrate"
    incoming(there, uri)
    fast = {"capabilities": {"pause-before-switchover": True}, "parameters": {"max-bandwidth": 1 << 30}}
    migrate(source, uri=uri, wait=False, **fast)
    wait_for(source, "pre-switchover")
    there.kill()
    # that one is gone, and was not seen to wait by this task, which lets the guest go over
    failed = refused(source, "Look there", "running", uri=uri, destination_socket=there.qmp)
    assert failed["guest"] == "unknown"
    count(source)


def test_a_destination_that_is_not_told_of_the_end(start_vm: Callable[..., VM]) -> None:
    """QEMU 7.2 that can't hand its disks over hangs up for nobody, and dies when a destination ends after another migration."""
    source = start_vm()
    source.observer.execute("cont")
    look = source.observer
    look.execute("blockdev-add", **{"node-name": "held", "driver": "null-co"})
    look.execute("nbd-server-start", addr={"type": "unix", "data": {"path": f"{source.directory}/nbd"}})
    look.execute("block-export-add", **{"type_": "nbd", "id_": "held", "node-name": "held", "writable": True})
    there = start_vm(args=["-incoming", "defer"])
    options: dict[str, Any] = {"uri": f"unix:{there.directory}/migrate", "destination_socket": there.qmp}
    incoming(there, options["uri"])
    said = refused(source, "failed", **options)
    here = "guest is still here" in said["msg"]
    if is_since(source.version, "8.2"):  # it ends itself, and one that is just ending can't be asked
        assert here or "Look there" in said["msg"]
        assert "End the destination" not in said["msg"] and there.wait_exit() != 0
    else:
        assert here and "End the destination before you migrate again" in said["msg"]
        for check in (True, False):
            assert refused(source, "an earlier migration: end it", check=check, **options)["commands"] == []
        there.kill()
    there = start_vm(args=["-incoming", "defer"])
    options = {"uri": f"unix:{there.directory}/migrate", "destination_socket": there.qmp}
    incoming(there, options["uri"])
    source.observer.execute("block-export-del", id="held")
    source.observer.wait_event("BLOCK_EXPORT_DELETED")
    assert migrate(source, **options)["guest"] == "left" and source.alive


def test_a_destination_that_does_not_answer(start_vm: Callable[..., VM]) -> None:
    """All is sent, and no word comes back: the last phase, with the guest stopped."""
    source, waits, runs = start_vm(), start_vm(args=["-incoming", "defer"]), start_vm()
    source.observer.execute("cont")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
        migrate(source, uri=uri, wait=False)
        with silent.accept()[0] as connection:
            swallow = threading.Thread(target=lambda: [None for _data in iter(lambda: connection.recv(1 << 16), b"")])
            swallow.start()
            deadline = time.monotonic() + 30
            while source.observer.status() != "finish-migrate":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            refused(source, "can't be cancelled", uri=uri, timeout=2)
            refused(source, "destination_socket", state="cancelled")
            refused(source, "destination_socket", state="cancelled", destination_socket=runs.qmp)
            refused(source, "destination_socket", state="cancelled", destination_socket=waits.qmp)  # it does not listen
            incoming(waits, f"unix:{waits.directory}/m")
            refused(source, "may be another", state="cancelled", destination_socket=waits.qmp)
            run_module(source, "qemu_command", commands=["migrate_cancel"])  # as the message says
            deadline = time.monotonic() + 30
            while source.observer.status() != "running":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert source.observer.look("query-migrate")["status"] in ("cancelling", "cancelled", "failed")
            swallow.join()


def test_an_address_that_swallows_all(start_vm: Callable[..., VM]) -> None:
    """The attempt to connect lasts, as to a host that is off. The guest runs, and no later run waits for what is not."""
    vm = start_vm()
    vm.observer.execute("cont")
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _connection in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        uri = f"tcp:127.0.0.1:{full.getsockname()[1]}"
        first = refused(vm, "not over after", uri=uri, timeout=3)
        assert names(first)[-1] == "migrate_cancel"
        refused(vm, "run", uri=uri, timeout=20)
        assert vm.observer.look("query-migrate")["status"] in ("cancelling", "cancelled")
        assert vm.observer.status() == "running"


def test_a_device_that_the_destination_lacks(start_vm: Callable[..., VM]) -> None:
    options = {"machine": MACHINE, "ports": ["rp0"]}
    source = start_vm(guest=True, args=["-device", "virtio-rng-pci,bus=rp0"], **options)
    there = start_vm(guest=True, args=["-incoming", "defer"], **options)
    uri = f"unix:{source.directory}/migrate"
    incoming(there, uri)
    failed = refused(source, "failed", "running", "Look there", uri=uri, source_after="quit")
    assert failed["error"]["class"] == "GenericError" and "quit" not in names(failed)
    assert source.alive and source.observer.status() == "running" and there.wait_exit() == 1
    assert "virtio-rng" in there.stderr


def test_an_incoming_one_that_fails(start_vm: Callable[..., VM]) -> None:
    there = start_vm(args=["-incoming", "defer"])
    with pytest.raises(ModuleFailed, match="standard error"):
        incoming(there, "exec:echo nonsense", wait=True, timeout=20)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"uri": "unix:/nowhere/m"}, ("No such file", "still here")),
        ({"uri": "tcp:127.0.0.1:1"}, ("onnect", "still here")),
        ({"uri": "bogus:1"}, ("protocol",)),
        ({"uri": "nonsense"}, ("not a valid migration address", "tcp:HOST:PORT")),
        (
            {"uri": "tcp:h:1", "capabilities": {"multifdd": True}},
            ("capabilities", "multifdd", "did you mean 'multifd'"),
        ),
        ({"uri": "tcp:h:1", "capabilities": {"multifd": "perhaps"}}, ("multifd", "perhaps")),
        ({"uri": "tcp:h:1", "parameters": {"max-bandwith": 1}}, ("parameters", "did you mean 'max-bandwidth'")),
        ({"uri": "tcp:h:1", "parameters": {"downtime-limit": "soon"}}, ("downtime-limit", "soon")),
        ({"uri": "tcp:h:1", "parameters": {"downtime-limit": 1 << 40}}, ("downtime",)),
        ({"uri": "tcp:h:1", "postcopy_after": 1}, ("postcopy-ram",)),
        ({"uri": "tcp:h:1", "postcopy_after": 1, "capabilities": {"postcopy-ram": "off"}}, ("postcopy-ram",)),
        (
            {"uri": "tcp:h:1", "wait": False, "postcopy_after": 1, "capabilities": {"postcopy-ram": True}},
            ("postcopy_after", "wait"),
        ),
        ({"uri": "tcp:h:1", "wait": False, "source_after": "quit"}, ("source_after",)),
        ({"state": "paused"}, ("postcopy", "none")),
        ({"state": "recovered", "uri": "tcp:h:1"}, ("postcopy", "none")),
        ({"uri": "tcp:h:1", "destination_socket": "/nowhere"}, ("destination_socket", "/nowhere")),
    ],
)
def test_what_can_not_be(paused_vm: VM, options: dict[str, Any], words: tuple[str, ...]) -> None:
    vm = paused_vm
    before = vm.observer.look("query-migrate-capabilities"), vm.observer.look("query-migrate-parameters")
    refused(vm, *words, **options)
    assert vm.observer.status() in ("prelaunch", "paused")
    after = vm.observer.look("query-migrate-capabilities"), vm.observer.look("query-migrate-parameters")
    assert after == before


def test_itself_and_others_that_do_not_wait(start_vm: Callable[..., VM]) -> None:
    vm, other, waits = start_vm(), start_vm(), start_vm(args=["-incoming", "defer"])
    uri = f"unix:{vm.directory}/m"
    refused(vm, "itself", check=True, uri=uri, destination_socket=vm.qmp)
    refused(vm, "-incoming defer", check=True, uri=uri, destination_socket=other.qmp)
    refused(vm, "qemu_migrate_incoming", check=True, uri=uri, destination_socket=waits.qmp)
    refused(waits, "waits for an incoming migration", check=True, uri=uri)
    with pytest.raises(ModuleFailed, match="-incoming defer"):
        incoming(vm, uri)
    incoming(waits, uri)
    with pytest.raises(ModuleFailed, match="listens at unix:"):
        incoming(waits, "tcp:127.0.0.1:4444")


def test_what_blocks_a_migration(start_vm: Callable[..., VM]) -> None:
    vm = start_vm()
    vm.observer.execute("blockdev-add", **{"node-name": "n", "driver": "vvfat", "dir": str(vm.directory), "rw": True})
    reasons = vm.observer.look("query-migrate")["blocked-reasons"]
    for check in (True, False):
        refused(vm, "can't be migrated", *reasons, uri="tcp:127.0.0.1:1", check=check)


@pytest.mark.parametrize("kind", ["mirror", "backup"])
def test_a_job_that_works_on_its_disks_keeps_a_guest_here(start_vm: Callable[..., VM], kind: str) -> None:
    vm = start_vm(args=["-drive", "if=none,id=d,driver=null-co,size=16M", "-device", "virtio-blk-pci,drive=d,bus=rp0"])
    vm.observer.execute("blockdev-add", driver="null-co", node_name="target", size=16 << 20)
    vm.observer.execute(f"blockdev-{kind}", device="d", target="target", sync="full", job_id="j", speed=65536)
    before = vm.fingerprint()
    for check in (True, False):
        refused(
            vm, "can't be migrated", f"block job j ({kind})", "qemu_block_job", uri="exec:cat >/dev/null", check=check
        )
    assert vm.fingerprint() == before and vm.observer.look("query-migrate") == {}
    run_module(vm, "qemu_block_job", id="j", state="cancelled")
    assert migrate(vm, uri="exec:cat >/dev/null")["migration"]["status"] == "completed"
