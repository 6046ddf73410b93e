# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM brought to ``state=running``: read, one plan for the host and the machine, all or nothing.

    host items ──► (stop) ──► record, unit ──► start ──► plug in what it has, and let it run

The last step is the machine's own plan, with its own undo. Check mode plans it against the VM that runs, or a rehearsal.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Dict, List, Tuple, cast

from .._core.errors import Refusal, TaskError
from .._core.plan import NotReadBack, Plan, PlanFailed
from .._core.step import Step
from .._engine.apply import apply
from .._engine.converge import Outcome, converge
from .._host import command_line, part_file
from .._machine.document import validated
from .._qmp import errors
from . import code, firmware, record, saved, service
from .arguments import arguments, has_seed, instance_id
from .beside import check_whole
from .chain import check_tops
from .console import bound_log
from .directory import check_own
from .host_items import base_path, copied_image, image_paths, image_to_come, items
from .options import LISTS, Place
from .process import bring_back, check_not_away, instance, plug, shown, without_incoming
from .rehearsal import is_whole, rehearsal
from .result import commands_shown, events_plan, host_diff, host_plan, process_plan

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._provision.instance import Running
    from .._qmp.deadline import Deadline

_KEPT = ("start_timeout", "plug_timeout", "shutdown_timeout", "power", "on_host_shutdown", "save_timeout")
"""What the record has as the task says it."""
_TO_RESTART = (
    "{} runs with other arguments than its options say. They take effect after a restart: set restart_allowed=true"
)
_UNREAD = (
    "{} has a new seed, and its guest does not read it: cloud-init reads one once for each instance-id, and that is still {}. "
    "Give another instance-id in meta_data, and restart the virtual machine"
)


