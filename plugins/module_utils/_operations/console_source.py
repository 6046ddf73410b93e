# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Where a guest's console is read: the log or the socket of a serial line."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
from typing import IO, TYPE_CHECKING, Any, Callable, List, Sequence, Tuple

from .._core import safe_open
from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.interrupt import pause
from .._host.part_file import check_absolute
from .._qmp import errors
from .._qmp.address import parse
from .._qmp.connection import open_socket
from .._qmp.deadline import Deadline, Limit
from .._qmp.holder import find_holder
from .console_text import Transcript

if TYPE_CHECKING:
    from .._core.task import Task
    from .console_text import Wanted

_CHUNK = 1 << 16
_BUSY_PAUSE = 0.05
# Lines in a message, and seconds that it takes to say more in it.
FEW = 3
HINT_SECONDS = 1.0
GONE = "the virtual machine has ended"


class Source:
    """What all of them have in common: a stream, unless they say otherwise."""

    name = ""
    """As messages call it."""
    ended = ""
    """Why nothing more will come; empty: more may."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.stream = Transcript()
        self.heard = 0

    @property
    def offset(self) -> int | None:
        """Where to go on reading, of a log."""
        return None

    def close(self) -> None:
        """End reading."""

    def look(self, seconds: float) -> bool:
        """Take in what is new, wait so long for it at most, and tell whether there may be more already."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """Add to the stream what has come, if anything."""
        self.heard += len(data)
        self.stream.quiet = not data
        self.stream.feed(data)

    @property
    def mark(self) -> Any:
        """What is another value when the guest has shown something new."""
        return self.heard

    @property
    def lines(self) -> List[str]:
        """The last lines, without empty ones."""
        return self.stream.lines

    def last(self, hidden: Callable[[List[str]], List[str]]) -> List[str]:
        """Return the lines that came last, a few, with what may be shown of them: a secret can go over more lines than these."""
        return hidden(self.lines)[-FEW:]

    @property
    def hint(self) -> str:
        """Why what is waited for may not come, if there is something to say."""
        return ""

    def find(self, wanted: Sequence[Wanted]) -> Tuple[int, Any] | None:
        """Return which of them comes first and its match; None: none does."""
        return self.stream.find(wanted, self.task.deadline)

    def find_now(self, wanted: Sequence[Wanted]) -> Tuple[int, Any] | None:
        """Return what comes first of that which shows already, as ``find``."""
        more = True
        while more:
            more = self.look(0.0) and not self.task.deadline.expired
            found = self.find(wanted)
            if found is not None:
                return found
        return None

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write to the line. Only a serial socket can."""
        raise NotImplementedError

    def monitor_pause(self, seconds: float) -> str:
        """Wait, or return sooner when the VM's monitor has something to tell. Return why nothing more will come, if so."""
        try:
            with contextlib.suppress(errors.CommandTimeout):
                self.task.connect().session.wait_event(timeout=seconds, deadline=self.task.deadline)
        except errors.Disconnected:
            return GONE
        return ""

    def state_hint(self) -> str:
        """Return that the VM does not run, if that is so and its monitor says so."""
        try:
            status = self.task.connect().session.execute("query-status", timeout=HINT_SECONDS)["status"]
        except errors.CommandTimeout:
            return "; QEMU does not answer"
        except errors.QMPError:
            return ""
        return "" if status == "running" else f"; the virtual machine is {status}"


