# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of a chain as it comes to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup import chain, place
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed
from ansible_collections.vmm.qemu.plugins.module_utils._host.directory import Access
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline


def test_a_new_directory_is_on_the_disk_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(path: str) -> None:
        synced.append(path)
        if len(synced) > 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(chain, "sync_directory", sync)
    mine = Access(os.geteuid(), os.getegid(), 0o700)
    for name in ("first", "second"):
        step = place.make_directory(str(tmp_path / name), mine)
        assert step.do
        if name == "first":
            step.do(Deadline(5))
        else:
            with pytest.raises(OperationFailed, match="second can't be made: Input/output error"):
                step.do(Deadline(5))
    assert synced == [str(tmp_path)] * 2 and os.listdir(tmp_path) == ["first"]
