# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_image: made, grown, kept and removed; what `qemu-img info` says of the files is what counts."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import ModuleFailed, run_module
from support.timing import no_hang
from support.vm import VM

MIB = 1 << 20


def info(path: Path | str) -> dict[str, Any]:
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", str(path)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def create(path: Path | str, size: str = "8M", fmt: str = "qcow2") -> str:
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, str(path), size], check=True)
    return str(path)


def image(path: Path | str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(None, "qemu_image", check=check, diff=True, path=str(path), **options)


def contents(directory: Path) -> dict[str, Any]:
    return {
        name: (directory / name).read_bytes() if (directory / name).is_file() else None
        for name in os.listdir(directory)
    }


def step(path: Path, *verbs: str, **options: Any) -> dict[str, Any]:
    """Check mode, which alters nothing; the real run, which does what that said; and once more, which does nothing."""
    before = contents(path.parent)
    foretold = image(path, check=True, **options)
    assert contents(path.parent) == before
    done = image(path, **options)
    assert done["changed"] == foretold["changed"] == bool(verbs)
    assert done["commands"] == foretold["commands"]
    assert [command[1] if "qemu-img" in command[0] else command[0] for command in done["commands"]] == list(verbs)
    assert done["diff"] == foretold["diff"]
    assert (done["diff"]["before"] != done["diff"]["after"]) == bool(verbs)
    assert not [name for name in os.listdir(path.parent) if name.endswith(".part")]
    for check in (True, False):
        again = image(path, check=check, **{**options, "shrink": False})
        assert (again["changed"], again["commands"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
    return done


def refused(path: Path | str, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    directory = Path(str(path)).parent
    before = contents(directory) if str(path).startswith("/") and directory.is_dir() else None
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            image(path, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
        assert before is None or contents(directory) == before
    return failed.value.result


# -- without a VM -------------------------------------------------------------


def test_a_life(tmp_path: Path) -> None:
    path = tmp_path / "disk, with a comma"
    made = step(path, "create", "mv", format="qcow2", size="8M", options={"cluster_size": "128k", "compat": "v3"})
    assert info(path)["virtual-size"] == made["image"]["virtual_size"] == 8 * MIB
    assert info(path)["format"] == "qcow2"
    assert info(path)["cluster-size"] == made["image"]["options"]["cluster_size"] == 128 << 10
    step(path, size=str(8 * MIB))
    step(path)
    grown = step(path, "resize", size="12M")
    assert info(path)["virtual-size"] == 12 * MIB
    assert grown["diff"]["before"]["virtual_size"] == 8 * MIB
    refused(path, "size", str(12 * MIB), str(8 * MIB), "shrink", size="8M")
    step(path, "resize", size="8M", shrink=True)
    assert info(path)["virtual-size"] == 8 * MIB
    gone = step(path, "rm", state="absent")
    assert gone["image"] == {}
    assert not path.exists()


def test_raw_is_the_default_and_sizes_are_whole_sectors(tmp_path: Path) -> None:
    step(tmp_path / "a", "create", "mv", size=1000)
    assert info(tmp_path / "a")["format"] == "raw"
    assert info(tmp_path / "a")["virtual-size"] == 1024
    full = step(tmp_path / "b", "create", "mv", size="1M", options={"preallocation": "full"})
    assert os.stat(tmp_path / "b").st_blocks * 512 >= MIB
    assert full["unverifiable"] == []
    grown = step(tmp_path / "b", "resize", size="2M", options={"preallocation": "falloc"})
    assert grown["unverifiable"] == ["preallocation"]
    assert os.stat(tmp_path / "b").st_blocks * 512 >= 2 * MIB


def test_an_image_that_keeps_its_size(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    step(path, "create", "mv", size="8M", resize=False)
    for size in ("4M", "16M"):
        step(path, size=size, resize=False)
    assert info(path)["virtual-size"] == 8 * MIB


def test_whose_an_image_is(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    step(path, "create", "mv", "chmod", size="1M", mode="0600")
    assert path.stat().st_mode & 0o777 == 0o600
    step(path, "resize", "chmod", size="2M", mode="0640")
    assert path.stat().st_mode & 0o777 == 0o640
    step(path)
    assert path.stat().st_mode & 0o777 == 0o640
    refused(path, "not a valid mode", mode="0999")
    refused(path, "no user", owner="nosuchuser")
    if os.geteuid() == 0:
        step(path, "chown", owner="nobody", mode="0640")
        assert path.stat().st_uid == pwd.getpwnam("nobody").pw_uid


@pytest.mark.parametrize("fmt", ["vpc", "vdi", "vhdx", "vmdk", "qed", "parallels"])
def test_other_formats_keep_their_size(tmp_path: Path, fmt: str) -> None:
    step(tmp_path / "i", "create", "mv", format=fmt, size=10 * MIB + 1)
    assert info(tmp_path / "i")["format"] == fmt


def test_a_backing_file(tmp_path: Path) -> None:
    base, other, top = create(tmp_path / "base,1"), create(tmp_path / "other"), tmp_path / "top"
    refused(top, "backing_format", base, backing_file=base)
    refused(top, "raw", "qcow2", backing_file=base, backing_format="qcow2", format="raw")
    refused(top, "base2", backing_file=f"{tmp_path}/base2", backing_format="qcow2")
    refused(top, "qcow2", backing_file=create(tmp_path / "r", fmt="raw"), backing_format="qcow2")
    refused(base, "itself", backing_file=base, backing_format="qcow2")
    refused(top, "absolute", backing_file="base", backing_format="qcow2")
    refused(top, "absolute", backing_file='json:{"driver": "null-co"}', backing_format="raw")
    refused(top, "no backing_file", backing_format="raw", size="1M")
    refused(top, "cut off", str(8 * MIB), str(4 * MIB), backing_file=base, backing_format="qcow2", size="4M")
    step(top, "create", "mv", backing_file=base, backing_format="qcow2")
    found = info(top)
    assert (found["format"], found["virtual-size"]) == ("qcow2", 8 * MIB)
    assert (found["full-backing-filename"], found["backing-filename-format"]) == (base, "qcow2")
    step(top, "resize", backing_file=base, backing_format="qcow2", size="16M")
    refused(top, base, other, "rebase", backing_file=other, backing_format="qcow2")
    refused(top, "backing_format", "rebase", backing_file=base, backing_format="raw")
    refused(Path(other), "its backing file is none", "rebase", backing_file=base, backing_format="qcow2")


def test_what_is_there_is_never_made_into_something_else(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create(path)
    refused(path, "qcow2", "vmdk", "convert", format="vmdk", size="8M")
    refused(path, "cluster_size", "65536", options={"cluster_size": 4096})
    refused(path, "lazy_refcounts", "off", "on", options={"lazy_refcounts": True})
    step(path, options={"lazy_refcounts": False, "cluster_size": "64k", "preallocation": "off"})
    (tmp_path / "text").write_text("no image")
    refused(tmp_path / "text", "raw", format="qcow2", size="1M")
    os.symlink(path, tmp_path / "link")
    refused(tmp_path / "link", "symbolic link", str(path), state="absent")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling")
    refused(tmp_path / "dangling", "nowhere", size="1M")


def test_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    refused("disk", "absolute", size="1M")
    refused("nbd:unix:/x", "absolute", size="1M")
    refused(f"{path}/", "directory", size="1M")
    refused(tmp_path / "no" / "disk", "no directory", size="1M")
    refused(path, "size", "needs", format="qcow2")
    refused(path, "size", "-5", size="-5")
    refused(path, "size", "big", size="big")
    refused(path, "size", "9223372036854775808", size=1 << 63)
    refused(path, "format", "nope", size="1M", format="nope")
    refused(path, "cluster_siz", "did you mean", size="1M", format="qcow2", options={"cluster_siz": 1})
    refused(path, "backing_file", size="1M", format="qcow2", options={"backing_file": "/etc/passwd"})
    refused(path, "a,b", size="1M", format="qcow2", options={"a,b": 1})
    refused(path, "cluster_size", size="1M", format="qcow2", options={"cluster_size": [1]})
    refused(path, "power of two", size="1M", format="qcow2", options={"cluster_size": 3}, foretold=False)
    refused(path, "several files", size="1M", format="vmdk", options={"subformat": "monolithicFlat"})
    refused(path, "qemu-img-9", "install", size="1M", qemu_img="qemu-img-9")
    refused(path, "timeout", size="1M", timeout=0)
    os.mkdir(tmp_path / "t")
    refused(tmp_path / "t", "regular file", size="1M")
    refused(tmp_path / "t", "regular file", state="absent")
    os.mkdir(f"{path}.part")
    (tmp_path / "t" / "x").write_text("")
    with pytest.raises(ModuleFailed, match="regular file"):
        image(path, size="1M")
    assert not path.exists()


def test_a_value_with_a_comma_is_no_further_option(tmp_path: Path) -> None:
    path, value = tmp_path / "disk", f"{tmp_path}/d,size=1M"
    step(path, "create", "mv", format="qcow2", size="4M", options={"data_file": value})
    assert info(path)["virtual-size"] == 4 * MIB
    assert os.path.exists(value)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create(f"{path}.part", "64M")
    foretold = image(path, check=True, format="qcow2", size="1M")
    assert foretold["changed"]
    assert os.path.exists(f"{path}.part")
    step_result = image(path, format="qcow2", size="1M")
    assert step_result["commands"] == foretold["commands"]
    assert info(path)["virtual-size"] == MIB
    assert not os.path.exists(f"{path}.part")


def test_a_qemu_img_that_hangs_or_dies_leaves_nothing(tmp_path: Path) -> None:
    program = tmp_path / "qemu-img-bad"
    real = "case $1 in create) [ $5 = help ] && exit 0;; esac\n"
    program.write_text(f"#!/bin/sh\n{real}for path; do case $path in *.part) : >$path;; esac; done\nexec sleep 100\n")
    program.chmod(0o755)
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "disk"
    refused(path, "timeout", "ended", foretold=False, size="1M", qemu_img=str(program), timeout=3)
    program.write_text(f"#!/bin/sh\n{real}kill -9 $$\n")
    failed = refused(path, "does not say why", foretold=False, size="1M", qemu_img=str(program))
    assert failed["rc"] == -9
    assert os.listdir(tmp_path / "d") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    failed = refused(
        small_disk / "i", "No space left", foretold=False, size="8M", format="raw", options={"preallocation": "full"}
    )
    assert failed["rc"] == 1
    assert "No space left" in failed["stderr"]
    assert not failed["changed"]
    assert os.listdir(small_disk) == []


def test_an_image_that_grew_and_can_not_be_given_away_says_that_it_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(create(tmp_path / "disk", size="1M"))

    def refuse(*arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ModuleFailed, match="Operation not permitted") as failed:
        run_module(None, "qemu_image", path=str(path), size="2M", owner="nobody")
    assert info(path)["virtual-size"] == 2 * MIB
    result = failed.value.result
    assert result["changed"] and [command[1] for command in result["commands"]] == ["resize"]


def test_by_real_ansible(tmp_path: Path, playbook: Callable[..., Any]) -> None:
    path = tmp_path / "disk"
    made = {"vmm.qemu.qemu_image": {"path": str(path), "format": "qcow2", "size": "4M"}}
    tasks = [
        {"name": "foretold", "check_mode": True, "register": "foretold", **made},
        {"name": "made", "when": "foretold.changed", **made},
        {"name": "again", **made},
        {"name": "wrong", "ignore_errors": True, "vmm.qemu.qemu_image": {"path": str(path), "size": "1M"}},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], diff=True)
    assert run.rc == 0, run.output
    assert run["foretold"].result["commands"] == run["made"].result["commands"]
    assert info(path)["virtual-size"] == 4 * MIB
    assert (run["again"].changed, run["again"].result["commands"]) == (False, [])
    assert "shrink" in run["wrong"].result["msg"]


def test_a_raw_image_is_one_whatever_a_guest_wrote_to_it(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(Path(create(tmp_path / "qcow2", size="64M")).read_bytes().ljust(MIB, b"\0"))
    refused(path, "1048576 bytes", format="raw", size="512k")
    done = step(path, "resize", format="raw", size="2M")
    assert (done["image"]["format"], done["image"]["virtual_size"]) == ("raw", 2 * MIB)
    assert path.stat().st_size == 2 * MIB and info(path)["virtual-size"] == 64 * MIB
    step(path, format="raw")


# -- where others can write, too -------------------------------------------------


def test_a_link_is_not_given_away_nor_resized(tmp_path: Path) -> None:
    create(tmp_path / "real")
    (tmp_path / "real").chmod(0o644)
    os.symlink(tmp_path / "real", tmp_path / "link")
    step(tmp_path / "link", size="8M")  # it can be looked at
    refused(tmp_path / "link", "symbolic link", str(tmp_path / "real"), mode="0600")
    refused(tmp_path / "link", "symbolic link", str(tmp_path / "real"), size="16M")
    os.link(tmp_path / "real", tmp_path / "second")
    refused(tmp_path / "second", "2 names", mode="0600")
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o644 and info(tmp_path / "real")["virtual-size"] == 8 * MIB
    if os.geteuid() == 0:
        refused(tmp_path / "link", "symbolic link", str(tmp_path / "real"), owner="nobody")
        refused(tmp_path / "second", "2 names", owner="nobody")
        assert (tmp_path / "real").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links of somebody else's")
def test_what_an_image_calls_its_data_file_is_not_resized_unless_the_task_calls_it_so(tmp_path: Path) -> None:
    """Whoever can write to an image can name any file in its header."""
    path, data, victim = tmp_path / "disk", tmp_path / "data", tmp_path / "mine"
    own: dict[str, Any] = {"format": "qcow2", "options": {"data_file": str(data), "data_file_raw": True}}
    step(path, "create", "mv", **own, size="1M")
    step(path, "resize", **own, size="2M")
    assert data.stat().st_size == 2 * MIB
    path.write_bytes(path.read_bytes().replace(str(data).encode(), str(victim).encode(), 1))
    victim.write_bytes(b"mine" * (MIB // 2))
    refused(path, "its data are in", format="qcow2", size="4M")
    refused(path, "its data are in", format="qcow2", size="1M", shrink=True)
    refused(path, "options.data_file is", **own, size="4M")
    assert victim.read_bytes() == b"mine" * (MIB // 2)
    step(path, format="qcow2", size="2M")


def test_a_strangers_link_leads_nowhere(tmp_path: Path) -> None:
    """Neither in the image's place nor on the way there; root's own do."""
    (tmp_path / "victim").mkdir()
    create(tmp_path / "victim" / "disk")
    nobody = pwd.getpwnam("nobody")
    for name, target in (("link", "victim/disk"), ("way", "victim"), ("own", "victim")):
        os.symlink(tmp_path / target, tmp_path / name)
    for name in ("link", "way"):
        os.lchown(tmp_path / name, nobody.pw_uid, nobody.pw_gid)
    tasks: list[dict[str, Any]] = [{"size": "16M"}, {"owner": "nobody"}, {}]
    for options in tasks:
        refused(tmp_path / "link", "symbolic link that belongs to nobody", **options)
        refused(tmp_path / "way" / "disk", "symbolic link that belongs to nobody", **options)
    refused(tmp_path / "way" / "disk", "symbolic link that belongs to nobody", state="absent")
    refused(tmp_path / "way" / "new", "symbolic link that belongs to nobody", size="1M")
    assert info(tmp_path / "victim" / "disk")["virtual-size"] == 8 * MIB
    step(tmp_path / "own" / "disk", "resize", size="16M")
    step(tmp_path / "own" / "disk", "rm", state="absent")


def test_two_tasks_that_make_one_image(tmp_path: Path) -> None:
    """The second, begun while the first is at it, does no harm and says so; then it finds the image there."""
    program, going, go = tmp_path / "qemu-img-slow", tmp_path / "going", tmp_path / "go"
    wait = f"case $1.$5 in create.help) ;; create.*) : >{going}; while [ ! -e {go} ]; do sleep 0.05; done;; esac"
    program.write_text(f'#!/bin/sh\n{wait}\nexec qemu-img "$@"\n')
    program.chmod(0o755)
    path, done = tmp_path / "d" / "disk", []
    path.parent.mkdir()
    first = threading.Thread(target=lambda: done.append(image(path, format="qcow2", size="10M", qemu_img=str(program))))
    first.start()
    try:
        with no_hang(20):
            while not going.exists():
                assert first.is_alive()
        with pytest.raises(ModuleFailed, match="another task is making"):
            image(path, format="qcow2", size="5M")
        assert os.listdir(path.parent) == ["disk.part"]
    finally:
        go.touch()
        first.join()
    assert done[0]["image"]["virtual_size"] == info(path)["virtual-size"] == 10 * MIB
    assert os.listdir(path.parent) == ["disk"]
    step(path, format="qcow2", size="10M")


def test_a_file_that_comes_to_be_meanwhile_is_kept(tmp_path: Path) -> None:
    path, program = tmp_path / "d" / "disk", tmp_path / "qemu-img-late"
    path.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$5" = help ] || echo mine >{path}\nexec qemu-img "$@"\n')
    program.chmod(0o755)
    with pytest.raises(ModuleFailed, match="has come to be meanwhile and is kept"):
        image(path, format="qcow2", size="1M", qemu_img=str(program))
    assert path.read_text() == "mine\n" and os.listdir(path.parent) == ["disk"]


def test_what_is_put_in_the_place_of_an_image_being_made_is_not_written_to(tmp_path: Path) -> None:
    path, program, victim = tmp_path / "d" / "disk", tmp_path / "qemu-img-evil", tmp_path / "victim"
    path.parent.mkdir()
    victim.write_text("all that matters")
    swap = f"rm {path}.part && ln -s {victim} {path}.part"
    program.write_text(f'#!/bin/sh\n[ "$5" = help ] || {{ {swap}; }}\nexec qemu-img "$@"\n')
    program.chmod(0o755)
    with contextlib.suppress(ModuleFailed):
        image(path, format="qcow2", size="1M", mode="0666", qemu_img=str(program))
    assert victim.read_text() == "all that matters" and victim.stat().st_mode & 0o777 != 0o666


# -- with a VM that uses the image ----------------------------------------------


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_an_image_in_use(start_vm: Callable[..., VM], tmp_path: Path, fmt: str) -> None:
    path, base = Path(create(tmp_path / "disk", fmt=fmt)), Path(create(tmp_path / "base", fmt=fmt))
    drives = [f"if=none,id=d0,file={path},format={fmt}", f"if=none,id=d1,file={base},format={fmt},read-only=on"]
    args = [word for drive in drives for word in ("-drive", drive)]
    vm = start_vm(args=[*args, "-device", "virtio-blk-pci,drive=d0", "-device", "virtio-blk-pci,drive=d1"])
    vm.observer.execute("cont")
    step(path, format=fmt, size="8M")  # it can be looked at
    refused(path, "in use", "qemu_disk", size="16M")
    refused(path, "in use", state="absent")
    refused(base, "in use", "qemu_disk", size="16M")
    refused(base, "in use", state="absent")
    vm.kill()
    step(path, "resize", size="16M")
    step(path, "rm", state="absent")
    step(base, "rm", state="absent")
