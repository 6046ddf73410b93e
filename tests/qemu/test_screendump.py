# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_screendump: pictures that can be looked at, replaced only by others."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import names
from support.modules import ModuleFailed, run_module
from support.vm import OLDEST, VM

CARD = ["-device", "VGA,id=vga0,xres=320,yres=200"]


def take(vm: VM | str, path: Path | str, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module(vm, "qemu_screendump", check=check, diff=True, path=str(path), **options)


def step(vm: VM, path: Path, changed: bool = True, **options: Any) -> dict[str, Any]:
    """Check mode, which leaves all alone and takes a change for granted; then the real run, which sends what that said."""
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    foretold = take(vm, path, check=True, **options)
    assert {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} == before
    assert foretold["changed"]
    done = take(vm, path, **options)
    assert done["changed"] == changed
    assert done["commands"] == foretold["commands"]
    assert names(done) == ["screendump"]
    assert (done["diff"]["before"] != done["diff"]["after"]) == changed
    assert done["diff"]["before"] == foretold["diff"]["before"]
    assert done["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not os.path.exists(f"{path}.part")
    return done


def refused(vm: VM | str, path: Path | str, *words: str, foretold: bool = True, **options: Any) -> dict[str, Any]:
    for check in (True, False) if foretold else (False,):
        with pytest.raises(ModuleFailed) as failed:
            take(vm, path, check=check, **options)
        for word in words:
            assert word in failed.value.result["msg"]
    return failed.value.result


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG whose every part is sound."""
    raw, at, pixels = path.read_bytes(), 8, b""
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    width = height = 0
    while at < len(raw):
        length, kind = struct.unpack_from(">I4s", raw, at)
        body = raw[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", raw, at + 8 + length)[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
        pixels += body if kind == b"IDAT" else b""
        at += length + 12
    assert kind == b"IEND"
    assert len(zlib.decompress(pixels)) >= width * height * 3
    return width, height


def ppm_size(path: Path) -> tuple[int, int]:
    kind, size, depth, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert (kind, depth, len(pixels)) == (b"P6", b"255", width * height * 3)
    return width, height


def test_pictures(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    vm, png, ppm = start_vm(args=CARD), tmp_path / "s.png", tmp_path / "s.ppm"
    done = step(vm, png)
    assert (done["path"], done["format"]) == (str(png), "png")
    assert "rolled_back" not in done
    inode = png.stat().st_ino
    step(vm, png, changed=False)  # it is stopped, and shows the same
    assert png.stat().st_ino == inode
    step(vm, ppm, format="ppm")
    assert png_size(png) == ppm_size(ppm) > (0, 0)
    step(vm, png, format="ppm")
    assert png.read_bytes() == ppm.read_bytes()
    Path(f"{png}.part").write_text("left by a run that was killed")
    take(vm, png)
    png_size(png)
    assert not os.path.exists(f"{png}.part")


def test_one_screen_of_several(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    vm, path = start_vm(args=[*CARD, "-device", "virtio-gpu-pci,id=gpu0,max_outputs=2,bus=rp0"]), tmp_path / "s.png"
    step(vm, path, device="vga0")
    step(vm, tmp_path / "t.png", device="gpu0", head=1)
    assert png_size(path) != (0, 0)
    refused(vm, path, "gpu1", "did you mean 'gpu0'", device="gpu1")
    failed = refused(vm, path, "head 7", foretold=False, device="gpu0", head=7)
    assert "head 7" in failed["error"]["desc"]
    refused(vm, path, "head", "device", head=1)
    refused(vm, path, "head", "-1", device="gpu0", head=-1)
    assert sorted(os.listdir(tmp_path)) == ["s.png", "t.png"]


def test_what_can_not_be_taken(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    vm, path = start_vm(), tmp_path / "s.png"
    path.write_text("P6 the old picture")
    failed = refused(vm, path, "no console", foretold=False)
    assert failed["error"] == {"class": "GenericError", "desc": "There is no console to take a screendump from"}
    assert (failed["changed"], failed["commands"]) == (False, [])
    assert path.read_text() == "P6 the old picture"
    refused(vm, "s.png", "absolute")
    refused(vm, tmp_path / "no" / "s.png", "no directory")
    refused(vm, tmp_path, "regular file")
    refused(vm, path, "format", format="jpg")
    assert os.listdir(tmp_path) == ["s.png"]


def test_the_oldest_qemu_has_no_png(tmp_path: Path) -> None:
    with VM(OLDEST, args=CARD) as vm:
        refused(vm, tmp_path / "s.png", "png", "ppm")
        step(vm, tmp_path / "s.ppm", format="ppm")
        assert ppm_size(tmp_path / "s.ppm") > (0, 0)


def test_over_tcp_nobody_looks_at_files(start_vm: Callable[..., VM], tmp_path: Path) -> None:
    chardev = "socket,id=far,host=127.0.0.1,port=0,server=on,wait=off"
    vm = start_vm(args=[*CARD, "-chardev", chardev, "-mon", "chardev=far,mode=control"])
    port = vm.observer.chardevs()["far"].split(":")[-1].split(",")[0]
    for _round in range(2):
        done = take(f"127.0.0.1:{port}", tmp_path / "s.png")
        assert done["changed"]
        assert "sha256" not in done
    assert png_size(tmp_path / "s.png") > (0, 0)
    assert os.listdir(tmp_path) == ["s.png"]


def test_by_real_ansible(start_vm: Callable[..., VM], tmp_path: Path, playbook: Callable[..., Any]) -> None:
    vm, path = start_vm(args=CARD), tmp_path / "s.png"
    wanted = {"vmm.qemu.qemu_screendump": {"socket": vm.qmp, "path": str(path)}}
    tasks = [
        {"name": "foretold", "check_mode": True, **wanted},
        {"name": "done", **wanted},
        {"name": "again", **wanted},
    ]
    run = playbook([{"hosts": "all", "gather_facts": False, "tasks": tasks}], diff=True)
    assert run.rc == 0, run.output
    assert run["foretold"].result["commands"] == run["done"].result["commands"]
    assert [run[name].changed for name in ("foretold", "done", "again")] == [True, True, False]
    assert run["done"].result["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
