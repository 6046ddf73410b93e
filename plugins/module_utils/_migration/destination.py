# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The other side of a migration, where the task names its monitor: what only the destination itself can tell."""
# Private to the collection: may change without notice.

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, Dict, Iterator

from .._core.errors import NotDoneInTime, OperationFailed, Refusal, TaskError
from .._core.interrupt import pause
from .._core.step import Step
from .._core.vm import NO_MACHINE
from .._qmp import errors
from .current import HAS, LACKS, RUNNING, UNKNOWN, Answer, Current, has_guest, look, status
from .settings import read_settings, two_way

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._engine.operation import Params, Run

_LOOK = 0.05
# Capabilities that both sides must have alike, or the stream can't be read.
ALIKE = ("multifd", "postcopy-ram", "mapped-ram")


@contextmanager
def reached(source: Task | VM, where: str) -> Iterator[VM]:
    """Connect to the destination, for as short as can be: its monitor serves one client.

    Raise Refusal where nobody is there, and for answers that are not QEMU's: whatever it says, the task sees to its own side.
    """
    try:
        other = source.connect_to(where)
    except errors.ConnectError as exc:
        raise Refusal(f"destination_socket: {exc}") from exc
    try:
        yield other
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise Refusal(
            f"destination_socket: {where} does not answer as QEMU does ({type(exc).__name__}: {exc})"
        ) from exc
    finally:
        other.session.close()


def read_there(vm: VM, params: Params) -> Current | None:
    """Read the destination, where the task names it. Raise Refusal, and the session's errors."""
    if params["destination_socket"] is None:
        return None
    with reached(vm, params["destination_socket"]) as other:
        if vm.session.process is not None and vm.session.process == other.session.process:
            raise Refusal("destination_socket: it is another monitor of the virtual machine itself")
        if other.status == NO_MACHINE:
            return Current({}, NO_MACHINE, False)
        there = look(other)
        status(there.migration)  # or it is not QEMU that answers
        return there._replace(settings=read_settings(other, None))


def check_ready(current: Current, params: Params, states: Dict[str, bool]) -> None:
    """Raise Refusal where the destination could not take the guest: found now, not after the guest has been copied.

    ``states``: the capabilities that this side will have.
    """
    there: Current | None = current.there
    if there is None:
        return
    if there.run_state != "inmigrate":
        raise Refusal(
            f"destination_socket: the destination does not wait for a migration (its status is {there.run_state}): "
            "start it with -incoming defer"
        )
    if two_way(params["uri"]) and "socket-address" not in there.migration and there.status == "none":
        raise Refusal("destination_socket: the destination does not listen yet: run qemu_migrate_incoming on it first")
    if there.status in RUNNING and there.status != "setup":
        raise Refusal(
            "destination_socket: the destination still waits for the rest of an earlier migration: end it, and start it anew"
        )
    for name in ALIKE:
        if states.get(name, False) != there.settings.capabilities.get(name, False):
            raise Refusal(
                f"capabilities: {name} is {'on' if states.get(name) else 'off'} here and not at the destination: "
                "both sides need the same; give it to qemu_migrate_incoming, too"
            )
    asked = {name.replace("_", "-"): value for name, value in (params["parameters"] or {}).items()}
    mine = {**current.settings.parameters, **asked}.get("multifd-channels")
    theirs = there.settings.parameters.get("multifd-channels")
    if states.get("multifd") and str(mine) != str(theirs):
        raise Refusal(
            f"parameters: multifd-channels is {mine} here and {theirs} at the destination: both sides need the same"
        )


def ask(vm: VM, params: Params) -> Answer:
    """Return what the destination says by now, to a task that has not seen it before. Queries only."""
    return _heard(vm, params, lambda other: _word(other, False), False)


def keep_stopped(run: Run, ran: bool, seen: bool) -> Answer:
    """Return what the destination says, for good: one that waits for the guest is kept from running it, should it still come.

    ``stop`` sees to that, whichever comes first: to a VM that waits it means that the guest shall arrive paused, and a guest
    that has arrived meanwhile stands still. That one goes on if it ``ran``. ``seen``: the task has seen it wait.
    """
    params = run.task.params
    where = params["destination_socket"]

    def held(other: VM) -> Answer:
        word = _word(other, seen)
        if not word.waits:
            return word
        run.send(Step("stop", socket=where), vm=other)
        word = _word(other, True)
        if word.guest == HAS and ran:
            run.send(Step("cont", socket=where), vm=other)
        return word

    return _heard(run.vm, params, held, seen)


def go_on(run: Run) -> bool:
    """Let a guest run that has come to a destination that was kept from running it. False where that can't be done."""
    params = run.task.params

    def continued(other: VM) -> Answer:
        word = _word(other, True)
        if word.guest == HAS:
            run.send(Step("cont", socket=params["destination_socket"]), vm=other)
        return word

    return _heard(run.vm, params, continued, True).guest == HAS


def _word(other: VM, seen: bool) -> Answer:
    other.forget()
    state, found = other.status, other.ask("query-migrate")
    if state == "inmigrate" and not status(found).startswith("postcopy"):
        if status(found) not in ("none", "setup"):
            return Answer(LACKS, waits=True)
        return Answer(
            UNKNOWN, "destination_socket: it waits, and nothing has begun to come to it, so that it may be another"
        )
    if has_guest(state, found):
        if seen:
            return Answer(HAS)
        return Answer(
            UNKNOWN, "destination_socket: it has a guest, and this task has not seen it wait, so that it may be another"
        )
    return Answer(UNKNOWN, f"destination_socket: its migration is {status(found)}, its status {state}")


def _heard(vm: VM, params: Params, listen: Callable[[VM], Answer], seen: bool) -> Answer:
    if params["destination_socket"] is None:
        return Answer(UNKNOWN, "destination_socket, which would have it asked, is not given")
    try:
        with reached(vm, params["destination_socket"]) as other:
            return listen(other)
    except (NotDoneInTime, errors.QMPError) as exc:
        return Answer(UNKNOWN, f"destination_socket: {exc}")
    except TaskError as exc:
        gone = isinstance(exc.__cause__, errors.ConnectError) and exc.__cause__.nobody
        return Answer(LACKS) if gone and seen else Answer(UNKNOWN, str(exc))


def check_arrived(run: Run) -> None:
    """Wait until the destination says that it has the guest. Raise TaskError when it does not."""
    while True:
        try:
            with reached(run.vm, run.task.params["destination_socket"]) as other:
                state, found = other.status, other.ask("query-migrate")
        except errors.QMPError as exc:
            raise OperationFailed(f"destination_socket: {exc}") from exc
        if has_guest(state, found):
            return
        there = status(found)
        never = there == "failed" or state == "postmigrate" or (there == "none" and state != "inmigrate")
        if never or run.vm.deadline.expired:
            raise OperationFailed(
                f"the destination has not taken the guest over: its migration is {there}, its status {state}"
            )
        pause(_LOOK)
