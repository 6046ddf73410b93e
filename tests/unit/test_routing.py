# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module is in the action group, and runs in the task's own process where it can."""

from __future__ import annotations

from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[2]


def test_every_module_is_routed() -> None:
    runtime = yaml.safe_load((REPO / "meta" / "runtime.yml").read_text())
    modules = sorted(path.stem for path in (REPO / "plugins" / "modules").glob("qemu_*.py"))
    assert runtime["action_groups"]["qemu"] == modules
    routes = runtime["plugin_routing"]["modules"]
    assert routes == {name: {"action_plugin": "vmm.qemu.qemu"} for name in modules}
