# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""``chain.json``: the backups that are in a directory. A backup is complete if, and only if, it is listed there."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import re
import stat
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, NamedTuple, Sequence

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._host import part_file

FILE = "chain.json"
FULL, INCREMENTAL, DIFFERENTIAL, COPY = LEVELS = ("full", "incremental", "differential", "copy")
_VERSION = 1
# What root reads into memory.
_MOST = 64 << 20
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PERIOD = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# A disk's name is that of a directory, and of an image that is made of it: nothing that leads elsewhere.
_DISK = re.compile(r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]+\Z")


class Image(NamedTuple):
    """A disk in a backup."""

    file: str
    """Its image, from the directory on."""
    size: int
    """In bytes, as the guest sees it."""
    backing: str | None
    """The image that it stands on, from the directory on."""
    written: int
    """Bytes in the image's file."""
    dirty: int | None
    """Bytes that the bitmap said had changed; None where there was none."""
    node: str
    """The node that was copied."""
    bitmap: str | None
    """The bitmap that records what changes from then on."""
    source: Any
    """What tells that it is the same disk."""


class Backup(NamedTuple):
    """The disks at one moment."""

    number: int
    level: str
    why: str
    """Why it is of this level."""
    time: str
    """When it was begun, such as 2026-11-28T21:50:00Z."""
    quiesced: bool
    disks: Dict[str, Image]

    @property
    def when(self) -> datetime:
        """Return when it was begun."""
        return datetime.strptime(self.time, _TIME).replace(tzinfo=timezone.utc)


class Chain(NamedTuple):
    """All complete backups under one name, oldest first."""

    name: str
    vm: Dict[str, Any]
    """``name`` and ``uuid`` of the virtual machine, where QEMU tells them."""
    backups: Sequence[Backup] = ()

    @property
    def newest(self) -> Backup | None:
        """Return the last one that was taken; None where there is none."""
        return self.backups[-1] if self.backups else None

    @property
    def next_number(self) -> int:
        """Return the number of the next one."""
        return self.newest.number + 1 if self.newest else 1

    def add(self, backup: Backup) -> Chain:
        """Return the chain with one more backup."""
        return self._replace(backups=[*self.backups, backup])

    def without(self, numbers: Iterable[int]) -> Chain:
        """Return the chain without these backups."""
        return self._replace(backups=[one for one in self.backups if one.number not in set(numbers)])

    def images(self) -> Dict[str, Image]:
        """Return every image that is listed, by its file."""
        return {image.file: image for backup in self.backups for image in backup.disks.values()}

    def below(self, image: Image) -> List[Image]:
        """Return what an image needs to be read: itself, and all that it stands on, from the top one down."""
        known, found = self.images(), [image]
        while found[-1].backing is not None:
            found.append(known[found[-1].backing])
        return found

    def text(self) -> bytes:
        """Return it as it is written down."""
        backups = [
            {**one._asdict(), "disks": {disk: image._asdict() for disk, image in one.disks.items()}}
            for one in self.backups
        ]
        document = {"version": _VERSION, "name": self.name, "vm": self.vm, "backups": backups}
        return (json.dumps(document, indent=1) + "\n").encode()


def file_name(disk: str, number: int, level: str) -> str:
    """Return the name of an image, from the directory on."""
    return f"{disk}/{number}-{level}.qcow2"


