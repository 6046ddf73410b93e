# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_console: a serial log, a serial line and a text screen of real guests."""

from __future__ import annotations

from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.vm import VM

SECRET = "correct horse battery"


def console(vm: VM, source: str, check: bool = False, monitor: bool = True, **options: Any) -> dict[str, Any]:
    paths = {"log": str(vm.serial_log), "serial": f"{vm.directory}/serial"}
    where = {"path": paths[source]} if source in paths else {}
    return run_module(vm if monitor else None, "qemu_console", check=check, **{"from": source}, **where, **options)


def failure(vm: VM, source: str, **options: Any) -> dict[str, Any]:
    with pytest.raises(ModuleFailed) as failed:
        console(vm, source, **options)
    return failed.value.result


def test_a_guest_that_boots(live_vm: VM) -> None:
    options = {"expect": [{"text": "GUEST-UP"}, {"regex": r"cpus=(\S+) memkb=(?P<kb>\d+)"}]}
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
