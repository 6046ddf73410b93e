# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A disk at the moment of a backup: the images that it is in, opened so that qemu-img reads these and nothing else.

What is in them was written for a guest, by a process that it may have taken over. So nothing in a header is followed: which image
stands on which is told to qemu-img, as the list of backups has it, and each is open before that.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from .._core import safe_open
from .._core.errors import Refusal
from .._host import qcow2_header
from .chain import Backup, Chain, Image

Opened = List[Tuple[str, int]]
"""Paths, and the open file of each."""


class Point(NamedTuple):
    """A disk at that moment."""

    directory: str
    disk: str
    images: Sequence[Image]
    """From the top one down."""

    @property
    def size(self) -> int:
        """Return its bytes, as the guest sees it."""
        return self.images[0].size

    @property
    def paths(self) -> List[str]:
        """Return the images' paths."""
        return [os.path.join(self.directory, image.file) for image in self.images]

    @property
    def source(self) -> str:
        """Return what qemu-img is told to read."""
        return source(self.paths)

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Yield its images, open. Raise Refusal for one that is not there, or is not what is listed."""
        with ExitStack() as stack:
            files = [stack.enter_context(_opened(self.directory, image.file)) for image in self.images]
            for number, (path, file) in enumerate(zip(self.paths, files)):
                check_header(path, file, self.images[number])
            yield [(path, file.fileno()) for path, file in zip(self.paths, files)]


def points(directory: str, chain: Chain, backup: Backup, params: Dict[str, Any]) -> List[Point]:
    """Return the disks of a backup that a task is about, by their names. Raise Refusal for one that is not in it."""
    for option in ("disks", "exclude"):
        for disk in params[option] or ():
            if disk not in backup.disks:
                raise Refusal(f"{option}: backup {backup.number} has no disk {disk!r}, only {', '.join(backup.disks)}")
    wanted = backup.disks if params["disks"] is None else params["disks"]
    found = [disk for disk in dict.fromkeys(wanted) if disk not in (params["exclude"] or ())]
    if not found:
        raise Refusal(f"disks: no disk is left; backup {backup.number} has {', '.join(backup.disks)}")
    return [Point(directory, disk, chain.below(backup.disks[disk])) for disk in found]


def source(paths: Sequence[str], kind: str = "qcow2") -> str:
    """Return the name, for qemu-img, of an image which stands on those that follow, and on nothing that its header names."""
    below: Dict[str, Any] | None = None
    for path in reversed(paths):
        backing = {"backing": below} if kind == "qcow2" else {}
        below = {"driver": kind, "file": {"driver": "file", "filename": path}, **backing}
    return f"json:{json.dumps(below)}"


@contextmanager
def _opened(directory: str, file: str) -> Iterator[IO[bytes]]:
    """Yield an image, which is in the directory and no link. Raise Refusal."""
    path = os.path.join(directory, file)
    try:
        with safe_open.inside(directory, file) as (at, name):
            opened = safe_open.regular(name, directory=at)
    except OSError as exc:
        raise Refusal(f"path: {path}, which the backup needs, can't be read: {exc.strerror}") from exc
    with opened:
        yield opened


def check_plain(option: str, path: str, file: IO[bytes]) -> qcow2_header.Header:
    """Return the header of a qcow2 image whose data are in itself. Raise Refusal for anything else."""
    try:
        header = qcow2_header.read(file)
    except OSError as exc:
        raise Refusal(f"{option}: {path} can't be read: {exc.strerror}") from exc
    if header is None:
        raise Refusal(f"{option}: {path} is not a qcow2 image")
    if header.features & qcow2_header.DATA_FILE:
        raise Refusal(
            f"{option}: {path} says in its header that its data are in another file, which no backup's are: something else has "
            "written it"
        )
    if header.encryption:
        raise Refusal(f"{option}: {path} is encrypted, which no backup is: something else has written it")
    return header


def check_header(path: str, file: IO[bytes], image: Image) -> None:
    """Raise Refusal for an image that is not the one that is listed."""
    header = check_plain("path", path, file)
    if header.size != image.size:
        raise Refusal(f"path: {path} is a disk of {header.size} bytes, and the list of backups has it as {image.size}")
    named = os.fsdecode(header.backing_file)
    wanted = image.backing and os.path.join(path[: -len(image.file)], image.backing)
    if named and os.path.normpath(os.path.join(os.path.dirname(path), named)) != os.path.normpath(wanted or ""):
        raise Refusal(
            f"path: {path} has backing file {named!r} in its header, and the list of backups says "
            f"{image.backing or 'none'}: something else has written it"
        )
