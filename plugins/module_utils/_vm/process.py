# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM's process: started from a record, by itself or by systemd, and given what it has."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from .._core.errors import NotDoneInTime, OperationFailed, Refusal, TaskError
from .._core.plan import NotReadBack, PlanFailed
from .._core.step import Step
from .._engine.apply import execute_step
from .._host import command_line, program, qcow2_header
from .._host.shutdown import NOT_BEGUN
from .._machine.machine import MACHINE, run_validated
from .._operations.power import Reached
from .._provision.instance import Instance, Running
from .._qmp import errors
from .._qmp.deadline import Deadline
from . import chain

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .options import Place
    from .record import Record
    from .service import Service

# QEMU has sent all of the guest.
_AWAY = ("finish-migrate", "postmigrate")


def instance(task: Task, place: Place, service: Service | None, vm: VM | None = None, **params: Any) -> Process:
    """Return the process of a VM, as ``qemu_instance`` knows it; ``params``: its further options. ``vm``: one that is connected."""
    options = {
        "name": place.name,
        "state": "started",
        "socket": place.socket,
        "events_socket": place.events,
        "connect_timeout": 10.0,
        "pidfile": place.pidfile,
        "user": place.user,
        "log": place.log,
        "timeout": task.deadline.seconds,
        **params,
    }
    return Process(task.part(options, vm), service, place.record)


class Process(Instance):
    """QEMU's process, which systemd may start."""

    def __init__(self, task: Task, service: Service | None, kept_at: str) -> None:
        """``kept_at``: where its record is."""
        super().__init__(task)
        self.service = service
        self._kept_at = kept_at
        self._before_plug: int | None = None
        self.images: List[str] = []
        """The images that were made for it, and ``base``, what its own disk stands on."""
        self.base: str | None = None
        self.kept: Record | None = None
        """Its record as it was read."""
        self.found: Running | None = None
        """What somebody else had started before this task could."""

    def _user_option(self, binary: str, user: str) -> List[str]:
        """Return how this QEMU drops its privileges: as last time, if the program is the same, which then is not asked."""
        line = self.kept.command_line if self.kept else [""]
        for option, value in (("-run-with", f"user={user}"), ("-runas", user)):
            told = line[0] == binary and option in line and line[line.index(option) + 1 :][:1] == [value]
            if told and _is_older_program(binary, self._kept_at):
                return [option, value]
        return self.user_option(binary, user)

    def user_option(self, binary: str, user: str) -> List[str]:
        """Return how a QEMU drops its privileges, by what it says itself."""
        return super()._user_option(binary, user)

    def look(self) -> Running | None:
        """Return the running VM, None if there is none: what was ended since the last look is gone. Raise as ``Instance`` does."""
        if self.vm is not None and self.vm.session.closed:
            self.task.disconnect()
        return super().look()

    def differs(self, running: Running, wanted: List[str]) -> bool:
        """Tell whether it would have to be restarted to be what is wanted."""
        return super().differs(running, self.as_started(running, wanted))

    def as_started(self, running: Running, wanted: List[str]) -> List[str]:
        """Return the command line that is wanted, an alias of a machine type (q35) as what it meant when the VM was started.

        A guest that has moved to another QEMU since has the machine type that it had.
        """
        has, alias = command_line.machine_type(running.command_line), command_line.machine_type(wanted)
        if has and alias and has != alias and self.vm is not None:
            named = [machine["name"] for machine in self.vm.ask("query-machines") if machine.get("alias") == alias]
            if [_family(name) for name in named] == [_family(has)]:
                return command_line.with_machine_type(wanted, has)
        return wanted

    def start(self, line: List[str], seconds: float) -> None:
        """Start it, unless somebody has done so meanwhile. Raise OperationFailed with QEMU's own words."""
        deadline = Deadline(min(seconds, self.task.deadline.remaining() or 0.0), self.task.deadline.stop)
        self.found = self.look()
        if self.found is None:
            self._check_images(line)
            self._clear(deadline)
            self._start(line, deadline)

    def _check_images(self, line: List[str]) -> None:
        """Raise Refusal for an image of the command line that lies below another, or whose header names what root would open."""
        user = self.params["user"]
        images = [image for image in self.images if any(image.replace(",", ",,") in text for text in line)]
        for image in images:
            qcow2_header.check_top("disk", image, "disk")
        if user:
            chain.check(images, str(user), self.base, self.task.deadline)

    def _launch(self, wanted: List[str], mark: str, deadline: Deadline, logged: Callable[[], str]) -> str:
        if self.service is None:
            return super()._launch(wanted, mark, deadline, logged)
        self.service.start(deadline)
        return ""

    def _kill(self, mark: str) -> None:
        super()._kill(mark)
        if self.service is not None:
            with contextlib.suppress(OperationFailed):
                program.run(["systemctl", "stop", self.service.unit], Deadline(10.0), "systemctl stop")

    def plug(self, record: Record, power: str | None, check_mode: bool = False) -> Dict[str, Any]:
        """Make the record's document true, and return the result as ``qemu_machine`` has it.

        Raise PlanFailed. A guest that this process's task has let run goes on, whatever has failed.
        """
        vm = self.connected()
        vm.goes_with_failure = self._is_unused
        self._before_plug = len(self.task.account.commands)
        try:
            return plug(self.task, vm, record, power, check_mode)
        finally:
            vm.goes_with_failure = lambda: False

    def end_unused(self, deadline: Deadline) -> None:
        """End what was started, unless its guest has begun to run: with it goes what was plugged in. Raise OperationFailed."""
        super().end_unused(deadline)
        if self.started is not None and self._before_plug is not None:
            self.task.account.cut(self._before_plug)

    def _is_unused(self) -> bool:
        """Tell whether it was started here and its guest has not run, so that it is ended where something fails."""
        vm = self.connected()
        vm.forget()
        try:
            return self.started is not None and vm.status in NOT_BEGUN
        except errors.QMPError:
            return False

    def go_on(self, power: str) -> bool:
        """Let a guest that was started here, and has run, go on where it should run. Tell whether that took a command."""
        with contextlib.suppress(errors.QMPError, TaskError):
            return self.started is not None and not self._is_unused() and self.resume(power, hidden=False)
        return False

    def resume(self, power: str, hidden: bool = True) -> bool:
        """Let a guest run that does not, where it should, and tell whether that took a command. Raise the session's errors."""
        vm = self.connected()
        vm.forget()
        if power != "running" or vm.status not in (*NOT_BEGUN, "paused"):
            return False
        execute_step(Step("cont", wait=Reached(True), hidden=hidden), vm, Deadline(5.0))
        return True

    def connected(self) -> VM:
        """Return the VM, through a session that is open."""
        return self.vm or self._reconnect()


