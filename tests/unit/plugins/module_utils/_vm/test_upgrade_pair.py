# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the guest of an upgrade is, by what both QEMUs say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed
from ansible_collections.vmm.qemu.plugins.module_utils._migration.current import Current
from ansible_collections.vmm.qemu.plugins.module_utils._vm import upgrade_pair
from ansible_collections.vmm.qemu.plugins.module_utils._vm.upgrade_pair import Pair, Side


def side(pid: int, run_state: str, status: str) -> Side:
    return Side(cast(Any, None), pid, Current({"status": status}, run_state, False))


def test_a_guest_that_is_between_the_two_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair.__new__(Pair)
    pair.place = cast(Any, SimpleNamespace(name="vm1"))
    pair.old, pair.new = side(1, "postmigrate", "completed"), side(2, "inmigrate", "active")
    arrives = iter(["inmigrate", "running"])
    monkeypatch.setattr(upgrade_pair, "look", lambda vm: Current({"status": "completed"}, next(arrives), False))
    assert pair.has_moved()

    pair.new = side(2, "inmigrate", "active")
    monkeypatch.setattr(upgrade_pair, "look", lambda vm: side(2, "inmigrate", "active").current)
    monkeypatch.setattr(upgrade_pair, "_END_SECONDS", 0.0)
    with pytest.raises(OperationFailed, match="has left the old QEMU"):
        pair.has_moved()