class Converged:
    """What was found, what is wanted, and the steps between the two."""

    def __init__(self, task: Task, params: Dict[str, Any]) -> None:
        self.task = task
        self.params = params
        self.place = place = Place(params["directory"], params["user"])
        self.firmware = firmware.find(params)
        self.service = service.Service(place, params) if service.is_wanted(params) else None
        check_own(place, params, removal=False)
        if check_whole(place, check_mode=task.check_mode):
            from .upgrade_pair import Pair

            Pair(task, place).settle()
        self.record = record.read(place.record)
        self.arguments = arguments(params, place, self.firmware.code if self.firmware else None)
        self.process = instance(
            task,
            place,
            self.service,
            binary=params["binary"],
            arguments=self.arguments,
            shutdown_timeout=params["shutdown_timeout"],
        )
        self.process.kept = self.record
        self.line = self.process.command_line()
        self.running = self.process.look()
        self.differs = self.running is not None and self.process.differs(self.running, self.line)
        self.restarts = self.differs and params["restart_allowed"]
        self.starts = self.running is None or self.restarts
        self.goes_on = saved.is_wanted(place, self.running, params, self.line, self.record)
        if self.starts:
            check_tops(params, self.process.vm if self.running else None)
            if not params["incoming"]:
                check_not_away(place, self.running)
        self.code, self.code_files, self.code_there = self._code()
        self.wanted = self._record()
        self.process.images, self.process.base = self.wanted.images, self.wanted.base
        self.host = self._host()
        self.events = [] if self.starts else self.process.events_steps(cast("Running", self.running))
        self.plug_failed: PlanFailed | None = None
        self.machine: Dict[str, Any] = {}
        self.loaded: Dict[str, Any] = {}

    def _code(self) -> Tuple[str | None, Dict[str, bytes], bool]:
        if self.service is None and not self.params["autostart"]:
            return None, {}, True
        return code.place(self.place.code, self.record.code if self.record else None)

    def _record(self) -> record.Record:
        """Return what is to be kept of it. Raise Refusal for a document that is not valid."""
        params = self.params
        names = {machine: params[here] for here, machine in LISTS.items() if params[here]}
        document: Dict[str, Any] = {**names, "purge": params["purge"], "recreate": params["recreate"]}
        if params["purge"]:
            document = {**{machine: params[here] for here, machine in LISTS.items()}, **document}
        if params["vcpus_max"] > 1:
            document["vcpus"] = params["vcpus"]
        if params["balloon"] and not params["incoming"]:
            document["balloon"] = params["balloon"]
        document = validated(document)
        listed = {
            name: [_given(entry) for entry in value] for name, value in document.items() if isinstance(value, list)
        }
        copied = [copied_image(params, ident)[0] for ident in params["copied_disks"]] if params["incoming"] else []
        made = copied if params["incoming"] else image_paths(params)
        waits = params["incoming"] and (self.running is None or self.running.status == "inmigrate")
        # a process that can't be told to be ours is as good as none
        started = self.record.started if self.differs and not self.restarts and self.record else self.line
        if self.running is not None and not self.differs:
            started = self.process.as_started(self.running, self.line)
        if self.goes_on and self.record:
            started = saved.line_of(self.place, self.record, self.line[0])
        return record.Record(
            name=params["name"],
            user=params["user"],
            command_line=self.line if waits else without_incoming(self.line),
            started=[] if self.differs and not self.restarts and not self.record else started,
            document={**document, **listed},
            taps=[_given(tap) for tap in params["taps"]],
            images=sorted({*made, *(self.record.images if self.record else ())}),
            base=base_path(params) if params["image"] else None,
            code=self.code,
            incoming=waits,
            **{name: params[name] for name in _KEPT},
            copied=sorted({*copied, *(self.record.copied if self.record else ())}) if waits else [],
        )

    def _host(self) -> Outcome:
        """Return what leads to what the VM stands on. Nothing is done yet."""
        params, place = self.params, self.place
        if self.running is None and self.service and self.service.before and not os.path.isdir(place.directory):
            raise Refusal(
                f"directory: systemd has a unit of {place.name}, and {place.directory} is not there: is its storage mounted? To "
                f"make it anew, remove the unit {self.service.path} first"
            )
        host = self.task.host()
        self.image_needed = image_to_come(params)
        host.coming = {self.image_needed: None} if self.image_needed else {}
        runs = self.running is not None or self.goes_on
        wanted = items(params, place, self.firmware, self.record, runs, self.task.check_mode)
        # no kind of the host speaks to a monitor
        return converge(cast("VM", host), wanted, recreate=False, check_mode=True)

    # -- planning ----------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Return all steps, the last of which plugs in what it has. Raise Refusal for what looking tells can't be done."""
        steps = list(self.host.plan.steps)
        if self.restarts:
            steps += self._stop_steps()
        if not self.code_there:
            steps.append(code.sweep_step(self.place.code))
        if self.wanted != self.record:
            steps.append(record.write_step(self.place.record, self.wanted))
        if self.code and (self.wanted != self.record or not self.code_there):
            steps.append(code.install_step(self.code, self.code_files, self.code_there))
        if self.service and self.code:
            steps += self.service.steps(self.code)
        self.foretold = self._foretell()
        steps += self.events
        if self.starts:
            steps.append(self._start_step())
        if self.goes_on:
            steps.append(saved.load_step(self.place, self._load))
        if self.starts or self.goes_on or self.foretold["changed"]:
            steps.append(Step(do=self._plug, hidden=True))
        if self.starts and self.params["incoming"]:
            # it comes back: from now on the record tells so
            steps.append(Step(do=lambda deadline: part_file.remove(self.place.moving), hidden=True))
        return Plan([commands_shown(step) for step in steps])

    def _stop_steps(self) -> List[Step]:
        """Return the steps that end what runs. The last of them is taken back by starting it again as it was."""
        running = cast("Running", self.running)
        before = self.record or (None if os.geteuid() == 0 else self.wanted._replace(started=running.command_line))
        if before is None or not command_line.same(before.started[1:], running.command_line):
            raise Refusal(
                f"{self.place.name}: its process has another command line than it was started with here, so that a restart that "
                "fails could not be taken back: stop it (state=stopped), and start it anew"
            )
        former = before._replace(command_line=before.started)
        power = "running" if running.status == "running" else "paused"
        options = {"shutdown_timeout": self.params["shutdown_timeout"], "state": "stopped"}
        ending = instance(self.task, self.place, self.service, **options)
        ending.vm, ending.warnings = self.process.vm, self.process.warnings
        *steps, end = [step for step in ending.plan(running, []).steps if not step.do]
        again = {"path": self.place.directory, "action": "start as it was"}
        undo = Step(do=lambda deadline: bring_back(self.process, former, power), command_lines=[again])
        with_it = [Step(do=lambda deadline: None, hidden=True)]
        return [*(step.replace(undo=with_it) for step in steps), end.replace(undo=[undo], removes=False)]

    def _start_step(self) -> Step:
        place = self.place
        line = ["systemctl", "start", self.service.unit] if self.service else self.wanted.command_line
        ended = Step(do=self.process.end_unused, command_lines=[{"path": place.directory, "action": "end"}])
        return Step(
            do=self._start,
            command_lines=[shown(line)],
            undo=[ended],
            about=("process", place.name),
            needs=frozenset(comparison.name for comparison in self.host.comparisons),
        )

    def _foretell(self) -> Dict[str, Any]:
        """Return the machine's part of the result, as far as it can be told now. Raise Refusal for what can't be done."""
        power = saved.power_left(self.place, self._power) if self.goes_on else self._power
        coming = {
            comparison.want["path"]: comparison.want.get("virtual_size")
            for comparison in self.host.comparisons
            if comparison.is_added and "path" in comparison.want
        }
        if not self.starts:
            vm = cast("VM", self.process.vm)
            vm.coming = coming
            try:
                return plug(self.task, vm, self._document(), power, True)
            finally:
                vm.coming = {}
                vm.forget()
        # before a guest is shut down, whether what it shall have would work is looked at as in check mode
        if not self.task.check_mode and not self.restarts:
            return {"changed": True, "commands": []}
        with contextlib.ExitStack() as stack:
            try:
                vm = stack.enter_context(rehearsal(self.task, self.line[0], self.arguments, coming))
            except (errors.QMPError, TaskError) as exc:
                return self._not_foretold(exc)
            vm.ends = self.running.pid if self.running else None
            try:
                return plug(self.task, vm, self._document(), power, True)
            except Refusal as exc:
                if is_whole(self.arguments):
                    raise
                return self._not_foretold(exc)  # it may stand on what the rehearsal lacks

    def _not_foretold(self, why: Exception) -> Dict[str, Any]:
        warning = f"{self.place.name}: what would be plugged in can't be foretold: {why}"
        return {"changed": True, "commands": [], "warnings": [warning]}

    @property
    def _power(self) -> str | None:
        """The run state that is wanted; None for a guest that comes from elsewhere."""
        return None if self.params["incoming"] else str(self.params["power"])

    def _document(self) -> record.Record:
        """Return the record, its document with the disk as large as it shall be, if it is the one that QEMU runs on."""
        params = self.params
        # what does not run has been grown by qemu-img
        if (self.running is None and not self.goes_on) or not params["disk_size"] or params["incoming"]:
            return self.wanted
        if not self.restarts and not self.goes_on and not self._runs_on_disk():
            return self.wanted
        grown = {"node_name": "disk-node", "size": params["disk_size"]}
        document = self.wanted.document
        return self.wanted._replace(document={**document, "blockdevs": [*document.get("blockdevs", []), grown]})

    def _runs_on_disk(self) -> bool:
        """Tell whether the process has the disk that is wanted."""
        ours = [text for text in self.line if "node-name=disk-node," in text]
        return bool(ours) and ours[0] in cast("Running", self.running).command_line

    # -- doing -------------------------------------------------------------------------------------------------

    def do(self, plan: Plan) -> None:
        """Do all steps, or take back those that were done. Raise PlanFailed."""
        if plan.steps:
            try:
                apply(plan, self.process.vm or cast("VM", self.task.host()))
            except PlanFailed as exc:
                raise self._joined(exc) from exc

    def _start(self, deadline: Deadline) -> None:
        line = saved.waiting(self.wanted.started) if self.goes_on else self.line
        self.process.start(line, self.params["start_timeout"])

    def _load(self, deadline: Deadline) -> None:
        self.loaded = saved.prepare(self.process, cast("record.Record", self.record))
        saved.load(self.task, self.place, self.process, self.params["save_timeout"])

    def _plug(self, deadline: Deadline) -> None:
        try:
            self.machine = saved.joined(self.loaded, self.process.plug(self._document(), self._power))
        except PlanFailed as exc:
            self.plug_failed = exc
            if self.process.go_on(self.params["power"]):  # the undo has stopped it, and it runs again
                exc.rolled_back = [command for command in exc.rolled_back if command != Step("stop").public()]
            raise exc.cause from exc
        except NotReadBack as exc:
            raise exc.cause from exc

    def _joined(self, outer: PlanFailed) -> PlanFailed:
        """Return the failure of the whole: the machine's own, if that is what failed, and what was taken back of the rest."""
        inner = self.plug_failed
        if inner is None:
            return outer
        return PlanFailed(inner.step, inner.cause, inner.rolled_back + outer.rolled_back, inner.stuck + outer.stuck)

    # -- telling -----------------------------------------------------------------------------------------------

    def result(self, plan: Plan) -> Dict[str, Any]:
        """Return the task's result, in check mode as far as it can be foretold."""
        machine, process = self.machine or self.foretold, self.process
        now = process.started or process.found or (None if self.restarts else self.running)
        entries = host_plan(self.host.comparisons) + process_plan(self.restarts, self.running is None, self.place.name)
        summary = {"add": 0, "change": 0, "remove": 0, "unchanged": len(self.host.comparisons) + 1 - len(entries)}
        entries += events_plan(self.events, self.place.events)
        for entry in entries:
            summary[entry["action"]] += 1
        summary = {action: number + machine.get("summary", {}).get(action, 0) for action, number in summary.items()}
        status = machine.get("vm", {}).get("status") if now else None
        must_restart, unread = self._must_restart(), self._seed_is_unread()
        advice = [_TO_RESTART.format(self.place.name)] * must_restart
        advice += [_UNREAD.format(self.place.name, instance_id(self.params))] * unread
        return {
            **({"image_needed": self.image_needed} if self.image_needed else {}),
            "changed": any(not step.hidden for step in plan.steps) or bool(machine["commands"]),
            "commands": plan.commands + machine["commands"],
            "msg": ", ".join(f"{action} {number}" for action, number in summary.items()),
            "plan": entries + machine.get("plan", []),
            "summary": summary,
            "diff": self._diff(machine.get("diff") or {}),
            "vm": machine.get("vm", {}),
            "instance": {
                "name": self.place.name,
                "status": status,
                "pid": now.pid if now else None,
                "socket": self.place.socket,
                "pidfile": self.place.pidfile,
                "command_line": command_line.redact(self.line),
            },
            "restart_required": must_restart,
            "start_command": code.command(self.code, "start", self.place.directory) if self.code else [],
            "seed_unread": unread,
            "instance_id": instance_id(self.params) if has_seed(self.params) else None,
            "unverifiable": machine.get("unverifiable", []),
            "warnings": [*process.warnings, *self.host.warnings, *machine.get("warnings", []), *advice],
        }

    def _must_restart(self) -> bool:
        found = self.process.found
        if self.goes_on and not found:
            return not saved.is_line_of(self.line, self.wanted.started)
        return self.process.differs(found, self.line) if found else self.differs and not self.restarts

    def _seed_is_unread(self) -> bool:
        if self.running is None or self.differs:
            return False
        changed = [one.changes for one in self.host.comparisons if one.name[0] == "seed" and not one.is_added]
        return any(change.key == "sha256" for changes in changed for change in changes)

    def _diff(self, machine: Dict[str, Any]) -> Dict[str, Any]:
        """Return Ansible's ``{before, after}``: the host's things that change, the process's arguments, and the machine's."""
        before, after = host_diff(self.host.comparisons)
        if self.starts:
            after["process"] = {"arguments": command_line.redact(self.line)[1:]}
            if self.running:
                before["process"] = {"arguments": command_line.redact(self.running.command_line)[1:]}
        if self.events:
            after["monitor"] = {self.place.events: {}}
        return {"before": {**before, **machine.get("before", {})}, "after": {**after, **machine.get("after", {})}}


def run(task: Task, params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the result of ``state=running``. Raise TaskError, PlanFailed and the session's errors."""
    converged = Converged(task, params)
    plan = converged.plan()
    if not task.check_mode:
        bound_log(converged.place.console_log)
        converged.do(plan)
    return converged.result(plan)


def _given(entry: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}
