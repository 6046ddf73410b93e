# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_power: every state from every other, guests that obey and guests that don't, and VMs that are gone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._host.shutdown import PoweredDown
from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.observer import Observer
from support.timing import no_hang
from support.vm import VM


def power(vm: VM | str, state: str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_power", check=check, diff=True, state=state, **options)


def step(vm: VM, state: str, *commands: str, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves the VM alone, then the real run, which does what that said."""
    before = vm.observer.status()
    foretold = power(vm, state, check=True, **options)
    assert vm.observer.status() == before
    done = power(vm, state, **options)
    assert names(done) == names(foretold) == list(commands)
    assert done["changed"] == foretold["changed"] == bool(commands)
    assert done["diff"] == foretold["diff"]
    assert (done["diff"]["before"] != done["diff"]["after"]) == bool(commands)
    assert done["status"]["before"] == foretold["status"]["before"] == before
    return done


def same(vm: VM | str, state: str, **options: Any) -> None:
    for check in (True, False):
        again = power(vm, state, check=check, **options)
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]


def refused(vm: VM | str, state: str, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            power(vm, state, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
    return failed.value.result


def events(vm: VM) -> list[str]:
    vm.observer.execute("query-status")
    return [event["event"] for event in vm.observer.events]


# -- without a guest --------------------------------------------------------


def test_a_state_in_which_alone_something_is_done(paused_vm: VM) -> None:
    vm = paused_vm
    refused(vm, "off", "the status is prelaunch", "inmigrate", only_if_status=["inmigrate"])
    assert vm.observer.status() == "prelaunch"
    step(vm, "running", "cont", only_if_status=["paused", "prelaunch"])
    same(vm, "running", only_if_status=["paused"])
    refused(vm, "paused", "the status is running", only_if_status=[])
    assert vm.observer.status() == "running"
    step(vm, "off", "quit", only_if_status=["running"])
    same(vm, "off", only_if_status=["inmigrate"])


def test_the_run_states(paused_vm: VM) -> None:
    vm = paused_vm
    same(vm, "paused")
    assert step(vm, "running", "cont")["status"] == {"before": "prelaunch", "after": "running"}
    vm.observer.forget_events()
    same(vm, "running")
    assert events(vm) == []
    assert step(vm, "paused", "stop")["status"]["after"] == vm.observer.status() == "paused"
    vm.observer.forget_events()
    same(vm, "paused")
    assert events(vm) == []
    vm.observer.execute("cont")
    vm.observer.forget_events()
    assert step(vm, "reset", "system_reset")["status"] == {"before": "running", "after": "running"}
    assert "RESET" in events(vm)
    assert power(vm, "reset")["changed"]
    vm.observer.execute("stop")
    assert step(vm, "reset", "system_reset")["status"]["after"] == vm.observer.status() == "prelaunch"
    step(vm, "running", "cont", wait=False)


def test_off(paused_vm: VM) -> None:
    vm = paused_vm
    assert step(vm, "off", "quit")["status"]["after"] == "off"
    assert not vm.alive  # and not a moment later
    same(vm, "off")
    same(vm, "shutdown")
    for state in ("running", "paused", "reset"):
        refused(vm, state, "gone", state)


def test_a_socket_that_nobody_serves(paused_vm: VM) -> None:
    vm = paused_vm
    vm.kill()
    assert os.path.exists(vm.qmp)
    same(vm, "off")
    same(vm, "shutdown")
    refused(vm, "running", "gone")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        same(f"127.0.0.1:{unused.getsockname()[1]}", "off")


def test_a_vm_whose_sockets_file_was_deleted_is_not_gone(paused_vm: VM) -> None:
    os.unlink(paused_vm.qmp)
    with no_hang(4):
        for state in ("off", "shutdown", "running"):
            refused(paused_vm, state, "file was deleted", f"process {paused_vm.pid} (", timeout=2)
        with pytest.raises(ModuleFailed, match=f"process {paused_vm.pid} .* still listens by that name"):
            run_module(paused_vm, "qemu_info", timeout=2)
        with pytest.raises(ModuleFailed, match=f"process {paused_vm.pid} .* still listens by that name"):
            run_module(paused_vm, "qemu_wait", status="running", timeout=2)
    assert paused_vm.alive and paused_vm.observer.status() == "prelaunch"


def test_a_busy_monitor_is_not_gone(paused_vm: VM) -> None:
    vm = paused_vm
    holder = Observer(vm.qmp)
    for state in ("off", "shutdown", "running"):
        refused(vm, state, "another client", connect_timeout=0.15)
    holder.close()
    assert vm.alive
    assert vm.observer.status() == "prelaunch"


def test_what_is_no_monitor_is_not_gone(paused_vm: VM) -> None:
    vm = paused_vm
    path = f"{vm.directory}/other"
    with open(path, "w") as file:
        file.write("a file")
    refused(path, "off", "not a socket")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        refused(path, "off", "no greeting", connect_timeout=0.15)
    os.unlink(path)
    refused(f"{vm.directory}/serial", "off", connect_timeout=0.15)


def test_options_that_contradict_each_other(paused_vm: VM) -> None:
    refused(paused_vm, "shutdown", "force_after", "timeout", force_after=5, timeout=5)
    refused(paused_vm, "shutdown", "force_after", "wait", force_after=1, wait=False)
    refused(paused_vm, "shutdown", "force_after", force_after=-1)
    refused(paused_vm, "shutdown", "prelaunch", "force_after")
    step(paused_vm, "running", "cont", force_after=100)


def test_no_reboot_ends_instead_of_a_reset(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(args=["-no-reboot"])
    failed = refused(vm, "reset", "-no-reboot", foretold=False)
    assert failed["changed"]
    assert names(failed) == ["system_reset"]
    vm.wait_exit()


def test_a_migrated_vm_stays_where_it_went(start_vm: Callable[..., VM]) -> None:
    source = start_vm()
    target = start_vm(args=["-incoming", f"unix:{source.directory}/m"])
    refused(target, "running", "incoming migration")
    source.observer.execute("migrate", uri=f"unix:{source.directory}/m")
    deadline = time.monotonic() + 20
    while source.observer.status() != "postmigrate":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    refused(source, "running", "postmigrate", "force")
    refused(source, "reset", "postmigrate", "force")
    assert source.observer.status() == "postmigrate"
    same(source, "paused")
    step(source, "running", "cont", force=True)
    assert source.observer.status() == "running"


def test_qemu_dies_while_it_is_waited_for(start_vm: Callable[..., VM]) -> None:
    vm = start_vm()
    vm.observer.execute("cont")
    killer = threading.Timer(0.5, vm.kill)
    killer.start()
    done = power(vm, "shutdown", timeout=10)
    killer.join()
    assert done["status"]["after"] == "off"
    assert not vm.alive


def test_a_stopped_process_is_not_gone(paused_vm: VM) -> None:
    """The monitor's socket takes the command, and nobody answers."""
    vm = paused_vm
    os.kill(vm.pid, 19)
    try:
        with no_hang(1):
            refused(vm, "off", foretold=False, connect_timeout=1, timeout=1)
    finally:
        os.kill(vm.pid, 18)
    assert vm.alive


def test_by_real_ansible(paused_vm: VM, playbook: Callable[..., Any]) -> None:
    running = {"vmm.qemu.qemu_power": {"socket": paused_vm.qmp, "state": "running"}}
    tasks = [
        {"name": "foretold", "check_mode": True, "register": "foretold", **running},
        {"name": "done", "when": "foretold.changed", **running},
        {"name": "again", **running},
        {"name": "off", "vmm.qemu.qemu_power": {"socket": paused_vm.qmp, "state": "off"}},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], diff=True)
    assert run.rc == 0, run.output
    assert (
        run["foretold"].result["commands"] == run["done"].result["commands"] == [{"execute": "cont", "arguments": {}}]
    )
    assert run["done"].result["status"] == {"before": "prelaunch", "after": "running"}
    assert not run["again"].changed
    assert run["off"].changed
    assert not paused_vm.alive


def test_what_does_not_answer_the_button_is_turned_off(start_vm: Callable[..., VM]) -> None:
    running, paused = start_vm(), start_vm()
    running.observer.execute("cont")
    for vm in (running, paused):  # both run no system
        done = step(vm, "shutdown", "system_powerdown", "quit", force_after=0.3, timeout=10)
        assert done["forced"] is True
        assert done["status"]["after"] == "off"
        assert not vm.alive


# -- with a guest -----------------------------------------------------------


def watch_the_button(vm: VM) -> None:
    """The guest obeys from now on, though its init was told not to."""
    event = vm.run_in_guest("grep -il 'power button' /sys/class/input/event*/device/name | cut -d/ -f5").strip()
    vm.run_in_guest(f"(hexdump -n 24 /dev/input/{event} && poweroff -f) >/dev/null 2>&1 &")
    vm.run_in_guest("until pidof hexdump >/dev/null; do sleep 0.1; done")


def test_a_guest_that_ignores_the_button_and_one_that_obeys(
    start_vm: Callable[..., VM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PoweredDown, "resend_every", 0.6)
    vm = start_vm(guest=True, append="bed.ignorepower")
    done = step(vm, "shutdown", "system_powerdown", wait=False)
    assert done["status"]["after"] == "running"
    vm.observer.wait_event("POWERDOWN")
    vm.observer.forget_events()

    with no_hang(2):
        failed = refused(vm, "shutdown", "did not shut down", "force_after", foretold=False, timeout=2)
    assert (failed["changed"], names(failed)) == (True, ["system_powerdown"])
    assert events(vm).count("POWERDOWN") >= 2  # pressed again
    assert vm.observer.status() == "running"

    watch_the_button(vm)
    done = step(vm, "shutdown", "system_powerdown", "quit", force_after=30)
    assert done["forced"] is False
    assert done["status"] == {"before": "running", "after": "off"}
    assert not vm.alive
    assert vm.exit_code == 0
    assert vm.observer.wait_event("SHUTDOWN")["data"]["reason"] == "guest-shutdown"
    same(vm, "shutdown")


def test_no_shutdown(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True, args=["-no-shutdown"])
    vm.run_in_guest("until pidof hexdump >/dev/null; do sleep 0.1; done")
    vm.observer.execute("stop")
    refused(vm, "shutdown", "paused")
    vm.observer.execute("cont")
    assert step(vm, "shutdown", "system_powerdown")["status"]["after"] == vm.observer.status() == "shutdown"
    same(vm, "shutdown")
    same(vm, "paused")
    refused(vm, "running", "shutdown", "reset", "force")
    assert vm.observer.status() == "shutdown"
    assert step(vm, "running", "system_reset", "cont", force=True)["status"]["after"] == "running"
    assert vm.observer.status() == "running"
    vm.observer.execute("stop")
    assert step(vm, "off", "quit")["status"]["after"] == "off"
    assert not vm.alive


def test_a_guest_that_stops_again_at_once_does_not_run(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True)
    full = {"event": "none", "iotype": "write", "errno": 28, "once": True}
    image = {"driver": "file", "filename": vm.image("d0.raw")}
    below = {"driver": "blkdebug", "image": image, "inject-error": [full, full]}
    disk: dict[str, Any] = {"id": "d0", "bus": "rp0", "blockdev": {"file": below}, "options": {"werror": "stop"}}
    run_module(vm, "qemu_disk", **disk)
    vm.guest_sees(blk={"vda"})
    vm.run_in_guest("(dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync; echo WRITTEN) >/dev/ttyS0 2>&1 &")
    vm.observer.wait_event("STOP")
    failed = refused(vm, "running", "stopped again at once", "io-error", "d0", "nospace", foretold=False)
    assert (failed["changed"], names(failed)) == (True, ["cont"])
    assert vm.observer.status() == "io-error"
    done = step(vm, "running", "cont")
    assert done["status"]["after"] == vm.observer.status() == "running"
    vm.wait_serial("WRITTEN")
