# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages that the role vmm.qemu.host installs are those that distributions publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

TESTS = Path(__file__).resolve().parents[1]
VARIABLES = TESTS.parent / "roles" / "host" / "vars"
PUBLISHED: list[dict[str, Any]] = yaml.safe_load((TESTS / "support" / "packages.yml").read_text())
FAMILY = {"Debian": "Debian", "Ubuntu": "Debian", "Fedora": "RedHat", "CentOS": "RedHat"}
# qemu-system-x86 and ovmf, qemu-kvm and its firmware: without these there is no virtual machine
EMULATOR = {"Debian": "qemu-system", "RedHat": "qemu-kvm"}


def packages(distribution: str, version: str, architecture: str) -> list[str]:
    """What the role would install on that host, by its variables and the facts that it gathers."""
    facts = {
        "distribution": distribution,
        "distribution_major_version": version.partition(".")[0],
        "architecture": architecture,
    }
    variables = yaml.safe_load((VARIABLES / f"{FAMILY[distribution]}.yml").read_text())
    environment = NativeEnvironment()
    environment.globals["ansible_facts"] = facts

    def value(of: Any) -> Any:
        if isinstance(of, dict):
            return {key: value(item) for key, item in of.items()}
        if isinstance(of, list):
            return [value(item) for item in of]
        return environment.from_string(of).render(known) if isinstance(of, str) else of

    known: dict[str, Any] = {}
    for name in reversed(variables):  # each uses only what stands below it
        known[name] = value(variables[name])
    found: list[str] = known["__host_packages"]
    return found


@pytest.mark.parametrize(
    "host", PUBLISHED, ids=lambda host: "-".join([host["distribution"], host["version"], host["architecture"]])
)
def test_the_packages_are_published(host: dict[str, Any]) -> None:
    wanted = packages(host["distribution"], host["version"], host["architecture"])
    assert any(name.startswith(EMULATOR[FAMILY[host["distribution"]]]) for name in wanted)
    assert not {*wanted} - {*host["names"]}


def test_s390x_has_its_own_package_where_it_has_one() -> None:
    assert packages("Debian", "12", "s390x")[0] == "qemu-system-misc"
    assert packages("Debian", "13", "s390x")[0] == packages("Ubuntu", "24.04", "s390x")[0] == "qemu-system-s390x"
    assert packages("Debian", "testing", "s390x")[0] == "qemu-system-s390x"


def test_a_kind_of_host_that_is_not_listed_gets_all_of_debians_emulators() -> None:
    assert packages("Debian", "13", "riscv64") == ["qemu-system", "qemu-utils", "iproute2"]