def time_text(seconds: float) -> str:
    """Return a time of the clock (``time.time()``) as it is written down."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime(_TIME)


# -- the file ----------------------------------------------------------------------------------------------------------


def read(directory: str, name: str) -> Chain | None:
    """Return what is listed in a directory; None where nothing is. Raise Refusal for what is not this chain, whole and ours."""
    path = os.path.join(directory, FILE)
    try:
        with safe_open.parent(path) as (at, own):  # noqa: SIM117  pylint does not follow them in one
            with safe_open.regular(own, directory=at) as file:
                _check_own(path, os.fstat(file.fileno()), os.fstat(at).st_uid)
                text = file.read(_MOST)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refusal(f"path: {path}, which lists the backups, can't be read: {exc.strerror}") from exc
    try:
        found = json.loads(text)
        version = found.pop("version")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Refusal(f"path: {path} is not a list of backups: name another directory") from exc
    if version != _VERSION or isinstance(version, bool):
        raise Refusal(f"path: {path} was written by another version of this collection (its version is {version!r})")
    try:
        chain = _checked(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Refusal(
            f"path: {path}, which lists the backups, is damaged ({exc}): put back a copy of it, or name another directory"
        ) from exc
    if chain.name != name:
        raise Refusal(
            f"name: {directory} has the backups {chain.name!r}, not {name!r}: each takes a directory of its own"
        )
    return chain


def write(directory: str, chain: Chain) -> None:
    """Write the list down, all or nothing, so that it outlives a power failure. Raise TaskError."""
    path = os.path.join(directory, FILE)

    def fill(file: int) -> None:
        with open(file, "wb", closefd=False) as target:
            target.write(chain.text())
        os.fsync(file)

    try:
        part_file.NewFile(path, 0o600, replace=True).make(fill)
        sync_directory(directory)
    except OSError as exc:
        raise OperationFailed(f"path: {path} can't be written: {exc.strerror}") from exc


def sync_directory(path: str) -> None:
    """Have the names in a directory outlive a power failure. Raise OSError."""
    with safe_open.reached(path) as found:
        file = os.open(safe_open.by_number(found), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _check_own(path: str, found: os.stat_result, of_directory: int) -> None:
    if found.st_uid not in (0, os.geteuid(), of_directory) or found.st_mode & 0o022:
        raise Refusal(
            f"path: {path} lists the backups, and others than whose directory it is can write it (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}): look at it, and give it to that user alone"
        )


# -- what is in it -----------------------------------------------------------------------------------------------------

_OPTIONAL_TEXT, _OPTIONAL_NUMBER = (str, type(None)), (int, type(None))
_TYPES: Dict[Any, Dict[str, Any]] = {
    Image: {
        **{"file": str, "size": int, "backing": _OPTIONAL_TEXT, "written": int, "dirty": _OPTIONAL_NUMBER},
        **{"node": str, "bitmap": _OPTIONAL_TEXT, "source": object},
    },
    Backup: {"number": int, "level": str, "why": str, "time": str, "quiesced": bool, "disks": dict},
    Chain: {"name": str, "vm": dict, "backups": list},
}


def _checked(found: Dict[str, Any]) -> Chain:
    """Return a document as what it lists. Raise ValueError and its kin for one that was not written here."""
    chain: Chain = _typed(Chain, found)
    backups: List[Backup] = []
    files: Dict[str, str] = {}
    for entry in chain.backups:
        backup: Backup = _typed(Backup, entry)
        images = {disk: _typed(Image, image) for disk, image in backup.disks.items()}
        backups.append(backup._replace(disks=images))
        _check_backup(backups)
        for disk, image in images.items():
            _check_image(disk, image, backup.number, files)
        files.update((image.file, disk) for disk, image in images.items())
    return chain._replace(backups=backups)


def _typed(kind: Any, entry: Any) -> Any:
    made = kind(**entry)
    for name, value in made._asdict().items():
        types = _TYPES[kind][name]
        if not isinstance(value, types) or (isinstance(value, bool) and types not in (bool, object)):
            raise TypeError(f"{name} is {value!r}")
        if types in (int, _OPTIONAL_NUMBER) and value is not None and value < 0:
            raise ValueError(f"{name} is {value}")
    return made


def _check_backup(backups: Sequence[Backup]) -> None:
    backup = backups[-1]
    if backup.number <= (backups[-2].number if len(backups) > 1 else 0):
        raise ValueError(f"backup {backup.number} is out of order")
    if backup.level not in LEVELS:
        raise ValueError(f"backup {backup.number} is of the level {backup.level!r}")
    if not backup.disks:
        raise ValueError(f"backup {backup.number} has no disk")
    backup.when  # noqa: B018  raises ValueError


def _check_image(disk: str, image: Image, number: int, before: Dict[str, str]) -> None:
    """Raise ValueError for an image that is not in the directory, or stands on none that an earlier backup has of the disk."""
    if not _DISK.match(disk):
        raise ValueError(f"{disk!r} is not a valid name of a disk")
    if image.file not in [file_name(disk, number, level) for level in LEVELS]:
        raise ValueError(f"{image.file!r} is not a valid name of an image: {disk}/{number}-LEVEL.qcow2 is")
    if image.backing is not None and before.get(image.backing) != disk:
        raise ValueError(
            f"the backing file of {image.file} is {image.backing!r}, which is not in an earlier backup of {disk}"
        )


# -- choosing ----------------------------------------------------------------------------------------------------------


def seconds(option: str, text: str) -> int:
    """Return how long ``1d`` is, or ``12h`` or ``30m``. Raise Refusal for what is not a valid period."""
    found = _PERIOD.match(text)
    if not found:
        raise Refusal(f"{option}: {text!r} is not a valid period: write it as 1d, 12h, 30m, 90s or 2w")
    return int(found.group(1)) * _SECONDS[found.group(2)]


def why_due(chain: Chain | None, every: int, now: float) -> str:
    """Return why the next backup is due; empty while the newest one is younger than so many seconds."""
    newest = chain.newest if chain else None
    if newest is None:
        return "there is no backup yet"
    age = now - newest.when.timestamp()
    if age < 0:
        return (
            f"backup {newest.number} is of {newest.time}, which is yet to come: the clock was wrong then, or is now, "
            "so how old it is is not known"
        )
    return "" if age < every else f"backup {newest.number} is {timedelta(seconds=int(age))} old"


def chosen(chain: Chain, until: str | None) -> Backup:
    """Return the newest backup, that of a number, or the newest one until a time (UTC, unless it says otherwise). Raise Refusal."""
    if chain.newest is None:
        raise Refusal(f"name: there is no complete backup {chain.name!r}")
    if until is None:
        return chain.newest
    first = chain.backups[0]
    if until.isdigit():
        for backup in chain.backups:
            if until == str(backup.number):
                return backup
        numbers = ", ".join(str(backup.number) for backup in chain.backups)
        raise Refusal(f"until: there is no backup {until}, only {numbers}")
    moment = _moment(until)
    found = [backup for backup in chain.backups if backup.when <= moment]
    if not found:
        raise Refusal(f"until: there is no backup until {until}: the first one, {first.number}, is of {first.time}")
    return max(found, key=lambda backup: (backup.when, backup.number))


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise Refusal(
            f"until: {text!r} is neither the number of a backup nor a time such as 2026-11-28T21:50:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
