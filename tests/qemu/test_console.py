# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_console: a serial log, a serial line and a text screen of real guests."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.step import REDACTED
from support.modules import ModuleFailed, run_module
from support.plays import PlayRun
from support.timing import no_hang, until
from support.vm import VM

SECRET = "correct horse battery"


def console(vm: VM, source: str, check: bool = False, monitor: bool = True, **options: Any) -> dict[str, Any]:
    paths = {"log": str(vm.serial_log), "serial": f"{vm.directory}/serial"}
    options = {"from": source, **({"path": paths[source]} if source in paths else {}), **options}
    return run_module(vm if monitor else None, "qemu_console", check=check, **options)


def failure(vm: VM, source: str, **options: Any) -> dict[str, Any]:
    with pytest.raises(ModuleFailed) as failed:
        console(vm, source, **options)
    return failed.value.result


def test_a_guest_that_boots(live_vm: VM) -> None:
    options: dict[str, Any] = {"expect": [{"text": "GUEST-UP"}, {"regex": r"cpus=(\S+) memkb=(?P<kb>\d+)"}]}
    for check in (True, False):
        told = console(live_vm, "log", check, monitor=False, **options)
        assert (told["changed"], told["commands"]) == (False, [])
        assert [match["entry"] for match in told["matched"]] == [0, 1]
        assert told["matched"][1]["groupdict"] == {"kb": str(live_vm.guest_state()["memkb"])}
        assert any(line.startswith("GUEST-STATE") for line in told["seen"])


def test_the_serial_line(live_vm: VM) -> None:
    options: dict[str, Any] = {
        "text": "a1 echo one; sleep 1; printf 'name: '; read -r name </dev/ttyS0; echo hello $name\n",
        "expect": [{"text": "name: ", "answer": "world"}, {"text": "hello world"}, {"text": "GUEST-DONE a1 0"}],
    }
    foretold = console(live_vm, "serial", check=True, monitor=False, **options)
    assert foretold["changed"] and foretold["matched"] == []
    done = console(live_vm, "serial", monitor=False, **options)
    assert (done["commands"], done["changed"]) == (foretold["commands"], True)
    assert done["commands"][1] == {"path": f"{live_vm.directory}/serial", "action": "type", "text": "world\r"}
    assert "GUEST-DONE a1 0" in live_vm.serial


def test_a_secret_is_typed_and_never_shown(live_vm: VM) -> None:
    options: dict[str, Any] = {
        "text": "b1 printf 'Password: '; read -r word </dev/ttyS0; echo you said $word; echo $word >/tmp/word\n",
        "expect": [{"text": "Password:", "answer": SECRET, "secret": True}, {"text": "GUEST-DONE b1 0"}],
    }
    done = console(live_vm, "serial", monitor=False, **options)
    assert done["commands"][-1]["text"] == REDACTED
    assert f"Password: you said {REDACTED}" in done["seen"]
    assert SECRET not in str(done)
    assert live_vm.run_in_guest("cat /tmp/word").strip() == SECRET


def test_a_line_whose_client_leaves_at_once_has_all_that_was_typed(live_vm: VM) -> None:
    mark = len(live_vm.serial)
    console(live_vm, "serial", monitor=False, text=f"c1 : {'x' * 3000}\nc2 echo all\n")
    live_vm.wait_serial("GUEST-DONE c2 0", since=mark)


def test_another_client_has_the_line(live_vm: VM) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(f"{live_vm.directory}/serial")
        until(lambda: not live_vm.observer.chardevs()["bed-serial"].startswith("disconnected:"))
        failed = failure(live_vm, "serial", monitor=False, text="d1 true\n", connect_timeout=0.5)
        assert f"process {os.getpid()} (" in failed["msg"] and failed["changed"] is False
        assert console(live_vm, "log", monitor=False, expect=[{"text": "GUEST-UP"}])["matched"]


