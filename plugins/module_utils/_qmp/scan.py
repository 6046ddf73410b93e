# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Finding the end of a JSON value in bytes that arrive in pieces, by counting brackets outside strings.

Imported only when a message does not come in pieces that the C decoder can read at once: the patterns are slow to
compile.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import re

# Up to the next bracket, over whole strings; or to the quote of a string that stays open, or to the end.
_TOKEN = re.compile(
    rb'[^"{}\[\]]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"{}\[\]]*)*(?:([{\[])|([}\]])|(")|\Z)',
    re.DOTALL,
)
STRING_END = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# Within a message, what follows a closing brace is a comma or another closing one.
AFTER_END = re.compile(rb"\}[ \t\r\n]*[^ \t\r\n,\]}]")
SPACE = re.compile(rb"[ \t\r\n]*")


def follow(chunk: bytes, pos: int, depth: int) -> tuple[int, int, int]:
    """Follow brackets from ``pos`` (outside a string): (end of the value or -1, depth, 1 if a string stays open)."""
    for token in _TOKEN.finditer(chunk, pos):
        kind = token.lastindex
        if kind is None:
            continue
        if kind == 1:
            depth += 1
        elif kind == 2:
            depth -= 1
            if depth <= 0:
                return token.end(), 0, 0
        else:
            return -1, depth, open_string(chunk, token.end())
    return -1, depth, 0


def open_string(chunk: bytes, start: int) -> int:
    """1, or 2 if the chunk ends on a backslash that escapes the next byte."""
    tail = chunk[start:]
    return 1 + (len(tail) - len(tail.rstrip(b"\\"))) % 2
