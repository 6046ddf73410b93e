# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Programs and files of a guest, by its agent, with all that is peculiar to that."""
# Private to the collection: may change without notice.

from __future__ import annotations

import base64
import time

from . import errors
from .agent import NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Mapping, Sequence

    from .agent import Agent
    from .deadline import Deadline

LONGEST_WORD = (128 << 10) - 1
"""The bytes that Linux takes as one word of a command line, or as one variable of an environment."""
LONGEST_INPUT = 40 << 20
"""The agent takes 64 MiB as one text of JSON, and base64 makes four bytes of three."""
KEPT = 16 << 20
"""What the agent keeps of each stream of a program. The rest is lost."""
CHUNK = 1 << 20

# A status is asked for after a twentieth of the time that the program has run so far.
_SOONEST, _SLOWEST, _SHARE = 0.005, 0.5, 20
# An agent that a distribution's service starts has PATH, LANG and PWD, and nothing else; HOME is its user's. A process each
# for id, getent and cut takes an emulated guest several times as long.
_ENVIRONMENT = """
while read -r key user rest; do [ "$key" = Uid: ] && break; done </proc/self/status
HOME=/
while IFS=: read -r name word id group text home rest; do [ "$id" = "$user" ] && HOME=$home && break; done </etc/passwd
export HOME
exec cat /proc/self/environ
"""


class OutcomeUnknown(errors.QMPError):
    """Something was, or may have been, started in the guest, and how it ended is not known. ``pid``: its process, if told."""

    def __init__(self, why: str, pid: int | None = None) -> None:
        super().__init__(f"outcome unknown: {why}")
        self.pid = pid


class Ended:
    """How a program ended: by ``code``, or by ``signal``, and the other is None; and what it wrote."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        signal = _number(status, "signal") if "signal" in status else 0
        self.signal: int | None = signal or None
        self.code: int | None = None if signal else _number(status, "exitcode")
        self.rc = -signal if signal else int(self.code or 0)
        """The exit status as Python has it: below zero for a signal."""
        self.out = _data(status, "out-data") if "out-data" in status else b""
        self.err = _data(status, "err-data") if "err-data" in status else b""
        self.cut = [name for name in ("out", "err") if status.get(f"{name}-truncated")]
        """Of which streams something was lost."""


def _number(reply: Any, name: str) -> int:
    """Return a number of a reply. Raise ProtocolError for what is not one: whoever rules the guest can answer anything."""
    try:
        return int(reply[name])
    except (TypeError, KeyError, ValueError, OverflowError):
        raise errors.ProtocolError(f"the guest's agent has answered without a valid {name}") from None


def _data(reply: Any, name: str) -> bytes:
    """Return the bytes of a reply. Raise ProtocolError for what is not valid base64."""
    try:
        return base64.b64decode(reply[name])
    except (TypeError, KeyError, ValueError):
        raise errors.ProtocolError(f"the guest's agent has answered without a valid {name}") from None


def run(
    agent: Agent,
    argv: Sequence[str],
    deadline: Deadline,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program, and return how it ended: when it and all that it left with its streams have closed them.

    ``env`` replaces all that the agent would give it. Raise OutcomeUnknown from when it may have been started, and before that
    what ``Agent.execute`` raises: nothing was started then.
    """
    asked: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    if stdin is not None:
        asked["input-data"] = base64.b64encode(stdin).decode()
    if env is not None:
        asked["env"] = [f"{name}={value}" for name, value in env.items()]
    try:
        pid = _number(agent.execute("guest-exec", deadline, **asked), "pid")
    except (NoAnswer, errors.CommandError):
        raise
    except errors.CommandTimeout as exc:
        if exc.phase == "write":
            raise
        raise OutcomeUnknown(
            f"the agent has not said within {exc.seconds:.4g} s whether it has started {argv[0]}; it may do so yet"
        ) from exc
    except (errors.Disconnected, errors.ProtocolError) as exc:
        raise OutcomeUnknown(f"{exc}; {argv[0]} may have been started") from exc
    return _followed(agent, pid, argv[0], deadline)


