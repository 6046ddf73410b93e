# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks as they were at one moment, for a program that fetches them by NBD."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Set

from .._core.errors import Refusal
from .._core.plan import Draft, Plan
from .._core.step import Step
from .._engine.operation import Operation
from .._host.qemu_img import QemuImg
from .._kinds import export_server
from .._kinds.blockdev_nodes import nodes
from .._kinds.export import removing
from .._operations.disk_snapshot import user_of
from .._operations.disk_snapshot_disks import all_disks
from .._operations.freeze import Freezer, do_frozen
from . import fleece, place
from .disks import Source, check_jobs, job_id, sources

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params, Run
    from .chain import Chain


class Current(NamedTuple):
    """What was read."""

    vm: VM
    sources: Sequence[Source]
    there: Set[str]
    """The disks that are exported."""
    clears: Sequence[Step]
    """What removes that which a killed run has left."""
    freezer: Freezer
    lock: place.Lock
    chain: Chain | None
    """The one whose directory this is, if there is one: a backup of that name can be exported beside it."""
    binary: str = ""
    user: int = 0
    """The one that QEMU runs as."""


def exported(vm: VM, name: str) -> Set[str]:
    """Return the disks that are exported, whole."""
    known = {export["id"]: export["node-name"] for export in vm.ask("query-block-exports")}
    found = set()
    for disk in all_disks(vm).values():
        own = fleece.names(name, disk.name)
        if disk.top == own.view_filter and known.get(job_id(name, disk.name)) == own.access:
            found.add(disk.name)
    return found


def end_exports(vm: VM, name: str, force: bool, stops: bool = True) -> List[Step]:
    """Return the steps that end the exports of this name, and the NBD server where it has no others and ``stops``."""
    own = {job_id(name, disk): disk for disk in [*all_disks(vm), *fleece.unplugged(vm, name)]}
    there = [export["id"] for export in vm.ask("query-block-exports") if export["id"] in own]
    steps = [removing(ident, force) for ident in there]
    return [*steps, export_server.stop()] if stops and there and set(export_server.exports(vm)) == set(there) else steps


class Pull(Operation):
    """Export disks as they are at one moment."""

    def read(self, vm: VM, params: Params) -> Current:
        """Return the disks, and those that are exported. Raise Refusal where others are."""
        name, path = params["name"], params["path"]
        fleece.check(vm, "path", path)
        chain = place.read_chain(vm, path, name)
        lock = place.Lock(path)
        lock.check_free()
        found = sources(vm, params)
        wanted, there = {source.name for source in found}, exported(vm, name)
        if there == wanted:
            return Current(vm, found, there, [], Freezer(None, vm.deadline), lock, chain)
        left = fleece.clear(vm, name, [path])
        whole = {disk for disk in all_disks(vm) if fleece.names(name, disk).scratch in nodes(vm)} == there
        if there and whole:
            raise Refusal(
                f"name: {', '.join(sorted(there))} is exported as {name}, and not {', '.join(sorted(wanted))}: end that first "
                "(state=absent), or take another name"
            )
        check_jobs(vm, found, name)
        if params["listen"] is None and not export_server.exports(vm):
            raise Refusal("listen: no NBD server runs yet: give the address that it shall have")
        for source in found:
            _check_bitmaps(vm, source, params["bitmaps"] or [])
        binary = QemuImg(params["qemu_img"], vm.deadline).binary
        clears = [*end_exports(vm, name, True, stops=False), *left]
        user = user_of(vm, [source.disk for source in found])
        return Current(vm, found, set(), clears, Freezer(params["quiesce"], vm.deadline), lock, chain, binary, user)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what exports them; nothing where they are."""
        disks = sorted(source.name for source in current.sources)
        state = {"exported": disks}
        if current.there:
            return Plan(before=state, after=state)
        if current.freezer.refusal:
            raise Refusal(current.freezer.refusal)
        vm, name, freezer, draft = current.vm, params["name"], current.freezer, Draft()
        steps = [
            step
            for source in current.sources
            for step in fleece.prepare(vm, params["path"], name, source, current.user, current.binary)
        ]
        steps += [*freezer.freeze_steps, *fleece.put_in(vm, name, current.sources, [])]
        steps += [_bitmaps(name, source, params["bitmaps"]) for source in current.sources if params["bitmaps"]]
        want = {"id": job_id(name, disks[0]), **{key: params[key] for key in ("listen", "tls_creds") if params[key]}}
        steps += export_server.start(vm, want, draft)
        steps += [_export(vm, name, source, params) for source in current.sources]
        trouble = [freezer.trouble] if freezer.trouble else []
        return Plan(
            steps,
            freezer.thaw_steps,
            clears=current.clears,
            before={"exported": []},
            after=state,
            warnings=[*draft.warnings, *trouble],
        )

    def begin(self, run: Run, current: Current, params: Params) -> None:
        """Clear up, and do all of it or nothing, under the lock of the directory."""
        with current.lock.held(run.vm, params["name"], current.chain):
            place.send(run, run.plan.clears)
            run.vm.forget()
            if exported(run.vm, params["name"]) != current.there:
                raise Refusal("name: another task has exported its disks meanwhile: run this one again")
            do_frozen(run, current.freezer)

    def follow(self, run: Run, current: Current, params: Params) -> Any:
        """Do nothing more: all is done."""

    def describe(self, current: Current, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return ``backup``: how each disk is fetched."""
        name, listen = params["name"], params["listen"]
        disks = {
            source.name: {
                "export": f"{name}/{source.name}",
                "uri": listen and _uri(listen, f"{name}/{source.name}"),
                "size": source.top.size,
                "bitmaps": params["bitmaps"] or [],
            }
            for source in current.sources
        }
        told = (
            [] if not current.there else [key for key in ("listen", "tls_creds", "bitmaps") if params[key] is not None]
        )
        return {
            "backup": {"disks": disks, "frozen_ms": current.freezer.frozen_ms},
            "unverifiable": told,
            "warnings": [*plan.warnings, *current.freezer.warnings],
        }


