# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_save: a guest is in its file or runs, and never both; whatever happens, it is not put back to an earlier time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.migration import count
from support.modules import ModuleFailed, run_module
from support.vm import VM

DEFER = ["-incoming", "defer"]


def save(vm: VM | str, path: Path | str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_save", check=check, diff=True, path=str(path), **options)


def step(vm: VM, path: Path, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves all alone; then the real run, which does what that said."""
    files, status = sorted(os.listdir(path.parent)), vm.observer.status()
    foretold = save(vm, path, check=True, **options)
    assert (sorted(os.listdir(path.parent)), vm.observer.status()) == (files, status)
    done = save(vm, path, **options)
    assert done["changed"] is foretold["changed"] is True
    assert done["commands"] == foretold["commands"]
    assert done["diff"] == foretold["diff"]
    return done


def same(vm: VM | str, path: Path, **options: Any) -> None:
    files = sorted(os.listdir(path.parent))
    for check in (True, False):
        again = save(vm, path, check=check, **options)
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
    assert sorted(os.listdir(path.parent)) == files


def refused(vm: VM | str, path: Path | str, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            save(vm, path, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
    return failed.value.result


def deeds(done: dict[str, Any]) -> list[str]:
    """What was sent, and what was done to files."""
    return [command.get("execute") or command["action"] for command in done["commands"]]


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """The options of a disk that both virtual machines have."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return f"driver=file,node-name=disk,filename={path}"


def with_disk(disk: str) -> list[str]:
    return ["-blockdev", disk, "-device", "virtio-blk-pci,drive=disk,bus=rp0"]


@pytest.mark.parametrize("parallel", [None, 2])
def test_a_guest_counts_on(start_vm: Callable[..., VM], tmp_path: Path, disk: str, parallel: int | None) -> None:
    options: dict[str, Any] = {"guest": True, "append": "bed.count", "memory": "128"}
    vm, path = start_vm(args=with_disk(disk), **options), tmp_path / "saved" / "vm"
    path.parent.mkdir()
    if parallel and vm.version == "7.2":
        refused(vm, path, "parallel", "9.0", parallel=parallel)
        return
    vm.guest_sees(blk={"vda"})
    vm.run_in_guest("echo mark | dd of=/dev/vda bs=512 count=1 conv=sync,fsync 2>/dev/null; echo 4711 >/tmp/memory")
    before = count(vm)
    done = step(vm, path, **({"parallel": parallel} if parallel else {}))
    assert deeds(done)[-3:] == ["migrate", "mv", "quit"] and vm.wait_exit() == 0
    assert sorted(os.listdir(path.parent)) == ["vm"] and path.stat().st_mode & 0o777 == 0o600
    assert done["save"]["size"] == path.stat().st_size and done["save"]["duration"] > 0
    same(vm.qmp, path)

    there = start_vm(args=[*with_disk(disk), *DEFER], **options)
    same(there, path)
    done = step(there, path, state="running")
    assert there.observer.status() == "running" and os.listdir(path.parent) == []
    assert there.observer.look("query-fdsets") == []
    assert not any(entry["state"] for entry in there.observer.look("query-migrate-capabilities"))
    assert count(there) > before
    assert there.run_in_guest("cat /tmp/memory; head -c 4 /dev/vda") == "4711\nmark"
    same(there, path, state="running")
    step(there, path)
    assert deeds(save(there.qmp, path, state="absent", check=True)) == ["rm"] and path.exists()
    assert deeds(save(there.qmp, path, state="absent")) == ["rm"] and not path.exists()
    same(there.qmp, path, state="absent")
