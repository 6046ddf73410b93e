# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_dump: what is at the path is a whole dump or what was there before, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from support.images import altered_at
from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.vm import OLDEST, VM, is_since

# With a memory that can't be compressed this takes seconds.
SLOW: dict[str, Any] = {"format": "kdump-zlib"}


def dump(vm: VM | str, path: Path | str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_dump", check=check, diff=True, path=str(path), **options)


def step(vm: VM, path: Path, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves all alone; then the real run, which does what that said."""
    before, files = vm.observer.look("query-dump"), sorted(os.listdir(path.parent))
    foretold = dump(vm, path, check=True, **options)
    assert vm.observer.look("query-dump") == before
    assert sorted(os.listdir(path.parent)) == files
    done = dump(vm, path, **options)
    assert done["changed"] is foretold["changed"] is True
    assert done["commands"] == foretold["commands"]
    assert done["diff"] == foretold["diff"]
    assert done["diff"]["before"] != done["diff"]["after"]
    is_whole(vm, path, done)
    return done


def same(vm: VM, path: Path, **options: Any) -> None:
    found = altered_at(path)
    for check in (True, False):
        again = dump(vm, path, check=check, **options)
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
        assert any("force" in warning for warning in again["warnings"])
        assert again["dump"]["size"] == path.stat().st_size
    assert altered_at(path) == found


def refused(vm: VM | str, path: Path | str, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            dump(vm, path, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
    return failed.value.result


def is_whole(vm: VM, path: Path, done: dict[str, Any]) -> None:
    """The file has all that QEMU says it wrote, under its own name only, and the guest goes on."""
    assert not os.path.exists(f"{path}.part")
    found = done["dump"]
    assert found["size"] == path.stat().st_size
    assert vm.observer.look("query-dump") == {key: found[key] for key in ("status", "total", "completed")}
    assert found["status"] == "completed"
    assert found["total"] == found["completed"] > 0
    assert vm.observer.status() != "save-vm"
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(b"makedumpfile"):
            file.seek(-16, os.SEEK_END)
            assert file.read() == b"\xff" * 16
        else:
            assert memory_in(path) == found["total"]


def memory_in(path: Path) -> int:
    """Bytes of memory in an ELF dump, whose segments must all lie within the file."""
    raw = path.read_bytes()
    assert raw.startswith(b"\x7fELF\x02\x01")
    offset, size, count = struct.unpack_from("<Q", raw, 32)[0], *struct.unpack_from("<HH", raw, 54)
    total = 0
    for number in range(count):
        kind, _flags, begins, _virtual, _physical, length = struct.unpack_from("<IIQQQQ", raw, offset + number * size)
        assert begins + length <= len(raw)
        total += length if kind == 1 else 0
    return total


def killed(vm: VM, path: Path, **options: Any) -> None:
    """A run that is told to stop as soon as the dump is under way."""
    from ansible_collections.vmm.qemu.plugins.modules.qemu_dump import MODULE

    def tell(progress: Progress) -> None:
        raise KeyboardInterrupt

    params = {"path": str(path), "format": "elf", "paging": False, "begin": None, "length": None, "force": False}
    connection = {"socket": vm.qmp, "timeout": 60.0, "connect_timeout": 10.0, "tls": None}
    with pytest.raises(KeyboardInterrupt):
        MODULE.run({**connection, **params, **options}, on_progress=tell)


def wait_until_socket_closed(vm: VM) -> None:
    """Wait until a dump is over and QEMU has closed its file, a moment after it says so."""
    vm.observer.wait_event("DUMP_COMPLETED")
    deadline = time.monotonic() + 20
    while subprocess.run(["ls", "-l", f"/proc/{vm.pid}/fd"], capture_output=True, check=False).stdout.count(b"vm.dump"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def vm(start_vm: Callable[..., VM]) -> VM:
    return start_vm(memory="64")


@pytest.fixture
def slow_vm(start_vm: Callable[..., VM], tmp_path_factory: pytest.TempPathFactory) -> VM:
    """One whose memory is full of what can't be compressed."""
    noise = tmp_path_factory.mktemp("noise") / "memory"
    noise.write_bytes(os.urandom(1 << 20) * 128)
    backend = f"memory-backend-file,id=noise,size=128M,mem-path={noise},share=off"
    vm = start_vm(memory="128", args=["-object", backend, "-machine", "memory-backend=noise"])
    noise.unlink()
    return vm


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


# -- what works ----------------------------------------------------------------


def test_a_dump_and_the_same_again(vm: VM, tmp_path: Path) -> None:
    path = tmp_path / "vm.elf"
    vm.observer.execute("cont")
    done = step(vm, path)
    assert names(done) == ["dump-guest-memory"]
    assert done["commands"][0]["arguments"]["protocol"] == f"file:{path}.part"
    assert vm.observer.status() == "running"
    same(vm, path)
    same(vm, path, format="kdump-zlib")
    vm.observer.execute("stop")
    inode = path.stat().st_ino
    step(vm, path, force=True, format="kdump-zlib")
    assert path.stat().st_ino != inode
    assert vm.observer.status() == "paused"


def test_a_part_of_the_memory(vm: VM, tmp_path: Path) -> None:
    done = step(vm, tmp_path / "part", begin="1M", length="0x100000", paging=False)
    assert done["dump"]["total"] == 1 << 20
    step(vm, tmp_path / "paging", paging=True)


def test_by_real_ansible(vm: VM, tmp_path: Path, playbook: Callable[..., Any]) -> None:
    path = tmp_path / "vm.elf"
    wanted = {"vmm.qemu.qemu_dump": {"socket": vm.qmp, "path": str(path)}}
    tasks = [
        {"name": "foretold", "check_mode": True, "register": "foretold", **wanted},
        {"name": "done", "when": "foretold.changed", **wanted},
        {"name": "again", **wanted},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], diff=True)
    assert run.rc == 0, run.output
    assert run["foretold"].result["commands"] == run["done"].result["commands"]
    is_whole(vm, path, run["done"].result)
    assert (run["again"].changed, run["again"].result["commands"]) == (False, [])
    assert "force=true" in run.output


def test_over_tcp_nobody_looks_at_files(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    chardev = "socket,id=far,host=127.0.0.1,port=0,server=on,wait=off"
    vm = start_vm(memory="64", args=["-chardev", chardev, "-mon", "chardev=far,mode=control"])
    port = vm.observer.chardevs()["far"].split(":")[-1].split(",")[0]
    path = tmp_path / "vm.elf"
    for _round in range(2):
        foretold = dump(f"127.0.0.1:{port}", path, check=True)
        done = dump(f"127.0.0.1:{port}", path)
        assert done["commands"] == foretold["commands"]
        assert done["commands"][0]["arguments"]["protocol"] == f"file:{path}"
        assert memory_in(path) == done["dump"]["total"]
    refused(f"127.0.0.1:{port}", tmp_path / "no" / "x", "No such file", foretold=False)


def test_the_oldest_qemu(tmp_path: Path) -> None:
    with VM(OLDEST, memory="64") as vm:
        step(vm, tmp_path / "vm.elf")
        refused(vm, tmp_path / "x", "kdump-raw-zlib", "kdump-zlib", format="kdump-raw-zlib")


# -- what does not ---------------------------------------------------------------


def test_bad_input(vm: VM, tmp_path: Path) -> None:
    path = tmp_path / "vm.elf"
    refused(vm, "vm.elf", "absolute")
    refused(vm, f"{path}/", "directory")
    refused(vm, tmp_path, "regular file", force=True)
    refused(vm, tmp_path / "no" / "vm.elf", "no directory")
    refused(vm, path, "kdump-zlip", "did you mean 'kdump-zlib'", format="kdump-zlip")
    refused(vm, path, "kdump-lzo", "elf", format="kdump-lzo")
    refused(vm, path, "paging", "elf", paging=True, format="kdump-zlib")
    refused(vm, path, "begin", "elf", begin=0, length=4096, format="kdump-zlib")
    refused(vm, path, "length", begin=0)
    refused(vm, path, "begin", length=4096)
    refused(vm, path, "length", begin=0, length=0)
    refused(vm, path, "begin", "much", begin="much", length=4096)
    failed = refused(vm, path, "no guest memory", foretold=False, begin="1T", length=4096)
    assert (failed["changed"], failed["commands"]) == (False, [])
    assert "no guest memory" in failed["error"]["desc"]
    os.symlink("/etc/passwd", f"{path}.part")
    refused(vm, path, "symbolic link")
    assert os.listdir(tmp_path) == ["vm.elf.part"]


def test_what_is_not_a_dump_is_not_replaced_with_force_either(vm: VM, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(65536))
    refused(vm, path, "is not a dump", force=True)
    assert path.read_bytes() == b"QFI\xfb" + bytes(65536)


def test_a_format_that_fails_on_the_way(vm: VM, tmp_path: Path) -> None:
    """A guest without what win-dmp needs: QEMU takes the command, and only its event tells. 11.1 does not offer it at all."""
    path = tmp_path / "vm.dmp"
    if is_since(vm.version, "11.1"):
        refused(vm, path, "can't write 'win-dmp'", format="win-dmp")
        return
    failed = refused(vm, path, "win-dump", foretold=False, format="win-dmp")
    assert failed["error"]["class"] == "GenericError"
    assert (failed["changed"], names(failed)) == (True, ["dump-guest-memory"])
    assert failed["dump"]["status"] == "failed"
    assert os.listdir(tmp_path) == []


def test_a_full_disk_destroys_nothing(vm: VM, small_disk: Path) -> None:
    path = small_disk / "vm.elf"
    path.write_text("\x7fELF: the old dump")
    vm.observer.execute("cont")
    failed = refused(vm, path, "No space left", foretold=False, force=True)
    assert "No space left" in failed["error"]["desc"]
    assert vm.observer.status() == "running"
    assert os.listdir(small_disk) == ["vm.elf"]
    assert path.read_text() == "\x7fELF: the old dump"


def test_a_waiting_destination_has_no_memory_yet(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    refused(start_vm(memory="64", args=["-incoming", "defer"]), tmp_path / "x", "incoming migration")
    assert os.listdir(tmp_path) == []


# -- runs that end before the dump does -------------------------------------------


def test_what_a_killed_run_began_is_joined(slow_vm: VM, tmp_path: Path) -> None:
    vm, path = slow_vm, tmp_path / "vm.kdump"
    vm.observer.execute("cont")
    killed(vm, path, **SLOW)
    assert vm.observer.look("query-dump")["status"] == "active"
    assert os.listdir(tmp_path) == ["vm.kdump.part"]
    refused(vm, tmp_path / "other", "another file", "bytes")
    refused(vm, path, "another format", "run the task again")
    foretold = dump(vm, path, check=True, **SLOW)
    done = dump(vm, path, **SLOW)
    assert done["changed"] is foretold["changed"] is True
    assert done["commands"] == foretold["commands"] == []
    assert done["diff"] == foretold["diff"]
    assert done["warnings"] == []
    is_whole(vm, path, done)
    assert vm.observer.status() == "running"
    vm.observer.wait_event("DUMP_COMPLETED")
    assert "DUMP_COMPLETED" not in [event["event"] for event in vm.observer.events]  # just one was made
    same(vm, path)


@pytest.mark.parametrize("fmt", ["elf", "kdump-zlib"])
def test_what_was_complete_after_a_killed_run_gets_its_name(vm: VM, tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "vm.dump"
    killed(vm, path, format=fmt)
    vm.observer.wait_event("DUMP_COMPLETED")
    inode = os.stat(f"{path}.part").st_ino
    done = step(vm, path, format=fmt)
    assert (done["commands"], path.stat().st_ino) == ([], inode)
    assert "earlier run" in done["warnings"][0]


def test_what_a_killed_run_began_is_not_taken_for_something_else(vm: VM, tmp_path: Path) -> None:
    """Another format, or another part of the memory: made anew."""
    path = tmp_path / "vm.dump"
    for first, then in (
        ({"format": "kdump-zlib"}, {}),
        ({}, {"format": "kdump-zlib"}),
        ({"begin": 0, "length": 1 << 20}, {}),
        ({}, {"begin": 0, "length": 1 << 20}),
    ):
        killed(vm, path, **first)
        wait_until_socket_closed(vm)
        assert names(step(vm, path, **then)) == ["dump-guest-memory"]
        wait_until_socket_closed(vm)
        path.unlink()


def test_what_is_left_of_a_dump_that_failed_or_was_cut_is_made_anew(vm: VM, tmp_path: Path) -> None:
    path = tmp_path / "vm.elf"
    part = Path(f"{path}.part")
    part.write_text("of a QEMU that is gone")
    assert names(step(vm, path)) == ["dump-guest-memory"]
    part.write_bytes(path.read_bytes()[:-100_000])  # though this QEMU's last dump was a complete one
    path.unlink()
    assert names(step(vm, path)) == ["dump-guest-memory"]


def test_a_time_out_says_how_far_it_is_and_leaves_it(slow_vm: VM, tmp_path: Path) -> None:
    from ansible_collections.vmm.qemu.plugins.modules.qemu_dump import MODULE

    vm, path = slow_vm, tmp_path / "vm.kdump"
    stopped: list[str] = []

    def stop(progress: Progress) -> None:
        if not stopped:
            stopped.append(progress.phase)
            os.kill(vm.pid, signal.SIGSTOP)
            vm.wait_stopped()

    params = {"path": str(path), "format": "kdump-zlib", "paging": False, "begin": None, "length": None, "force": False}
    connection = {"socket": vm.qmp, "timeout": 2.0, "connect_timeout": 2.0, "tls": None}
    try:
        failed = MODULE.run({**connection, **params}, on_progress=stop)
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    assert failed["failed"]
    for words in ("goes on", "run the task again", f"of {failed['dump']['total']} bytes"):
        assert words in failed["msg"]
    assert (failed["changed"], names(failed)) == (True, ["dump-guest-memory"])
    done = dump(vm, path, **SLOW)
    assert (done["changed"], done["commands"]) == (True, [])
    is_whole(vm, path, done)


def test_qemu_dies_on_the_way(slow_vm: VM, tmp_path: Path) -> None:
    from ansible_collections.vmm.qemu.plugins.modules.qemu_dump import MODULE

    vm, path = slow_vm, tmp_path / "vm.kdump"
    params = {"path": str(path), "format": "kdump-zlib", "paging": False, "begin": None, "length": None, "force": False}
    connection = {"socket": vm.qmp, "timeout": 30.0, "connect_timeout": 10.0, "tls": None}
    failed = MODULE.run({**connection, **params}, on_progress=lambda progress: vm.kill())
    assert failed["failed"]
    assert "lost QEMU" in failed["msg"]
    assert failed["changed"]
    assert os.listdir(tmp_path) == ["vm.kdump.part"]
