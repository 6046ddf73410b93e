# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A guest moves from the QEMU that runs to the one that is installed, on the same host.

    check ──► start the new one beside the old one ──► migrate, prove ──► end the old one, and take over its paths

Until the guest has moved, whatever fails ends the new QEMU, and the old one goes on. What a killed task leaves, the next one
finishes or takes back: the directories' names, and what both QEMUs say themselves, tell which.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Dict, List, Tuple, cast

from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.plan import Plan
from .._core.step import Step
from .._engine.apply import apply
from .._engine.operation import run_operation
from .._host import command_line, process, qemu_version
from .._migration import settings
from .._migration.current import RUNNING, look
from .._migration.incoming import INCOMING
from .._migration.source import MIGRATE
from . import record, service, upgrade_checks
from .options import Place
from .process import instance
from .upgrade_launch import Launch
from .upgrade_pair import GONE, Pair, Side

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._provision.instance import Running
    from .._qmp.deadline import Deadline

_FAST = 1 << 40  # bytes a second: nothing is between the two but this host


class Upgrade(Pair):
    """The upgrade of one VM's QEMU."""

    def __init__(self, task: Task, params: Dict[str, Any]) -> None:
        super().__init__(task, Place(params["directory"], params["user"]))
        self.params = params
        self.uri = f"unix:{self.beside.listens_at}"
        settings.check_uri(self.uri)
        self.binary = command_line.find_binary(params["binary"])
        self.process = instance(task, self.place, None)
        self.line: List[str] = []
        self.method: str | None = None
        self.migration: Dict[str, Any] = {}
        self.told: Dict[str, Any] = {}
        self.pid: int | None = None

    # -- what was begun ----------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Finish what a killed task has begun, as far as the guest has gone; else take it back. Tell whether it was finished."""
        self.look()
        if self.has_moved():
            new = cast(Side, self.new)
            if self.old is None and not self._is_installed(new.pid, *self._builds(new.vm)):
                self.keep_new(self.task.deadline)  # it was started anew, as it had been before
                return False
            self.beside.turn_to_old()
            self._finish(self.task.deadline)
            return True
        old = self.old
        if old and self.new and old.current.goes_on and old.current.status != "setup":
            self._migrate(self.task.deadline)
            self._finish(self.task.deadline)
            return True
        self.keep_old()
        return False

    # -- planning ----------------------------------------------------------------------------------------------

    def plan(self, running: Running) -> Plan:
        """Return the steps; none where the QEMU that is installed runs already. Raise Refusal for what can't be done."""
        vm = cast("VM", self.process.vm)
        before, target = self._builds(vm)
        self.told = {"from": str(before), "to": str(target)}
        self.pid = running.pid
        if self._is_installed(running.pid, before, target):
            return Plan()
        if running.status in GONE:
            raise Refusal(f"{self.place.name}: its guest is not here, or on its way (the status is {running.status})")
        kept = self._record(running)
        kind = str(vm.prop("/machine", "type")).rpartition("-machine")[0]
        upgrade_checks.check_target(self.place.name, before, target, kind, self.binary, self.task.deadline)
        upgrade_checks.check_guest(self.task, vm, self.place, kept)
        self.method = self._method(vm, before, target)
        if self.method == "migrate":
            upgrade_checks.check_memory(self.place.name, vm)
        unit = self._unit(running.pid)
        if unit:
            unit.check_renewable()
        self.old = Side(vm, cast(int, running.pid), look(vm))
        self.line = self._line(kept.started, kind)
        return Plan(self._steps(kept, unit))

    def _builds(self, vm: VM) -> Tuple[qemu_version.Build, qemu_version.Build]:
        """Return the QEMU that runs, and the one that is installed. Raise Refusal where that does not tell."""
        target = qemu_version.installed(self.binary, self.task.deadline)
        if target is None:
            raise Refusal(f"binary: {self.binary} does not tell its version")
        return qemu_version.greeted(vm.session), target

    def _is_installed(self, pid: int | None, before: qemu_version.Build, target: qemu_version.Build) -> bool:
        """Tell whether a process is of the program that is installed. Raise Refusal."""
        found = qemu_version.program_of(pid)
        if pid is None or found is None:
            raise Refusal(f"{self.place.name}: its process can't be told")
        return before == target and process.other_binary(pid, self.binary) is None and not found.deleted

    def _unit(self, pid: int | None) -> service.Service | None:
        """Return the unit that a process is the main one of; None: it was not started by systemd."""
        unit = service.Service(self.place, self.params) if service.is_wanted(self.params) else None
        return unit if unit and unit.before and unit.main_pid(self.task.deadline) == pid else None

    def _record(self, running: Running) -> record.Record:
        kept = self.kept
        if kept is None or not command_line.same(kept.started[1:], running.command_line):
            raise Refusal(
                f"{self.place.name}: {self.place.record} does not tell what its process was started with, so that no other can be "
                "started like it: run qemu_vm (the role vmm.qemu.vm), which writes it down, or stop it and start it anew"
            )
        return kept

    def _method(self, vm: VM, before: qemu_version.Build, target: qemu_version.Build) -> str:
        why = upgrade_checks.why_not_cpr(vm, before, target)
        if why and self.params["upgrade"] == "cpr":
            raise Refusal(f"upgrade: the memory of {self.place.name} can't be handed over as it is: {why}")
        return "migrate" if why or self.params["upgrade"] == "migrate" else "cpr"

    def _line(self, started: List[str], kind: str | None) -> List[str]:
        """Return a command line for the new QEMU: another program and the same machine, whose type is ``kind``."""
        line = list(started)
        user = self.place.user
        for option in ("-runas", "-run-with"):
            if user and option in line:
                at = line.index(option)
                line[at : at + 2] = self.process.user_option(self.binary, user)
        line = command_line.with_machine_type(line, kind) if kind else line
        return [self.binary, *line[1:]]

    def _steps(self, kept: record.Record, unit: service.Service | None) -> List[Step]:
        launch = Launch(self, kept, self.line, self.method == "cpr", unit)
        channels = {"channels": launch.channels} if self.method == "cpr" else {"uri": self.uri}
        back = Step(do=lambda deadline: self.take_back(), command_lines=[{"run": ["kill", self.place.name]}])
        return [
            Step(do=launch.start, command_lines=[{"run": command_line.redact(launch.line)}], undo=[back]),
            Step(do=self._migrate, command_lines=[Step("migrate", channels).public()], undo=[_NOTHING]),
            Step(do=self._finish, command_lines=[Step("quit").public()]),
        ]

    # -- doing -------------------------------------------------------------------------------------------------

    def _migrate(self, deadline: Deadline) -> None:
        """Let the guest go over, or see to the end how it does. Raise TaskError where it does not."""
        old, new = cast(Side, self.old), cast(Side, self.new)
        where = f"{self.beside.new}/qmp"
        common: Dict[str, Any] = {
            "socket": where,
            "connect_timeout": 5.0,
            "tls": None,
            "timeout": deadline.remaining() or 1.0,
        }
        if new.current.status == "none":
            params: Dict[str, Any] = {"uri": self.uri, "capabilities": None, "parameters": None, "wait": False}
            run_operation(INCOMING, self.task.part({**common, **params}, vm=new.vm))
        new.vm.session.close()
        params = {**dict.fromkeys(MIGRATE.options), **common, "socket": f"{self.beside.run}/qmp", "state": "migrated"}
        params.update(uri=self.uri, wait=True, on_timeout="cancel", source_after="leave", destination_socket=where)
        if old.current.status not in RUNNING and not look(old.vm).goes_on:
            params["parameters"] = {"max-bandwidth": _FAST}
        self.migration = run_operation(MIGRATE, self.task.part(params, vm=old.vm))["migration"]
        self.new = self.side(self.beside.new)
        if old.current.run_state == "running":
            self._await_running(deadline)

    def _await_running(self, deadline: Deadline) -> None:
        vm = cast(Side, self.new).vm
        while vm.status == "inmigrate":
            if deadline.expired:
                raise NotDoneInTime(f"{self.place.name}: the guest has arrived and does not run yet: run this again")
            time.sleep(process.POLL)
            vm.forget()

    def _finish(self, deadline: Deadline) -> None:
        """End the old QEMU, give its paths to the new one, and write down how that was started."""
        old, new = self.old, self.new
        if new is None or new.current.run_state in ("inmigrate", "postmigrate"):
            raise OperationFailed(f"{self.place.name}: the new QEMU does not have the guest")
        if old is not None:
            old.vm.forget()
            if old.vm.status != "postmigrate":
                raise OperationFailed(f"{self.place.name}: the old QEMU is {old.vm.status}, and not ended")
            unit = self._unit(old.pid)
            if unit:
                unit.change_main_pid(new.pid, deadline)
        self.keep_new(deadline)
        self.pid, kept = new.pid, self.kept
        if kept is not None:
            kind = str(new.vm.prop("/machine", "type")).rpartition("-machine")[0]
            started, usual = self._line(kept.started, kind), self._line(kept.command_line, None)
            record.write(self.place.record, kept._replace(started=started, command_line=usual).text())

    # -- telling -----------------------------------------------------------------------------------------------

    def result(self, changed: bool, commands: List[Any], msg: str) -> Dict[str, Any]:
        """Return the task's result."""
        told = {**self.told, "method": self.method} if changed else self.told
        for key, name in (("downtime", "downtime_ms"), ("total_time", "total_ms")):
            if key in self.migration:
                told[name] = self.migration[key]
        states = [{"qemu": self.told.get(key)} for key in ("from", "to" if changed else "from")]
        return {
            "changed": changed,
            "commands": commands,
            "msg": msg,
            "upgrade": told,
            "diff": {"before": states[0], "after": states[1]},
            "instance": {"name": self.place.name, "pid": self.pid, "socket": self.place.socket},
            "warnings": self.process.warnings,
        }


def run(task: Task, params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the result of ``upgrade``. Raise TaskError, PlanFailed and the session's errors."""
    upgrade = Upgrade(task, params)
    name = upgrade.place.name
    if upgrade.beside.is_begun:
        if task.check_mode and upgrade.beside.is_apart:
            return upgrade.result(True, [], f"{name}: an upgrade that was begun would be finished, or taken back")
        if not task.check_mode and upgrade.resume():
            return upgrade.result(True, task.account.commands, f"{name}: the upgrade that was begun is finished")
        upgrade.let_go()
    running = upgrade.process.look()
    if running is None:
        return upgrade.result(False, [], f"{name} does not run: there is no QEMU to upgrade")
    plan = upgrade.plan(running)
    if plan.steps and not task.check_mode:
        apply(plan, cast("VM", upgrade.process.vm))
    told = upgrade.told
    said = "runs on" if not plan.steps else "would move from" if task.check_mode else "has moved from"
    versions = told["to"] if not plan.steps else f"{told['from']} to {told['to']}"
    return upgrade.result(bool(plan.steps), plan.commands, f"{name} {said} QEMU {versions}")


_NOTHING = Step(do=lambda deadline: None, hidden=True)