def _check_bitmaps(vm: VM, source: Source, names: Sequence[str]) -> None:
    """Raise Refusal for a bitmap that does not tell what has changed."""
    told = {one.get("name"): one for one in nodes(vm)[source.node].get("dirty-bitmaps", [])}
    for name in names:
        if name not in told:
            raise Refusal(f"bitmaps: the image of {source.name} has no bitmap {name!r}: make it with qemu_bitmap")
        if told[name].get("inconsistent"):
            raise Refusal(
                f"bitmaps: {name} of {source.name} is inconsistent, since QEMU was killed: fetch all of the disk"
            )
        if told[name]["busy"]:
            raise Refusal(f"bitmaps: {name} of {source.name} is in use by a job or an export: let that end first")


def _bitmaps(name: str, source: Source, names: Sequence[str]) -> Step:
    """Return the step that copies bitmaps to the view, where they stay as they are."""
    node, actions = fleece.names(name, source.name).access, []
    for bitmap in names:
        copy = {"node": node, "target": bitmap, "bitmaps": [{"node": source.node, "name": bitmap}]}
        actions.append({"type": "block-dirty-bitmap-add", "data": {"node": node, "name": bitmap, "disabled": True}})
        actions.append({"type": "block-dirty-bitmap-merge", "data": copy})
    nothing = Step("block-dirty-bitmap-remove", removes=True, still_needed=lambda vm: False)  # they go with their node
    return Step("transaction", {"actions": actions}, undo=[nothing])


def _export(vm: VM, name: str, source: Source, params: Params) -> Step:
    own, ident = fleece.names(name, source.name), job_id(name, source.name)
    made: Dict[str, Any] = {"type": "nbd", "id": ident, "node-name": own.access, "name": f"{name}/{source.name}"}
    if params["bitmaps"]:
        made["bitmaps"] = params["bitmaps"]
    return Step("block-export-add", vm.schema.coerce("block-export-add", made), undo=[removing(ident, True)])


def _uri(listen: str, name: str) -> str:
    parsed = export_server.parse(listen)
    if parsed.path is not None:
        return f"nbd+unix:///{name}?socket={parsed.path}"
    host = f"[{parsed.host}]" if ":" in str(parsed.host) else parsed.host
    return f"nbd://{host}:{parsed.port}/{name}"


PULL = Pull()
