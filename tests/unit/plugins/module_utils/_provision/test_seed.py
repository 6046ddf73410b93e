# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a seed is written, replaced and given away, and what is left when a later step fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import OperationFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.host import Host
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._engine.comparison import Item
from ansible_collections.vmm.qemu.plugins.module_utils._engine.converge import Outcome, converge
from ansible_collections.vmm.qemu.plugins.module_utils._provision.seed import SEED
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline


def fail(deadline: Deadline) -> None:
    raise OperationFailed("no")


def seed(path: Path, *last: Step, present: bool = True, check: bool = False, **want: Any) -> Outcome:
    full = {"path": str(path), "meta_data": "instance-id: i1\n", "user_data": "hush", "mode": "0600", **want}
    item = Item(SEED, full if present else SEED.identity(full), present)
    SEED.check(item.want)
    return converge(cast(VM, Host(Deadline(5.0))), [item], recreate=False, check_mode=check, last=last)


def test_it_comes_changes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    wrote = [["mv", f"{path}.part", str(path)], ["chmod", "0600", str(path)]]
    steps: list[tuple[dict[str, Any], list[list[str]]]] = [
        ({}, wrote),
        ({"user_data": "new"}, wrote),
        ({"user_data": "new", "mode": "0640"}, [["chmod", "0640", str(path)]]),
        ({"present": False}, [["rm", str(path)]]),
    ]
    for want, commands in steps:
        foretold = seed(path, check=True, **want)
        assert foretold.plan.commands == seed(path, **want).plan.commands == commands
        assert seed(path, **want).plan.commands == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_later_step_that_fails_takes_it_back(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "seed"
    if there:
        seed(path, mode="0640")
    before = (path.read_bytes(), path.stat().st_mode) if there else None
    with pytest.raises(PlanFailed) as failed:
        seed(path, Step(do=fail, command_lines=[["false"]]), user_data="new")
    assert failed.value.rolled_back and not failed.value.stuck
    assert ((path.read_bytes(), path.stat().st_mode) if there else None) == before
    assert list(tmp_path.iterdir()) == ([path] if there else [])


def test_what_came_in_the_place_of_a_new_file_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "seed"

    def replace(deadline: Deadline) -> None:
        (tmp_path / "other").write_text("mine")
        (tmp_path / "other").replace(path)
        fail(deadline)

    with pytest.raises(PlanFailed):
        seed(path, Step(do=replace, command_lines=[["false"]]))
    assert path.read_text() == "mine"


def test_an_owner_and_a_mode_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    seed(path)
    with pytest.raises(PlanFailed) as failed:
        seed(path, Step(do=fail, command_lines=[["false"]]), mode="0644")
    assert failed.value.rolled_back == [["chmod", "0600", str(path)]] and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("hostname: x\n", True),
        ("# a comment\n#cloud-config\n", True),
        ("#cloud-config\nhostname: x\n", False),
        ("\n  #Cloud-Config\n", False),
        ("#!/bin/sh\n", False),
        ("## template: jinja\n#cloud-config\n", False),
        ("Content-Type: multipart/mixed\nMIME-Version: 1.0\n", False),
        ("", False),
        ({"hostname": "x"}, False),
    ],
    ids=str,
)
def test_text_that_cloud_init_ignores_is_warned_of(tmp_path: Path, text: Any, warns: bool) -> None:
    for name in ("user_data", "vendor_data"):
        told = seed(tmp_path / "seed", check=True, **{"user_data": "", name: text}).warnings
        assert [warning.partition(":")[0] for warning in told] == [name] * warns
