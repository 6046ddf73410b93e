# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""One run of a module."""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from .._qmp.address import parse
from .._qmp.deadline import Deadline
from .._qmp.session import QMPSession
from .account import Account
from .errors import Refusal
from .host import Host
from .option import Option
from .vm import VM

if TYPE_CHECKING:
    from typing import Protocol

    from .._qmp.deadline import Stop
    from .progress import Progress

    class OpenSession(Protocol):
        """How a task gets its session: ``QMPSession.connect``, or something a test puts in its place."""

        def __call__(
            self, address: str, *, deadline: Deadline, tls: Dict[str, Any] | None, read_only: bool
        ) -> QMPSession:
            """Raise what ``QMPSession.connect`` raises."""


CONNECTION = {
    "socket": Option("str", required=True),
    "connect_timeout": Option("float", default=10.0),
    "timeout": Option("float", default=60.0),
    "tls": Option(
        "dict",
        options={
            "ca_path": Option("path"),
            "cert_path": Option("path"),
            "key_path": Option("path"),
            "server_name": Option("str"),
        },
    ),
}


_OLDEST = (5, 2)


# A task is over this many seconds after its timeout at the latest, whatever the peer does: what rolling back leaves of
# them is for the reply to a command under way, which would else reach the monitor's next client.
_OVERTIME = 1.8


class Task:
    """One run of a module: its parameters, its deadline, and its session once it asks for one."""

    def __init__(
        self,
        params: Dict[str, Any],
        check_mode: bool,
        open_session: OpenSession,
        on_progress: Callable[[Progress], None],
        stop: Stop | None = None,
    ) -> None:
        """``on_progress`` is called with how far long work is, as often as it is looked at. ``stop``: what cuts it short.

        ``account``: what was sent or done so far. ``details``: the account's.
        """
        self.on_progress = on_progress
        self.params = params
        self.check_mode = check_mode
        for name in ("timeout", "connect_timeout"):
            value = params.get(name)
            if value is not None and not value > 0:  # "not >": nan, too
                raise Refusal(f"{name}: {params[name]} is not a positive number of seconds")
        self.deadline = Deadline(params.get("timeout") or 60.0, stop)
        self.account = Account()
        self.details = self.account.details
        self._open = open_session
        self._vm: VM | None = None
        self._parts: List[Task] = []

    def part(self, params: Dict[str, Any], vm: VM | None = None, check_mode: bool | None = None) -> Task:
        """Return a task with other parameters that counts as this one: its deadline, its account, its end.

        ``vm``: the one that it is connected to. ``check_mode``: where it is not this task's.
        """
        check_mode = self.check_mode if check_mode is None else check_mode
        part = Task(params, check_mode, self._open, self.on_progress)
        part.deadline, part.account, part.details = self.deadline, self.account, self.details
        part._vm = vm
        self._parts.append(part)
        return part

    def connect(self) -> VM:
        """Return the VM, through a session that refuses everything but queries in check mode.

        Raise ConnectError and its kin, and Refusal for a QEMU that is too old.
        """
        if self._vm is None:
            address = parse(self.params["socket"])
            session = self._session(self.params["connect_timeout"], stop=self.deadline.stop)
            if session.version[:2] < _OLDEST:
                session.close()
                found = ".".join(str(number) for number in session.version[:3])
                raise Refusal(f"this virtual machine runs on QEMU {found}: 5.2 is the oldest that is supported")
            local = address.path is not None
            self._vm = VM(session, self.deadline, local=local, reopen=self._session, account=self.account)
            self._vm.connect_to = self.connect_to
        return self._vm

    def disconnect(self) -> None:
        """End the session, if there is one; the next ``connect`` opens another."""
        if self._vm is not None:
            self._vm.session.close()
            self._vm = None

    def host(self) -> Host:
        """Return the host, for what needs no monitor. Nothing is connected."""
        return Host(self.deadline, self.account)

    def connect_to(self, address: str) -> VM:
        """Return another VM that the task has to do with, at a monitor of its own; the caller closes its session."""
        session = self._session(self.params["connect_timeout"], address)
        return VM(session, self.deadline, local=False, reopen=lambda seconds: session, account=self.account)

    def _session(self, seconds: float, address: str = "", stop: Stop | None = None) -> QMPSession:
        """Return a session with the monitor at ``address`` (by default the VM's own), open within so many seconds."""
        left = max(self.deadline.remaining() or 0.0, 0.1)
        return self._open(
            address or self.params["socket"],
            deadline=Deadline(min(seconds, left), stop),
            tls=self.params.get("tls"),
            read_only=self.check_mode,
        )

    def close(self) -> None:
        """End the session, if there is one, and those of its parts."""
        for part in self._parts:
            part.close()
        if self._vm is not None:
            over = time.monotonic() - (self.deadline.end or 0.0)
            self._vm.session.close(grace=min(_OVERTIME, max(0.1, _OVERTIME - over)))
