# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""Long work in a line that a person reads while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress

EVERY = 2.0
"""Seconds between two lines, at least."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Lines:
    """What to show of a flow of Progress: of each thing at most a line in two seconds, none while nothing moves."""

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """``show`` takes a line of text. ``clock`` gives seconds; a test winds its own."""
        self._show = show
        self._clock = clock
        self._shown: dict[str, tuple[Progress, float]] = {}

    def on_progress(self, progress: Progress) -> None:
        """Show it, if there is something new and the last line is old enough."""
        now = self._clock()
        before, at = self._shown.get(progress.what, (None, 0.0))
        moved = before is None or (progress.phase, progress.done, progress.total) != before[1:4]
        if not moved or (before is not None and now - at < EVERY):
            return
        measured = 0.0 if before is None else max(0.0, (progress.done - before.done) / (now - at))
        self._show(line(progress, progress.rate or measured))
        self._shown[progress.what] = progress, now


def line(progress: Progress, rate: float) -> str:
    """Return ``migration: active, 43 %, 120.0 MiB of 280.0 MiB, 55.0 MiB/s, 3 s left, 120 ms of downtime expected``."""
    parts = [f"{progress.what}: {progress.phase}"]
    if progress.total:
        parts.append(f"{progress.percent:.0f} %")
        parts.append(f"{size(progress.done)} of {size(progress.total)}")
    if rate > 0:
        parts.append(f"{size(rate)}/s")
        if progress.total > progress.done:
            parts.append(f"{duration((progress.total - progress.done) / rate)} left")
    if progress.downtime >= 0:
        parts.append(f"{progress.downtime} ms of downtime expected")
    return ", ".join(parts)


def size(number: float) -> str:
    """Return ``1536`` -> ``1.5 KiB``."""
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return ``75`` -> ``1 min 15 s``."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * (not hours)
    return " ".join(parts)
