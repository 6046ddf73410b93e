# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_migrate and qemu_migrate_incoming: guests that move while they count, and guests that stay when they can't."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.life import names
from support.modules import ModuleFailed, run_module
from support.plays import TaskResult
from support.vm import REPO, VM

MACHINE = "pc-q35-7.2"  # both QEMUs know it
SLOW = {"max-bandwidth": 2 << 20}


@pytest.fixture
def pair(start_vm: Callable[..., VM]) -> Callable[..., tuple[VM, VM, str]]:
    """`pair(guest=True, to="10.0")`: a source, a destination that waits, and a uri between them."""

    def make(to: str | None = None, args: tuple[str, ...] = (), **options: Any) -> tuple[VM, VM, str]:
        options = {"machine": MACHINE, "ports": ["rp0"], **options}
        source = start_vm(args=args, **options)
        versions = {"version": to} if to else {}
        there = start_vm(args=["-incoming", "defer"], **options, **versions)
        return source, there, f"unix:{source.directory}/migrate"

    return make


def incoming(vm: VM, uri: str, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_migrate_incoming", uri=uri, **options)


def migrate(vm: VM | str, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_migrate", diff=True, **options)


def refused(vm: VM | str, *words: str, check: bool = False, **options: Any) -> dict[str, Any]:
    with pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_migrate", check=check, **options)
    for word in words:
        assert word in failed.value.result["msg"]
    return failed.value.result


def count(vm: VM) -> int:
    """The last number that the guest has told this QEMU's serial line; waits for another one."""
    vm.wait_serial("GUEST-COUNT", since=len(vm.serial.replace("\r", "")))
    return int(re.findall(r"GUEST-COUNT (\d+)", vm.serial)[-1])


@pytest.mark.parametrize("to", [None, "10.0"])
def test_a_guest_counts_on(pair: Callable[..., Any], to: str | None) -> None:
    source, there, uri = pair(to=to, guest=True, append="bed.count")
    before = count(source)
    for check in (True, False):
        made = run_module(there, "qemu_migrate_incoming", check=check, diff=True, uri=uri)
        assert names(made) == ["migrate-set-capabilities", "migrate-incoming"]
        assert ("socket-address" in there.observer.look("query-migrate")) is not check
    again = incoming(there, uri)
    assert (again["changed"], again["commands"]) == (False, [])
    options = {"uri": uri, "destination_socket": there.qmp}
    foretold = run_module(source, "qemu_migrate", check=True, diff=True, **options)
    assert source.observer.look("query-migrate") == {} and source.observer.status() == "running"
    done = migrate(source, **options)
    assert done["commands"] == foretold["commands"] and done["diff"] == foretold["diff"]
    assert names(done) == ["migrate-set-capabilities", "migrate"]
    assert done["migration"]["status"] == "completed" and done["migration"]["ram"]["transferred"] > 1 << 20
    assert source.observer.status() == "postmigrate" and there.observer.status() == "running"
    assert count(there) > before
    assert incoming(there, uri)["changed"] is False
    for check in (True, False):
        again = run_module(source, "qemu_migrate", check=check, diff=True, **options)
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
    with pytest.raises(ModuleFailed, match="postmigrate"):
        run_module(source, "qemu_power", state="running")
    # and end the source, which is a task of its own
    quitting = migrate(source, **options, source_after="quit")
    assert names(quitting) == ["quit"] and source.wait_exit() == 0
    after = migrate(source, **options, source_after="quit")
    assert (after["changed"], after["commands"]) == (False, [])
    refused(source, "destination_socket", uri=uri)


def test_there_and_back_without_a_loss(start_vm: Callable[..., VM]) -> None:
    """Ten migrations of one guest on each QEMU, twenty in all."""
    options = {"machine": MACHINE, "ports": ["rp0"], "guest": True, "append": "bed.count"}
    here = start_vm(**options)
    numbers = [count(here)]
    for _turn in range(10):
        there = start_vm(args=["-incoming", "defer"], **options)
        uri = f"unix:{there.directory}/migrate"
        incoming(there, uri)
        migrate(here, uri=uri, destination_socket=there.qmp, source_after="quit")
        assert here.wait_exit() == 0
        numbers.append(count(there))
        here.close()
        here = there
    assert numbers == sorted(set(numbers))


def test_ways(pair: Callable[..., Any]) -> None:
    """TCP with several channels, and a stop before the switch."""
    source, there, _uri = pair()
    capabilities = {"multifd": True, "pause_before_switchover": True}
    made = incoming(there, "tcp:127.0.0.1:0", capabilities=capabilities, parameters={"multifd_channels": 4})
    port = made["migration"]["socket_address"][0]["port"]
    uri = f"tcp:127.0.0.1:{port}"
    to = {"uri": uri, "destination_socket": there.qmp}
    refused(source, "multifd", "qemu_migrate_incoming", **to)
    refused(source, "multifd-channels is 2 here and 4", capabilities=capabilities, **to)
    source.observer.execute("cont")
    done = migrate(
        source, uri=uri, capabilities=capabilities, parameters={"multifd_channels": "4"}, source_after="quit"
    )
    assert names(done) == ["migrate-set-capabilities", "migrate-set-parameters", "migrate", "migrate-continue", "quit"]
    assert source.wait_exit() == 0 and there.observer.status() == "paused"  # it was started with -S
    refused(source, "destination_socket", uri=uri)


def test_to_a_file_and_back(pair: Callable[..., Any], tmp_path: Any) -> None:
    source, there, _uri = pair()
    uri = f"exec:cat > {tmp_path}/state"
    failed = refused(source, "nothing proves", uri=uri, source_after="quit")
    assert failed["changed"] and source.alive and source.observer.status() == "postmigrate"
    made = incoming(there, f"exec:cat {tmp_path}/state", wait=True)
    assert made["migration"]["status"] == "completed" and there.observer.status() in ("paused", "prelaunch")
    done = migrate(source, uri=uri, destination_socket=there.qmp, source_after="quit")
    assert names(done) == ["quit"] and source.wait_exit() == 0


def test_cancelled_and_timed_out(pair: Callable[..., Any]) -> None:
    source, there, uri = pair(guest=True)
    incoming(there, uri)
    failed = refused(source, "was cancelled", "still here", "running", uri=uri, parameters=SLOW, timeout=1.5)
    assert failed["changed"] and failed["migration"]["status"] == "active"
    assert source.observer.look("query-migrate")["status"] == "cancelled" and source.observer.status() == "running"


def test_left_and_joined(pair: Callable[..., Any]) -> None:
    source, there, uri = pair(guest=True)
    incoming(there, uri)
    refused(source, "goes on", "join", uri=uri, parameters=SLOW, timeout=1.0, on_timeout="leave")
    assert source.observer.look("query-migrate")["status"] == "active"
    unhurried = migrate(source, uri=uri, wait=False)
    assert unhurried["changed"] and unhurried["commands"] == []
    source.observer.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    done = migrate(source, uri=uri, destination_socket=there.qmp, source_after="quit")
    assert names(done) == ["quit"]
    assert source.wait_exit() == 0 and there.observer.status() == "running"


def test_killed_and_joined(pair: Callable[..., Any]) -> None:
    """A task that is killed in the middle leaves the guest running and the migration going; the next one sees it through."""
    source, there, uri = pair(guest=True)
    incoming(there, uri)
    module = "ansible_collections.vmm.qemu.plugins.modules.qemu_migrate"
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPO / ".bed" / "collections")},
    )
    assert process.stdin is not None
    process.stdin.write(
        json.dumps({"ANSIBLE_MODULE_ARGS": {"socket": source.qmp, "uri": uri, "parameters": SLOW}}).encode()
    )
    process.stdin.close()
    deadline = time.monotonic() + 20
    while source.observer.look("query-migrate").get("status") != "active":
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert source.observer.look("query-migrate")["status"] == "active" and source.observer.status() == "running"
    source.observer.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    done = migrate(source, uri=uri, destination_socket=there.qmp)
    assert (done["changed"], done["commands"]) == (True, [])
    assert there.observer.status() == "running"


