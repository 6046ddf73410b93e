# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a purge may take, where no QEMU of the test bed has it."""

from __future__ import annotations

from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.object import OBJECT


class Monitors(VM):
    """The objects of a QEMU 11.1 with two monitors, of which one was made at run time."""

    def __init__(self) -> None:
        pass

    def children(self, path: str) -> dict[str, str]:
        assert path == "/objects"
        kinds = {"compat_monitor0": "monitor-qmp", "second": "monitor-hmp", "io0": "iothread"}
        return {"type": "string", **{name: f"child<{kind}>" for name, kind in kinds.items()}}


def test_monitors_are_never_taken() -> None:
    assert OBJECT.list(Monitors()) == [{"id": "io0"}]
