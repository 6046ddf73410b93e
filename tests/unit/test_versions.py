# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is tested is what is supported, and what the documentation shows."""

from __future__ import annotations

import yaml
from packaging.specifiers import SpecifierSet

from support.matrix import GUIDE, PYTHONS, README, REPO, cores


def test_the_oldest_core_that_is_tested_is_the_oldest_that_is_supported() -> None:
    supported = SpecifierSet(yaml.safe_load((REPO / "meta" / "runtime.yml").read_text())["requires_ansible"])
    assert all(supported.contains(core, prereleases=True) for core in cores())
    assert "2.16.19" not in supported and next(iter(cores())).startswith("2.17.")


def test_the_documentation_shows_each_core() -> None:
    guide, readme = GUIDE.read_text(), README.read_text()
    for core, own in cores().items():
        assert f"   * - {core}\n     - {own}\n" in guide and f"| {core} | {own} |" in readme
    assert all(f"     - {python}\n" in guide for python in PYTHONS)


def test_no_sanity_test_is_ignored() -> None:
    assert not [*(REPO / "tests" / "sanity").glob("*")]