def test_the_end_of_a_virtual_machine_is_told(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(guest=True)
    offset = console(vm, "log", expect=[{"text": "GUEST-STATE"}])["offset"]
    timer = threading.Timer(1, vm.kill)
    timer.start()
    for _round in range(2):  # while it ends, and when it has ended
        with no_hang(60):
            failed = failure(vm, "log", expect=[{"text": "never"}], offset=offset, timeout=600)
        timer.join()
        assert failed["msg"].startswith(f"expect[0]: text 'never' did not show on the log {vm.serial_log}: ")
    assert console(vm, "log", expect=[{"text": "GUEST-UP"}])["matched"], "what it has printed is there"


BOOT: dict[str, Any] = {
    "expect": [{"text": "Press ESC for boot menu", "keys": ["esc"]}, {"text": "Select boot device:"}],
    "fail_on": ["No bootable device"],
}
FIRMWARE = ["-device", "VGA", "-boot", "menu=on,splash-time=60000"]


def test_a_text_screen_and_keys(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(args=FIRMWARE)
    failed = failure(vm, "screen", **BOOT, timeout=1)
    assert "the virtual machine is prelaunch" in failed["msg"]
    foretold = console(vm, "screen", check=True, **BOOT)
    assert (foretold["changed"], foretold["matched"]) == (True, [])
    vm.observer.execute("cont")
    done = console(vm, "screen", **BOOT)
    assert done["commands"] == foretold["commands"]
    assert [command["execute"] for command in done["commands"]] == ["send-key"]
    assert "Select boot device:" in done["seen"] and done["seen"][0].startswith("SeaBIOS (version")
    again = console(vm, "screen", keys=["esc"], unless="^Select boot device")
    assert (again["changed"], again["commands"]) == (False, [])
    wrong = failure(vm, "screen", keys=["escape", "nosuch"])
    assert wrong["msg"] == "keys[1]: QEMU has no key 'nosuch'"
    # it takes the first one there is, and finds nothing to boot
    console(vm, "screen", text="1", expect=[{"text": "No bootable device"}], stable=0.5)


def test_a_qemu_that_stops_to_answer(paused_vm: VM) -> None:
    def freeze() -> None:
        until(paused_vm.attended)
        time.sleep(1)  # until it looks at the screen; where that takes longer, it waits for the monitor
        os.kill(paused_vm.pid, signal.SIGSTOP)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        with no_hang(60):
            frozen = failure(paused_vm, "screen", expect=[{"text": "never", "timeout": 3}], timeout=600)
    finally:
        thread.join()
        os.kill(paused_vm.pid, signal.SIGCONT)
    assert "answer" in frozen["msg"] or "no greeting" in frozen["msg"]


def test_pictures_that_stay_the_same(start_vm: Callable[..., VM]) -> None:
    vm = start_vm(args=["-device", "bochs-display,id=card"])
    told = console(vm, "screen", stable=0.5)
    assert (told["changed"], told["seen"]) == (False, [])
    vm.observer.execute("cont")
    failed = failure(vm, "screen", expect=[{"text": "x"}], stable=0.1, timeout=0.5)
    assert "it shows no text, but perhaps a picture" in failed["msg"]
    assert vm.observer.look("query-fdsets") == []
    blind = start_vm()
    assert "There is no console" in failure(blind, "screen", stable=0.5)["msg"]


def test_what_is_shown_while_it_waits(playbook: Callable[..., PlayRun], tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_bytes(b"\x1b]0;owned\x07\x1b[2Jbooting \x1b[31mslowly\x1b[0m\x9b\n")
    task = {
        "vmm.qemu.qemu_console": {"from": "log", "path": str(log), "expect": [{"text": "login:"}], "timeout": 1},
        "ignore_errors": True,
    }
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Boot", **task}]}], here=True)
    assert "] console: booting slowly" in run.output
    assert "\x1b]" not in run.output and "\x1b[2J" not in run.output
    assert run["Boot"].result["seen"] == ["booting slowly�"]
