# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A qemu-storage-daemon is a monitor without a machine: its nodes, objects and character devices are managed as any."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import nbd
from support.modules import ModuleFailed, run_module


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its monitor and its process. It comes with Debian's qemu-system-common."""
    monitor = tmp_path / "q"
    chardev = f"socket,id=m,path={monitor},server=on,wait=off"
    with subprocess.Popen(["qemu-storage-daemon", "--chardev", chardev, "--monitor", "chardev=m"]) as process:
        while not monitor.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield str(monitor), process
        process.kill()


def test_its_life(daemon: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    monitor, process = daemon
    image = tmp_path / "a.img"
    image.write_bytes(bytes(1 << 20))
    life: list[tuple[str, dict[str, Any]]] = [
        ("qemu_object", {"id": "io0", "qom_type": "iothread"}),
        ("qemu_blockdev", {"node_name": "n0", "driver": "raw", "filename": str(image), "size": "2M"}),
        ("qemu_chardev", {"id": "c0", "type": "socket", "server": True, "path": str(tmp_path / "c0")}),
    ]
    for module, options in life:
        foretold = run_module(monitor, module, check=True, **options)
        done = run_module(monitor, module, **options)
        assert done["changed"] and done["commands"] == foretold["commands"]
        assert not run_module(monitor, module, **options)["changed"]
    assert image.stat().st_size == 2 << 20 and (tmp_path / "c0").is_socket()
    told = run_module(monitor, "qemu_info")["vm"]
    assert told["status"] == {"status": "none", "running": False} and told["version"]["qemu"]["major"] >= 7
    document: dict[str, Any] = {"objects": [{"id": "io0", "qom_type": "iothread"}], "chardevs": [], "blockdevs": []}
    assert run_module(monitor, "qemu_machine", **document, purge=True)["summary"]["remove"] == 2
    assert run_module(monitor, "qemu_object", id="io0", state="absent")["changed"]
    for state in ("running", "paused", "reset", "shutdown"):
        with pytest.raises(ModuleFailed, match="has no guest"):
            run_module(monitor, "qemu_power", check=True, state=state)
    with pytest.raises(ModuleFailed, match="has no guest, and so no disks"):
        run_module(monitor, "qemu_disk_snapshot", name="s1")
    assert run_module(monitor, "qemu_power", state="off")["changed"]
    assert process.wait(timeout=30) == 0


def test_it_serves_a_disk(daemon: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """An image without a virtual machine, written to by its clients, and what they wrote to in a bitmap."""
    monitor, _process = daemon
    image, at = tmp_path / "a.qcow2", tmp_path / "nbd"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    run_module(monitor, "qemu_blockdev", node_name="n0", driver="qcow2", filename=str(image))
    life: list[tuple[str, dict[str, Any]]] = [
        ("qemu_bitmap", {"node": "n0", "name": "b0", "persistent": True}),
        ("qemu_export", {"id": "e0", "node": "n0", "writable": True, "bitmaps": ["b0"], "listen": str(at)}),
        ("qemu_export", {"id": "v0", "node": "n0", "type": "vhost-user-blk", "listen": str(tmp_path / "v0")}),
    ]
    for module, options in life:
        foretold = run_module(monitor, module, check=True, **options)
        done = run_module(monitor, module, **options)
        assert done["changed"] and done["commands"] == foretold["commands"]
        assert not run_module(monitor, module, **options)["changed"]
    assert "qemu:dirty-bitmap:b0" in nbd.listed("--socket", str(at)) and (tmp_path / "v0").is_socket()
    uri = f"nbd+unix:///n0?socket={at}"
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 64k", uri], check=True, capture_output=True)
    for ident, gone in (("v0", tmp_path / "v0"), ("e0", at)):
        assert run_module(monitor, "qemu_export", id=ident, state="absent")["changed"]
        assert not gone.exists()
        assert not run_module(monitor, "qemu_export", id=ident, state="absent")["changed"]
    assert run_module(monitor, "qemu_bitmap", **life[0][1])["bitmap"]["count"] == 65536
    with pytest.raises(ModuleFailed, match="there is no block node 'none'; there are: n0"):
        run_module(monitor, "qemu_export", id="e1", device="none", listen=str(at))
    assert run_module(monitor, "qemu_power", state="off")["changed"]
    assert nbd.first_bytes(str(image), 0x5A, "qcow2")


def job(monitor: str, check: bool, **options: Any) -> dict[str, Any]:
    return run_module(monitor, "qemu_block_job", check=check, **options)


def test_a_disk_without_a_machine_is_copied(daemon: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    monitor, _process = daemon
    for name, byte in (("n0", b"x"), ("copy", b"\0")):
        (tmp_path / name).write_bytes(byte * (1 << 20))
        run_module(monitor, "qemu_blockdev", node_name=name, driver="raw", filename=str(tmp_path / name))
    foretold, done = (
        job(monitor, check, id="j", operation="backup", device="n0", target="copy") for check in (True, False)
    )
    assert done["changed"] and done["commands"] == foretold["commands"]
    assert (tmp_path / "copy").read_bytes() == b"x" * (1 << 20)
