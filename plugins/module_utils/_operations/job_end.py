# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Ends a job that nobody needs any more, whatever has become of it by then."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.errors import NotDoneInTime
from .._core.step import Step, Wait
from . import jobs

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.errors import CommandError
    from .._qmp.events import Event


class _Ended(Wait):
    """The job has concluded, or is gone."""

    def __init__(self, ident: str) -> None:
        self.ident = ident

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the event of its end."""
        return event.name == "JOB_STATUS_CHANGE" and event.data == {"id": self.ident, "status": "concluded"}

    def is_done(self, vm: VM) -> bool:
        """Tell whether it does not go on any more."""
        return not _goes_on(vm, self.ident)

    def classify(self, error: CommandError) -> str:
        """Return "pending": a job that can't be cancelled is about to end, or gone."""
        return "pending"

    def timeout_error(self, vm: VM) -> Exception:
        """Return what to tell of a job that does not end."""
        return NotDoneInTime(f"job {self.ident} was cancelled, and has not ended in time: its target does not answer")


def _goes_on(vm: VM, ident: str) -> bool:
    vm.forget()
    job = jobs.jobs(vm).get(ident)
    return job is not None and not jobs.has_concluded(job)


def cancel(ident: str, by: Step | None = None) -> Step:
    """Return the step that cancels a job, if it goes on, and waits for its end. ``by``: another command than ``job-cancel``."""
    step = by or Step("job-cancel", {"id": ident})
    return step.replace(wait=_Ended(ident), removes=True, still_needed=lambda vm: _goes_on(vm, ident))


def end(ident: str) -> List[Step]:
    """Return the steps that cancel a job, if it goes on, and have QEMU forget it."""
    return [cancel(ident), jobs.dismiss(ident)]
