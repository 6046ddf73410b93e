# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong between a module and a real QEMU: nothing is left behind, nothing hangs, and the message says what it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.proxy import Proxy
from support.timing import no_hang, until
from support.vm import VM


@pytest.fixture
def scsi_vm(start_vm: Any) -> VM:
    """Without a guest; but what sits on a SCSI bus can be unplugged without one."""
    vm: VM = start_vm(scsi=True)
    return vm


def disk(vm: VM) -> dict[str, Any]:
    return {"id": "d0", "driver": "scsi-hd", "bus": "scsi0.0", "filename": vm.image("a.img")}


@pytest.mark.parametrize("at", ["blockdev-add", "device_add"])
@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_connection_that_breaks_in_the_middle(scsi_vm: VM, fault: str, at: str) -> None:
    """The module connects anew and takes back what was done, also what it never got an answer to."""
    given = disk(scsi_vm)
    before = scsi_vm.fingerprint()
    with Proxy(scsi_vm.qmp, fault, at) as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_disk", **given)
    assert proxy.struck
    assert "lost QEMU" in failed.value.result["msg"] and at in failed.value.result["msg"]
    assert scsi_vm.fingerprint() == before
    assert run_module(scsi_vm, "qemu_disk", **given)["changed"]


def test_a_recreation_whose_connection_breaks_gives_the_old_disk_back(scsi_vm: VM) -> None:
    given = disk(scsi_vm)
    run_module(scsi_vm, "qemu_disk", **given)
    other = {**given, "filename": scsi_vm.image("b.img"), "recreate": True}
    before = scsi_vm.fingerprint()
    with Proxy(scsi_vm.qmp, "lose", "blockdev-add") as proxy, pytest.raises(ModuleFailed):
        run_module(proxy.address, "qemu_disk", **other)
    assert scsi_vm.fingerprint() == before
    assert scsi_vm.observer.node("d0-node")["file"] == given["filename"]


@pytest.mark.parametrize("at", ["device_del", "blockdev-del", "netdev_del", "chardev-remove", "object-del"])
@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_a_removal_whose_connection_breaks(scsi_vm: VM, fault: str, at: str) -> None:
    """A look tells whether QEMU has taken the command: the task goes on then, or takes back what was done before."""
    things: dict[str, Any] = {
        "objects": [{"id": "o0", "qom_type": "iothread"}],
        "chardevs": [{"id": "c0", "type": "null"}],
        "netdevs": [{"id": "n0", "type": "user"}],
        "disks": [disk(scsi_vm)],
    }
    empty = scsi_vm.fingerprint()
    run_module(scsi_vm, "qemu_machine", **things)
    full = scsi_vm.fingerprint()
    gone: dict[str, Any] = {
        section: [{"id": thing["id"], "state": "absent"} for thing in there] for section, there in things.items()
    }
    with Proxy(scsi_vm.qmp, fault, at) as proxy:
        if fault == "cut":
            run_module(proxy.address, "qemu_machine", **gone)
        else:
            with pytest.raises(ModuleFailed) as failed:
                run_module(proxy.address, "qemu_machine", **gone)
            assert at in failed.value.result["msg"]
            assert failed.value.result["changed"] == (at == "device_del"), "a guest might still give it back"
    assert proxy.struck
    assert scsi_vm.fingerprint() == (empty if fault == "cut" else full)


def test_a_result_that_can_not_be_read_back_is_not_nothing(scsi_vm: VM) -> None:
    """The connection breaks at the first query after all was done."""
    given = disk(scsi_vm)
    with Proxy(scsi_vm.qmp, "after", "device_add") as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_disk", **given)
    result = failed.value.result
    assert result["changed"] and [step["execute"] for step in result["commands"]] == ["blockdev-add", "device_add"]
    assert "all was done" in result["msg"]
    assert not run_module(scsi_vm, "qemu_disk", **given)["changed"]


def test_a_monitor_that_is_gone_for_good_is_left_half_done_and_completed_by_the_next_run(scsi_vm: VM) -> None:
    given = disk(scsi_vm)
    with Proxy(scsi_vm.qmp, "lose", "device_add", gone=True) as proxy, pytest.raises(ModuleFailed):
        run_module(proxy.address, "qemu_disk", **given)
    assert "d0-node" in scsi_vm.observer.nodes()
    assert [step["execute"] for step in run_module(scsi_vm, "qemu_disk", **given)["commands"]] == ["device_add"]


