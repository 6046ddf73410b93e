# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's jobs, and the operations that are one: begin or join it, follow it to its end, dismiss it, judge it.

A job outlives the task that began it. One made with ``auto-dismiss`` off stays, concluded and with its error, until
somebody dismisses it: that is how the next run learns what became of it.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from .._core.coercion import with_underscores
from .._core.errors import NotDoneInTime, OperationFailed
from .._core.plan import Plan
from .._core.progress import Progress
from .._core.step import Step
from .._engine.operation import Operation, Params, Run

if TYPE_CHECKING:
    from .._core.vm import VM

Job = Dict[str, Any]
"""A job as ``query-jobs`` has it, and ``speed``, ``io-status`` and ``auto-dismiss`` where it is a block job."""
CONCLUDED = ("concluded",)
READY = ("ready",)
GOING = ("running", "ready")
PAUSED = ("paused", "standby")
STARTED = (*GOING, *PAUSED)
"""What is waited for. Every wait ends with a concluded job, too."""
BEGIN_ANEW = "run the task again to begin anew"
_COMPLETED = "BLOCK_JOB_COMPLETED"
_ENDS = (_COMPLETED, "BLOCK_JOB_CANCELLED")
_OF_BLOCK_JOBS = ("speed", "io-status", "auto-dismiss")


def jobs(vm: VM) -> Dict[str, Job]:
    """Return all jobs of the VM, by id."""
    return {job["id"]: job for job in vm.ask("query-jobs")}


def find(vm: VM, ident: str) -> Job | None:
    """Return the job of that id, with what ``query-block-jobs`` adds; None when there is none."""
    job = jobs(vm).get(ident)
    if job is None:
        return None
    for more in vm.ask("query-block-jobs"):
        if more["device"] == ident:
            return {**job, **{key: more[key] for key in _OF_BLOCK_JOBS if key in more}}
    return dict(job)


def has_concluded(job: Job | None) -> bool:
    """Tell whether it has ended, well or not."""
    return job is not None and job["status"] in CONCLUDED


def job_result(job: Job | None) -> Dict[str, Any]:
    """Return a job as results show it: ``{id, type, status, current_progress, total_progress, percent, speed?, error?}``."""
    if job is None:
        return {}
    shown = {key: value for key, value in job.items() if key != "auto-dismiss"}
    return {**with_underscores(shown), "percent": round(progress("", job).percent, 1)}


def progress(what: str, job: Job) -> Progress:
    """Return how far it is."""
    return Progress(what, job["status"], job["current-progress"], job["total-progress"])


def progress_text(job: Job | None) -> str:
    """Return how far it is, for a message: ``running, 12.5 % (131072 of 1048576)``."""
    if job is None:
        return "QEMU has not answered"
    now = progress("", job)
    how_far = f", {now.percent:.3g} % ({now.done} of {now.total})" if now.total else ""
    paused = f", stopped by an I/O error ({job['io-status']})" if _is_stopped(job) else ""
    return f"{now.phase}{how_far}{paused}"


def _is_stopped(job: Job | None) -> bool:
    """Tell whether it waits after an I/O error."""
    return job is not None and job.get("io-status", "ok") != "ok"


def dismiss(ident: str) -> Step:
    """Return the step that lets QEMU forget a concluded job, if nobody else has meanwhile."""
    return Step("job-dismiss", {"id": ident}, removes=True, still_needed=lambda vm: ident in jobs(vm))


def complete(ident: str) -> Step:
    """Return the step that ends a job which is ready: its device then has what was copied to."""
    return Step("job-complete", {"id": ident})


def wait_for_job(run: Run, ident: str, what: str, until: Tuple[str, ...] = CONCLUDED) -> Job:
    """Watch a job until its status is one of ``until``, or it has concluded, and return it.

    A job that dismisses itself is read from its last event. Raise NotDoneInTime with the job as it was seen last, and
    OperationFailed for one that is gone without a word.
    """
    last: List[Job] = []

    def look() -> Tuple[Job, bool, Progress]:
        job = find(run.vm, ident) or gone(run.vm, ident, what, progress_text(last[0]) if last else "")
        last[:] = [job]
        return job, job["status"] in until or has_concluded(job), progress(what, job)

    return run.watch(look, "JOB_STATUS_CHANGE")


