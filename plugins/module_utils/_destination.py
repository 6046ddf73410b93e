# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The other side of a migration, where the task names its monitor: what only the destination itself can tell."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Dict, Iterator

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._migration import capabilities, status, two_way
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
    from ansible_collections.vmm.qemu.plugins.module_utils._module import Task

_LOOK = 0.05
# Capabilities that both sides must have alike, or the stream can't be read.
_ALIKE = ("multifd", "postcopy-ram", "mapped-ram")


@contextmanager
def reached(task: Task) -> Iterator[VM]:
    """The destination, for as short as can be: its monitor serves one client. Raises Refusal where nobody is there."""
    where = task.params["destination_socket"]
    try:
        other = task.connect_to(where)
    except errors.ConnectError as exc:
        raise Refusal(f"destination_socket: {exc}") from exc
    try:
        yield other
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
    for name in _ALIKE:
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


def let_recover(task: Task) -> None:
    """Let a destination that was interrupted in postcopy listen again, where the task names it."""
    if task.params["destination_socket"] is None:
        return
    with reached(task) as other:
        if status(other.ask("query-migrate")) == "postcopy-paused":
            other.session.execute("migrate-recover", {"uri": task.params["uri"]}, deadline=task.deadline)


def has_guest(state: str, migration: str) -> bool:
    """Whether a run state and a migration's status are those of a VM that a guest has come to, and is still with."""
    return migration == "completed" and state not in ("inmigrate", "postmigrate")


def lacks_guest(task: Task) -> bool:
    """Whether the destination is certain not to have the guest: it says so, or there is none any more."""
    if task.params["destination_socket"] is None:
        return False
    try:
        with reached(task) as other:
            return other.status == "inmigrate"
    except Refusal as exc:
        return isinstance(exc.__cause__, errors.ConnectError) and exc.__cause__.nobody
    except errors.QMPError:
        return False


def arrived(task: Task) -> str:
    """Wait until the destination says that it has the guest; its run state. Raises Refusal when it does not."""
    while True:
        try:
            with reached(task) as other:
                state, there = other.status, status(other.ask("query-migrate"))
        except errors.QMPError as exc:
            raise Refusal(f"destination_socket: {exc}") from exc
        if has_guest(state, there):
            return state
        never = there == "failed" or state == "postmigrate" or (there == "none" and state != "inmigrate")
        if never or task.deadline.expired:
            raise Refusal(f"the destination has not taken the guest over: its migration is {there}, its status {state}")
        time.sleep(_LOOK)
