# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""qemu_migrate_incoming, the destination of a migration: a VM that was started with ``-incoming defer`` begins to listen."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from .._core.coercion import with_underscores
from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.option import Option
from .._core.plan import Plan
from .._core.progress import Progress
from .._core.step import Step
from .._engine.operation import Operation, Params, Run
from .._kinds.host_path import check_socket
from .._qmp import errors
from . import settings
from .current import RUNNING, Current, has_guest, look, progress, status

if TYPE_CHECKING:
    from .._core.vm import VM


class Exports(NamedTuple):
    """What gives the source the disks to copy to, and what ends that."""

    begin: List[Step] = []
    end: List[Step] = []


class Incoming(Operation):
    """Let a VM that waits for a guest listen for it."""

    options = {
        "uri": Option("str", required=True),
        "capabilities": Option("dict"),
        "parameters": Option("dict"),
        "wait": Option("bool", default=False),
        "copy_disks": Option("dict", options=settings.COPY_DISKS),
    }

    def check(self, params: Params) -> Params:
        """Refuse an address that is not valid."""
        settings.check_uri(params["uri"])
        if params.get("copy_disks"):
            from . import copies

            copies.check(params["copy_disks"])
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return where it stands, and what is set where it does not listen yet."""
        current, uri = look(vm), params["uri"]
        if params.get("copy_disks"):
            current = current._replace(copies=_exports(vm, current, params))
        if not _is_deferred(current):
            return current
        if uri.startswith("unix:"):
            check_socket(vm, "uri", uri[len("unix:") :], ("migration", uri))
        return current._replace(settings=settings.read_settings(vm, params["parameters"]))

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what makes it listen."""
        uri, listening, completed = params["uri"], {"incoming": "listening"}, {"incoming": "completed"}
        exports: Exports = current.copies or Exports()
        later = exports.end if params.get("wait") else []
        if _is_deferred(current):
            usual = {"events": True, "return-path": settings.two_way(uri)}
            usual.update({"dirty-bitmaps": True} if exports.begin else {})
            steps = [*exports.begin, *settings.setting_steps(current.settings, params, usual)]
            steps.append(Step("migrate-incoming", {"uri": uri}))
            return Plan(steps, later, before={"incoming": "deferred"}, after=listening, follows=True)
        if current.run_state == "inmigrate":
            _check_same_address(current.migration, uri)
            return Plan(exports.begin, later, before=listening, after=listening, follows=True)
        if has_guest(current.run_state, current.migration) or current.status.startswith("postcopy"):
            return Plan(later=exports.end, before=completed, after=completed, follows=True)
        raise Refusal(
            f"the virtual machine does not wait for a migration (its status is {current.run_state}): "
            "start it with -incoming defer"
        )

    def follow(self, run: Run, current: Current, params: Params) -> Dict[str, Any]:
        """Wait for the guest, where that is wanted. Return ``query-migrate``."""
        run.vm.forget()
        found = _arrive(run, params) if params["wait"] else dict(run.vm.ask("query-migrate"))
        for step in run.plan.later:
            if step.condition is None or step.condition(run.vm):
                run.send(step)
        return found

    def describe(self, current: Current, params: Params, plan: Plan, end: Dict[str, Any] | None) -> Dict[str, Any]:
        """Return ``migration``."""
        return {"migration": with_underscores(current.migration if end is None else end)}


def _exports(vm: VM, current: Current, params: Params) -> Exports:
    from . import copies

    there = [export["id"] for export in vm.ask("query-block-exports") if export["id"].startswith(copies.PREFIX)]
    if current.run_state != "inmigrate":
        return Exports(end=copies.ending_exports(there))
    new = copies.exporting(vm, params["copy_disks"])
    made = [step.arguments["id"] for step in new if step.execute == "block-export-add"]
    return Exports(new, copies.ending_exports(sorted({*there, *made})))


def _is_deferred(current: Current) -> bool:
    """Tell whether it waits and was not told yet where to listen."""
    return current.run_state == "inmigrate" and current.status == "none" and "socket-address" not in current.migration


def _check_same_address(migration: Dict[str, Any], uri: str) -> None:
    """Raise Refusal for a VM that listens elsewhere, or has tried to and failed."""
    if "socket-address" in migration:
        if not settings.listens_at(migration, uri):
            raise Refusal(
                f"uri: the virtual machine listens at {_words(migration)} already, and QEMU can't change that to {uri}: "
                "use that address, or start it anew with -incoming defer"
            )
    elif status(migration) == "setup" and uri.startswith(
        ("tcp:", "unix:")
    ):  # QEMU 10.0 stays so when it could not listen
        raise Refusal(
            f"uri: the virtual machine could not listen at the address that it was given before, and takes no other: start "
            f"it anew with -incoming defer, and then let it listen at {uri}"
        )


def _words(migration: Dict[str, Any]) -> str:
    return " and ".join(
        f"unix:{address['path']}" if address["type"] == "unix" else f"tcp:{address.get('host')}:{address.get('port')}"
        for address in migration["socket-address"]
    )


def _arrive(run: Run, params: Params) -> Dict[str, Any]:
    """Wait until the guest is here. Raise OperationFailed when it does not come, or QEMU ends: it does when a migration fails."""
    vm = run.vm

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        found = vm.ask("query-migrate")
        if status(found) == "failed":
            raise OperationFailed(f"the incoming migration failed: {found.get('error-desc', 'QEMU does not say why')}")
        if status(found) == "postcopy-paused":
            raise OperationFailed(
                "the migration has lost its connection in postcopy: use qemu_migrate with state=recovered"
            )
        return found, vm.status != "inmigrate" and status(found) not in RUNNING, progress(found)

    try:
        return run.watch(one_look, "MIGRATION", "RESUME")
    except NotDoneInTime as exc:
        raise NotDoneInTime(
            f"no guest has arrived at {params['uri']} within {params['timeout']:.4g} s; it goes on listening",
            migration=with_underscores(exc.found or {}),
        ) from exc
    except errors.Disconnected as exc:
        raise OperationFailed(
            "QEMU has ended while it waited for its guest, as it does when a migration fails: the reason is on its "
            f"standard error or in its log, and the source should have its guest still: look there ({exc})"
        ) from exc


INCOMING = Incoming()
