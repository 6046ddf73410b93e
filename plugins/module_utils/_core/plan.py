# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A plan: the steps that lead from what is to what was asked for. Pure data; ``apply`` does them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Sequence

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step


class PlanFailed(Exception):
    """A step failed. ``cause`` is the first error, ``rolled_back`` the commands that undid what was done before it."""

    def __init__(self, step: Step, cause: Exception, rolled_back: List[Dict[str, Any]], stuck: List[str]) -> None:
        """``stuck``: sentences about what could not be taken back."""
        super().__init__(str(cause))
        self.step = step
        self.cause = cause
        self.rolled_back = rolled_back
        self.stuck = stuck


class NotReadBack(Exception):
    """All steps were done; reading the result failed. ``cause`` is why."""

    def __init__(self, plan: Plan, cause: Exception) -> None:
        super().__init__(str(cause))
        self.plan = plan
        self.cause = cause


class Plan:
    """Steps in their order."""

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps = list(steps)

    @property
    def commands(self) -> List[Dict[str, Any]]:
        """What the result shows: the same in check mode, where nothing of it is sent."""
        return [step.public() for step in self.steps if not step.hidden]
