# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images a task's result asks for. What becomes of them is in tests/qemu/test_role_vm.py."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.plugin_utils._image import Image, needed

URL = "https://images.example.org/a.qcow2"


@pytest.mark.parametrize(
    ("args", "result", "images"),
    [
        ({"image": URL}, {"failed": True, "image_needed": "/i/a"}, {"": Image("/i/a", URL, None)}),
        ({"image": URL, "image_checksum": "sha256:0"}, {"image_needed": "/i/a"}, {"": Image("/i/a", URL, "sha256:0")}),
        ({"image": URL}, {"failed": True, "msg": "another thing"}, {}),
        ({"image": URL}, {"failed": True, "image_needed": "/i/********/a"}, {}),
        (
            {"image": URL, "machines": {"a": {"image": "file:///b"}, "b": None, "c": {}}},
            {"machines": {"a": {"image_needed": "/i/b"}, "b": {"image_needed": "/i/a"}, "c": {"changed": False}}},
            {"a": Image("/i/b", "file:///b", None), "b": Image("/i/a", URL, None)},
        ),
    ],
)
def test_what_is_asked_for(args: dict[str, Any], result: dict[str, Any], images: dict[str, Image]) -> None:
    assert needed(args, result) == images
