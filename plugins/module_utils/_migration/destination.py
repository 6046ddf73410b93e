# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The other side of a migration, where the task names its monitor: what only the destination itself can tell."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal, TaskError
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import capabilities, status, two_way
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

_LOOK = 0.05
# Capabilities that both sides must have alike, or the stream can't be read.
ALIKE = ("multifd", "postcopy-ram", "mapped-ram")


@contextmanager
def reached(task: Task) -> Iterator[VM]:
    """The destination, for as short as can be: its monitor serves one client.

    Raises Refusal where nobody is there, and for answers that are not QEMU's: whatever it says, the task sees to its own side.
    """
    where = task.params["destination_socket"]
    try:
        other = task.connect_to(where)
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


def check_ready(task: Task, vm: VM, states: Dict[str, bool]) -> None:
    """Raise Refusal where the destination could not take the guest: found now, not after the guest has been copied."""
    uri = task.params["uri"]
    with reached(task) as other:
        if vm.session.process is not None and vm.session.process == other.session.process:
            raise Refusal("destination_socket: it is another monitor of the virtual machine itself")
        if other.status != "inmigrate":
            raise Refusal(
                f"destination_socket: the destination does not wait for a migration (its status is {other.status}): "
                "start it with -incoming defer"
            )
        listening = other.ask("query-migrate")
        if two_way(uri) and "socket-address" not in listening and status(listening) == "none":
            raise Refusal(
                "destination_socket: the destination does not listen yet: run qemu_migrate_incoming on it first"
            )
        theirs = capabilities(other)
        channels = other.ask("query-migrate-parameters").get("multifd-channels")
    for name in ALIKE:
        if states.get(name, False) != theirs.get(name, False):
            raise Refusal(
                f"capabilities: {name} is {'on' if states.get(name) else 'off'} here and not at the destination: "
                "both sides need the same; give it to qemu_migrate_incoming, too"
            )
    asked = {name.replace("_", "-"): value for name, value in (task.params["parameters"] or {}).items()}
    mine = asked.get("multifd-channels", vm.ask("query-migrate-parameters").get("multifd-channels"))
    if states.get("multifd") and str(mine) != str(channels):
        raise Refusal(
            f"parameters: multifd-channels is {mine} here and {channels} at the destination: both sides need the same"
        )


class Word(NamedTuple):
    """What the destination says of the guest."""

    guest: str
    """``HAS``, ``LACKS`` (for good, unless it waits) or ``UNKNOWN``.

    Any virtual machine can be named. One that has a guest has this one only if the task has seen it wait before, and one that waits
    lacks this one only if something has begun to come to it. One that is gone has none if it was seen to wait.
    """
    why: str = ""
    """Why it is not known."""
    waits: bool = False
    """It is there, and waits for the guest."""


HAS, LACKS, UNKNOWN = "has", "lacks", "unknown"


def at(where: str, step: Step) -> Step:
    """The step, to be sent to the VM whose monitor that is."""
    return step.replace(socket=where)


def recovering(task: Task) -> List[Step]:
    """What lets a destination that was interrupted in postcopy listen again, where the task names it. Queries only."""
    if task.params["destination_socket"] is None:
        return []
    with reached(task) as other:
        if status(other.ask("query-migrate")) != "postcopy-paused":
            return []
    return [at(task.params["destination_socket"], Step("migrate-recover", {"uri": task.params["uri"]}))]


def has_guest(state: str, found: Dict[str, Any]) -> bool:
    """Whether a run state and ``query-migrate`` are those of a VM that a guest has come to, and is still with.

    One that has sent its guest away tells how long that took; its run state need not show it, after a reset.
    """
    return status(found) == "completed" and "total-time" not in found and state not in ("inmigrate", "postmigrate")


def ask(task: Task) -> Word:
    """What the destination says by now, to a task that has not seen it before. Queries only."""
    return _heard(task, lambda other: _word(other, False), False)


def hold(task: Task, tell: Callable[[VM, Step], None], ran: bool, seen: bool) -> Word:
    """What the destination says, for good: one that waits for the guest is kept from running it, should it still come.

    ``stop`` sees to that, whichever comes first: to a VM that waits it means that the guest shall arrive paused, and a guest
    that has arrived meanwhile stands still. That one goes on if it ``ran``. ``tell(vm, step)`` sends a step. ``seen``: the task
    has seen it wait.
    """
    where = task.params["destination_socket"]

    def held(other: VM) -> Word:
        word = _word(other, seen)
        if not word.waits:
            return word
        tell(other, at(where, Step("stop")))
        word = _word(other, True)
        if word.guest == HAS and ran:
            tell(other, at(where, Step("cont")))
        return word

    return _heard(task, held, seen)


def go_on(task: Task, tell: Callable[[VM, Step], None]) -> bool:
    """Let a guest run that has come to a destination that was kept from running it. False where that can't be done."""

    def continued(other: VM) -> Word:
        word = _word(other, True)
        if word.guest == HAS:
            tell(other, at(task.params["destination_socket"], Step("cont")))
        return word

    return _heard(task, continued, True).guest == HAS


def _word(other: VM, seen: bool) -> Word:
    other.forget()
    state, found = other.status, other.ask("query-migrate")
    if state == "inmigrate" and not status(found).startswith("postcopy"):
        if status(found) not in ("none", "setup"):
            return Word(LACKS, waits=True)
        return Word(
            UNKNOWN, "destination_socket: it waits, and nothing has begun to come to it, so that it may be another"
        )
    if has_guest(state, found):
        if seen:
            return Word(HAS)
        return Word(
            UNKNOWN, "destination_socket: it has a guest, and this task has not seen it wait, so that it may be another"
        )
    return Word(UNKNOWN, f"destination_socket: its migration is {status(found)}, its status {state}")


def _heard(task: Task, listen: Callable[[VM], Word], seen: bool) -> Word:
    if task.params["destination_socket"] is None:
        return Word(UNKNOWN, "destination_socket, which would have it asked, is not given")
    try:
        with reached(task) as other:
            return listen(other)
    except TaskError as exc:
        gone = isinstance(exc.__cause__, errors.ConnectError) and exc.__cause__.nobody
        return Word(LACKS) if gone and seen else Word(UNKNOWN, str(exc))
    except errors.QMPError as exc:
        return Word(UNKNOWN, f"destination_socket: {exc}")


def arrived(task: Task) -> str:
    """Wait until the destination says that it has the guest; its run state. Raises Refusal when it does not."""
    while True:
        try:
            with reached(task) as other:
                state, found = other.status, other.ask("query-migrate")
        except errors.QMPError as exc:
            raise Refusal(f"destination_socket: {exc}") from exc
        if has_guest(state, found):
            return state
        there = status(found)
        never = there == "failed" or state == "postmigrate" or (there == "none" and state != "inmigrate")
        if never or task.deadline.expired:
            raise Refusal(f"the destination has not taken the guest over: its migration is {there}, its status {state}")
        time.sleep(_LOOK)
