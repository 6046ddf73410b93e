# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_save: a guest is in its file or runs, and never both; whatever happens, it is not put back to an earlier time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import support.killed
from ansible_collections.vmm.qemu.plugins.module_utils._host import part_file, saved_file
from ansible_collections.vmm.qemu.plugins.module_utils._migration import save as save_module
from ansible_collections.vmm.qemu.plugins.module_utils._migration import save_follow
from support.migration import count
from support.modules import ModuleFailed, run_module
from support.vm import VM, is_since

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
    assert there.run_in_guest("cat /tmp/memory; head -c 4 /dev/vda").startswith("4711\nmark")  # and it goes on counting
    same(there, path, state="running")
    step(there, path)
    assert deeds(save(there.qmp, path, state="absent", check=True)) == ["rm"] and path.exists()
    assert deeds(save(there.qmp, path, state="absent")) == ["rm"] and not path.exists()
    same(there.qmp, path, state="absent")


# -- without a guest: a machine that runs its firmware --------------------------------------------------------


def small(start_vm: Callable[..., VM], *args: str, **options: Any) -> VM:
    """One that runs."""
    vm = start_vm(memory="64", ports=["rp0"], args=args, **options)
    vm.observer.execute("cont")
    return vm


def waiting(start_vm: Callable[..., VM], *args: str, **options: Any) -> VM:
    return start_vm(memory="64", ports=["rp0"], args=[*args, *DEFER], **options)


def is_as_before(vm: VM, path: Path, settings: dict[str, Any]) -> None:
    """Its guest runs, and nothing is left."""
    assert vm.observer.status() == "running" and os.listdir(path.parent) == []
    assert vm.observer.look("query-migrate-parameters") == settings
    assert not any(entry["state"] for entry in vm.observer.look("query-migrate-capabilities"))
    assert vm.observer.look("query-fdsets") == []


