# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""qemu_save: a guest in a file, or running, and never both.

The file is whole before QEMU is ended, and has lost its name before its guest runs.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, cast

from .._core.errors import Refusal
from .._core.option import Option
from .._core.plan import Plan
from .._core.process import Process
from .._core.step import Step
from .._engine.operation import Operation, Params, Run
from .._host import part_file, saved_file
from .._host.shutdown import NOT_BEGUN, Ended
from .._operations.blocked import check_blocked, check_jobs, working_jobs
from .._operations.power import Reached
from .._qmp import errors
from .._qmp.address import parse
from . import settings
from .current import has_guest, look
from .save_current import OPAQUE, Current, Handed, guest_of, images
from .save_follow import follow_load, follow_save

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM

_CAN_BE_SAVED = ("running", "paused", "prelaunch", "io-error", "watchdog", "guest-panicked")
_UNLIMITED = 1 << 40  # bytes a second
_LONGEST_DOWNTIME = 2_000_000  # ms, the most that QEMU takes: the guest is stopped as soon as it can be
_MAPPED = ("mapped-ram", "multifd")
ON_FAILURE = (
    *("migrate_cancel", "remove-fd", "closefd", "cont"),
    *("migrate-set-capabilities", "migrate-set-parameters"),
)


class Save(Operation):
    """Bring a guest into a file, or back from it."""

    options = {
        "path": Option("path", required=True),
        "state": Option("str", choices=["saved", "running", "absent"], default="saved"),
        "parallel": Option("int"),
    }

    def check(self, params: Params) -> Params:
        """Raise Refusal for a path that is not valid, and options that contradict each other."""
        part_file.check_absolute("path", params["path"])
        if parse(params["socket"]).path is None:
            raise Refusal(
                "socket: a file is handed to QEMU over a UNIX socket: give one on the virtual machine's own host"
            )
        channels = params["parallel"]
        if channels is not None and params["state"] != "saved":
            raise Refusal(f"parallel: only state=saved takes it, and state is {params['state']}")
        if channels is not None and not 1 <= channels <= 255:
            raise Refusal(f"parallel: {channels} is not between 1 and 255")
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return where the guest is, and the files. Raise Refusal for what can't be saved, or is not ours."""
        path = params["path"]
        now, (part, whole, loaded) = look(vm), map(saved_file.read, saved_file.names(path))
        me = Process(vm.session.process).identity or os.urandom(8).hex()  # what is not known is like no other
        current = Current(now, me, Handed(), part, whole, loaded)
        current = current._replace(sets=[] if params["state"] == "absent" else _own_sets(vm))
        if params["state"] == "saved" and whole is None and now.can_begin:
            current = _read_to_save(vm, current, params)
        elif params["state"] == "saved" and part is not None and now.run_state == "postmigrate":
            current = current._replace(ended=_is_whole(vm, path))
        elif params["state"] == "running" and whole is not None and now.run_state == "inmigrate":
            have = settings.read_settings(vm, {"any": True} if whole.channels else None)
            current = current._replace(guest=guest_of(vm), settings=have, fdset=_free_set(vm))
            current = current._replace(disks=images(vm)[0], size=os.stat(path).st_size)
        elif params["state"] == "running" and any(header and header.channels for header in (whole, loaded)):
            current = current._replace(settings=settings.read_settings(vm, None))
        return current

    def unreachable(self, task: Task, params: Params, error: errors.QMPError) -> Dict[str, Any]:
        """Return that a guest whose virtual machine is gone is saved, or remove its file."""
        if not isinstance(error, errors.ConnectError) or not error.nobody:
            raise error
        path, state = params["path"], params["state"]
        whole = saved_file.read(path)
        if state == "absent":
            return _remove(task, path)
        if state == "running":
            raise Refusal(
                f"{error}. To go on with a saved guest, start its virtual machine first, with -incoming defer"
            ) from error
        if whole is None or not whole.size:
            raise Refusal(f"{error}, and there is no saved guest at {path}") from error
        there = {"state": "saved"}
        return {
            "changed": False,
            "commands": [],
            "warnings": [],
            "diff": {"before": there, "after": there},
            "save": {"path": path, "size": whole.size, "duration": None},
        }

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what leads to the wanted state."""
        plan = {"saved": _saving, "running": _loading, "absent": _removing}[params["state"]](current, params["path"])
        before = {"state": current.now.run_state if current.whole is None else "saved"}
        plan.before, plan.after = before, {"state": params["state"]} if plan.changed else before
        plan.on_failure = frozenset(ON_FAILURE)
        return plan

    def follow(self, run: Run, current: Current, params: Params) -> Dict[str, Any]:
        """See it through. Return ``size`` and ``duration``."""
        if params["state"] == "saved":
            return follow_save(run, current, params)
        if params["state"] == "running":
            return follow_load(run, current, params)
        super().follow(run, current, params)
        return {}

    def describe(self, current: Current, params: Params, plan: Plan, end: Dict[str, Any] | None) -> Dict[str, Any]:
        """Return ``save``."""
        there = current.whole or current.loaded
        known = {"size": there.size if there else None, "duration": None}
        return {"save": {"path": params["path"], **known, **(end or {})}}


# -- reading ------------------------------------------------------------------


def _free_set(vm: VM) -> int:
    return 1 + max((entry["fdset-id"] for entry in vm.ask("query-fdsets")), default=0)


def _own_sets(vm: VM) -> List[int]:
    """Return the sets of descriptors that an earlier task has handed over."""
    return [
        entry["fdset-id"] for entry in vm.ask("query-fdsets") if any(fd.get("opaque") == OPAQUE for fd in entry["fds"])
    ]


def _is_whole(vm: VM, path: str) -> bool:
    """Tell whether an earlier task's file has all of the guest, and no disk was written to since."""
    part = part_file.part_path(path)
    written = os.stat(part).st_mtime_ns
    return saved_file.has_end(part) and all(state[2] <= written for state in images(vm)[0].values())