def test_postcopy_paused_and_recovered(pair: Callable[..., Any]) -> None:
    """The guest runs at the destination already when the connection goes, and is whole in the end."""
    source, there, uri = pair(guest=True, append="bed.count")
    before = count(source)
    on = {"postcopy-ram": True}
    incoming(there, uri, capabilities=on)
    slow = {"max-bandwidth": 4 << 20, "max-postcopy-bandwidth": 4 << 20}
    to = {"uri": uri, "destination_socket": there.qmp}
    late = refused(
        source, "can't be cancelled any more", capabilities=on, parameters=slow, postcopy_after=0.5, timeout=3, **to
    )
    assert names(late) == ["migrate-set-capabilities", "migrate-set-parameters", "migrate", "migrate-start-postcopy"]
    assert source.observer.look("query-migrate")["status"] == "postcopy-active" and there.observer.status() == "running"
    refused(source, "can't be cancelled", state="cancelled")
    for check in (True, False):
        assert names(run_module(source, "qemu_migrate", check=check, state="paused")) == ["migrate-pause"]
    assert source.observer.look("query-migrate")["status"] == "postcopy-paused"
    assert migrate(source, state="paused")["changed"] is False
    refused(source, "state=recovered", **to)
    source.observer.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
    done = migrate(source, state="recovered", uri=f"{uri}2", destination_socket=there.qmp)
    assert names(done) == ["migrate"] and done["migration"]["status"] == "completed"
    assert source.observer.status() == "postmigrate" and there.observer.look("query-migrate")["status"] == "completed"
    assert count(there) > before