def killed(vm: VM, path: Path, before: int, **options: Any) -> bool:
    """Run it in a process that ends before it sends a step of that number. Tell whether there is such a step."""
    return support.killed.killed(lambda: save(vm, path, **options), lambda number, step: number == before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory for the file."""
    directory = tmp_path / "saved"
    directory.mkdir()
    return directory / "vm"


def test_killed_before_each_step_of_saving(start_vm: Callable[..., VM], here: Path, disk: str) -> None:
    for number in range(9):
        vm = small(start_vm, *with_disk(disk))
        Path(f"{here}.part").touch(0o600)  # by one that was killed when it had just made it
        if not killed(vm, here, number):
            break
        assert not here.exists() or vm.observer.status() == "postmigrate"
        step(vm, here)
        assert vm.wait_exit() == 0 and os.listdir(here.parent) == ["vm"]
        there = waiting(start_vm, *with_disk(disk))
        step(there, here, state="running")
        assert there.observer.status() == "running" and os.listdir(here.parent) == []
        there.close()
    assert number == 4


def test_killed_before_each_step_of_loading(
    start_vm: Callable[..., VM], here: Path, disk: str, qemu_version: str
) -> None:
    parallel: dict[str, Any] = {"parallel": 2} if is_since(qemu_version, "10.0") else {}
    for number in range(12):
        vm = small(start_vm, *with_disk(disk))
        save(vm, here, **parallel)
        vm.close()
        there = waiting(start_vm, *with_disk(disk))
        was_killed = killed(there, here, number, state="running")
        assert not here.exists() or there.observer.status() in ("inmigrate", "paused")
        if was_killed:
            step(there, here, state="running")
        assert there.observer.status() == "running" and os.listdir(here.parent) == []
        assert there.observer.look("query-fdsets") == []
        assert not any(entry["state"] for entry in there.observer.look("query-migrate-capabilities"))
        same(there, here, state="running")
        there.close()
        if not was_killed:
            break
    assert number >= 6


def test_a_qemu_that_dies_with_what_it_loads(start_vm: Callable[..., VM], here: Path, disk: str) -> None:
    vm = small(start_vm, *with_disk(disk))
    save(vm, here)
    # before the file has lost its name, it is loaded again; after that never
    there = waiting(start_vm, *with_disk(disk))
    assert killed(there, here, 4, state="running")
    there.close()
    there = waiting(start_vm, *with_disk(disk))
    assert killed(there, here, deeds(save(there, here, check=True, state="running")).index("cont") + 3, state="running")
    assert os.listdir(here.parent) == ["vm.loaded"]
    there.close()
    there = waiting(start_vm, *with_disk(disk))
    refused(there, here, "vm.loaded has been loaded before", state="running")
    assert deeds(step(there, here, state="absent")) == ["rm"] and os.listdir(here.parent) == []


def test_somebody_lets_it_go_on_when_it_is_saved(
    start_vm: Callable[..., VM], here: Path, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its disks are looked at, and right before QEMU would be ended: what was saved is its past."""
    for module, name in ((save_follow, "images"), (saved_file, "_sync_directory")):
        vm = small(start_vm, *with_disk(disk))
        settings = vm.observer.look("query-migrate-parameters")
        real = getattr(module, name)

        def meanwhile(*arguments: Any, vm: VM = vm, real: Callable[..., Any] = real) -> Any:
            if vm.observer.status() == "postmigrate":
                vm.observer.execute("cont")
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(module, name, meanwhile)
            refused(vm, here, "is its past", "running", foretold=False)
        is_as_before(vm, here, settings)
        vm.close()


def test_a_stream_that_is_over_when_the_guest_stands_still(
    start_vm: Callable[..., VM], here: Path, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one that nobody has dismissed QEMU can't be asked for its disks (test_stream.py): the guest goes on."""
    top = here.parent.parent / "top.qcow2"
    base = disk.rpartition("=")[2]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(top)], check=True)
    vm = small(start_vm, *with_disk(f"driver=qcow2,node-name=disk,file.driver=file,file.filename={top}"))
    settings = vm.observer.look("query-migrate-parameters")
    begin = save_follow._begin

    def after_a_stream(*arguments: Any) -> None:
        vm.observer.execute("block-stream", device="disk", job_id="st", auto_dismiss=False)
        vm.observer.wait_event("JOB_STATUS_CHANGE", id="st", status="concluded")
        begin(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(save_follow, "_begin", after_a_stream)
        refused(vm, here, "job st", "qemu_block_job", foretold=False)
    is_as_before(vm, here, settings)
    refused(vm, here, "job st", "qemu_block_job")
    run_module(vm, "qemu_block_job", id="st", state="finished")
    step(vm, here)


def test_two_never_load_one_file(start_vm: Callable[..., VM], here: Path) -> None:
    save(small(start_vm), here)
    one, other = waiting(start_vm), waiting(start_vm)
    assert killed(one, here, 4, state="running")  # it has the guest, and the file its name
    refused(other, here, f"another QEMU (process {one.pid}) has begun", "may have the guest", state="running")
    one.close()
    step(other, here, state="running")


def test_a_paused_guest_stays_paused(start_vm: Callable[..., VM], here: Path) -> None:
    vm = small(start_vm)
    vm.observer.execute("stop")
    step(vm, here)
    there = waiting(start_vm)
    assert "cont" not in deeds(step(there, here, state="running"))
    assert there.observer.status() == "paused" and os.listdir(here.parent) == []
    same(there, here, state="running")


def test_a_file_that_is_not_loaded_and_is_kept(start_vm: Callable[..., VM], here: Path, disk: str) -> None:
    image = Path(disk.rpartition("=")[2])
    vm = small(start_vm, *with_disk(disk))
    save(vm, here)
    for args, words in (
        (["-uuid", "12345678-1234-1234-1234-123456789abc"], "its uuid is"),
        (["-M", "q35,graphics=off", "-m", "96"], "its memory is"),
        (["-name", "other"], "its name is bed"),
    ):
        there = waiting(start_vm, *with_disk(disk), *args)
        refused(there, here, "the guest of another virtual machine", words, "it is kept", state="running")
        there.close()

    there = waiting(start_vm)
    refused(there, here, str(image), "is not in both", state="running")
    there.close()
    there = waiting(start_vm, *with_disk(disk))
    found = image.stat()
    os.utime(image, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    refused(there, here, str(image), "has changed since", "The file is kept", state="running")
    os.utime(image, ns=(found.st_atime_ns, found.st_mtime_ns))

    content = here.read_bytes()
    os.truncate(here, len(content) - 1)
    refused(there, here, "is not whole", state="running")
    # as long as it was, and with no end
    here.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    refused(there, here, "which is kept", "QEMU has ended", foretold=False, state="running")
    assert there.wait_exit() != 0
    here.write_bytes(content)
    there = waiting(start_vm, *with_disk(disk))
    step(there, here, state="running")


def test_a_guest_that_runs_beside_a_file(start_vm: Callable[..., VM], here: Path) -> None:
    """One is older than the other: neither is saved over it, nor is it loaded."""
    vm, other = small(start_vm), small(start_vm)
    save(vm, here)
    content = here.read_bytes()
    refused(other, here, "has a guest already", "state=absent", state="saved")
    refused(other, here, "not from there", "-incoming defer", state="running")
    assert here.read_bytes() == content and other.observer.status() == "running"
    step(other, here, state="absent")
    # one that was let run on, though it is saved, is never loaded from there
    assert killed(other, here, 3)
    other.observer.execute("cont")
    refused(other, here, "has a guest already", state="saved")
    refused(other, here, "not from there", state="running")


def test_no_room(start_vm: Callable[..., VM], small_disk: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = small(start_vm)
    settings = vm.observer.look("query-migrate-parameters")
    path = small_disk / "vm"
    refused(vm, path, "bytes are free", str(small_disk), "make room")
    monkeypatch.setattr(part_file, "room", lambda where: 1 << 40)
    assert killed(vm, path, 1)  # what it had set is set back by the next one that fails
    refused(vm, path, "was not saved", "goes on", foretold=False)
    is_as_before(vm, path, settings)
    step(vm, here)


def test_not_over_in_time(start_vm: Callable[..., VM], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = here.parent.parent / "noise"  # a memory that takes a minute
    noise.write_bytes(os.urandom(1 << 20) * 64)
    backend = f"memory-backend-file,id=noise,size=64M,mem-path={noise},share=off"
    vm = small(start_vm, "-object", backend, "-machine", "memory-backend=noise")
    settings = vm.observer.look("query-migrate-parameters")
    monkeypatch.setattr(save_module, "_UNLIMITED", 1 << 20)
    monkeypatch.setattr(save_module, "_LONGEST_DOWNTIME", 0)
    refused(vm, here, "not over after 4 s", "goes on", foretold=False, timeout=4)
    is_as_before(vm, here, settings)


def test_what_is_at_the_path(start_vm: Callable[..., VM], here: Path) -> None:
    vm = small(start_vm)
    for name, target in (("link", here.parent / "elsewhere"), ("dangling", Path("/nonexistent/x"))):
        (here.parent / name).symlink_to(target)
    (here.parent / "elsewhere").write_text("mine")
    for state in ("saved", "running", "absent"):
        refused(vm, here.parent / "link", "symbolic link", state=state)
        refused(vm, here.parent / "dangling", "symbolic link", state=state)
        refused(vm, here.parent / "elsewhere", "mode", state=state)
    (here.parent / "elsewhere").chmod(0o600)
    for state in ("saved", "running", "absent"):
        refused(vm, here.parent / "elsewhere", "is not a saved guest", "it is kept", state=state)
    assert (here.parent / "elsewhere").read_text() == "mine"
    refused(vm, here.parent, "Is a directory")
    refused(vm, here / "none", "no directory")
    refused(vm, "relative", "is not an absolute path")
    refused("localhost:1", here, "UNIX socket")
    for number in (0, 256):
        refused(vm, here, "parallel", "between 1 and 255", parallel=number)
    refused(vm, here, "parallel", state="running", parallel=2)
    for mode, owner in ((0o777, 0), (0o700, 65534)):
        theirs = here.parent / f"theirs-{owner}"
        theirs.mkdir()
        os.chown(theirs, owner, -1)
        theirs.chmod(mode)
        refused(vm, theirs / "vm", "others than the user", str(theirs))
    same(vm, here, state="absent")
    assert vm.observer.status() == "running"


def test_what_can_not_be_saved(start_vm: Callable[..., VM], here: Path) -> None:
    vm = small(
        start_vm, "-drive", "if=none,id=f,driver=vvfat,dir=/usr/share/misc,rw=on", "-device", "virtio-blk-pci,drive=f"
    )
    refused(vm, here, "the guest can't be saved", "vvfat")
    vm.close()
    vm = small(start_vm, "-drive", "if=none,id=d,driver=null-co,size=1M", "-device", "virtio-blk-pci,drive=d,bus=rp0")
    vm.observer.execute("blockdev-add", driver="null-co", node_name="target", size=1 << 20)
    vm.observer.execute("blockdev-mirror", device="d", target="target", sync="full", job_id="m")
    refused(vm, here, "the guest can't be saved", "block job m (mirror)", "qemu_block_job")
    assert vm.alive and vm.observer.status() == "running"
    vm.close()
    there = waiting(start_vm)
    refused(there, here, "no guest that could be saved", "inmigrate")
    refused(there, here, "no saved guest", state="running")
    there.close()
    refused(there.qmp, here, "no saved guest")
    refused(there.qmp, here, "-incoming defer", state="running")
