# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module is in the action group, and runs in the task's own process where it can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from support.plays import ansible_environment

REPO = Path(__file__).resolve().parents[2]


def test_every_module_is_routed() -> None:
    runtime = yaml.safe_load((REPO / "meta" / "runtime.yml").read_text())
    modules = sorted(path.stem for path in (REPO / "plugins" / "modules").glob("qemu_*.py"))
    assert runtime["action_groups"]["qemu"] == modules
    routes = runtime["plugin_routing"]["modules"]
    assert routes == {name: {"action_plugin": "vmm.qemu.qemu_info"} for name in modules}


def test_workers_need_not_import_what_they_share(tmp_path: Path) -> None:
    """Ansible's main process looks for an action plugin of the module's name; after that, all kinds are there."""
    look = """
import sys
from ansible.plugins.loader import action_loader, init_plugin_loader
init_plugin_loader()
assert action_loader.get("vmm.qemu.qemu_disk", class_only=True) is None
ours = "ansible_collections.vmm.qemu.plugins."
assert {ours + "action.qemu_info", ours + "module_utils._kinds.disk", ours + "module_utils._machine"} <= set(sys.modules)
found = action_loader.get("vmm.qemu.qemu_info", class_only=True)
assert found is sys.modules[ours + "action.qemu_info"].ActionModule
"""
    subprocess.run([sys.executable, "-c", look], env=ansible_environment(tmp_path), check=True)
