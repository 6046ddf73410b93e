# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what was measured, and the machine it was measured on."""

from __future__ import annotations

import operator
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import correlation, linear_regression, median

from support.vm import VERSIONS, qemu_binary

HOLDS = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}
HEAD = ("what", "ours", "beside", "ratio", "limit", "")


@dataclass(frozen=True)
class Bar:
    """What a ratio has to be."""

    relation: str
    limit: float

    def holds(self, ratio: float) -> bool:
        return bool(HOLDS[self.relation](ratio, self.limit))

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:.2f}"


@dataclass(frozen=True)
class Row:
    """One comparison. Without a limit it is there to explain the others."""

    what: str
    shown: Sequence[str]  # ours, and what it is compared with
    ratio: float
    limit: Bar | None = None

    @property
    def failed(self) -> bool:
        return self.limit is not None and not self.limit.holds(self.ratio)

    @property
    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.limit is None else "FAILS" if self.failed else "holds"
        return self.what, *self.shown, f"{self.ratio:.2f}", str(self.limit or ""), verdict


def ratio_of(ours: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what else the machine does hits both sides of a round alike."""
    return median(mine / its for mine, its in zip(ours, other))


def growth(what: str, unit: str, costs: Mapping[int, float]) -> Row:
    """Whether cost grows no faster than size: what the largest size costs beside half of it.

    ``costs``: seconds by size. The row also has the slope of the straight line through all of them, and how well that fits.
    """
    sizes, seconds = list(costs), list(costs.values())
    largest, half = max(sizes), max(sizes) // 2
    slope = linear_regression(sizes, seconds).slope * 1000
    fit = correlation(sizes, seconds) ** 2
    shown = [f"{costs[size] * 1000:.0f} ms" for size in (largest, half)]
    what = f"{what}, {largest} {unit}s: {half} ({slope:.2f} ms a {unit}, R² {fit:.3f})"
    return Row(what, shown, costs[largest] / costs[half], Bar("<=", 2.2))


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table whose columns are also in line for whoever reads it as text."""
    lines = [HEAD, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def _first_line(*command: str) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[0]


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown CPU")
    return {
        "CPU": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[0]:.2f} (1 minute)",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "ansible-core": metadata.version("ansible-core"),
        "qemu.qmp": metadata.version("qemu.qmp"),
        **{f"QEMU {version}": _first_line(str(qemu_binary(version)), "--version") for version in VERSIONS},
    }
