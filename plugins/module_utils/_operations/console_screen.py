# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The screen of a guest: its text, read from the card's memory, or a picture to compare with the next."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Callable, List, Sequence, Tuple

from .._core import safe_open
from .._core.errors import NotDoneInTime, OperationFailed
from .._qmp import errors
from .console_source import FEW, GONE, HINT_SECONDS, Source
from .console_text import Picture

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .console_text import Wanted

# A VGA card's text memory, all of it: Linux scrolls by moving through it. It is read without a file, so over TCP too.
_MEMORY = "xp /4096gx 0xb8000"
# Seconds for one look: what is waited for may have a time of its own, which ends long before the task's.
_ANSWER = 2.0


class Screen(Source):
    """The screen of a PC's graphics card in text mode."""

    name = "the screen"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._vm = task.connect()
        self._data = b""
        self._shown = Picture()
        self._last: Tuple[List[str], List[int]] = [], []  # all lines when some were new, and which of them
        self._pictures: Pictures | None = None

    def close(self) -> None:
        """Take back what QEMU was given for pictures."""
        if self._pictures is not None:
            self._pictures.close()

    @property
    def mark(self) -> Any:
        """What is another value when the screen shows something new."""
        if self._shown.is_text or self.ended:
            return self._data
        if self._pictures is None:
            self._pictures = Pictures(self._vm)
        return self._pictures.take()

    @property
    def lines(self) -> List[str]:
        """What it shows, without empty lines."""
        return self._shown.lines

    def last(self, hidden: Callable[[List[str]], List[str]]) -> List[str]:
        """Return the lines that came last, a few, with what may be shown of them."""
        lines, numbers = self._last
        shown = hidden(lines)
        return [shown[number] for number in numbers]

    @property
    def hint(self) -> str:
        """Why what is waited for may not come, if there is something to say."""
        no_text = "" if self._shown.is_text else "; it shows no text, but perhaps a picture, in which nothing is read"
        return self.state_hint() or no_text

    def find(self, wanted: Sequence[Wanted]) -> Tuple[int, Any] | None:
        """Return which of them shows first and its match; None: none does."""
        return self._shown.find(wanted)

    def look(self, seconds: float) -> bool:
        """Wait, then look at the screen."""
        self.ended = self.monitor_pause(seconds) if seconds else ""
        if not self.ended:
            before = self._shown.lines
            self._data = self._memory()
            self._shown = Picture(self._data)
            new = [number for number, line in enumerate(self.lines) if line not in before]
            self._last = (self.lines, new[-FEW:]) if new else self._last
        return False

    def _memory(self) -> bytes:
        """Return the text memory as it is now, or was at the last look where QEMU does not answer."""
        try:
            text = self._vm.session.execute(
                "human-monitor-command", {"command-line": _MEMORY}, timeout=_ANSWER, deadline=self._vm.deadline
            )
        except errors.CommandTimeout:
            return self._data
        except errors.Disconnected:
            self.ended = GONE
            return self._data
        words = re.findall(r"0x([0-9a-f]{16})", text)
        return b"".join(int(word, 16).to_bytes(8, "little") for word in words)


class Pictures:
    """Pictures of the screen by QEMU's own screendump, into a file without a name, of which it is given the descriptor."""

    def __init__(self, vm: VM) -> None:
        """Raise OperationFailed where no descriptor can be handed over, and the session's errors."""
        if not vm.local:
            raise OperationFailed(
                "stable: the screen shows no text, and no picture can be had over TCP: run the task on the virtual machine's host"
            )
        self._session = vm.session
        self._given = -1
        self._file = os.memfd_create("console", os.MFD_CLOEXEC)
        try:
            self._given = os.open(safe_open.by_number(self._file), os.O_WRONLY | os.O_CLOEXEC)
            self._set = self._session.execute("add-fd", timeout=_ANSWER, fds=[self._given])["fdset-id"]
        except BaseException:
            self._close_files()
            raise

    def close(self) -> None:
        """Take back the descriptor that QEMU has. Where it does not answer, it closes it with this session."""
        with contextlib.suppress(errors.QMPError):
            self._session.execute("remove-fd", {"fdset-id": self._set}, timeout=HINT_SECONDS)
        self._close_files()

    def _close_files(self) -> None:
        for fd in (self._given, self._file):
            with contextlib.suppress(OSError):
                os.close(fd)

    def take(self) -> str:
        """Return the digest of what the screen shows now."""
        os.ftruncate(self._file, 0)
        os.lseek(self._given, 0, os.SEEK_SET)
        try:
            self._session.execute("screendump", {"filename": f"/dev/fdset/{self._set}"}, timeout=_ANSWER)
        except errors.CommandTimeout as exc:
            raise NotDoneInTime("stable: QEMU does not answer, so that no picture of the screen can be had") from exc
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            return hashlib.sha256(file.read()).hexdigest()
