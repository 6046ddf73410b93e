# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of cost against size, as SVG that reads well on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 490, 360  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 180, 52, 48  # around its plot
COLOURS = ("#3b82f6", "#e07020", "#909090", "#2f9e5b")  # in the middle between black and white
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">
<!-- SPDX-FileCopyrightText: 2026 the vmm.qemu contributors
SPDX-License-Identifier: GPL-3.0-or-later
Written by bench/run. -->
<style>
text {{ fill: #222; }} .grid {{ stroke: #ddd; }} .page {{ fill: #fff; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #ddd; }} .grid {{ stroke: #444; }} .page {{ fill: #1b1b1b; }} }}
</style>
<title>{title}</title>
<rect class="page" width="{width}" height="{height}" rx="8"/>
"""


@dataclass(frozen=True)
class Curve:
    """What something costs at each size: one line of the picture."""

    panel: str
    """The title of the panel that it is drawn in."""
    unit: str
    """What the sizes count: ``disks``."""
    name: str
    costs: Mapping[int, float]
    """Seconds by size."""


class Axes:
    """Where a size and a cost are in a panel; both axes are logarithmic, so that what is linear rises at 45 degrees."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        sizes = [size for curve in curves for size in curve.costs]
        seconds = [cost for curve in curves for cost in curve.costs.values()]
        self.sizes = range(floor(log10(min(sizes))), ceil(log10(max(sizes))) + 1)
        self.costs = range(floor(log10(min(seconds))), ceil(log10(max(seconds))) + 1)

    def x(self, size: float) -> float:
        share = (log10(size) - self.sizes[0]) / (self.sizes[-1] - self.sizes[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, cost: float) -> float:
        share = (log10(cost) - self.costs[0]) / (self.costs[-1] - self.costs[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def draw(curves: Iterable[Curve]) -> str:
    """The picture: a panel for each title, beside each other."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.panel, []).append(curve)
    parts = [HEAD.format(width=WIDTH * len(panels), height=HEIGHT, title=escape("; ".join(panels)))]
    for place, (title, drawn) in enumerate(panels.items()):
        parts += [f'<g transform="translate({place * WIDTH} 0)">', *_panel(title, drawn), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, curves: Sequence[Curve]) -> Iterable[str]:
    axes = Axes(curves)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield _text(LEFT, 26, title, weight="bold")
    yield _text((LEFT + right) / 2, HEIGHT - 10, curves[0].unit, anchor="middle")
    for power in axes.sizes:
        x = axes.x(10**power)
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
        yield _text(x, bottom + 18, f"{10**power}", anchor="middle")
    for power in axes.costs:
        y = axes.y(10**power)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield _text(LEFT - 8, y + 4, f"{10**power:g} s", anchor="end")
    if len(curves) > len(COLOURS):
        raise ValueError(f"{title}: more than {len(COLOURS)} curves")
    labels = _apart([axes.y(curve.costs[max(curve.costs)]) for curve in curves])
    for curve, colour, label in zip(curves, COLOURS, labels):
        points = [(axes.x(size), axes.y(cost)) for size, cost in curve.costs.items()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points)
        yield f'<rect x="{right + 10}" y="{label - 9:.1f}" width="10" height="10" fill="{colour}"/>'
        yield _text(right + 25, label, curve.name)


def _apart(heights: Sequence[float], least: float = 18.0) -> list[float]:
    """The heights of labels, moved down where two would lie on each other."""
    placed: dict[int, float] = {}
    for index in sorted(range(len(heights)), key=heights.__getitem__):
        placed[index] = max(heights[index] + 4, max(placed.values(), default=0.0) + least)
    return [placed[index] for index in range(len(heights))]


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
