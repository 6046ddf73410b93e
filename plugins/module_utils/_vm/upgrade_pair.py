# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The two QEMUs of an upgrade: looked at, told apart, and the new one ended where the guest is still with the old one."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, List, NamedTuple

from .._core.errors import OperationFailed, Refusal
from .._core.process import Process as HostProcess
from .._core.step import Step
from .._engine.apply import execute_step
from .._host import process
from .._host.shutdown import Ended
from .._migration.current import RUNNING, Current, has_guest, look
from .._qmp import errors
from . import record, upgrade_taps
from .beside import Beside

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline
    from .options import Place

_END_SECONDS = 10.0
GONE = ("inmigrate", "finish-migrate", "postmigrate")
"""The run states in which the guest is not here, or not for long."""


class Side(NamedTuple):
    """One of the two QEMUs, as it was found."""

    vm: VM
    pid: int
    current: Current

    @property
    def has_guest(self) -> bool:
        """Whether the guest has come to it."""
        return has_guest(self.current.run_state, self.current.migration)


class Pair:
    """Both QEMUs. A monitor serves one client, so that a session is kept for as long as it can be used."""

    def __init__(self, task: Task, place: Place) -> None:
        self.task = task
        self.place = place
        self.beside = Beside(place)
        self.old: Side | None = None
        self.new: Side | None = None
        self.kept = record.read(place.record)

    def look(self) -> None:
        """Look at both, as an upgrade that was begun has left them. Raise Refusal, and the session's errors."""
        beside = self.beside
        self.old = self._again(self.old, beside.old if os.path.lexists(beside.old) else beside.run)
        self.new = self._again(self.new, beside.new if os.path.lexists(beside.new) else beside.run)
        if self.old is None:
            self._check_ended(beside.old if os.path.lexists(beside.old) else beside.run)

    def _check_ended(self, where: str) -> None:
        """Raise Refusal where the old one runs, though its monitor is not there any more: it may have the guest."""
        pid = process.read_pidfile(f"{where}/pid")
        if process.runs(pid, self.place.name) and (self.new is None or pid != self.new.pid):
            raise Refusal(
                f"{self.place.name} runs as process {pid} (by {where}/pid), and its monitor does not answer at {where}/qmp: "
                "end it (kill) if it does not come back, and run this again"
            )

    def _again(self, side: Side | None, where: str) -> Side | None:
        if side is not None and not side.vm.session.closed:
            with contextlib.suppress(errors.Disconnected):
                return side._replace(current=look(side.vm))
        return self.side(where)

    def side(self, where: str) -> Side | None:
        """Return the QEMU whose files are in a directory; None where none answers there."""
        if not os.path.lexists(f"{where}/qmp"):
            return None
        part = self.task.part({"socket": f"{where}/qmp", "connect_timeout": 5.0, "timeout": 60.0, "tls": None})
        try:
            vm = part.connect()
        except errors.ConnectError as exc:
            if exc.nobody:
                return None
            raise
        pid = vm.session.process
        if pid is None or not process.runs(pid, self.place.name):
            raise Refusal(f"{where}/qmp is not the monitor of a QEMU of {self.place.name}")
        return Side(vm, pid, look(vm))

    def let_go(self) -> None:
        """End the sessions with both."""
        for side in (self.old, self.new):
            if side is not None:
                side.vm.session.close()
        self.old = self.new = None

    def has_moved(self) -> bool:
        """Tell whether the new one has the guest; one that has left the old one is waited for. Raise TaskError."""
        old, new = self.old, self.new
        end = time.monotonic() + _END_SECONDS
        while old and new and (old.current.run_state, new.current.run_state) == ("postmigrate", "inmigrate"):
            if time.monotonic() > end:
                raise OperationFailed(
                    f"{self.place.name}: its guest has left the old QEMU (process {old.pid}), and is not yet in the new one "
                    f"(process {new.pid}): run this again"
                )
            time.sleep(process.POLL)
            self.new = new = new._replace(current=look(new.vm))
        if old is None:
            return new is not None and new.current.run_state not in GONE
        if new is None or not new.has_guest:
            return False
        if old.current.run_state != "postmigrate":
            raise Refusal(
                f"{self.place.name}: both QEMUs have the guest, the old one (process {old.pid}, {old.current.run_state}) and "
                f"the new one (process {new.pid}, {new.current.run_state}): end the one that is not to go on (kill), and run "
                "this again"
            )
        return True

    def settle(self) -> None:
        """End the QEMU that does not have the guest, and give the usual paths to the other one. Raise TaskError."""
        self.look()
        if self.old is not None:
            _settle(self.old.vm, self.task.deadline)
            self.look()
        if self.has_moved():
            self.keep_new(self.task.deadline)
        else:
            self.keep_old()
        self.let_go()

    def take_back(self) -> None:
        """End the new QEMU, unless the guest is there, or may be. Raise OperationFailed then."""
        self.look()
        old, new = self.old, self.new
        if old is None or old.current.leaving or old.current.run_state in GONE or (new is not None and new.has_guest):
            raise OperationFailed(f"{self.place.name}: its guest has left the old QEMU, or may have: run this again")
        self.keep_old()

    def keep_new(self, deadline: Deadline) -> None:
        """End the old QEMU, whose guest has left, and give all that it had to the new one."""
        if self.old is not None:
            execute_step(Step("quit", wait=Ended(HostProcess(self.old.pid)), hidden=True), self.old.vm, deadline)
            self.old = None
        self.beside.keep_new()
        if self.kept is not None:
            upgrade_taps.keep_new(self.kept, deadline)

    def keep_old(self) -> None:
        """End the new QEMU, which has no guest, and all that was made for it."""
        keeps = self.old.pid if self.old else None
        if self.new is not None:
            self.new.vm.session.close()
        _kill([pid for pid in self.beside.processes() if pid != keeps])
        if self.kept:
            upgrade_taps.keep_old(self.kept, self.task.deadline)
        self.beside.keep_old()
        self.new = None
        if self.old is not None:
            _settle(self.old.vm, self.task.deadline)


def _kill(pids: List[int]) -> None:
    """Kill processes and wait until they are gone. Raise OperationFailed."""
    ending = [HostProcess(pid) for pid in pids]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + _END_SECONDS
    while any(one.alive for one in ending):
        if time.monotonic() > end:
            raise OperationFailed(f"the processes {', '.join(map(str, pids))} were killed, and are still there")
        time.sleep(process.POLL)


def _settle(vm: VM, deadline: Deadline) -> None:
    """End what is left of a migration at the old QEMU, unless all of the guest may have been sent; and how it was set."""
    now = look(vm)
    if now.goes_on and not now.leaving:
        with contextlib.suppress(errors.CommandError):
            execute_step(Step("migrate_cancel", hidden=True), vm, deadline)
    while look(vm).status in RUNNING and not deadline.expired:
        time.sleep(process.POLL)
    if vm.ask("query-migrate-parameters").get("mode") == "cpr-transfer":
        execute_step(Step("migrate-set-parameters", {"mode": "normal"}, hidden=True), vm, deadline)
