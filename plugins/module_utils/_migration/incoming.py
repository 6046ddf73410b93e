# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The destination of a migration: a VM that was started with ``-incoming defer`` begins to listen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.coercion import with_underscores
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import apply
from ansible_collections.vmm.qemu.plugins.module_utils._engine.watch import watch
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.host_path import check_socket
from ansible_collections.vmm.qemu.plugins.module_utils._migration.destination import has_guest
from ansible_collections.vmm.qemu.plugins.module_utils._migration.settings import (
    RUNNING,
    check_uri,
    listens_at,
    progress,
    settings,
    status,
    two_way,
)
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

INCOMING = {
    "uri": Option("str", required=True),
    "capabilities": Option("dict"),
    "parameters": Option("dict"),
    "wait": Option("bool", default=False),
}
_LISTENS = "listening"


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal, PlanFailed and the session's errors."""
    params = task.params
    check_uri(params["uri"])
    vm = task.connect()
    found, before = vm.ask("query-migrate"), vm.status
    plan = decide(vm, found, before, params)
    if not task.check_mode:
        if plan.steps:
            apply(plan, vm)
            vm.forget()
        found = _arrive(task, vm) if params["wait"] else vm.ask("query-migrate")
    said = _state(before, plan)
    return {
        "changed": bool(plan.steps),
        "commands": plan.commands,
        "migration": with_underscores(found),
        "diff": {"before": {"incoming": said[0]}, "after": {"incoming": said[1]}},
    }


def _state(before: str, plan: Plan) -> Tuple[str, str]:
    if before != "inmigrate":
        return "completed", "completed"
    return ("deferred" if plan.steps else _LISTENS), _LISTENS


def decide(vm: VM, found: Dict[str, Any], run_state: str, params: Dict[str, Any]) -> Plan:
    """What makes it listen. Queries only. Raises Refusal where it can't, or listens elsewhere."""
    uri = params["uri"]
    if run_state != "inmigrate":
        if has_guest(run_state, found) or status(found).startswith("postcopy"):
            return Plan()
        raise Refusal(
            f"the virtual machine does not wait for a migration (its status is {run_state}): start it with -incoming defer"
        )
    if "socket-address" in found or status(found) != "none":
        if "socket-address" in found and not listens_at(found, uri):
            raise Refusal(
                f"uri: the virtual machine listens at {_words(found)} already, and QEMU can't change that to {uri}: "
                "use that address, or start it anew with -incoming defer"
            )
        if "socket-address" not in found and status(found) == "setup" and uri.startswith(("tcp:", "unix:")):
            # QEMU 10.0 stays so when it could not listen
            raise Refusal(
                f"uri: the virtual machine could not listen at the address that it was given before, and takes no other: start "
                f"it anew with -incoming defer, and then let it listen at {uri}"
            )
        return Plan()
    if uri.startswith("unix:"):
        check_socket(vm, "uri", uri[len("unix:") :], ("migration", uri))
    usual = {"events": True, "return-path": two_way(uri)}
    return Plan([*settings(vm, params, usual), Step("migrate-incoming", {"uri": uri})])


def _words(found: Dict[str, Any]) -> str:
    return " and ".join(
        f"unix:{address['path']}" if address["type"] == "unix" else f"tcp:{address.get('host')}:{address.get('port')}"
        for address in found["socket-address"]
    )


def _arrive(task: Task, vm: VM) -> Dict[str, Any]:
    """Wait until the guest is here. Raises Refusal when it does not come, or QEMU ends: it does when a migration fails."""

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        found = vm.ask("query-migrate")
        if status(found) == "failed":
            raise Refusal(f"the incoming migration failed: {found.get('error-desc', 'QEMU does not say why')}")
        if status(found) == "postcopy-paused":
            raise Refusal("the migration has lost its connection in postcopy: use qemu_migrate with state=recovered")
        return found, vm.status != "inmigrate" and status(found) not in RUNNING, progress(found)

    try:
        return watch(vm, one_look, task.on_progress, "MIGRATION", "RESUME")
    except NotDoneInTime as exc:
        raise Refusal(
            f"no guest has arrived at {task.params['uri']} within {task.params['timeout']:.4g} s; it goes on listening",
            migration=with_underscores(exc.found or {}),
        ) from exc
    except errors.Disconnected as exc:
        raise Refusal(
            "QEMU has ended while it waited for its guest, as it does when a migration fails: the reason is on its "
            f"standard error or in its log, and the source should have its guest still: look there ({exc})"
        ) from exc
