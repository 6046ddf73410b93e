# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A small ISO 9660 volume with Joliet names, as bytes. The same files are always the same bytes.

After ECMA-119 and the Joliet specification. A volume of one directory is so little that no program is needed for it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import struct
from typing import Dict, List, NamedTuple, Tuple

SECTOR = 2048
_DESCRIPTORS = 16
HEAD = (_DESCRIPTORS + 1) * SECTOR
"""How much of a volume tells its label."""
# Two descriptors and their end, then for each of both trees its two path tables and its one directory.
_TABLES = _DESCRIPTORS + 3
_DIRECTORIES = _TABLES + 4
_FILES = _DIRECTORIES + 2
# 1980-01-01: a time of its own would make it another volume each time.
_RECORD_TIME = bytes([80, 1, 1, 0, 0, 0, 0])
_TIME = b"1980010100000000\0"
_NO_TIME = b"0" * 16 + b"\0"
_UCS2_LEVEL_3 = b"%/E"
_DIRECTORY = 2


class _File(NamedTuple):
    name: str
    first: int
    length: int


def volume(label: str, files: Dict[str, bytes]) -> bytes:
    """Return the volume. Names are of letters, digits and ``-``; it has one directory. Raise ValueError if that is too small."""
    placed, sector = [], _FILES
    for name, content in sorted(files.items()):
        placed.append(_File(name, sector, len(content)))
        sector += _sectors(len(content))
    trees = [_directory(_DIRECTORIES + tree, placed, tree == 1) for tree in (0, 1)]
    parts = [bytes(_DESCRIPTORS * SECTOR)]
    parts += [_descriptor(label, sector, tree == 1) for tree in (0, 1)]
    parts.append(_padded(b"\xffCD001\x01"))
    parts += [_padded(_path_table(_DIRECTORIES + tree, order)) for tree in (0, 1) for order in "<>"]
    parts += trees
    parts += [_padded(files[file.name]) for file in placed]
    return b"".join(parts)


def label(start: bytes) -> str | None:
    """Return a volume's label, from its first HEAD bytes; None for anything else."""
    descriptor = start[_DESCRIPTORS * SECTOR :]
    return descriptor[40:72].decode("ascii", "replace").rstrip() if descriptor[:6] == b"\x01CD001" else None


def _sectors(length: int) -> int:
    return -(-length // SECTOR)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR)


def _both(value: int) -> bytes:
    """Return a number in both byte orders, as most are written."""
    return struct.pack("<I", value) + struct.pack(">I", value)


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _record(identifier: bytes, first: int, length: int, flags: int = 0) -> bytes:
    """Return a directory's entry; always of an even length."""
    body = b"\0" + _both(first) + _both(length) + _RECORD_TIME + bytes([flags, 0, 0]) + _both16(1)
    body += bytes([len(identifier)]) + identifier
    body += bytes((len(body) + 1) % 2)
    return bytes([len(body) + 1]) + body


def _directory(sector: int, files: List[_File], joliet: bool) -> bytes:
    """Return the root directory: itself, its parent (which is itself) and the files."""
    records = [_record(name, sector, SECTOR, _DIRECTORY) for name in (b"\0", b"\1")]
    named: List[Tuple[bytes, _File]] = [(_identifier(file.name, joliet), file) for file in files]
    records += [_record(name, file.first, file.length) for name, file in sorted(named)]
    content = b"".join(records)
    if len(content) > SECTOR:
        raise ValueError("too many files for a volume of one sector's directory")
    return _padded(content)


def _identifier(name: str, joliet: bool) -> bytes:
    """Return who knows no Joliet reads the other name in small letters, without its dot and version."""
    return name.encode("utf-16-be") if joliet else f"{name.upper()}.;1".encode("ascii")


def _path_table(sector: int, order: str) -> bytes:
    return struct.pack(f"{order}BBIH", 1, 0, sector, 1) + b"\0\0"


def _descriptor(label: str, sectors: int, joliet: bool) -> bytes:
    """Return the primary volume descriptor, or Joliet's supplementary one."""
    codec = "utf-16-be" if joliet else "ascii"

    def text(value: str, length: int) -> bytes:
        encoded = value.encode(codec)[:length]
        return encoded + (" ".encode(codec) * length)[: length - len(encoded)]

    tree = int(joliet)
    little, big = (_TABLES + 2 * tree, _TABLES + 2 * tree + 1)
    parts = [
        bytes([1 + tree]) + b"CD001\x01\0",
        text("", 32) + text(label, 32) + bytes(8) + _both(sectors),
        (_UCS2_LEVEL_3 if joliet else b"").ljust(32, b"\0"),
        _both16(1) + _both16(1) + _both16(SECTOR),
        _both(len(_path_table(0, "<"))),
        struct.pack("<II", little, 0) + struct.pack(">II", big, 0),
        _record(b"\0", _DIRECTORIES + tree, SECTOR, _DIRECTORY),
        text("", 128 * 4) + text("", 37 * 3),
        _TIME + _TIME + _NO_TIME + _NO_TIME + b"\x01\0",
    ]
    return _padded(b"".join(parts))
