# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The size of an image, read without QEMU, against what qemu-img says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_image import virtual_size


@pytest.mark.parametrize("size", ["1000", "1M", "10G"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_as_qemu_img_says(tmp_path: Path, fmt: str, size: str) -> None:
    path = str(tmp_path / "image")
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, size], check=True)
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", "-f", fmt, path], check=True, stdout=subprocess.PIPE
    ).stdout
    assert virtual_size(path, fmt) == json.loads(info)["virtual-size"]


def test_what_can_not_be_told(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"no image")
    assert virtual_size(str(path), "qcow2") is None
    assert virtual_size(str(path), "vmdk") is None
    assert virtual_size(str(tmp_path / "nosuch"), "raw") is None
