# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A step of a plan: a QMP command or work on the host, what finishes it, and what takes it back. Only the engine does it."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

from .errors import NotDoneInTime, Refusal

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline
    from .._qmp.errors import CommandError
    from .._qmp.events import Event
    from .vm import VM

# Of a command line in a message.
_LONGEST = 80
REDACTED = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"


class Descriptor:
    """A file to open on the managed host when its step is sent, and to hand to QEMU with it (``SCM_RIGHTS``).

    Opening is left to the moment of sending, since opening can itself change the host (a TAP comes to be).
    """

    def __init__(self, path: str, setup: Callable[[int], None] | None = None) -> None:
        """``path`` is opened for reading and writing; ``setup(fd)`` prepares it (an ioctl, say) and may raise OSError."""
        self.path = path
        self.setup = setup

    def open(self) -> int:
        """Return the open descriptor's number; the caller closes it. Raise Refusal when it can't be opened or prepared."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise Refusal(f"cannot open {self.path} to pass it to QEMU: {exc.strerror}") from exc
        try:
            if self.setup is not None:
                self.setup(fd)
        except OSError as exc:
            os.close(fd)
            raise Refusal(f"cannot prepare {self.path} for QEMU: {exc.strerror}") from exc
        return fd


class Wait:
    """How a step that QEMU's reply only acknowledges comes to its end. The engine drives it; a kind says what counts."""

    poll_every = 0.25
    """Seconds between two looks at the VM while no event tells the end."""
    needs_guest = False
    """The guest brings it about, and must run for that."""
    no_wait = False
    """The task does not wait for the end; ``classify`` still tells what a refusal means."""
    resend_every = 0.0
    """Seconds after which the command is sent once more (a booting guest loses requests); 0: never."""
    seconds: float | None = None
    """How long the end is waited for at most; None: until the plan's deadline."""
    optional = False
    """The plan goes on when the time is up."""
    loses_connection = False
    """QEMU may close the connection on the way to the end. ``is_done`` is asked then, too."""

    def begin(self, vm: VM) -> None:
        """Look at what must be seen before the command is sent."""

    def is_end(self, event: Event) -> bool:
        """Tell whether this event is the end, a good or a bad one."""
        return False

    def raise_if_refused(self, event: Event) -> None:
        """Raise OperationFailed when the event says that the guest refused."""

    def is_done(self, vm: VM) -> bool:
        """Tell whether a query shows the end, event or not."""
        return False

    def classify(self, error: CommandError) -> str:
        """Return what QEMU's refusal of the command means: "done", "pending" (asked before: go on waiting), or "" (a failure)."""
        return ""

    def timeout_error(self, vm: VM) -> Exception:
        """Return the error to raise when the time is up: a Pending with the likely reason."""
        return NotDoneInTime()


class Step(NamedTuple):
    """One command that changes the VM, or one piece of work on the host: how its end is waited for, and what takes it back.

    ``commands`` in every result are the steps' own, the same in check mode and in the real run.
    """

    execute: str = ""
    arguments: Dict[str, Any] = {}
    do: Callable[[Deadline], None] | None = None
    """The work on the host, in the place of a command: all of it until the deadline, or nothing and a TaskError."""
    command_lines: Sequence[Any] = ()
    """What shows what ``do`` does: command lines, each as its words, or dictionaries (``{path, action}``)."""
    fds: Sequence[Descriptor] = ()
    """What is handed over with it."""
    oob: bool = False
    """Whether it is sent out of band, past a main loop that does not answer."""
    socket: str = ""
    """The monitor of the other VM that it goes to; empty: the task's own."""
    secret: Sequence[str] = ()
    """The names of the arguments whose values are never shown."""
    hidden: bool = False
    """Whether it is left out of ``commands`` (``getfd``)."""

    condition: Callable[[VM], bool] | None = None
    """Asked right before it is sent, of the VM as it is then: false leaves it out. May raise Refusal."""
    uncertain: str = ""
    """What check mode warns of where the condition can't be foretold."""
    wait: Wait | None = None
    """How its end is waited for; None: QEMU's reply is the end."""
    retry: Callable[[CommandError], bool] | None = None
    """Tells whether a refusal passes by itself within moments ("in use" just after an unplug)."""
    hint: Callable[[CommandError], str] | None = None
    """Gives a sentence to add to QEMU's own text."""

    undo: Sequence[Step] = ()
    """The steps that take this one back, in their order; empty when nothing can."""
    capture_undo: Callable[[VM], Sequence[Step]] | None = None
    """Reads the VM before the plan's first step is sent and returns the ``undo``, where that takes many queries."""
    removes: bool = False
    """Whether it takes something away; that is not put back while it is unknown whether it has gone."""
    still_needed: Callable[[VM], bool] | None = None
    """Tells whether there is anything to do, where QEMU has refused the step, or its answer was lost."""
    last: bool = False
    """Whether it comes after all others, since nothing takes it back."""
    irreversible: str = ""
    """Why nothing can take it back, where that would lose something: a plan does it last, or not at all."""

    place: str = ""
    """Set by the engine: which item of a document it is for."""
    about: Tuple[str, str] = ("", "")
    """Set by the engine: kind and id of that item."""
    needs: FrozenSet[Tuple[str, str]] = frozenset()
    """Set by the engine: what that item stands on."""
    undoes: Any = None
    """Set by the engine: the step that this one takes back."""

    @property
    def commands(self) -> List[Any]:
        """Return what results show of it: the command, or the command lines. Empty for a hidden step."""
        if self.hidden:
            return []
        return (
            [shown if isinstance(shown, dict) else list(shown) for shown in self.command_lines]
            if self.do
            else [self.public()]
        )

    @property
    def title(self) -> str:
        """Its name in a message: the command and what it is about, or the first command line."""
        if self.do:
            return command_text(next(iter(self.command_lines), ()))
        about = self.arguments.get("id") or self.arguments.get("node-name") or ""
        return f"{self.execute} {about}".strip()

    def public(self) -> Dict[str, Any]:
        """Return ``{execute, arguments, socket?}`` with secret values replaced."""
        shown = {key: REDACTED if key in self.secret else value for key, value in self.arguments.items()}
        return {"execute": self.execute, "arguments": shown, **({"socket": self.socket} if self.socket else {})}

    def replace(self, **fields: Any) -> Step:
        """Return the step with other values of these fields."""
        return self._replace(**fields)


def command_text(command: Any) -> str:
    """Return what a message calls one of ``commands``: a QMP command's name, a command line, or what was done to a path."""
    if not isinstance(command, dict):
        return " ".join(command)
    if "execute" in command:
        return str(command["execute"])
    text = " ".join(command["run"] if "run" in command else [command["action"], command["path"]])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def pass_descriptors(ident: str, what: str, descriptors: Sequence[Descriptor]) -> Tuple[List[Step], str]:
    """Return a ``getfd`` for each descriptor, and their names joined as QEMU's properties take them.

    QEMU keeps such names for the monitor, not the connection, until ``closefd`` or a command that takes them, and
    replaces a name that comes twice: so they are unique, and start with a letter, as they must.
    """
    unique = os.urandom(4).hex()
    names = [f"{what}-{ident}-{unique}-{number}" for number in range(len(descriptors))]
    steps = [
        Step(
            "getfd",
            {"fdname": name},
            fds=[descriptor],
            undo=[Step("closefd", {"fdname": name}, hidden=True)],
            hidden=True,
        )
        for name, descriptor in zip(names, descriptors)
    ]
    return steps, ":".join(names)
