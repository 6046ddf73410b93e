# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vmm.qemu.host in check mode: what it does is in extensions/molecule."""

from __future__ import annotations

from pathlib import Path

from support.plays import run_playbook


def test_check_mode_where_there_is_no_group_yet(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    variables = {
        "host_install": False,
        "host_user": "nosuchuser",
        "host_groups": ["nosuchgroup"],
        "host_directory": str(tmp_path / "machines"),
        "host_devices": [{"name": "device", "path": str(device), "group": "nosuchgroup", "mode": "0660"}],
        "host_udev_rules": str(tmp_path / "rules.d" / "60.rules"),
    }
    role = {"role": "vmm.qemu.host", "vars": variables}
    play = [{"hosts": "all", "gather_facts": False, "roles": [role]}]
    run = run_playbook(play, tmp_path, check=True, here=True)
    assert run.rc == 0, run.output
    assert run["vmm.qemu.host : Make the groups whose members may use the devices"].changed
    assert not (tmp_path / "machines").exists()