def _family(machine: str) -> str:
    """Return a machine type without its version."""
    return machine.rpartition("-")[0]


def _is_older_program(path: str, record: str) -> bool:
    """Tell whether a program has been the same since a record was written.

    That can't be told of what a script starts, nor of a link, which can lead to another old program now.
    """
    if os.path.realpath(path) != path:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF" and os.fstat(file.fileno()).st_ctime < os.stat(record).st_mtime
    except OSError:
        return False


def plug(task: Task, vm: VM, record: Record, power: str | None, check_mode: bool) -> Dict[str, Any]:
    """Make a record's document true at a VM, and return the result as ``qemu_machine`` has it. Raise PlanFailed."""
    params = {**dict.fromkeys(MACHINE), "purge": False, "recreate": False, **record.document}
    params.update(power=power, timeout=record.plug_timeout)
    if power != "running":
        params["balloon"] = None  # only a guest that runs can follow
    left = min(record.plug_timeout, task.deadline.remaining() or 0.0)
    before, vm.deadline = vm.deadline, Deadline(left, task.deadline.stop)
    try:
        return run_validated(task.part(params, vm=vm, check_mode=check_mode or task.check_mode))
    finally:
        vm.deadline = before


def bring_back(process: Process, record: Record, power: str) -> None:
    """Start a VM from its record as it was, with what it had. Raise OperationFailed for what did not come back."""
    if process.look() is not None:
        return
    process.start(record.command_line, record.start_timeout)
    try:
        process.plug(record, power)
    except (PlanFailed, NotReadBack, errors.QMPError, TaskError) as exc:
        with contextlib.suppress(errors.QMPError, NotDoneInTime):
            process.resume(power)
        cause = exc.cause if isinstance(exc, (PlanFailed, NotReadBack)) else exc
        raise OperationFailed(f"it runs as it was, without what had been plugged in: {cause}") from exc


def check_not_moving(place: Place) -> None:
    """Raise Refusal for a VM whose guest was being moved away: started here, it could run twice."""
    if os.path.lexists(place.moving):
        raise Refusal(
            f"{place.name}: its guest was being moved to another host, and may run there: look there, and remove {place.moving} "
            "if it does not"
        )


def check_not_away(place: Place, running: Running | None) -> None:
    """Raise Refusal for a VM that is to be started, or started anew, and whose guest may run elsewhere."""
    check_not_moving(place)
    if running is not None and running.status in _AWAY:
        raise Refusal(
            f"{place.name}: its guest has been migrated away (the status is {running.status}) and may run there, so it is not "
            "started anew: end it here (state=stopped), or let it go on (qemu_power with force) if it does not run elsewhere"
        )


def without_incoming(line: List[str]) -> List[str]:
    """Return the command line for a guest that begins here: one that has come from elsewhere will, the next time."""
    if "-incoming" not in line:
        return line
    at = line.index("-incoming")
    return [*line[:at], "-S", *line[at + 2 :]]


def shown(line: List[str]) -> Dict[str, List[str]]:
    """Return a command line as results show it."""
    return {"run": command_line.redact(line)}
