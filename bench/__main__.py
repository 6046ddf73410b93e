# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure, print the table, and with --save keep it in bench/results and the picture in docs. Exits with 1 when a bar fails."""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import date
from importlib import import_module
from pathlib import Path

from bench.picture import Curve, draw
from bench.plays import BenchError
from bench.table import Row, machine, markdown
from support.collection import make_importable

PARTS = {
    "rates": "commands a second",
    "imports": "import time",
    "replies": "large replies",
    "tasks": "tasks and payloads",
    "ssh": "tasks over SSH",
    "machine": "many disks",
    "backups": "backups",
    "fleet": "many virtual machines",
    "inventory": "inventories",
    "events": "events",
    "roles": "whole virtual machines",
}
RESULTS = Path(__file__).resolve().parent / "results"
PANELS = 2  # of the picture: one for disks, one for virtual machines
PICTURE = RESULTS.parents[1] / "docs" / "cost.svg"


def save(text: str, about: dict[str, str]) -> Path:
    """Write a report named after today and the machine."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{about['CPU']} {about['cores']} cores".lower()).strip("-")
    path = RESULTS / f"{date.today().isoformat()}-{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def main() -> int:
    """Run the parts one after the other: two at a time would measure each other."""
    parser = argparse.ArgumentParser(prog="bench/run", description="Measure the collection: a table of ratios.")
    parser.add_argument("part", nargs="*", help=f"which parts ({', '.join(PARTS)}); all without one")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-<machine>.md, too")
    asked = parser.parse_args()
    if unknown := set(asked.part) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    make_importable()
    about, start = machine(), time.monotonic()
    found: list[Row | Curve] = []
    for name in asked.part or PARTS:
        print(f"bench: {PARTS[name]} ...", file=sys.stderr, flush=True)
        try:
            found += import_module(f"bench.{name}").measure()
        except BenchError as exc:
            parser.exit(2, f"bench: {exc}\n")
    rows = [item for item in found if isinstance(item, Row)]
    curves = [item for item in found if isinstance(item, Curve)]
    failed = [row.what for row in rows if row.failed]
    verdict = f"{len(failed)} bars fail: {'; '.join(failed)}" if failed else "All bars hold."
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    taken = f"{time.monotonic() - start:.0f} s"
    text = (
        f"# {date.today().isoformat()}, {about['CPU']}\n\n{facts}\n\n{markdown(rows)}\n\n{verdict} Taken in {taken}.\n"
    )
    print(text, end="")
    if asked.save:
        print(f"bench: saved as {save(text, about).relative_to(Path.cwd())}", file=sys.stderr)
        if len({curve.panel for curve in curves}) == PANELS:  # not half a picture in the place of a whole one
            PICTURE.write_text(draw(curves))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
