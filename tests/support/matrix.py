# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was seen with each ansible-core, and the tables that are made of it.

python -m support.matrix CORE WHAT VERDICT   note that a part passed, or not
python -m support.matrix                     write the tables into the documentation
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SEEN = REPO / ".bed" / "matrix"
CORES = REPO / "tests" / "matrix" / "cores.txt"
PYTHONS = ("3.7", "3.8", "3.9", "3.11", "3.13", "3.14", "3.15")
GUIDE = REPO / "docs" / "docsite" / "rst" / "versions.rst"
README = REPO / "README.md"


def cores() -> dict[str, str]:
    """Each ansible-core that is tested, oldest first, and the Python that it runs on."""
    lines = [line.split() for line in CORES.read_text().splitlines() if not line.startswith("#")]
    found = {line[0]: line[1].removeprefix("python") for line in lines}
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def record(core: str, what: str, python: str, verdict: str) -> None:
    """Note what was seen: of a way and a Python on the managed host, or of a part ("sanity", "units") without one."""
    SEEN.mkdir(parents=True, exist_ok=True)
    with (SEEN / f"{core}.jsonl").open("a") as file:
        file.write(json.dumps({"what": what, "python": python, "verdict": verdict}) + "\n")


def seen(core: str) -> dict[tuple[str, str], str]:
    """The last that was noted of each."""
    lines = (SEEN / f"{core}.jsonl").read_text().splitlines()
    notes = map(json.loads, lines)
    return {(note["what"], note["python"]): note["verdict"] for note in notes}


def row(core: str, own: str) -> list[str]:
    notes = seen(core)
    cells = [core, own, notes["sanity", ""], notes["units", ""], notes["process", own]]
    for python in PYTHONS:
        module, runner = notes["module", python], notes["runner", python]
        cells.append(module if module == runner else f"modules {module}, runner {runner}")
    return cells


def table() -> list[list[str]]:
    """One row for each core, the header first."""
    header = ["ansible-core", "on Python", "sanity", "units", "in the task's process", *PYTHONS]
    return [header, *(row(core, own) for core, own in cores().items())]


def short() -> list[list[str]]:
    """Only which goes with which, the header first."""
    rows = [["ansible-core", "on Python", "Python on the managed host"]]
    for core, own in cores().items():
        notes = seen(core)
        taken = [python for python in PYTHONS if all(notes[way, python] == "ok" for way in ("module", "runner"))]
        rows.append([core, own, ", ".join(taken)])
    return rows


def markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def rst(rows: list[list[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in rows:
        lines += [f"   {'* -' if number == 0 else '  -'} {cell}" for number, cell in enumerate(cells)]
    return "\n".join(lines)


def write() -> None:
    for page, begin, made, end in (
        (GUIDE, ".. matrix\n\n", rst(table()), "\n\n.. end"),
        (README, "<!-- matrix -->\n\n", markdown(short()), "\n\n<!-- end -->"),
    ):
        before, rest = page.read_text().split(begin)
        page.write_text(before + begin + made + end + rest.split(end)[1])


if __name__ == "__main__":
    if sys.argv[1:]:
        core, what, verdict = sys.argv[1:]
        record(core, what, "", verdict)
    else:
        write()
