# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What the header of a qcow2 image tells, and with it whether an image lies below what a snapshot has put over it."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import struct
from typing import IO, Callable, Dict, List, NamedTuple

from .._core import safe_open
from .._core.errors import Refusal

# As QEMU's docs/interop/qcow2 has it: magic, version, backing file's offset and length, cluster bits, size, encryption, entries and
# offset of the L1 table, offset and clusters of the refcount table, internal snapshots.
_HEADER = struct.Struct(">4sIQIIQIIQQII")
# From version 3 on: what a program must know of to read the image.
_FEATURES = struct.Struct(">Q")
DATA_FILE = 1 << 2
"""Its data are in another file, which it names."""
_LONGEST_NAME = 1023
_DEEPEST = 64


class Header(NamedTuple):
    """A part of it."""

    backing_file: bytes
    """As it is written there; empty where the image stands on nothing."""
    size: int
    """In bytes, as a guest sees it."""
    l1_entries: int
    l1_offset: int
    snapshots: int
    encryption: int
    """0: none."""
    features: int
    """What a program must know of to read it, such as DATA_FILE."""


def read(image: IO[bytes]) -> Header | None:
    """Return it; None for what is not a qcow2 image. Raise OSError."""
    found = image.read(_HEADER.size)
    if len(found) < _HEADER.size or found[:4] != b"QFI\xfb":
        return None
    _magic, version, backing_at, length, _bits, size, crypt, entries, l1_at, _refs, _clusters, snapshots = (
        _HEADER.unpack(found)
    )
    image.seek(_HEADER.size + 8)  # the offset of the snapshots is before them
    features = _FEATURES.unpack(image.read(8).rjust(8, b"\0"))[0] if version > 2 else 0
    image.seek(backing_at)
    name = image.read(min(length, _LONGEST_NAME)) if backing_at else b""
    return Header(name, size, entries, l1_at, snapshots, crypt, features)


def overlays(directory: str) -> Dict[str, List[str]]:
    """Return the names in a directory that snapshots of disks would have given, by the disk's id. Raise OSError."""
    found: Dict[str, List[str]] = {}
    for name in os.listdir(directory):
        disk, at, _snapshot = name.partition("@")
        if at:
            found.setdefault(disk, []).append(name)
    return found


def check_top(option: str, path: str, disk: str, listed: Callable[[str], Dict[str, List[str]]] = overlays) -> None:
    """Raise Refusal for an image over which a snapshot of the disk has left an overlay: the guest wrote to that since.

    ``disk``: the device's id, with which the names of such overlays begin. They are in the image's own directory, if no other was
    named for them. ``listed``: what ``overlays`` returns, for who checks many images.
    """
    over = top = _over(path, disk, listed)
    for _depth in range(_DEEPEST):
        if not over:
            break
        top, over = over, _over(over, disk, listed)
    if top:
        raise below(option, path, top)


def below(option: str, path: str, top: str) -> Refusal:
    """Return the error for an image that is named as a disk and has become what the disk stands on."""
    return Refusal(
        f"{option}: {path} lies below {top}, which has what the guest has written since a snapshot was taken. Name {top} as "
        "the disk; or write it into what is below (qemu_disk_snapshot, or qemu-img commit while nobody uses it); or remove it, if "
        "that is not wanted"
    )


def _over(path: str, disk: str, listed: Callable[[str], Dict[str, List[str]]]) -> str:
    """Return the overlay that stands on an image; empty where there is none."""
    directory, own = os.path.split(path)
    with contextlib.suppress(OSError):
        for name in sorted(listed(directory).get(disk, [])):
            over = os.path.join(directory, name)
            if name.endswith(".qcow2") and name != own and _stands_on(over, path):
                return over
    return ""


def _stands_on(over: str, path: str) -> bool:
    with contextlib.suppress(OSError), safe_open.regular(over) as image:
        found = read(image)
        name = os.fsdecode(found.backing_file) if found else ""
        return bool(name) and os.path.realpath(os.path.join(os.path.dirname(over), name)) == os.path.realpath(path)
    return False