@pytest.mark.parametrize("at", ["query-named-block-nodes", "blockdev-add", "device_add", "qmp_capabilities"])
def test_an_answer_that_never_comes(scsi_vm: VM, at: str) -> None:
    given = disk(scsi_vm)
    with no_hang(4), Proxy(scsi_vm.qmp, "stall", at) as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_disk", timeout=4, **given)
    assert at in failed.value.result["msg"]


def test_a_removal_is_pending_though_qemu_can_not_be_asked_why(start_vm: Any) -> None:
    """At the deadline it is asked for its status; that it does not answer is the reason then."""
    vm = start_vm()
    run_module(vm, "qemu_disk", id="d0", bus="rp0", filename=vm.image("a.img"))
    with no_hang(4), Proxy(vm.qmp, "stall", "query-status") as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_disk", id="d0", state="absent", timeout=4)
    assert proxy.struck and failed.value.result["pending"] is True
    for word in ("device d0 is pending", "does not answer"):
        assert word in failed.value.result["msg"]
    assert "d0-node" in vm.observer.nodes()


def test_a_step_whose_end_can_not_be_seen_since_qemu_does_not_answer(start_vm: Any) -> None:
    vm = start_vm(args=["-device", "virtio-balloon-pci,bus=rp7"])
    vm.observer.execute("cont")  # the firmware runs, which has no driver
    with Proxy(vm.qmp, "stall", "query-status", spare=1) as proxy, pytest.raises(ModuleFailed) as failed:
        run_module(proxy.address, "qemu_balloon", size="128M", timeout=4)
    assert proxy.struck
    assert "balloon was sent, but QEMU does not answer" in failed.value.result["msg"]


def test_qemu_stopped_by_a_signal(scsi_vm: VM) -> None:
    given = disk(scsi_vm)
    os.kill(scsi_vm.pid, signal.SIGSTOP)
    scsi_vm.wait_stopped()  # each of its threads: the signal takes a moment
    try:
        with no_hang(1.0), pytest.raises(ModuleFailed) as failed:
            run_module(scsi_vm, "qemu_disk", timeout=1.0, **given)
    finally:
        os.kill(scsi_vm.pid, signal.SIGCONT)
    message = failed.value.result["msg"]
    assert "no greeting" in message and "or QEMU does not answer" in message


def test_a_busy_monitor_and_who_holds_it(scsi_vm: VM) -> None:
    with Proxy(scsi_vm.qmp, "none", "nothing") as holder:
        import socket

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(holder.address)
            client.recv(1 << 12)  # greeted: the monitor is taken
            with pytest.raises(ModuleFailed) as failed:
                run_module(scsi_vm, "qemu_disk", connect_timeout=0.5, **disk(scsi_vm))
    message = failed.value.result["msg"]
    assert "another client" in message and str(os.getpid()) in message
    assert "does not answer" not in message


def test_killed_in_the_middle(start_vm: Any) -> None:
    """A guest that does not answer keeps the module waiting; then QEMU dies under it."""
    vm = start_vm(guest=False)
    run_module(vm, "qemu_disk", id="d0", bus="rp0", filename=vm.image("a.img"))
    threading.Timer(0.5, vm.kill).start()
    with no_hang(0.5), pytest.raises(ModuleFailed) as failed:
        run_module(vm, "qemu_disk", id="d0", state="absent", timeout=40)
    assert "device_del" in failed.value.result["msg"] and "lost QEMU" in failed.value.result["msg"]


def test_killed_in_the_middle_as_ansible_sees_it(start_vm: Any, ansible_task: Any) -> None:
    vm = start_vm(guest=False)
    run_module(vm, "qemu_disk", id="d0", bus="rp0", filename=vm.image("a.img"))
    until(lambda: not vm.attended())  # by what plugged the disk

    def kill() -> None:
        until(vm.attended)
        time.sleep(1)
        vm.kill()

    threading.Thread(target=kill, daemon=True).start()
    done = ansible_task("qemu_disk", {"socket": vm.qmp, "id": "d0", "state": "absent", "timeout": 40})
    assert done.status == "failed"
    assert "lost QEMU" in done.result["msg"]
    assert "Traceback" not in str(done.result)