def _read_to_save(vm: VM, current: Current, params: Params) -> Current:
    """Read what saving needs besides. Raise Refusal where the guest can't be saved, or there is no room for it."""
    path = params["path"]
    saved_file.check_place(path)
    check_blocked(vm, "the guest can't be saved")
    check_jobs("the guest can't be saved", working_jobs(vm))
    vm.check_harmless("query-named-block-nodes")  # which is asked when the guest stands still
    memory = vm.ask("query-memory-size-summary")
    whole = memory["base-memory"] + memory.get("plugged-memory", 0)
    room = part_file.room(os.path.dirname(path))
    if room < whole:
        raise Refusal(
            f"path: {room} bytes are free in {os.path.dirname(path)}, and the guest has {whole} bytes of memory: make room, or "
            "give another path"
        )
    have = settings.read_settings(vm, {"any": True})
    if params["parallel"] and "mapped-ram" not in have.capabilities:
        raise Refusal(
            "parallel: this QEMU writes a guest's memory in one stream: 9.0 is the first that can do it in parallel"
        )
    settable = have.schema.members("migrate-set-parameters") if have.schema else ()
    direct = bool(params["parallel"]) and "direct-io" in settable and saved_file.takes_direct_io(path)
    current.handed.wanted = params["parallel"] or 0
    return current._replace(guest=guest_of(vm), settings=have, fdset=_free_set(vm), direct=direct)


# -- planning -----------------------------------------------------------------


def _saving(current: Current, path: str) -> Plan:
    now, part, whole = current.now, current.part, current.whole
    ours = part is not None and part.writer == current.me
    if whole is not None:
        if now.run_state == "inmigrate":
            return Plan()
        if now.run_state == "postmigrate" and whole.writer == current.me:
            return Plan(later=[_quit(current)])
        raise Refusal(
            f"path: {path} has a guest already, and the virtual machine's runs ({now.run_state}): if that one is older, discard it "
            "(state=absent), or give another path"
        )
    if now.goes_on and ours:
        return Plan(later=_ends(current, path))
    if now.goes_on or now.status == "cancelling":
        raise Refusal("a migration of the virtual machine is under way: run the task again when it is over")
    if now.run_state == "postmigrate" and now.status == "completed" and ours and current.ended:
        return Plan(later=_ends(current, path))
    if now.run_state not in _CAN_BE_SAVED:
        raise Refusal(f"the virtual machine has no guest that could be saved: its status is {now.run_state}")
    mapped = current.handed.wanted
    parameters = {"max-bandwidth": _UNLIMITED, "downtime-limit": _LONGEST_DOWNTIME}
    parameters.update({"multifd-channels": mapped} if mapped else {})
    parameters.update({"direct-io": True} if current.direct else {})
    if "mapped-ram" in current.settings.capabilities:
        hand, uri = current.handed.in_set(current.fdset, os.O_WRONLY, current.direct)
    else:
        hand, uri = current.handed.by_name(path, os.O_WRONLY)
    steps = _settings(current, mapped, parameters)
    return Plan(steps, [*hand, Step("migrate", {"uri": uri}), *_ends(current, path)])


def _settings(current: Current, mapped: int, parameters: Dict[str, Any]) -> List[Step]:
    """Return the steps to what a file needs: nothing that a stream between two hosts may have."""
    on = _MAPPED if mapped else ()
    states = current.settings.capabilities
    asked = {name: name in on for name in states if states[name] or name in on}
    if current.settings.parameters.get("tls-creds"):
        parameters = {**parameters, "tls-creds": ""}
    return settings.setting_steps(current.settings, {"capabilities": asked, "parameters": parameters}, {})


def _ends(current: Current, path: str) -> List[Step]:
    """Return the steps after all is written."""
    place = Step(do=lambda deadline: current.handed.finish(path), command_lines=[{"path": path, "action": "mv"}])
    return [place, _quit(current)]


def _quit(current: Current) -> Step:
    return Step("quit", wait=Ended())


