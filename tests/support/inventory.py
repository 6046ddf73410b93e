# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventories as a user has them: files, and what a real `ansible-inventory` makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.plays import ansible_environment

COMMAND = str(Path(sys.executable).with_name("ansible-inventory"))


@dataclass(frozen=True)
class Inventory:
    """What `ansible-inventory --list` has told."""

    rc: int
    told: dict[str, Any]
    warnings: str

    @property
    def hosts(self) -> dict[str, dict[str, Any]]:
        """The variables of each host."""
        found: dict[str, dict[str, Any]] = plain(self.told["_meta"]["hostvars"])
        return found

    def group(self, name: str) -> set[str]:
        """The hosts of a group, and of those in it."""
        group = self.told.get(name, {})
        inside = [self.group(child) for child in group.get("children", [])]
        return {*group.get("hosts", []), *(host for hosts in inside for host in hosts)}


def plain(value: Any) -> Any:
    """A value without the marks of what is no template."""
    if isinstance(value, dict):
        return (
            plain(value["__ansible_unsafe"]) if "__ansible_unsafe" in value else {k: plain(v) for k, v in value.items()}
        )
    return [plain(item) for item in value] if isinstance(value, list) else value


def write(home: Path, **options: Any) -> Path:
    """An inventory's file with these options."""
    path = home / "vms.qemu.yml"
    path.write_text(json.dumps({"plugin": "vmm.qemu.qemu", **options}))
    return path


def run(
    home: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A finished `ansible-inventory`, which fails where a source can't be parsed, as a play should."""
    (home / "ansible.cfg").touch()
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        check=False,
        env={**ansible_environment(home), **strict, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=home,
    )


def read(home: Path, *sources: str | Path, environment: Mapping[str, str] | None = None) -> Inventory:
    """What is in the inventory of these sources."""
    arguments = [word for source in sources for word in ("-i", source)]
    done = run(home, *arguments, "--list", environment=environment)
    return Inventory(done.returncode, json.loads(done.stdout or "{}"), done.stderr)
