# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_migrate and qemu_migrate_incoming: guests that move while they count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.lifecycle import names
from support.migration import MACHINE, SLOW, count, incoming, migrate, refused, wait_for
from support.modules import ModuleFailed, run_module
from support.plays import TaskResult
from support.vm import REPO, VM


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


@pytest.mark.parametrize(
    ("qemu_version", "to"), [("7.2", None), ("7.2", "10.0"), ("10.0", None)], indirect=["qemu_version"]
)
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
    """Ten migrations of one guest on each QEMU, twenty in all; twenty on each if VMM_QEMU_LONG is set."""
    options = {"machine": MACHINE, "ports": ["rp0"], "guest": True, "append": "bed.count"}
    here = start_vm(**options)
    numbers = [count(here)]
    for _turn in range(20 if os.environ.get("VMM_QEMU_LONG") else 10):
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
    for check in (True, False):
        assert refused(source, "no way back", check=check, uri=uri, source_after="quit")["commands"] == []
    assert source.observer.look("query-migrate") == {}
    done = migrate(source, uri=uri)
    assert names(done) == ["migrate-set-capabilities", "migrate"] and source.observer.status() == "postmigrate"
    made = incoming(there, f"exec:cat {tmp_path}/state", wait=True)
    assert made["migration"]["status"] == "completed" and there.observer.status() in ("paused", "prelaunch")
    done = migrate(source, uri=uri, destination_socket=there.qmp, source_after="quit")
    assert names(done) == ["quit"] and source.wait_exit() == 0


def test_proof_is_the_right_destinations(pair: Callable[..., Any], start_vm: Callable[..., VM]) -> None:
    """A source that has completed is not ended for the sake of a VM that never took a guest, or that sent one away."""
    source, there, uri = pair()
    incoming(there, uri)
    migrate(source, uri=uri)
    other = start_vm()
    to = {"uri": uri, "source_after": "quit"}
    refused(source, "not known to have arrived", "none", destination_socket=other.qmp, timeout=20, **to)
    assert source.alive and source.observer.status() == "postmigrate"
    with pytest.raises(ModuleFailed, match="postmigrate"):
        incoming(source, uri)  # it has no guest any more
    migrate(there, uri=f"exec:cat > {there.directory}/state")
    refused(source, "not known to have arrived", "postmigrate", destination_socket=there.qmp, timeout=20, **to)
    assert source.alive


def test_over_just_after_the_time_was_up(pair: Callable[..., Any]) -> None:
    from ansible_collections.vmm.qemu.plugins.modules.qemu_migrate import MODULE

    source, there, uri = pair()
    incoming(there, uri)
    begun = time.monotonic()

    def dawdle(progress: Any) -> None:
        deadline = time.monotonic() + 20
        while source.observer.look("query-migrate")["status"] != "completed" or time.monotonic() < begun + 3.2:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    params: dict[str, Any] = {name: option.fields.get("default") for name, option in MODULE.options.items()}
    failed = MODULE.run({**params, "socket": source.qmp, "uri": uri, "timeout": 3.0}, on_progress=dawdle)
    assert failed["failed"] and "run the task again" in failed["msg"] and "still here" not in failed["msg"]
    assert failed["migration"]["status"] == "completed"
    assert migrate(source, uri=uri, destination_socket=there.qmp)["changed"] is False


def test_cancelled_and_timed_out(pair: Callable[..., Any]) -> None:
    source, there, uri = pair(guest=True)
    incoming(there, uri)
    failed = refused(source, "was cancelled", "still here", "running", uri=uri, parameters=SLOW, timeout=4)
    assert names(failed) == ["migrate", "migrate_cancel"] and failed["guest"] == "here"
    assert [step["execute"] for step in failed["rolled_back"]] == ["migrate-set-parameters", "migrate-set-capabilities"]
    assert failed["changed"] and failed["migration"]["status"] == "active"
    assert source.observer.look("query-migrate")["status"] == "cancelled" and source.observer.status() == "running"


def test_left_and_joined(pair: Callable[..., Any]) -> None:
    source, there, uri = pair(guest=True)
    incoming(there, uri)
    refused(source, "goes on", "join", uri=uri, parameters=SLOW, timeout=3, on_timeout="leave")
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
    wait_for(source, "active")
    assert process.poll() is None
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
    assert incoming(there, uri)["changed"] is False
    for check in (True, False):
        assert names(run_module(source, "qemu_migrate", check=check, state="paused")) == ["migrate-pause"]
    assert source.observer.look("query-migrate")["status"] == "postcopy-paused"
    assert migrate(source, state="paused")["changed"] is False
    refused(source, "state=recovered", **to)
    with pytest.raises(ModuleFailed, match="recovered"):
        incoming(there, uri, wait=True)
    refused(source, "goes on", **{**to, "uri": f"{uri}1"}, state="recovered", timeout=2)
    # the connection goes while the task waits
    network = threading.Timer(0.5, source.observer.execute, ("migrate-pause",))
    network.start()
    refused(source, "has lost its connection in postcopy", **to, timeout=40)
    network.join()
    source.observer.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
    done = migrate(source, state="recovered", uri=f"{uri}2", destination_socket=there.qmp)
    assert names(done) == ["migrate-recover", "migrate"] and done["migration"]["status"] == "completed"
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


def test_as_ansible_runs_them(pair: Callable[..., Any], ansible_task: Callable[..., TaskResult]) -> None:
    source, there, uri = pair()
    assert ansible_task("qemu_migrate_incoming", {"socket": there.qmp, "uri": uri}).changed
    options = {"socket": source.qmp, "uri": uri, "destination_socket": there.qmp}
    assert ansible_task("qemu_migrate", options).changed
    assert there.observer.look("query-migrate")["status"] == "completed"
    assert not ansible_task("qemu_migrate", options).changed
