# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Backups of the disks of a running VM at one moment, each in an image of its own."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import NotDoneInTime, OperationFailed, Refusal, TaskError
from .._core.plan import Plan, PlanFailed
from .._core.progress import Progress
from .._core.step import Step
from .._engine.apply import take_back
from .._engine.operation import Operation
from .._host.qemu_img import QemuImg
from .._operations import jobs
from .._operations.disk_snapshot import user_of
from .._operations.freeze import Freezer, do_frozen
from .._qmp import errors
from . import chain as chains
from . import fleece, place, retention, steps
from .disks import Source, bitmap_name, check_jobs, check_same, job_id, sources
from .level import Choice, bases, choose, counted
from .pull import exported
from .result import shown

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params, Run


class Current(NamedTuple):
    """What was read."""

    vm: VM
    chain: chains.Chain | None
    clears: Sequence[Step]
    """What removes that which a killed run has left."""
    freezer: Freezer
    lock: place.Lock
    due: bool = False
    sources: Sequence[Source] = ()
    choice: Choice = Choice("", "")
    new: steps.New | None = None
    """What is made."""


class BackupPlan(Plan):
    """A backup. ``ends``: the steps that make it complete, ``tidies``: what follows; the guest is thawed before both."""

    def __init__(
        self, steps: Sequence[Step], thaw: Sequence[Step], ends: Sequence[Step], tidies: Sequence[Step], **more: Any
    ) -> None:
        self.ends, self.tidies = list(ends), list(tidies)
        super().__init__(steps, [*thaw, *ends, *tidies], **more)


class Take(Operation):
    """Take a backup, unless the newest is young enough."""

    def read(self, vm: VM, params: Params) -> Current:
        """Return the chain, the disks, and what the next backup is. Raise Refusal."""
        path, name = params["path"], params["name"]
        chain = place.read_chain(vm, path, name)
        lock = place.Lock(path)
        lock.check_free()
        views = sorted(exported(vm, name))
        if views:
            raise Refusal(
                f"name: {', '.join(views)} is exported as {name} (state=exported): end that first (state=absent), or take "
                "another name"
            )
        files = [os.path.join(path, file) for file in (retention.unlisted(chain, path) if chain else ())]
        clears = (
            place.clear_qemu(vm, name, files)
            + fleece.clear(vm, name, [params["fleece"]])
            + [place.remove_file(vm, file) for file in files]
        )
        kept = [image.bitmap for base in bases(chain) for image in base.disks.values()]
        clears += place.stray_bitmaps(vm, name, kept)
        freezer = Freezer(params["quiesce"], vm.deadline)
        now = time.time()
        if params["every"] and not chains.why_due(counted(chain, params["level"]), params["every"], now):
            clears += retention.steps(path, chain, retention.pruned(chain, params["keep"], now) if chain else [], ())
            return Current(vm, chain, clears, freezer, lock)
        found = sources(vm, params)
        check_jobs(vm, found, name)
        choice = choose(params["level"], chain, found, path)
        new = _new(vm, chain, found, choice, params)
        return Current(vm, chain, clears, freezer, lock, True, found, choice, new)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what takes the backup, or only what a killed run has left to do."""
        chain, freezer, new = current.chain, current.freezer, current.new
        before = {"newest": _newest(chain), "left over": bool(current.clears), "frozen": freezer.was_frozen}
        if new is None:
            thaw = freezer.thaw_steps if freezer.was_frozen else []
            after = {**before, "left over": False, "frozen": False}
            return Plan(later=thaw, clears=current.clears, before=before, after=after)
        if freezer.refusal:
            raise Refusal(freezer.refusal)
        vm, name = current.vm, params["name"]
        first = steps.make(current.vm, new, chain is None, current.lock)
        first += steps.begin(vm, new, freezer.freeze_steps, params)
        listed = (chain or chains.Chain(name, {})).add(new.entry())
        kept = [image.bitmap for base in bases(listed) for image in base.disks.values() if image.bitmap]
        gone = _old_bitmaps(current, kept)
        gone += retention.steps(params["path"], chain, retention.pruned(listed, params["keep"], new.began), ())
        warnings = [*steps.warnings(new), *([freezer.trouble] if freezer.trouble else [])]
        newest = {"number": new.number, "level": new.choice.level, "disks": sorted(one.name for one in new.disks)}
        return BackupPlan(
            first,
            freezer.thaw_steps,
            steps.end(vm, new, name, chain, params),
            gone,
            clears=current.clears,
            before=before,
            after={"newest": newest, "left over": False, "frozen": False},
            warnings=warnings,
        )

    def begin(self, run: Run, current: Current, params: Params) -> None:
        """Do nothing yet: all is done under the lock."""

    def follow(self, run: Run, current: Current, params: Params) -> Any:
        """Clear up, copy, and list the backup; or take all of it back. Raise PlanFailed."""
        with current.lock.held(run.vm, params["name"], current.chain):
            place.send(run, run.plan.clears)
            if current.new is None or not isinstance(run.plan, BackupPlan):
                place.send(run, run.plan.later)
                return None
            return self._take(run, run.plan, current.new, current, params)

    def _take(self, run: Run, plan: BackupPlan, new: steps.New, current: Current, params: Params) -> Any:
        began, names = time.monotonic(), [one.name for one in new.disks]
        runs = run.vm.ask("query-status")["running"] and not params["fleece"]
        try:
            do_frozen(run, current.freezer)
            frozen = current.freezer.was_frozen or current.freezer.frozen_ms is not None
            new.taken(time.time(), frozen and not current.freezer.warnings)
            if not params["fleece"]:
                check_same(run.vm, current.sources)  # now that the jobs keep them so
            wait_for_jobs(run, {job_id(params["name"], name): name for name in names}, runs, params)
            place.send(run, plan.ends)
        except PlanFailed:  # and was taken back
            raise
        except (errors.QMPError, TaskError) as exc:
            if _may_be_listed(new):
                raise
            raise take_back(plan, run.vm, exc) from exc
        except BaseException as exc:  # the task was told to stop
            if not _may_be_listed(new):
                take_back(plan, run.vm, OperationFailed(str(exc)))
            raise
        place.send(run, plan.tidies)
        return round(time.monotonic() - began, 3)

    def describe(self, current: Current, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return ``backup``: the one that was taken, or the newest one."""
        newest = current.chain.newest if current.chain else None
        told = current.new.entry() if current.new else newest
        backup: Dict[str, Any] = {"frozen_ms": current.freezer.frozen_ms, "duration": end}
        if told:
            backup.update(shown(params["path"], told))
        if current.new and end is None:  # what only the real run tells
            backup["time"] = None
            for image in backup["disks"].values():
                image["written"] = None
        return {"backup": backup, "warnings": [*plan.warnings, *current.freezer.warnings]}