def test_the_state_cancelled(pair: Callable[..., Any]) -> None:
    source, there, uri = pair(guest=True)
    nothing = migrate(source, state="cancelled")
    assert (nothing["changed"], nothing["commands"]) == (False, [])
    incoming(there, uri)
    begun = migrate(source, uri=uri, parameters=SLOW, wait=False)
    assert names(begun) == ["migrate-set-capabilities", "migrate-set-parameters", "migrate"]
    for check in (True, False):
        done = run_module(source, "qemu_migrate", check=check, state="cancelled")
        assert names(done) == ["migrate_cancel"]
    assert source.observer.look("query-migrate")["status"] == "cancelled" and source.observer.status() == "running"
    assert migrate(source, state="cancelled")["changed"] is False


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
        assert failed["migration"]["status"] in ("failed", "setup", "active")
        assert source.observer.status() == "running"
        there.close()
    count(source)


def test_a_device_that_the_destination_lacks(start_vm: Callable[..., VM]) -> None:
    options = {"machine": MACHINE, "ports": ["rp0"]}
    source = start_vm(guest=True, args=["-device", "virtio-rng-pci,bus=rp0"], **options)
    there = start_vm(guest=True, args=["-incoming", "defer"], **options)
    uri = f"unix:{source.directory}/migrate"
    incoming(there, uri)
    failed = refused(source, "failed", "still here", "running", uri=uri, source_after="quit")
    assert failed["error"]["class"] == "GenericError"
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
        ({"uri": "nonsense"}, ("no address for a migration", "tcp:HOST:PORT")),
        (
            {"uri": "tcp:h:1", "capabilities": {"multifdd": True}},
            ("capabilities", "multifdd", "did you mean 'multifd'"),
        ),
        ({"uri": "tcp:h:1", "capabilities": {"multifd": "perhaps"}}, ("multifd", "perhaps")),
        ({"uri": "tcp:h:1", "parameters": {"max-bandwith": 1}}, ("parameters", "did you mean 'max-bandwidth'")),
        ({"uri": "tcp:h:1", "parameters": {"downtime-limit": "soon"}}, ("downtime-limit", "soon")),
        ({"uri": "tcp:h:1", "parameters": {"downtime-limit": 1 << 40}}, ("downtime",)),
        ({"uri": "tcp:h:1", "postcopy_after": 1}, ("postcopy-ram",)),
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
    if "still here" not in words:
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


def test_as_ansible_runs_them(pair: Callable[..., Any], ansible_task: Callable[..., TaskResult]) -> None:
    source, there, uri = pair()
    assert ansible_task("qemu_migrate_incoming", {"socket": there.qmp, "uri": uri}).changed
    options = {"socket": source.qmp, "uri": uri, "destination_socket": there.qmp}
    assert ansible_task("qemu_migrate", options).changed
    assert there.observer.look("query-migrate")["status"] == "completed"
    assert not ansible_task("qemu_migrate", options).changed
