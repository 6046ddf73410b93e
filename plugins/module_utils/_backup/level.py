# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which level the next backup is of, and why: what the bitmaps and the list of backups allow. Pure, but for a look at files."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .chain import COPY, DIFFERENTIAL, FULL, INCREMENTAL, Backup, Chain, Image
from .disks import Source
from .point import Point

AUTO = "auto"
# QEMU keeps each image of a chain open, and takes seconds to open more than that.
_MOST_IMAGES = 100
# Which backups count as one that was wanted of a level.
_COUNT: Dict[str, Tuple[str, ...]] = {
    AUTO: (FULL, INCREMENTAL, DIFFERENTIAL),
    INCREMENTAL: (FULL, INCREMENTAL, DIFFERENTIAL),
    DIFFERENTIAL: (FULL, DIFFERENTIAL),
    FULL: (FULL,),
    COPY: (COPY,),
}


class Choice(NamedTuple):
    """What the next backup is."""

    level: str
    why: str
    base: Backup | None = None
    """The backup since which changes are copied."""

    def image(self, source: Source) -> Image | None:
        """Return what the new image of a disk stands on."""
        return self.base.disks[source.name] if self.base else None


def counted(chain: Chain | None, level: str) -> Chain | None:
    """Return the chain with the backups alone that make another of this level unneeded while they are young."""
    return chain and chain._replace(backups=[one for one in chain.backups if one.level in _COUNT[level]])


def bases(chain: Chain | None) -> List[Backup]:
    """Return the backups that later ones can stand on, whose bitmaps are kept: the last one, and the last full one."""
    chained = [one for one in chain.backups if one.level != COPY] if chain else []
    fulls = [one for one in chained if one.level == FULL]
    return [*chained[-1:], *fulls[-1:]]


def choose(asked: str, chain: Chain | None, sources: Sequence[Source], directory: str) -> Choice:
    """Return the level of the next backup. Raise Refusal where what was asked for is not possible."""
    if asked in (FULL, COPY):
        return Choice(asked, "it was asked for")
    candidates = bases(chain)
    base = candidates[-1 if asked == DIFFERENTIAL else 0] if candidates else None
    if asked == DIFFERENTIAL and base and base.level != FULL:
        base = None
    problem = _problem(chain, base, sources, directory)
    if asked == AUTO:
        good = f"the bitmaps of backup {base.number} are good" if base else ""
        return Choice(FULL, problem) if problem else Choice(INCREMENTAL, good, base)
    if problem:
        raise Refusal(
            f"level: a backup of level {asked} is not possible: {problem}. level=auto takes a full one where that is so"
        )
    return Choice(asked, "it was asked for", base)


def _problem(chain: Chain | None, base: Backup | None, sources: Sequence[Source], directory: str) -> str:
    """Return why changes since a backup are not known; empty where they are."""
    if chain is None or base is None:
        return "there is no full backup yet"
    was, now = sorted(base.disks), sorted(source.name for source in sources)
    if was != now:
        return f"backup {base.number} is of {', '.join(was)}, and this one of {', '.join(now)}"
    for source in sources:
        image = base.disks[source.name]
        problem = _of_image(chain, image, directory) or _of_disk(base, image, source) or _of_bitmap(base, image, source)
        if problem:
            return problem
    return ""


def _of_image(chain: Chain, image: Image, directory: str) -> str:
    point = Point(directory, "", chain.below(image))
    if len(point.images) >= _MOST_IMAGES:
        return f"the chain of {os.path.dirname(image.file)} has {len(point.images)} images"
    for path in point.paths:
        if not os.path.lexists(path):
            return f"{path} is not there any more"
    try:
        with point.opened():
            return ""
    except Refusal as exc:
        return str(exc)


def _of_disk(base: Backup, image: Image, source: Source) -> str:
    if image.size != source.top.size:
        word = "grown" if source.top.size > image.size else "shrunk"
        return f"{source.name} has {word} from {image.size} to {source.top.size} bytes since backup {base.number}"
    if image.source != source.top.source:
        return f"{source.name} is on {source.top.source}, and was on {image.source} when backup {base.number} was taken"
    return ""


def _of_bitmap(base: Backup, image: Image, source: Source) -> str:
    told = source.bitmaps.get(image.bitmap or "")
    if told is None:
        kept = "QEMU was killed, another image was put in its place, or it went back to an earlier state"
        lost = "its format keeps none over an end of QEMU" if not source.persistent else kept
        return f"{source.name} does not have the bitmap of backup {base.number} any more: {lost}"
    if told.get("inconsistent"):
        return f"the bitmap of {source.name} is inconsistent: QEMU was killed while it recorded"
    if told["busy"] or not told["recording"]:
        how = "is in use by a job or an export" if told["busy"] else "was disabled"
        return f"the bitmap of {source.name} {how}"
    return ""