def _may_be_listed(new: steps.New) -> bool:
    """Tell whether it is listed, so that its images must stay; also where that can't be told."""
    try:
        chain = chains.read(new.path, new.name)
    except TaskError:
        return True
    return bool(chain and chain.newest and chain.newest.number >= new.number)


def _new(vm: VM, chain: chains.Chain | None, found: Sequence[Source], choice: Choice, params: Params) -> steps.New:
    """Return what is to be made. Raise Refusal where there is no room for it, or no program that makes it."""
    number = chain.next_number if chain else 1
    bitmap = None if choice.level == chains.COPY else bitmap_name(params["name"], number, params["path"])
    disks = [steps.NewImage(source, choice.image(source), bitmap) for source in found]
    binary = QemuImg(params["qemu_img"], vm.deadline).binary
    user = user_of(vm, [source.disk for source in found])
    new = steps.New(params["path"], number, choice, disks, user, binary, place.identity(vm), params["name"])
    new.taken(time.time(), bool(params["quiesce"]))
    steps.check(vm, new, params)
    return new


def _old_bitmaps(current: Current, kept: Sequence[str]) -> List[Step]:
    """Return the steps that remove the bitmaps which nothing stands on once the backup is listed."""
    cleared = [step.arguments for step in current.clears]
    found = place.stray_bitmaps(current.vm, current.new.name if current.new else "", kept)
    return [step for step in found if step.arguments not in cleared]


def _newest(chain: chains.Chain | None) -> Any:
    newest = chain.newest if chain else None
    return newest and {"number": newest.number, "level": newest.level, "disks": sorted(newest.disks)}


def wait_for_jobs(run: Run, idents: Dict[str, str], runs: bool, params: Params) -> None:
    """Wait until all have concluded. Raise OperationFailed as soon as one has failed, or has stopped a guest that ``runs``.

    ``idents``: the disk of each.
    """
    over: Dict[str, jobs.Job] = {}  # what dismissed itself: the events of hours may be too many to be kept

    def look() -> Tuple[Any, bool, Progress]:
        known = dict(jobs.jobs(run.vm))
        for ident, disk in idents.items():
            if ident not in known:
                over[ident] = known[ident] = over.get(ident) or jobs.gone(run.vm, ident, f"backup of {disk}")
            if "error" in known[ident]:
                error = {"class": "GenericError", "desc": known[ident]["error"]}
                scratch = (
                    f"; or the scratch image in {params['fleece']} has no room or is slow, or the disk can't be read"
                    if params["fleece"]
                    else ""
                )
                raise OperationFailed(f"backup of {disk}: {known[ident]['error']}{scratch}", error=error)
        if runs and run.vm.status == "io-error":
            raise OperationFailed(
                "the guest stands still, since QEMU could not keep what a write of it would have replaced: the backup's target "
                "is full or fails. The backup was given up, and the guest goes on; with fleece it does not wait for the target"
            )
        found = [known[ident] for ident in idents]
        done, total = (sum(job[f"{key}-progress"] for job in found) for key in ("current", "total"))
        phase = found[0]["status"] if len({job["status"] for job in found}) == 1 else "running"
        return found, all(map(jobs.has_concluded, found)), Progress("backup", phase, done, total)

    try:
        run.watch(look, "JOB_STATUS_CHANGE")
    except NotDoneInTime as exc:
        raise OperationFailed(
            f"backup: not done within {params['timeout']:.4g} s, and given up: set a longer timeout, or less to copy"
        ) from exc


TAKE = Take()
