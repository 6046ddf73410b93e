# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of a guest that counts, in which at a random byte the destination dies, the line breaks or falls silent, or the
task is killed or told to stop.

Afterwards the guest runs on one side and on no other, or the message says what to do, and when that is done it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from support.chaos import chance, migrations
from support.crossing import Crossing, Sides

Pairs = Callable[[str, str], Sides]


@pytest.fixture(scope="module")
def sides() -> Iterator[Pairs]:
    """One guest for each pair of QEMUs, wherever it is by now."""
    made: dict[tuple[str, str], Sides] = {}

    def pair(here: str, to: str) -> Sides:
        return made.setdefault((here, to), Sides(here, to))

    yield pair
    for one in made.values():
        one.close()


@pytest.mark.parametrize(("here", "to", "number"), migrations(6))
def test_the_guest_runs_once_whatever_befalls_its_migration(sides: Pairs, here: str, to: str, number: int) -> None:
    dice = chance(number)
    with Crossing(sides(here, to), dice) as crossing:
        print("fault:", crossing.fault)
        for result in crossing.results():
            print("result:", json.dumps(result))
        crossing.runs_once()
