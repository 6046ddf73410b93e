# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A VM's process: started, stopped or restarted, with the monitor that all other modules talk to.

What is wanted and what is found come to a plan, whose steps the engine does: QEMU's own commands end it, one step starts it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Tuple, cast

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal, TaskError
from .._core.option import Option
from .._core.plan import Plan
from .._core.process import Process
from .._core.step import Step
from .._core.vm import EVENTS
from .._engine.apply import apply, execute_step
from .._host import command_line, process
from .._host.shutdown import NOT_BEGUN, Ended, stop_steps
from .._qmp import errors
from .._qmp.address import parse
from .._qmp.holder import find_deaf
from . import live_monitor
from .instance_checks import check_socket, check_user, check_written, socket_path

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline

OPTIONS = {
    "name": Option("str", required=True),
    "state": Option("str", choices=["started", "stopped", "restarted"], default="started"),
    "binary": Option("path"),
    "arguments": Option("raw"),
    "pidfile": Option("path"),
    "user": Option("str"),
    "log": Option("path"),
    "events_socket": Option("str"),
    "shutdown_timeout": Option("float"),
}
# A QEMU that is ending has closed its monitor already.
_ENDING = 2.0
_HELP_SECONDS = 10.0
_SHUTDOWN_SECONDS = 30.0
_QUIT_SECONDS = 1.0


class Running(NamedTuple):
    """The process as found: ``status`` is QEMU's run state, ``command_line`` is empty where it can't be read."""

    pid: int | None
    command_line: List[str]
    status: str


def run(task: Task) -> Dict[str, Any]:
    """Return the task's result. Raise TaskError, PlanFailed and the session's errors."""
    instance = Instance(task)
    wanted = instance.command_line() if task.params["state"] != "stopped" else []
    before = instance.look()
    plan = instance.plan(before, wanted)
    if plan.steps and not task.check_mode:
        # where nothing is to be ended, no step speaks to a monitor
        apply(plan, instance.vm or cast("VM", task.host()))
    return instance.result(plan, before, wanted)


