# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which command lines lead from an image to the one that is wanted. What ``qemu-img info`` says is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.host import Host
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._engine.comparison import Item
from ansible_collections.vmm.qemu.plugins.module_utils._engine.converge import Outcome, converge
from ansible_collections.vmm.qemu.plugins.module_utils._provision.image import IMAGE, describe
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline

MIB = 1 << 20
QCOW2 = {"format": "qcow2", "virtual-size": 8 * MIB, "cluster-size": 65536, "actual-size": 200704}
SPECIFIC = {"data": {"compat": "1.1", "lazy-refcounts": False}}


def plan(path: Path, info: dict[str, Any], **want: Any) -> Outcome:
    """What the engine makes of it in check mode."""
    host = Host(Deadline(5.0))
    host.table(f"image {path}", lambda: describe({"filename": str(path), "format-specific": SPECIFIC, **info}))
    path.write_bytes(b"")
    path.chmod(0o644)
    full = {"path": str(path), "qemu_img": "/bin/true", "resize": True, "shrink": False, **want}
    IMAGE.check(full)
    return converge(cast(VM, host), [Item(IMAGE, full)], recreate=False, check_mode=True)


@pytest.mark.parametrize(
    ("info", "want", "words"),
    [
        ({}, {}, ""),
        ({}, {"size": "8M", "format": "qcow2"}, ""),
        ({}, {"size": "16M"}, "resize -q -f qcow2 PATH 16777216"),
        ({}, {"size": "4M", "shrink": True}, "resize -q -f qcow2 --shrink PATH 4194304"),
        ({}, {"size": "4M", "resize": False}, ""),
        (
            {},
            {"size": "9M", "options": {"preallocation": "full"}},
            "resize -q -f qcow2 --preallocation=full PATH 9437184",
        ),
        ({}, {"size": 8 * MIB - 1}, ""),
        ({"format": "vpc"}, {"size": 8 * MIB - 1024}, ""),
        ({"format": "vpc"}, {"size": "9M"}, "resize -q -f vpc PATH 9437184"),
        ({}, {"options": {"cluster_size": "64k", "compat": "v3", "lazy_refcounts": False}}, ""),
        ({"full-backing-filename": "/b"}, {"backing_file": "/x/../b", "backing_format": "raw"}, ""),
        ({}, {"mode": "0600"}, "0600 PATH"),
        ({}, {"mode": "0644"}, ""),
    ],
)
def test_what_can_change(tmp_path: Path, info: dict[str, Any], want: dict[str, Any], words: str) -> None:
    path = tmp_path / "disk"
    outcome = plan(path, {**QCOW2, **info}, **want)
    assert [" ".join(line[1:]) for line in outcome.plan.commands] == [words.replace("PATH", str(path))] * bool(words)


@pytest.mark.parametrize(
    ("info", "want", "words"),
    [
        ({}, {"size": "4M"}, "8388608 bytes, and 4194304 are fewer"),
        ({}, {"format": "raw"}, "qemu-img convert -f qcow2 -O raw"),
        ({}, {"backing_file": "/b", "backing_format": "raw"}, "its backing file is none, and qemu-img rebase"),
        ({"full-backing-filename": "/c"}, {"backing_file": "/b", "backing_format": "raw"}, "its backing file is /c"),
        ({}, {"options": {"lazy_refcounts": True}}, "lazy_refcounts stays off"),
        ({}, {"options": {"size": "1M"}}, "size has an option of its own: size"),
        ({}, {"mode": "0999"}, "not a valid mode"),
        ({}, {"backing_format": "raw"}, "no backing_file"),
    ],
)
def test_what_can_not(tmp_path: Path, info: dict[str, Any], want: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        plan(tmp_path / "disk", {**QCOW2, **info}, **want)


def test_options_that_can_not_be_read_back(tmp_path: Path) -> None:
    options = {"preallocation": "full", "encrypt.format": "luks", "cluster_size": 65536}
    assert plan(tmp_path / "disk", QCOW2, options=options).unverifiable == ["preallocation", "encrypt.format"]
