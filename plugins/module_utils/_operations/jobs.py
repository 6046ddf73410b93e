# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""QEMU's jobs: find, start, watch, cancel, dismiss.

A job outlives the task that began it. One made with ``auto-dismiss`` off stays, concluded and with its error, until
somebody dismisses it: that is how the next run learns what became of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.watch import watch
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import node_of, nodes
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

Job = Dict[str, Any]
"""A job as ``query-jobs`` has it, and ``speed``, ``io-status`` and ``auto-dismiss`` where it is a block job."""
CONCLUDED = "concluded"
_ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
_OF_BLOCK_JOBS = ("speed", "io-status", "auto-dismiss")


def jobs(vm: VM) -> Dict[str, Job]:
    """All jobs of the VM, by id."""
    return {job["id"]: job for job in vm.ask("query-jobs")}


def find(vm: VM, ident: str) -> Job | None:
    """The job of that id, with what ``query-block-jobs`` adds; None when there is none."""
    job = jobs(vm).get(ident)
    if job is None:
        return None
    for more in vm.ask("query-block-jobs"):
        if more["device"] == ident:
            return {**job, **{key: more[key] for key in _OF_BLOCK_JOBS if key in more}}
    return dict(job)


def has_concluded(job: Job | None) -> bool:
    """Whether it has ended, well or not."""
    return job is not None and job["status"] == CONCLUDED


def job_result(job: Job | None) -> Dict[str, Any]:
    """A job as results show it: ``{id, type, status, current_progress, total_progress, percent, speed?, error?}``."""
    if job is None:
        return {}
    shown = {key.replace("-", "_"): value for key, value in job.items() if key != "auto-dismiss"}
    return {**shown, "percent": round(progress("", job).percent, 1)}


def progress(what: str, job: Job) -> Progress:
    """How far it is."""
    return Progress(what, job["status"], job["current-progress"], job["total-progress"])


def progress_text(job: Job | None) -> str:
    """How far it is, for a message: ``running, 12.5 % (131072 of 1048576)``."""
    if job is None:
        return "QEMU has not answered"
    now = progress("", job)
    how_far = f", {now.percent:.3g} % ({now.done} of {now.total})" if now.total else ""
    paused = f", stopped by an I/O error ({job['io-status']})" if job.get("io-status", "ok") != "ok" else ""
    return f"{now.phase}{how_far}{paused}"


def dismiss(ident: str) -> Step:
    """The step that lets QEMU forget a concluded job."""
    return Step("job-dismiss", {"id": ident})


class Sender:
    """Sends steps one by one, without taking any back: what they began goes on without this task."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm

    def send(self, step: Step) -> None:
        """Raises CommandError when QEMU refuses, and NotDoneInTime when it has not answered at the deadline."""
        try:
            execute_step(step, self.vm, self.vm.deadline)
        except errors.CommandTimeout as exc:
            if exc.phase != "reply":
                raise
            raise NotDoneInTime() from exc
        finally:
            self.vm.forget()


def node_named(vm: VM, option: str, name: str) -> str:
    """The block node that a user means by its name, or by its device's or drive's. Raises Refusal, listing the nodes."""
    known = nodes(vm)
    if name in known:
        return name
    drives = {drive["device"]: drive["inserted"] for drive in vm.ask("query-block") if "inserted" in drive}
    found = drives[name]["node-name"] if name and name in drives else node_of(vm, name)
    if found is None:
        names = ", ".join(sorted(node for node in known if not node.startswith("#")))
        raise Refusal(f"{option}: there is no block node {name!r}; there are: {names or 'none with a name'}")
    return str(found)


def wait_for_job(
    vm: VM, ident: str, what: str, on_progress: Callable[[Progress], None], until: Tuple[str, ...] = (CONCLUDED,)
) -> Job:
    """Watch a job until its status is one of ``until``, or it has concluded, and return it.

    A job that dismisses itself is read from its last event. Raises NotDoneInTime with the job as it was seen last, and
    Refusal for one that is gone without a word.
    """
    last: List[Job] = []

    def look() -> Tuple[Job, bool, Progress]:
        job = find(vm, ident)
        if job is None:
            job = _gone(vm, ident, what, last)
        last[:] = [job]
        return job, job["status"] in (*until, CONCLUDED), progress(what, job)

    return watch(vm, look, on_progress, "JOB_STATUS_CHANGE")


def _gone(vm: VM, ident: str, what: str, last: List[Job]) -> Job:
    """The end of a job that QEMU no longer lists, by the event that a block job ends with."""
    for event in reversed(vm.session.events):
        if event.name in _ENDS and event.data["device"] == ident:
            data = event.data
            job: Job = {"id": ident, "type": data["type"], "status": CONCLUDED, "speed": data["speed"]}
            job.update({"current-progress": data["offset"], "total-progress": data["len"]})
            if "error" in data:
                job["error"] = data["error"]
            return job
    seen = f"; it was {progress_text(last[0])}" if last else ""
    raise Refusal(f"{what}: the job {ident} is gone{seen}: something else has dismissed it, so its result is not known")
