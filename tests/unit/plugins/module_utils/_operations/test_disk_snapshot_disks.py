# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file is the overlay of which snapshot, and which has nothing in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._host.overlay_file import is_empty
from ansible_collections.vmm.qemu.plugins.module_utils._operations.disk_snapshot_disks import Disk, Layer


def layer(path: str) -> Layer:
    return Layer("node", "qcow2", path, path, 512, False)


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("/x/data@s1.qcow2", "s1", True),
        ("/x/data@s1~1.qcow2", "s1", True),
        ("/x/data@s1~1.qcow2", "", True),
        ("/x/data@s1.qcow2", "", True),
        ("/x/data@s1.qcow2", "s", False),
        ("/x/data@s1.1.qcow2", "s1", False),
        ("/x/data.s1.qcow2", "s1", False),
        ("/x/other@s1.qcow2", "s1", False),
        ("/data@s1.qcow2/data.raw", "s1", False),
        ("/x/data.qcow2", "", False),
        ("", "s1", False),
    ],
)
def test_an_overlay_is_known_by_its_file(path: str, name: str, told: bool) -> None:
    assert Disk("data", "", "", []).is_overlay(path, name) is told


def test_an_image_that_stands_on_nothing_is_no_overlay() -> None:
    """As what a stream has left is: what was below it is in it."""
    disk = Disk("data", "", "", [layer("/x/data@s2.qcow2"), layer("/x/data@s1.qcow2")])
    assert (disk.overlay("s2"), disk.overlay("s1")) == (0, None)


def test_an_empty_overlay(tmp_path: Path) -> None:
    base, path = tmp_path / "base.raw", tmp_path / "over.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", str(base), str(path), "8M"]
    subprocess.run(create, check=True)
    assert is_empty(str(path), str(base))
    assert not is_empty(str(path), str(base) + "x") and not is_empty(str(tmp_path / "none"), str(base))
    base.write_bytes(bytes(8 << 20))
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 4M 512", str(path)], check=True, stdout=subprocess.DEVNULL)
    assert not is_empty(str(path), str(base)) and not is_empty(str(base), str(base))
    subprocess.run(create, check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "inside", str(path)], check=True)
    assert not is_empty(str(path), str(base))