def gone(vm: VM, ident: str, what: str, last: str = "") -> Job:
    """Return the end of a job that QEMU no longer lists, by the event that a block job ends with.

    ``last``: how far it was, for the message. Raise OperationFailed where there was no such event.
    """
    for event in reversed(vm.session.events):
        if event.name in _ENDS and event.data["device"] == ident:
            data = event.data
            job: Job = {"id": ident, "type": data["type"], "status": "concluded", "speed": data["speed"]}
            job.update({"current-progress": data["offset"], "total-progress": data["len"]})
            error = data.get("error", "" if event.name == _COMPLETED else "Operation canceled")
            return {**job, "error": error} if error else job
    seen = f"; it was {last}" if last else ""
    raise OperationFailed(
        f"{what}: the job {ident} is gone{seen}: something else has dismissed it, so its result is not known"
    )


class JobPlan(Plan):
    """A plan around one job: what begins it, what is sent when it is ready, once it has concluded, and where it succeeded."""

    def __init__(
        self,
        what: str,
        ident: str,
        begin: Sequence[Step] = (),
        *,
        until: Tuple[str, ...] = CONCLUDED,
        completed_by: Sequence[Step] = (),
        on_success: Sequence[Step] = (),
        dismisses: bool = True,
        then: Sequence[Step] = (),
        may_fail: bool = False,
        before: Dict[str, Any],
        after: Dict[str, Any],
        warnings: Sequence[str] = (),
        on_failure: Sequence[str] = (),
    ) -> None:
        """Take the plan of a job. ``what``: the job in the user's words. ``begin``: none where one that goes on is joined.

        ``until``: the statuses that are waited for; none: nothing is. ``completed_by``: what ends it when it is ready,
        ``on_success``: what follows while QEMU still keeps it, as the proof that it is done;
        ``dismisses``: whether it is forgotten when it has concluded; ``then`` follows where it did not fail.
        ``may_fail``: its error is not the task's (it was cancelled).
        """
        self.what, self.ident, self.until, self.may_fail = what, ident, until, may_fail
        self.begin, self.then = list(begin), list(then)
        self.complete = list(completed_by)
        self.on_success = list(on_success)
        self.dismiss = [dismiss(ident)] if dismisses else []
        super().__init__(
            later=[*self.begin, *self.complete, *self.on_success, *self.dismiss, *self.then],
            before=before,
            after=after,
            warnings=warnings,
            follows=bool(until),
            on_failure=("job-dismiss", *on_failure),
        )


class JobOperation(Operation):
    """An operation that is one job in QEMU. Its ``plan`` returns a JobPlan, or a Plan without steps."""

    def follow(self, run: Run, current: Any, params: Params) -> Any:
        """Begin or join the job, follow it to the status that the plan waits for, and return it.

        Raise NotDoneInTime when it goes on, and OperationFailed when it failed.
        """
        if not isinstance(run.plan, JobPlan):
            raise TypeError(f"{type(run.plan).__name__} is not a JobPlan")
        return self.follow_job(run, run.plan, current, params)

    def follow_job(self, run: Run, plan: JobPlan, current: Any, params: Params) -> Any:
        """Do the same for a plan that is a part of the task's."""
        job = None
        try:
            for step in plan.begin:
                run.send(step)
            for step in plan.complete:
                job = wait_for_job(run, plan.ident, plan.what, READY)
                if job["status"] in READY:
                    run.send(step)
            if plan.until:
                job = wait_for_job(run, plan.ident, plan.what, plan.until)
            for step in plan.on_success if job is not None and "error" not in job else ():
                run.send(step)
            for step in plan.dismiss if has_concluded(job) else ():
                run.send(step)
        except NotDoneInTime as exc:
            job = exc.found or job
            goes_on = "it goes on, and the next run joins it"
            if _is_stopped(job):
                goes_on = "remove the cause, and run this again to let it go on"
            raise NotDoneInTime(
                f"{plan.what}: not done within {params['timeout']:.4g} s ({progress_text(job)}); {goes_on}",
                job=job_result(job),
            ) from exc
        if job is not None and "error" in job and not plan.may_fail:
            run.vm.forget()
            if not plan.dismiss and find(run.vm, plan.ident) is not None:
                run.send(dismiss(plan.ident))  # its error is told here, and QEMU need not keep it
            raise job_failed(plan, job, self.after_failure(run, current, params, job))
        for step in plan.then:
            run.send(step)
        return job

    def after_failure(self, run: Run, current: Any, params: Params, job: Job) -> str:
        """Do what a failed job calls for, and return what to tell of it, after the job's own error."""
        return BEGIN_ANEW


def job_failed(plan: JobPlan, job: Job, advice: str = BEGIN_ANEW, **details: Any) -> OperationFailed:
    """Return the error for a job that ended with one."""
    error = {"class": "GenericError", "desc": job["error"]}
    return OperationFailed(f"{plan.what}: {job['error']}; {advice}", error=error, job=job_result(job), **details)