class Log(Source):
    """The file that QEMU keeps of what the guest prints on a serial line (``logfile``), whoever else reads the line."""

    def __init__(self, task: Task, path: str, offset: int) -> None:
        super().__init__(task)
        self.name = f"the log {path}"
        self._path = path
        check_absolute("path", path)
        self._file: IO[bytes] | None = None
        self._next = offset
        self._shift = offset
        self._watches = bool(task.params["socket"])
        self._gone = ""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def offset(self) -> int | None:
        """Where to go on reading."""
        return max(0, self._shift + self.stream.read)

    @property
    def hint(self) -> str:
        """Why what is waited for may not come, if there is something to say."""
        if self._file is None:
            return "; there is no such file"
        return self.state_hint() if self._watches and not self._gone else ""

    def look(self, seconds: float) -> bool:
        """Take in what is new, wait so long for it at most, and tell whether there may be more already."""
        if self._read():
            return True
        self.ended = self._gone
        if self.ended or not seconds:
            return False
        self._wait(seconds)
        return self._read()

    def _wait(self, seconds: float) -> None:
        """Wait, and see meanwhile whether the VM ends, where the task names its monitor and nobody else has it."""
        if not self._watches:
            pause(seconds)
            return
        try:
            self._gone = self.monitor_pause(seconds)
        except errors.MonitorBusy:
            self._watches = False
        except errors.ConnectError as exc:
            if not exc.nobody:
                raise
            self._gone = str(exc)

    def _read(self) -> bool:
        """Take in what the file has more than before, and tell whether there may be more still."""
        try:
            if self._file is None:
                self._open()
            data = self._file.read(_CHUNK) if self._file is not None else b""
            self.take(data)
            return bool(data) or self._was_replaced()
        except OSError as exc:
            raise Refusal(f"path: can't read {self._path}: {exc.strerror}") from exc

    def _open(self) -> None:
        """Open the file, where there is one. One that is shorter than where to begin was cut, and is read from its start."""
        with contextlib.suppress(FileNotFoundError), safe_open.parent(self._path) as (directory, name):
            self._file = safe_open.regular(name, directory=directory)
            if self._next > os.fstat(self._file.fileno()).st_size:
                self._next = 0
            self._file.seek(self._next)
            self._shift = self._next - self.heard

    def _was_replaced(self) -> bool:
        """Tell whether the file, which was read to its end, was cut, or another one is in its place: that is read next."""
        if self._file is None:
            return False
        now, there = os.fstat(self._file.fileno()), None
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(self._path, follow_symlinks=False)
        if (there is None or os.path.samestat(now, there)) and now.st_size >= self._file.tell():
            return False
        self.close()
        self._next = 0
        self.take(b"\n")  # what it begins with is not the end of the line before
        return True


class Serial(Source):
    """The socket of a serial line, which QEMU serves to one client at a time. What was printed before is not told."""

    def __init__(self, task: Task, path: str) -> None:
        super().__init__(task)
        self.name = f"the serial line at {path}"
        self._deadline = Deadline(
            min(task.params["connect_timeout"], task.deadline.remaining() or 0.0), task.deadline.stop
        )
        self._socket = self._connect(path, Limit(None, self._deadline, 0.0))

    def _connect(self, path: str, limit: Limit) -> socket.socket:
        """Return a socket that QEMU has taken, as far as the system tells. Raise NotDoneInTime where another client is there."""
        try:
            address, line = parse(path), None
        except errors.ConnectError as exc:
            raise Refusal(f"path: {str(exc).replace('monitor address', 'address of a serial line')}") from exc
        try:
            while True:
                if line is None:
                    with contextlib.suppress(BlockingIOError):  # another one stands in line already
                        line = open_socket(address, None, limit)
                holder, taken = find_holder(address, line)
                if line is not None and (taken is not False or _readable(line, 0.0)):
                    return line
                if limit.expired:
                    break
                pause(_BUSY_PAUSE)
        except BaseException:
            if line is not None:
                line.close()
            raise
        if line is not None:
            line.close()
        who = f"process {holder[0]} ({holder[1]})" if holder else "another client"
        raise NotDoneInTime(
            f"{self.name}: {who} is attached to it, and QEMU serves one at a time: end that client, or read the line's log "
            "(from: log)"
        )

    def close(self) -> None:
        """Leave the line to others."""
        self._socket.close()

    def look(self, seconds: float) -> bool:
        """Take in what has come, wait so long for it at most, and tell whether there may be more already."""
        if not _readable(self._socket, seconds):
            self.take(b"")
            return False
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.take(data)
        if not data:
            self.ended = GONE
        return bool(data)

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write to the line, as fast as the guest reads. Raise NotDoneInTime, and OperationFailed where the VM has ended."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._wait_for_guest(deadline)
            except OSError as exc:
                raise OperationFailed(f"{self.name}: {GONE} ({exc.strerror})") from exc
        while self._unsent():  # QEMU drops what it has not read when a client leaves
            self._wait_for_guest(deadline)

    def _wait_for_guest(self, deadline: Deadline) -> None:
        if deadline.expired:
            raise NotDoneInTime(f"{self.name}: the guest does not read what is typed")
        pause(_BUSY_PAUSE)

    def _unsent(self) -> int:
        """Return how much QEMU has not read yet; of TCP what has not arrived."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


def _readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
