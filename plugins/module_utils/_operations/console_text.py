# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a guest shows, made fit to be searched and shown: whoever rules the guest writes it, terminal sequences and all."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Deque, Iterator, List, NamedTuple, Sequence, Tuple

from .._core.errors import OperationFailed
from .._core.step import REDACTED

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

LONGEST_LINE = 1 << 13
"""Bytes after which a line is taken for two."""
_KEPT = 1 << 16
# Seconds of the processor for one search: some expressions take for ever on a text that somebody has made for them.
_PATIENCE = 2.0
# ECMA-48: a control sequence with its last letter; a string; another escape; the beginning of one of them at the end.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*([@-~])|\x1b[\]PX^_][^\x00-\x1f]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-Z\\`-~]|\x1b(?:\[[0-?]*[ -/]*)?$"
)
# They put the cursor elsewhere, as firmware does in the place of line ends.
_MOVES = frozenset("ABEFHJdf")
# What code page 437 shows for the codes that are control characters elsewhere.
_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_COLUMNS = 80


class Wanted(NamedTuple):
    """What is looked for, in each line by itself."""

    name: str
    """As messages call it: ``expect[0]: regex 'x+'``."""
    pattern: Any
    """Compiled."""
    slow: bool
    """Whether it is an expression of the user's, which can take for ever, and match less or more."""


class Transcript:
    """A stream of what a guest prints, searched once from front to back."""

    def __init__(self) -> None:
        self._rest = b""
        self._unread: Deque[Tuple[str, int]] = deque()  # whole lines, with how long they were
        self._at = 0  # where the search goes on in the first of them, or in the rest
        self._lines: Deque[str] = deque()
        self._kept = 0
        self.quiet = False
        """Whether nothing came at the last look: an expression may match more of a line that is still being printed."""
        self.passed = 0
        """The bytes of the lines that were searched to their end."""

    def feed(self, data: bytes) -> None:
        """Take what was printed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            while len(line) > LONGEST_LINE:
                self._add(line[:LONGEST_LINE], LONGEST_LINE)
                line = line[LONGEST_LINE:]
            self._add(line, len(line) + 1)
        while len(self._rest) > LONGEST_LINE:
            self._add(self._rest[:LONGEST_LINE], LONGEST_LINE)
            self._rest = self._rest[LONGEST_LINE:]

    def _add(self, line: bytes, size: int) -> None:
        text = clean(line)
        self._unread.append((text, size))
        for part in filter(str.strip, text.split("\n")):
            self._lines.append(part)
            self._kept += len(part)
        while self._kept > _KEPT:
            self._kept -= len(self._lines.popleft())

    def find(self, wanted: Sequence[Wanted], deadline: Deadline | None = None) -> Tuple[int, Any] | None:
        """Return which one comes first and its match, and go on behind it the next time. Raise OperationFailed as ``first``.

        Give up a while after the deadline: many lines that each take long are as bad as one that takes for ever.
        """
        last = time.monotonic() + _PATIENCE
        while True:
            text = self._unread[0][0] if self._unread else clean(self._rest)
            found = first(wanted, text, self._at)
            if found is not None:
                grows = not self._unread and found[1].end() == len(text) and wanted[found[0]].slow
                if grows and not self.quiet:
                    return None
                self._at = found[1].end()
                return found
            if not self._unread or (deadline and deadline.expired and time.monotonic() > last):
                return None
            self.passed += self._unread.popleft()[1]
            self._at = 0

    @property
    def read(self) -> int:
        """The bytes up to the end of the line that was found last."""
        if not self._at:
            return self.passed
        return self.passed + (self._unread[0][1] if self._unread else len(self._rest))

    @property
    def lines(self) -> List[str]:
        """The last lines, without empty ones."""
        return [*self._lines, *filter(str.strip, clean(self._rest).split("\n"))]


class Picture:
    """A text screen, as its memory has it."""

    def __init__(self, data: bytes = b"") -> None:
        """Take the memory: a character and its colours for each place."""
        step = 2 * _COLUMNS
        self.is_text = len(set(data)) > 1  # a card that shows a picture has one byte everywhere, and none at all, too
        rows = (data[at : at + step : 2] for at in range(0, len(data) if self.is_text else 0, step))
        self.lines = [text for text in map(_row, rows) if text]

    def find(self, wanted: Sequence[Wanted]) -> Tuple[int, Any] | None:
        """Return which one comes first and its match. Raise OperationFailed as ``first``."""
        return first(wanted, "\n".join(self.lines), 0)


def _row(codes: bytes) -> str:
    text = codes.decode("cp437").replace("\x7f", "⌂").replace("\xa0", " ")
    return "".join(_GLYPHS[ord(char)] if char < " " else char for char in text).rstrip()


def clean(line: bytes) -> str:
    """Return the text of a line, with a newline where the cursor was put elsewhere, and nothing that a terminal would act on."""
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    text = _SEQUENCE.sub(lambda found: "\n" if found.group(1) in _MOVES else "", text).replace("\r", "\n")
    text = "".join(char for char in text if char.isprintable() or char in "\n\t")
    return re.sub("\n{2,}", "\n", text).strip("\n")


def first(wanted: Sequence[Wanted], text: str, at: int) -> Tuple[int, Any] | None:
    """Return which one matches first from there on, and the match. Raise OperationFailed for one that takes too long."""
    best = None
    with _patience(any(one.slow for one in wanted)):
        for number, one in enumerate(wanted):
            try:
                found = one.pattern.search(text, at)
            except _TooLong as exc:
                raise OperationFailed(
                    f"{one.name} takes more than {_PATIENCE:.4g} s of the processor on a line that the guest has printed: write it "
                    "without repetitions in repetitions"
                ) from exc
            if found and (best is None or found.start() < best[1].start()):
                best = number, found
    return best


class _TooLong(Exception):
    """A search has used up its time."""


@contextmanager
def _patience(needed: bool) -> Iterator[None]:
    """Raise _TooLong in here when the processor's time is up. Only Python's main thread can."""
    if not needed or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def hide(lines: Sequence[str], secrets: Sequence[str]) -> List[str]:
    """Return the lines without the secrets, also where one goes on in the next line, or is not whole yet at the end."""
    marks = [bytearray(len(line)) for line in lines]
    places = [(row, at) for row, line in enumerate(lines) for at, char in enumerate(line) if not char.isspace()]
    text = "".join(lines[row][at] for row, at in places)
    for secret in ("".join(word.split()) for word in secrets):
        found = text.find(secret) if secret else -1
        while found >= 0:
            for row, at in places[found : found + len(secret)]:
                marks[row][at] = 1
            found = text.find(secret, found + 1)
        begun = next((size for size in range(len(secret) - 1, 0, -1) if text.endswith(secret[:size])), 0)
        for row, at in places[len(places) - begun :]:
            marks[row][at] = 1
    return [_masked(line, mark) for line, mark in zip(lines, marks)]


def hide_part(text: str | None, secrets: Sequence[str]) -> str | None:
    """Return what an expression has found without the secrets, and nothing of it where it may be a part of one."""
    if text is None:
        return None
    packed = "".join(text.split())
    if len(packed) > 2 and any(packed in "".join(secret.split()) for secret in secrets):
        return REDACTED
    return "\n".join(hide(text.split("\n"), secrets))


def _masked(line: str, mark: bytearray) -> str:
    shown = "".join("\0" if hidden else char for char, hidden in zip(line, mark))
    return re.sub(r"\x00+(?:\s+\x00+)*", REDACTED, shown)
