# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A step of a plan: one QMP command, what finishes it, and what takes it back. Pure data; only the engine sends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, Sequence, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.errors import CommandError
    from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import Event

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
        """The open descriptor's number; the caller closes it. Raises Refusal when it can't be opened or prepared."""
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
    of_guest = False
    """The guest brings it about, and must run for that."""
    asks_only = False
    """The task does not wait for the end; ``already`` still tells what a refusal means."""
    again_every = 0.0
    """Seconds after which the command is sent once more (a booting guest loses requests); 0: never."""

    def heard(self, event: Event) -> bool:
        """True when this event is the end, a good or a bad one."""
        return False

    def judge(self, event: Event) -> None:
        """Raise Refusal when the event that was heard says that the guest refused."""

    def reached(self, vm: VM) -> bool:
        """True when a query shows the end, event or not."""
        return False

    def already(self, error: CommandError) -> str:
        """What QEMU's refusal of the command means: "done", "pending" (asked before: go on waiting), or "" (a failure)."""
        return ""

    def overdue(self, vm: VM) -> Exception:
        """The error to raise when the deadline passed: a Pending with the likely reason."""
        return Refusal("not done in time")


class Step:
    """One QMP command that changes the VM.

    ``commands`` in every result are the steps' public forms, the same in check mode and in the real run.
    """

    place = ""
    """Which item of a document it is for; the engine says so, and the next two."""
    about: Tuple[str, str] = ("", "")
    """Kind and id of that item."""
    needs: FrozenSet[Tuple[str, str]] = frozenset()
    """What that item stands on."""
    undoes: Step | None = None
    """The step that this one takes back; the engine says so."""
    due: Callable[[VM], bool] | None = None
    """Asked right before it is sent, of the VM as it is then: false leaves it out, and out of ``commands``. May raise Refusal."""
    doubt = ""
    """What check mode warns of where that can't be foretold."""
    final = ""
    """Why nothing can take it back, where that would lose something: a plan does it last, or not at all."""
    oob = False
    """Whether it goes out of band, past a main loop that does not answer."""
    to = ""
    """The monitor of the other VM that it goes to, where it does not go to the task's own."""

    def __init__(
        self,
        execute: str,
        arguments: Dict[str, Any] | None = None,
        *,
        fds: Sequence[Descriptor] = (),
        wait: Wait | None = None,
        undo: Sequence[Step] = (),
        remember: Callable[[VM], Sequence[Step]] | None = None,
        retry: Callable[[CommandError], bool] | None = None,
        hint: Callable[[CommandError], str] | None = None,
        hidden: bool = False,
        removes: bool = False,
        there: Callable[[VM], bool] | None = None,
        late: bool = False,
        secret: Sequence[str] = (),
    ) -> None:
        """``undo``: the steps that take this one back, in their order; empty when nothing can.
        ``remember``: reads the VM before the plan's first step is sent and returns this one's ``undo``, where that takes
        many queries.
        ``retry``: true for a refusal that passes by itself within moments ("in use" just after an unplug).
        ``hint``: a sentence added to QEMU's own text, for people only. ``hidden``: left out of ``commands`` (``getfd``).
        ``removes``: it takes something away; nothing is put back while it is unknown whether it ran.
        ``there``: whether there is anything for it to do, where QEMU's refusal has no class that would tell.
        ``late``: it comes after all others, since nothing takes it back.
        ``secret``: the argument names whose values are never shown.
        """
        self.execute = execute
        self.arguments = arguments or {}
        self.fds = fds
        self.wait = wait
        self.undo: Tuple[Step, ...] = tuple(undo)
        self.remember = remember
        self.retry = retry
        self.hint = hint
        self.hidden = hidden
        self.removes = removes
        self.there = there
        self.late = late
        self.secret = secret

    def public(self) -> Dict[str, Any]:
        """``{execute, arguments, socket?}`` with secret values replaced."""
        shown = {key: REDACTED if key in self.secret else value for key, value in self.arguments.items()}
        return {"execute": self.execute, "arguments": shown, **({"socket": self.to} if self.to else {})}


def pass_descriptors(ident: str, what: str, descriptors: Sequence[Descriptor]) -> Tuple[List[Step], str]:
    """A ``getfd`` for each descriptor, and their names joined as QEMU's properties take them.

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
