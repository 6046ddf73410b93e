# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The errors of a QMP session, one class for each thing a caller may want to tell apart.

Branch on the class (or on ``CommandError.error_class``), never on the text: the QMP specification says that a
description may change at any time.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence


class QMPError(Exception):
    """The root of every error this package raises on purpose."""


class ConnectError(QMPError):
    """The monitor could not be reached: bad address, no such socket, refused, closed before its greeting."""

    nobody = False
    """Whether nobody is there: the socket file is missing, or refuses for want of a listener."""


class MonitorBusy(ConnectError):
    """Connected, but no greeting: QEMU serves one client for each monitor, and another one holds this one.

    ``holder`` is (process id, process name) of that client where the system tells, else None. ``taken`` is whether
    this connection was accepted, and nobody else's: then what listens there is silent rather than busy. None: unknown.
    """

    def __init__(self, message: str, holder: tuple[int, str] | None = None, taken: bool | None = None) -> None:
        super().__init__(message)
        self.holder = holder
        self.taken = taken


class ProtocolError(QMPError):
    """The peer sent something that is not QMP. The session is closed."""


class NegotiationError(ConnectError, ProtocolError):
    """Connected, but what answers does not greet or negotiate as a QMP monitor does."""


class InvalidCommand(QMPError, ValueError):
    """The command can't be sent as asked (not JSON, descriptors over TCP, no ``oob``). Nothing was written."""


class ReadOnly(QMPError):
    """A read-only session was asked for a command that is not a known query. Nothing was written."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"{command} refused: this session is read-only (check mode) and {command} is not a known query"
        )
        self.command = command


class SchemaMismatch(QMPError):
    """Arguments that this QEMU would not take. ``problems`` lists each one as a sentence."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class CommandError(QMPError):
    """QEMU answered with an error.

    ``command``: its name; ``error_class``: QEMU's class, "GenericError" for almost all; ``desc``: its text for humans.
    """

    def __init__(self, command: str, error_class: str = "GenericError", desc: str = "") -> None:
        super().__init__(f"{command} failed: {desc or 'QEMU gave no description'} ({error_class})")
        self.command = command
        self.error_class = error_class
        self.desc = desc


class CommandNotFound(CommandError):
    """This QEMU does not know the command."""


class DeviceNotFound(CommandError):
    """What the command names is not there."""


class DeviceNotActive(CommandError):
    """The device the command needs is not active (no balloon, no such block job)."""


class CommandTimeout(QMPError):
    """The deadline passed. ``phase`` says where: ``queue`` and ``write`` did not run, ``reply`` and ``event`` may have.

    What is written in part must be written to its end before anything else can be: it runs after all if the session
    goes on, and does not if that is closed. ``command`` is None for a plain wait for an event.
    """

    _WHERE = {
        "queue": "it was still waiting its turn and has not been sent",
        "write": "QEMU did not read it in full, so it has not run; it will if this session sends more",
        "reply": "it was sent, QEMU has not answered yet; whether it takes effect is unknown",
        "event": "QEMU accepted it, the event that finishes it has not come",
    }

    def __init__(self, command: str | None, phase: str, seconds: float) -> None:
        where = self._WHERE.get(phase, phase) if command else "no matching event came"
        super().__init__(f"{command or 'wait for an event'} timed out after {seconds:.4g} s in phase {phase}: {where}")
        self.command = command
        self.phase = phase
        self.seconds = seconds


class Cancelled(QMPError):
    """The deadline was cancelled by its owner. ``phase`` as in `CommandTimeout`."""

    def __init__(self, command: str | None, phase: str) -> None:
        super().__init__(f"{command or 'wait'} cancelled in phase {phase}")
        self.command = command
        self.phase = phase


class Disconnected(QMPError):
    """The connection is gone. ``outcome_unknown`` is True if ``command`` may or may not have taken effect."""

    def __init__(self, why: str, command: str | None = None, outcome_unknown: bool = False) -> None:
        text = why
        if command:
            fate = "whether it took effect is unknown" if outcome_unknown else "it was not run"
            text = f"{command}: {why}; {fate}"
        super().__init__(text)
        self.command = command
        self.outcome_unknown = outcome_unknown


_CLASSES = {
    "CommandNotFound": CommandNotFound,
    "DeviceNotFound": DeviceNotFound,
    "DeviceNotActive": DeviceNotActive,
}


def command_error(command: str, error: Any) -> CommandError:
    """Return the `CommandError` for the ``error`` member of a reply, whatever its JSON shape (null and non-strings too)."""
    members = error if isinstance(error, dict) else {"desc": error}
    error_class = members.get("class")
    desc = members.get("desc")
    if not isinstance(error_class, str) or not error_class:
        error_class = "GenericError"
    if not isinstance(desc, str):
        desc = "" if desc is None else str(desc)
    return _CLASSES.get(error_class, CommandError)(command, error_class, desc)
