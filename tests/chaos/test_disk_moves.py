# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of a guest that writes to a disk which goes along, in which something dies or breaks: while the disk is copied,
the memory goes over, the guest stands still, or after that.

Afterwards the guest runs on one side and on no other, and all that it has written is on its disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from support.chaos import chance, migrations
from support.disk_crossing import DiskCrossing, DiskSides

Pairs = Callable[[str, str], DiskSides]


@pytest.fixture(scope="module")
def sides() -> Iterator[Pairs]:
    """One guest for each pair of QEMUs, wherever it is by now."""
    made: dict[tuple[str, str], DiskSides] = {}

    def pair(here: str, to: str) -> DiskSides:
        return made.setdefault((here, to), DiskSides(here, to))

    yield pair
    for one in made.values():
        one.close()


@pytest.mark.parametrize(("here", "to", "number"), migrations(3))
def test_the_guest_runs_once_and_has_its_data(sides: Pairs, here: str, to: str, number: int) -> None:
    with DiskCrossing(sides(here, to), chance(number)) as crossing:
        for result in crossing.results():
            print("result:", json.dumps(result))
        crossing.runs_once()
        crossing.data_is_whole()
        print("story:", crossing.story())