def _followed(agent: Agent, pid: int, program: str, deadline: Deadline) -> Ended:
    """Return how a process ended. The agent tells it once."""
    began = time.monotonic()
    pause = _SOONEST
    try:
        while True:
            status = agent.execute("guest-exec-status", deadline, pid=pid)
            if _number(status, "exited"):
                return Ended(status)
            left = deadline.remaining()
            if left == 0.0:
                break
            time.sleep(pause if left is None else min(pause, left))
            pause = min(max((time.monotonic() - began) / _SHARE, _SOONEST), _SLOWEST)
    except errors.CommandTimeout as exc:
        if not deadline.expired:
            raise OutcomeUnknown(
                f"the agent has not answered for {exc.seconds:.4g} s; {program} was started in the guest as process {pid}",
                pid,
            ) from exc
    except (errors.CommandError, errors.Disconnected, errors.ProtocolError) as exc:
        raise OutcomeUnknown(f"{exc}; {program} was started in the guest as process {pid}", pid) from exc
    raise OutcomeUnknown(
        f"{program} has not ended within {deadline.seconds or 0.0:.4g} s, or what it has started keeps its output open; it was "
        f"not ended, and may go on in the guest as process {pid}",
        pid,
    )


def shell(cmd: str, stdin: bytes | None) -> tuple[list[str], bytes | None]:
    """Return what runs a line of any length and encoding by the guest's shell: the program, and what it reads."""
    line = cmd.encode(errors="surrogateescape")
    if len(line) <= LONGEST_WORD and line == cmd.encode(errors="replace"):  # the agent takes words in UTF-8 alone
        return ["/bin/sh", "-c", cmd], stdin
    # the mark at its end keeps newlines there
    read = f'c=$(head -c {len(line)}; echo .); eval "${{c%.}}"'
    return ["/bin/sh", "-c", read], line + (stdin or b"")


def environment(agent: Agent, deadline: Deadline) -> dict[str, str]:
    """Return what the agent's programs have in their environment, and HOME. Raise as ``run`` does."""
    told = run(agent, ["/bin/sh", "-c", _ENVIRONMENT], deadline).out.decode(errors="replace")
    return dict(entry.split("=", 1) for entry in told.split("\0") if "=" in entry)


def put(agent: Agent, source: BinaryIO, path: str, deadline: Deadline) -> None:
    """Write a file of the guest. Where there was none, its mode is 0600. Raise OSError and what ``run`` raises."""
    # the agent makes files that all may write to, whatever its umask; opening a pipe would stop it until somebody reads there
    look = '[ -f "$1" ] || [ ! -e "$1" ] || { echo "it is not a regular file" >&2; exit 1; }'
    made = run(agent, ["/bin/sh", "-c", f'{look}; umask 077; : >>"$1"', "sh", path], deadline)
    if made.rc:
        raise OSError(f"{path} can't be written in the guest: {made.err.decode(errors='replace').strip()}")
    handle = agent.execute("guest-file-open", deadline, path=path, mode="wb")
    try:
        while True:
            data = source.read(CHUNK)
            if not data:
                break
            while data:
                text = base64.b64encode(data).decode()
                count = _number(agent.execute("guest-file-write", deadline, handle=handle, buf_b64=text), "count")
                if not 0 < count <= len(data):
                    raise OSError(f"{path}: the guest's agent has written {count} of {len(data)} bytes")
                data = data[count:]
    except BaseException:
        _let_go(agent, handle, deadline)
        raise
    agent.execute("guest-file-close", deadline, handle=handle)


def fetch(agent: Agent, path: str, target: BinaryIO, deadline: Deadline) -> None:
    """Copy a file of the guest to an open one. Raise OSError and what ``run`` raises."""
    # opening a pipe would stop the agent until somebody writes there
    there = run(agent, ["/bin/sh", "-c", '[ -f "$1" ] || [ ! -e "$1" ]', "sh", path], deadline)
    if there.rc:
        raise OSError(f"{path} is not a regular file in the guest")
    handle = agent.execute("guest-file-open", deadline, path=path, mode="rb")
    try:
        while True:
            part = agent.execute("guest-file-read", deadline, handle=handle, count=CHUNK)
            data = _data(part, "buf-b64")
            target.write(data)
            if _number(part, "eof"):
                break
            if not data:
                raise errors.ProtocolError(f"{path}: the guest's agent sends nothing, and does not come to the end")
    finally:
        _let_go(agent, handle, deadline)


def _let_go(agent: Agent, handle: int, deadline: Deadline) -> None:
    """Close a file of which nothing more is wanted."""
    try:
        agent.execute("guest-file-close", deadline, handle=handle)
    except errors.QMPError:
        pass  # its agent keeps it open until it ends