class Instance:
    """One VM's process, as a task names it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.params = task.params
        self.name: str = task.params["name"]
        command_line.check_name(self.name)
        self.address = parse(task.params["socket"])
        self.events = parse(task.params["events_socket"]) if task.params.get("events_socket") else None
        check_socket("socket", self.address)
        if self.events is not None:
            check_socket("events_socket", self.events)
            if (socket_path(self.events), self.events.port) == (socket_path(self.address), self.address.port):
                raise Refusal(f"events_socket: {self.events} is the one of the option socket: give it another one")
        self.pidfile = self._pidfile()
        for option, path in (("pidfile", self.pidfile), ("log", self.params.get("log"))):
            if path:
                check_written(option, os.path.abspath(path))
        self.patience = _patience(task.params)
        self.vm: VM | None = None
        self.started: Running | None = None
        self.warnings: List[str] = []

    def _pidfile(self) -> str:
        if self.params.get("pidfile"):
            return os.path.abspath(str(self.params["pidfile"]))
        path = self.address.path or "@"
        return f"/run/{self.name}.pid" if path.startswith("@") else os.path.abspath(path) + ".pid"

    # -- reading -----------------------------------------------------------------------------------------------

    def command_line(self) -> List[str]:
        """Return the command line to start it with. Raise Refusal for one that can't be meant."""
        params = self.params
        binary = command_line.find_binary(params.get("binary"))
        arguments = command_line.expand(params.get("arguments"))
        for path in command_line.logfiles(arguments):
            check_written("arguments: logfile", os.path.join("/", path))
        own = [*command_line.monitor(self.address), "-pidfile", self.pidfile]
        if self.events is not None:
            own += command_line.monitor(self.events, EVENTS)
        if params.get("user"):
            check_user(params["user"])
            own += self._user_option(binary, params["user"])
        if params.get("log"):
            if "-D" in arguments or "--D" in arguments:
                raise Refusal("arguments: -D is what this module sets itself: use the option log")
            # A daemon's stderr goes to -D's file, if anything is logged at all: "strace" is about programs that are
            # emulated without a machine, so that it adds nothing.
            own += ["-D", os.path.abspath(params["log"]), "-d", "strace"]
        if params.get("tls"):
            raise Refusal("tls: the monitor that is made here is a plain one; use a UNIX socket, which needs no TLS")
        return [binary, *command_line.enclose(self.name, own, arguments)]

    def _user_option(self, binary: str, user: str) -> List[str]:
        """Return how this QEMU is told to drop its privileges; -runas is deprecated where -run-with can do it."""
        seconds = min(_HELP_SECONDS, self.task.deadline.remaining() or 0.0)
        try:
            # There is no AnsibleModule in the task's own process: pylint: disable-next=ansible-bad-function
            done = subprocess.run(
                [binary, "-help"],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                env=process.environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Refusal(f"binary: {binary} -help: {exc}") from exc
        entry = done.stdout.decode(errors="replace").partition("\n-run-with ")[2].partition("\n-")[0]
        return ["-run-with", f"user={user}"] if "user=" in entry else ["-runas", user]

    def look(self) -> Running | None:
        """Return the running VM, None if there is none. Raise Refusal if the socket is another VM's, or the VM elsewhere."""
        self.vm = None
        try:
            self.vm = self.task.connect()
        except (errors.MonitorBusy, errors.NegotiationError):
            raise
        except errors.ConnectError:
            if not process.is_free(self.address):
                raise
            self._must_not_run()
            return None
        return self._running(self.vm)

    def _running(self, vm: VM) -> Running:
        found = vm.ask("query-name").get("name")
        if found != self.name:
            whose = f"the VM {found}" if found else "a VM without a name"
            raise Refusal(f"{self.address} is the monitor of {whose}, not of {self.name}")
        pid = process.read_pidfile(self.pidfile)
        if not process.runs(pid, self.name):
            pid = vm.session.process
        if pid is None or not process.runs(pid, self.name):
            return Running(None, [], vm.status)
        return Running(pid, process.command_line(pid), vm.status)

    def _must_not_run(self) -> None:
        """Raise Refusal if the VM runs though it is not at the socket, by its pidfile or as a listener whose file is gone."""
        pid = process.read_pidfile(self.pidfile)
        end = time.monotonic() + min(_ENDING, self.task.deadline.remaining() or 0.0)
        while True:  # it may just be ending
            runs, deaf = process.runs(pid, self.name), find_deaf(self.address)
            if not runs and deaf is None:
                return
            if time.monotonic() > end:
                by_pidfile = (
                    f"{self.name} runs as process {pid} (by {self.pidfile}), but its monitor is not at {self.address}"
                )
                raise Refusal(by_pidfile if runs else str(deaf))
            time.sleep(process.POLL)

    def differs(self, running: Running, wanted: List[str]) -> bool:
        """Tell whether it would have to be restarted to be what is wanted."""
        if running.pid is None or not running.command_line:
            self.warnings.append(f"{self.name}: its process can't be told, so changed arguments can't be seen")
            return False
        if process.other_binary(running.pid, wanted[0]) is not None:
            return True
        return not command_line.same(wanted[1:], running.command_line)

    # -- planning ----------------------------------------------------------------------------------------------

    def plan(self, running: Running | None, wanted: List[str]) -> Plan:
        """Return what leads from what runs to the state that was asked for. Raise Refusal as ``stop_steps`` does."""
        state, starts = self.params["state"], self._starts(running)
        steps: List[Step] = []
        if running is not None and state == "started":
            steps += self.events_steps(running)
        elif running is not None:
            steps += stop_steps(self.name, running.status, Process(running.pid), self._seconds(), self.warnings.append)
        plan = Plan(steps, changed=starts or bool(steps))
        if starts or state == "stopped":
            plan.steps.append(Step(do=self._clear, hidden=True))
        if starts:
            if running is None:
                self._check_events_free()
            plan.steps.append(self.start_step(wanted))
        return plan

    def _starts(self, running: Running | None) -> bool:
        return self.params["state"] == "restarted" or (self.params["state"] == "started" and running is None)

    def events_steps(self, running: Running) -> List[Step]:
        """Return the steps that give what runs its monitor for events. Raise Refusal where its path is somebody else's."""
        if self.events is None or self.vm is None:
            return []
        return live_monitor.steps(self.vm, self.events, running.command_line)

    def _seconds(self) -> float:
        """Return how long the guest has to shut down, so that there is time left to end QEMU."""
        left = self.task.deadline.remaining() or 0.0
        return min(self.patience, max(left - _QUIT_SECONDS, left / 2))

    def start_step(self, wanted: List[str]) -> Step:
        """Return the step that starts it. A result has its command line anyway, so that it is hidden here."""
        line = command_line.redact(wanted)
        undo = Step(do=self.end_unused, command_lines=[["kill", self.name]])
        return Step(do=lambda deadline: self._start(wanted, deadline), command_lines=[line], undo=[undo], hidden=True)

    # -- doing -------------------------------------------------------------------------------------------------

    def _clear(self, deadline: Deadline) -> None:
        addresses = [self.address, *([self.events] if self.events else [])]
        process.remove_stale_files(addresses, self.pidfile, self.name)

    def _check_events_free(self) -> None:
        """Raise Refusal where something listens at the second socket: QEMU would take its path away from it."""
        if self.events is not None and not process.is_free(self.events):
            raise Refusal(f"events_socket: something listens at {self.events} already: end it, or name another socket")

    def _start(self, wanted: List[str], deadline: Deadline) -> None:
        """Start QEMU, and see that its monitor answers. Raise OperationFailed with QEMU's own words; nothing is left then."""
        if self.events is not None:
            process.wait_until_socket_closed(self.events)
        self._check_events_free()
        mark = process.new_mark()
        log_before = self._log_state()
        try:
            said = self._launch(wanted, mark, deadline, lambda: self._logged(log_before))
            if said:
                self.warnings.append(f"{wanted[0]}: {said}")
            self.started = self._running(self._reconnect())
        except errors.MonitorBusy as exc:
            # It runs, and somebody else was quicker at the monitor.
            self.warnings.append(str(exc))
            self.started = Running(process.read_pidfile(self.pidfile), wanted, "unknown")
        except BaseException as exc:
            self._kill(mark)
            process.wait_until_socket_closed(self.address)
            if not process.runs(process.read_pidfile(self.pidfile), self.name):
                self._clear(deadline)
            if not isinstance(exc, (TaskError, errors.QMPError)):
                raise
            logged = self._logged(log_before) if isinstance(exc, errors.QMPError) else ""
            raise OperationFailed(f"{self.name}: {'; '.join(filter(None, [str(exc), logged]))}") from exc

    def _launch(self, wanted: List[str], mark: str, deadline: Deadline, logged: Callable[[], str]) -> str:
        """Start it, and return what it said; as ``process.launch`` does."""
        return process.launch(wanted, mark, deadline, logged)

    def _kill(self, mark: str) -> None:
        """End what was started, as ``process.kill`` does."""
        process.kill(mark)

    def end_unused(self, deadline: Deadline) -> None:
        """End what was started, unless its guest has begun to run. Raise OperationFailed then."""
        if self.started is None:
            return
        if self.vm is not None:
            self.vm.forget()
        if self.vm is None or self.vm.status not in NOT_BEGUN:
            raise OperationFailed(f"{self.name}: its guest may have run, so QEMU is not ended")
        execute_step(Step("quit", wait=Ended(Process(self.started.pid)), hidden=True), self.vm, deadline)
        self._clear(deadline)

    def _reconnect(self) -> VM:
        """Return a session with the QEMU that was just started."""
        if self.vm is None:
            self.vm = self.task.connect()
        else:
            self.vm.session.close()
            self.vm.session = self.vm.reopen(self.params.get("connect_timeout") or 10.0)
            self.vm.forget()
        return self.vm

    def _log_state(self) -> Tuple[int, int] | None:
        """Return what changes when the log is written to."""
        try:
            found = os.stat(self.params.get("log") or os.devnull)
            return found.st_mtime_ns, found.st_size
        except OSError:
            return None

    def _logged(self, before: Tuple[int, int] | None) -> str:
        """Return the end of the log, if it was written to: with one, QEMU's errors are not on its stderr."""
        if self._log_state() == before:
            return ""
        try:
            with safe_open.regular(str(self.params["log"])) as file:
                return process.tail(file)
        except OSError:
            return ""

    # -- telling -----------------------------------------------------------------------------------------------

    def result(self, plan: Plan, before: Running | None, wanted: List[str]) -> Dict[str, Any]:
        """Return the task's result, in check mode as far as it can be foretold."""
        state = self.params["state"]
        after = self.started or (before if state == "started" else None)
        restart_required = after is not None and not self._starts(before) and self.differs(after, wanted)
        shown = command_line.redact(after.command_line or wanted if after else wanted)
        added = {"events_socket": str(self.events)} if after and after is before and plan.steps else {}
        instance = {
            "name": self.name,
            "state": "stopped" if state == "stopped" else "started",
            "status": after.status if after else None,
            "pid": after.pid if after else None,
            "socket": str(self.address),
            "pidfile": self.pidfile,
            "command_line": shown,
            "restart_required": restart_required,
        }
        return {
            "changed": plan.changed,
            "commands": plan.commands,
            "command_line": command_line.redact(wanted),
            "diff": {"before": _diff_side(before, []), "after": {**_diff_side(after, wanted), **added}},
            "instance": instance,
            "pid": instance["pid"],
            "restart_required": restart_required,
            "warnings": self.warnings,
        }


def _diff_side(running: Running | None, wanted: List[str]) -> Dict[str, Any]:
    if running is None and not wanted:
        return {"state": "stopped"}
    arguments = command_line.core(running.command_line if running else wanted)
    return {"state": "started", "arguments": command_line.redact(arguments)}


def _patience(params: Dict[str, Any]) -> float:
    """Return the seconds that the guest has to shut down. Raise Refusal for more than the whole task has."""
    given, whole = params.get("shutdown_timeout"), params["timeout"]
    if given is None:
        return float(min(_SHUTDOWN_SECONDS, whole / 2))
    if not given >= 0:  # nan, too
        raise Refusal(f"shutdown_timeout: {given} is not a number of seconds; 0 ends QEMU at once")
    if given >= whole and params["state"] != "started":
        raise Refusal(
            f"shutdown_timeout: {given:.4g} s are never over, since timeout is {whole:.4g} s: make timeout longer than that"
        )
    return float(given)
