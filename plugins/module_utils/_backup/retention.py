# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which backups are kept, which go, and which images in the directory belong to none; and the steps that remove these."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Set

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.step import Step
from . import chain as chains
from .chain import COPY, LEVELS, Backup, Chain

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

_DAY = 86400
_IMAGE = re.compile(rf"[1-9][0-9]*-(?:{'|'.join(LEVELS)})\.qcow2(?:\.part)?\Z")


def check_keep(keep: Dict[str, Any] | None) -> None:
    """Raise Refusal for ``keep`` that names nothing, or what is not a positive number."""
    named = {key: value for key, value in (keep or {}).items() if value is not None}
    if keep is not None and not named:
        raise Refusal("keep: name how many full backups are kept (full), or for how many days (days)")
    for key, value in named.items():
        if value < 1:
            raise Refusal(f"keep.{key}: {value} is not a positive number; the newest full backup is never removed")


def pruned(chain: Chain, keep: Dict[str, Any] | None, now: float) -> List[int]:
    """Return the numbers of the backups that ``keep`` does not keep.

    A full backup goes with all that stands on it, or not at all. It is kept while either rule keeps it: ``full``, as one of so
    many newest; ``days``, while its newest backup is not older. A copy stands alone, and does not count as a full backup: it
    goes with those that are older than the oldest that is kept.
    """
    full, days = ((keep or {}).get(rule) for rule in ("full", "days"))
    if full is None and days is None:
        return []
    groups = _groups(chain)
    rooted = [group for group in groups if any(one.level != COPY for one in group)]
    kept = [group for group in groups if days is not None and _age(group, now) <= days * _DAY]
    kept += rooted[-full:] if full is not None else rooted[-1:]
    kept += groups[-1:]
    first = min((group[0].number for group in kept if group in rooted), default=0)
    kept += [group for group in groups if full is not None and group not in rooted and group[0].number > first]
    return [one.number for group in groups if group not in kept for one in group]


def _age(group: Sequence[Backup], now: float) -> float:
    """Return the seconds since the newest backup of a group."""
    return now - max(backup.when.timestamp() for backup in group)


def _groups(chain: Chain) -> List[List[Backup]]:
    """Return the backups that need each other, together, by the number of their newest."""
    found: List[List[Backup]] = []
    for backup in chain.backups:
        below = {image.backing for image in backup.disks.values()}
        joined = [group for group in found if any(below & _files(one) for one in group)]
        found = [group for group in found if group not in joined]
        found.append([*(one for group in joined for one in group), backup])
    return sorted(found, key=lambda group: group[-1].number)


def _files(backup: Backup) -> Set[str | None]:
    return {image.file for image in backup.disks.values()}


def unlisted(chain: Chain | None, directory: str) -> List[str]:
    """Return the images in a directory, from there on, that no complete backup has: what a killed run has left there.

    Only names that are given to images here; what else is there is somebody else's. Raise Refusal.
    """
    listed = chain.images() if chain else {}
    found = []
    try:
        for entry in sorted(os.listdir(directory)):
            place = os.path.join(directory, entry)
            for name in sorted(os.listdir(place)) if os.path.isdir(place) and not os.path.islink(place) else ():
                file = f"{entry}/{name}"
                if _IMAGE.match(name) and file not in listed:
                    found.append(file)
    except FileNotFoundError:
        return found
    except OSError as exc:
        raise Refusal(f"path: can't look at {exc.filename}: {exc.strerror}") from exc
    return found


def steps(directory: str, chain: Chain | None, numbers: Sequence[int], remains: Sequence[str]) -> List[Step]:
    """Return the steps that remove backups, and images that belong to none. They go last, since nothing takes them back.

    A backup leaves the list before its images go: a killed task leaves images that are not listed, and none that is missing.
    ``chain``: as it is listed when the first of the steps is done; what was added since then stays listed.
    """
    gone = [one for one in chain.backups if one.number in numbers] if chain else []
    files = [image.file for one in gone for image in one.disks.values()]
    found = [_unlist_step(directory, chain.name, numbers)] if chain and gone else []
    return found + [_remove_step(directory, file) for file in (*files, *remains)]


def _unlist_step(directory: str, name: str, numbers: Sequence[int]) -> Step:
    def do(deadline: Deadline) -> None:
        listed = chains.read(directory, name)
        left = listed.without(numbers) if listed else None
        known = left.images() if left else {}
        if any(image.backing is not None and image.backing not in known for image in known.values()):
            raise OperationFailed(f"keep: a backup that builds on one of {numbers} was taken meanwhile: run this again")
        if left is not None:
            chains.write(directory, left)

    path = os.path.join(directory, chains.FILE)
    return Step(do=do, command_lines=[{"path": path, "action": f"unlist {', '.join(map(str, numbers))}"}], last=True)


def _remove_step(directory: str, file: str) -> Step:
    path = os.path.join(directory, file)

    def do(deadline: Deadline) -> None:
        try:
            with contextlib.suppress(FileNotFoundError), safe_open.inside(directory, file) as (at, name):
                os.unlink(name, dir_fd=at)
            with contextlib.suppress(OSError), safe_open.parent(os.path.dirname(path)) as (at, name):
                os.rmdir(name, dir_fd=at)  # the last of its disk
        except OSError as exc:
            raise OperationFailed(f"path: {path} can't be removed: {exc.strerror}") from exc

    return Step(do=do, command_lines=[["rm", path]], removes=True, last=True)
