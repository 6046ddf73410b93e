# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for a VM: an event, a run state, or the guest's agent."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Dict

from .._core.errors import NotDoneInTime, Refusal
from .._core.option import Option
from .._qmp import errors
from .._qmp.agent import wait_for_agent

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.events import Event

OPTIONS = {
    "event": Option("list", elements="str"),
    "data": Option("dict"),
    "status": Option("list", elements="str"),
    "guest_agent": Option("str"),
}
# A run state can change without an event (prelaunch after a reset), so it is asked for now and then.
_LOOK_EVERY = 0.5
_KNOCK_EVERY = 0.1


def run(task: Task) -> Dict[str, Any]:
    """Wait, and return what came. In check mode nothing is waited for, since what would cause it has not run.

    Raise NotDoneInTime at the deadline, saying what was seen meanwhile.
    """
    params = task.params
    for name in ("event", "status", "guest_agent"):
        if params[name] is not None and not params[name]:
            raise Refusal(f"{name}: it is empty, so there is nothing to wait for")
    if params["guest_agent"]:
        if not task.check_mode:
            _agent(params["guest_agent"], task)
        return {"changed": False, "commands": []}
    vm = _connected(task)
    if vm is None:
        return {"changed": False, "commands": []}
    if params["status"]:
        return {"changed": False, "commands": [], "status": _status(vm, set(params["status"]), task.check_mode)}
    if task.check_mode:
        return {"changed": False, "commands": []}
    event = _event(vm, set(params["event"]), params["data"] or {})
    shown = {"name": event.name, "data": event.data, "timestamp": event.timestamp}
    return {"changed": False, "commands": [], "event": shown}


def _connected(task: Task) -> VM | None:
    """Return the VM as soon as somebody listens at its monitor; in check mode None where nobody does: it may be started before."""
    while True:
        try:
            return task.connect()
        except errors.ConnectError as exc:
            if not exc.nobody:
                raise
            if task.check_mode:
                return None
            if task.deadline.expired:
                raise NotDoneInTime(f"nobody came to listen within {task.deadline.seconds:.4g} s: {exc}") from exc
        time.sleep(_KNOCK_EVERY)


def _agent(address: str, task: Task) -> None:
    try:
        wait_for_agent(address, task.deadline)
    except errors.CommandTimeout as exc:
        raise NotDoneInTime(str(exc)) from exc


def _event(vm: VM, names: set[str], data: Dict[str, Any]) -> Event:
    """Return the first event of these names and data since the session began."""

    def matches(event: Event) -> bool:
        return event.name in names and all(key in event.data and event.data[key] == data[key] for key in data)

    try:
        return vm.session.wait_event(matches, deadline=vm.deadline, since=0)
    except errors.CommandTimeout as exc:
        seen = [event.name for event in vm.session.events]
        raise NotDoneInTime(
            f"{_words(names, data)} did not come within {vm.deadline.seconds:.4g} s; {_seen(seen)}"
        ) from exc


def _status(vm: VM, wanted: set[str], at_once: bool) -> str:
    """Return the run state, once it is one of the wanted ones."""
    passed = [vm.status]
    while passed[-1] not in wanted and not at_once:
        if vm.deadline.expired:
            states = ", then ".join(passed)
            raise NotDoneInTime(
                f"the VM did not become {' or '.join(sorted(wanted))} within {vm.deadline.seconds:.4g} s: it was {states}"
            )
        with contextlib.suppress(errors.CommandTimeout):
            vm.session.wait_event(lambda event: True, timeout=_LOOK_EVERY, deadline=vm.deadline)
        vm.forget()
        try:
            if vm.status != passed[-1]:
                passed.append(vm.status)
        except errors.CommandTimeout:
            continue
    return passed[-1]


def _words(names: set[str], data: Dict[str, Any]) -> str:
    with_data = f" with {data}" if data else ""
    return " or ".join(sorted(names)) + with_data


def _seen(names: list[str]) -> str:
    if not names:
        return "no event came meanwhile"
    return "meanwhile came " + ", ".join(f"{name} ({names.count(name)})" for name in sorted(set(names)))
