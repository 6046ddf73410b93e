# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that long work shows: their words, and how seldom they come."""

from __future__ import annotations

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.plugin_utils._progress_lines import Lines, duration, line, size

MIB = 1 << 20


def test_the_words() -> None:
    progress = Progress("migration", "active", 120 * MIB, 280 * MIB, downtime=120)
    expected = "migration: active, 43 %, 120.0 MiB of 280.0 MiB, 40.0 MiB/s, 4 s left, 120 ms of downtime expected"
    assert line(progress, 40.0 * MIB) == expected


def test_what_is_not_known_is_left_out() -> None:
    assert line(Progress("migration", "setup"), 0.0) == "migration: setup"


class Shown:
    """Lines with a clock that the test winds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.texts: list[str] = []
        self.lines = Lines(self.texts.append, lambda: self.now)

    def at(self, now: float, done: int, phase: str = "active", what: str = "dump") -> int:
        """Tell of so many bytes at that time; how many lines there were by then."""
        self.now = now
        self.lines.on_progress(Progress(what, phase, done, 100 * MIB))
        return len(self.texts)


def test_at_most_a_line_in_two_seconds() -> None:
    shown = Shown()
    counts = [shown.at(now / 4, now * MIB) for now in range(17)]  # four looks a second for four seconds
    assert counts == [1] * 8 + [2] * 8 + [3]
    assert "4.0 MiB/s" in shown.texts[1]


def test_quiet_while_nothing_moves() -> None:
    shown = Shown()
    assert [shown.at(now, 7) for now in (0.0, 5.0, 50.0)] == [1, 1, 1]
    assert shown.at(51.0, 7, "ready") == 2


def test_two_at_a_time() -> None:
    """Neither takes the other's line, nor is its rate worked out from the other's bytes."""
    shown = Shown()
    assert [shown.at(now, int(now) * MIB, what=what) for now in (0.0, 1.0, 2.0, 3.0) for what in "ab"][-1] == 4
    assert [text[:1] for text in shown.texts] == ["a", "b", "a", "b"]
    assert all("1.0 MiB/s" in text for text in shown.texts[2:])


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
