# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A plan: the steps that lead from what is to what was asked for. Pure data."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Collection, Dict, List, Sequence, Set, Tuple

from .step import Step

Thing = Tuple[str, str]
"""Kind and id of something in the VM."""


class Draft:
    """A plan in the making: what it removes, adds and makes. Checks count neither what goes nor miss what comes.

    The engine fills it in, and a kind whose removal takes other things along.
    """

    def __init__(self) -> None:
        self.removing: Set[Thing] = set()
        self.adding: Dict[Thing, Dict[str, Any]] = {}
        """The options of each thing that is added."""
        self.naming: Dict[str, List[Thing]] = {}
        """The things that are added and name a text in their ``options``: a backend, say."""
        self.makes: Dict[str, Thing] = {}
        """The paths on the host that QEMU is told to make or to write to, and for which thing."""
        self.warnings: List[str] = []

    def add(self, names: Collection[Thing], want: Dict[str, Any]) -> None:
        """Enter a thing that is added, by each of its names."""
        self.adding.update(dict.fromkeys(names, want))
        for value in want.get("options", {}).values():
            if isinstance(value, str):
                self.naming.setdefault(value, []).extend(names)


class PlanFailed(Exception):
    """A step failed. ``cause`` is the first error, ``rolled_back`` the commands that undid what was done before it."""

    def __init__(self, step: Step, cause: Exception, rolled_back: List[Any], stuck: List[str]) -> None:
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
    """What a task does, and what its result says of it. The same in check mode, where nothing of it is sent."""

    def __init__(
        self,
        steps: Sequence[Step] = (),
        later: Sequence[Step] = (),
        *,
        clears: Sequence[Step] = (),
        before: Dict[str, Any] | None = None,
        after: Dict[str, Any] | None = None,
        warnings: Sequence[str] = (),
        follows: bool = False,
        changed: bool | None = None,
        on_failure: Sequence[str] = (),
    ) -> None:
        """Take the steps that are done in their order, all or nothing, and ``later`` those that an operation sends in its time.

        ``clears``: those that an operation sends before, each by itself: they remove what a killed run has left.
        ``before`` and ``after``: the diff. ``follows``: an operation that was begun before is followed to its end.
        ``changed``: where it is not whether there are steps. ``on_failure``: the commands that may be sent when it fails.
        """
        self.steps = list(steps)
        self.later = list(later)
        self.clears = list(clears)
        self.before = before or {}
        self.after = after or {}
        self.warnings = list(warnings)
        self.follows = follows
        self.on_failure = frozenset(on_failure)
        self._changed = changed

    @property
    def changed(self) -> bool:
        """Whether something changes."""
        return bool(self.clears or self.steps or self.later) if self._changed is None else self._changed

    @property
    def commands(self) -> List[Any]:
        """What the result shows, in the order in which it is done."""
        return [command for step in (*self.clears, *self.steps, *self.later) for command in step.commands]