def _loading(current: Current, path: str) -> Plan:
    now, whole, loaded, me = current.now, current.whole, current.loaded, current.me
    if now.run_state != "inmigrate" or (whole is not None and whole.loader == me and now.status != "none"):
        return _arrived(current, path)
    if whole is None:
        been = (
            f"; {saved_file.loaded_path(path)} has been loaded before, and its guest may have run since"
            if loaded
            else ""
        )
        raise Refusal(f"path: there is no saved guest at {path} that the virtual machine could go on with{been}")
    if whole.loader != me and Process.is_alive(whole.loader):
        raise Refusal(
            f"path: another QEMU (process {whole.loader.split(' ')[1]}) has begun to go on with {path}, and may have the guest: if "
            "it does not run there, end that one first"
        )
    if now.status != "none" or "socket-address" in now.migration:
        raise Refusal(
            "the virtual machine waits for a guest from elsewhere already: start it anew with -incoming defer"
        )
    current.check_fits(path)
    if "mapped-ram" in current.settings.capabilities:
        hand, uri = current.handed.in_set(current.fdset, os.O_RDONLY, False)
    else:
        hand, uri = current.handed.by_name(path, os.O_RDONLY)
    channels = {"multifd-channels": whole.channels} if whole.channels else {}
    marks = Step(do=lambda deadline: current.handed.mark(whole._replace(loader=me)), hidden=True)
    begins = [Step("stop"), marks, *hand, Step("migrate-incoming", {"uri": uri})]
    sets = _settings(current, whole.channels, channels)
    back = _unmapped() if whole.channels else []
    numbers = (*current.sets, *([current.fdset] if hand[0].execute == "add-fd" else []))
    closes = [current.handed.closed(number) for number in numbers]
    return Plan(sets, [*begins, *_consuming(path), *back, *closes, *_running(whole), _drop(path)])


def _arrived(current: Current, path: str) -> Plan:
    """Return what is left to do where the guest is here, or on its way from the file."""
    now, whole, loaded, me = current.now, current.whole, current.loaded, current.me
    waits = now.run_state == "inmigrate"
    closes = [current.handed.closed(number) for number in current.sets]
    if any(current.settings.capabilities.get(name) for name in _MAPPED):
        closes += _unmapped()
    if whole is not None and whole.loader == me:
        goes_on = now.run_state == "paused" or waits
        return Plan(later=[*_consuming(path), *closes, *(_running(whole) if goes_on else ()), _drop(path)])
    if whole is not None:
        raise Refusal(
            f"path: {path} has a guest, and the virtual machine has one that is not from there (its status is {now.run_state}): "
            "one that waits is started with -incoming defer; state=absent discards what is saved"
        )
    if loaded is not None and loaded.loader == me:
        return Plan(later=[*closes, *(_running(loaded) if now.run_state == "paused" else ()), _drop(path)])
    if now.run_state in (*NOT_BEGUN, "postmigrate") and not has_guest(now.run_state, now.migration):
        raise Refusal(
            f"path: there is no saved guest at {path}, and the status of the virtual machine is {now.run_state}"
        )
    return Plan()


def _unmapped() -> List[Step]:
    """Return the step by which later migrations go over the network again."""
    return [
        Step("migrate-set-capabilities", {"capabilities": [{"capability": name, "state": False} for name in _MAPPED]})
    ]


def _consuming(path: str) -> List[Step]:
    return [Step(do=lambda deadline: saved_file.consume(path), command_lines=[{"path": path, "action": "mv"}])]


def _running(header: saved_file.Header) -> List[Step]:
    return [Step("cont", wait=Reached(True))] if header.running else []


def _drop(path: str) -> Step:
    return _rm(saved_file.loaded_path(path))


def _rm(path: str) -> Step:
    return Step(do=lambda deadline: part_file.remove(path), command_lines=[{"path": path, "action": "rm"}])


def _removing(current: Current, path: str) -> Plan:
    if current.now.goes_on and current.part is not None and current.part.writer == current.me:
        raise Refusal(f"path: the guest is being saved to {path} right now: run the task again when that is over")
    headers = (current.part, current.whole, current.loaded)
    return Plan(later=[_rm(name) for name, header in zip(saved_file.names(path), headers) if header is not None])


def remove_steps(path: str) -> List[Step]:
    """Return the steps that remove a saved guest's files. Raise Refusal for what is not one."""
    return [_rm(name) for name in saved_file.names(path) if saved_file.read(name) is not None]


def _remove(task: Task, path: str) -> Dict[str, Any]:
    """Return the result of state=absent where the virtual machine is gone."""
    from .._engine.apply import apply

    plan = Plan(remove_steps(path))
    if plan.steps and not task.check_mode:
        apply(plan, cast("VM", task.host()))
    return {
        "changed": plan.changed,
        "commands": plan.commands,
        "warnings": [],
        "diff": {"before": {"state": "saved" if plan.changed else "absent"}, "after": {"state": "absent"}},
        "save": {"path": path, "size": None, "duration": None},
    }


SAVE = Save()
