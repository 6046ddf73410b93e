# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations between two QEMUs of the test bed, and guests that count meanwhile."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.vm import VM

MACHINE = "pc-q35-7.2"  # both QEMUs know it
SLOW = {"max-bandwidth": 2 << 20}


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


def wait_for(vm: VM, status: str) -> None:
    """Wait until the migration's status is this one."""
    deadline = time.monotonic() + 30
    while (now := vm.observer.look("query-migrate").get("status")) != status:
        assert time.monotonic() < deadline, now
        time.sleep(0.02)


def count(vm: VM) -> int:
    """The last number that the guest has told this QEMU's serial line; waits for another one."""
    vm.wait_serial("GUEST-COUNT", since=len(vm.serial.replace("\r", "")))
    return int(re.findall(r"GUEST-COUNT (\d+)", vm.serial)[-1])
