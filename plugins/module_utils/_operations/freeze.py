# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A guest whose file systems stand still for a moment: frozen by its agent, and thawed whatever happens."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from .._core.errors import OperationFailed, Refusal
from .._core.option import Option
from .._core.step import Step
from .._qmp import errors
from .._qmp.agent import Agent, tell
from .._qmp.deadline import Deadline

if TYPE_CHECKING:
    from .._engine.operation import Run

QUIESCE = Option(
    "dict",
    options={
        "agent": Option("str", required=True),
        "required": Option("bool", default=True),
        "timeout": Option("float", default=10.0),
    },
)
_FREEZE, _THAW = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"
# A guest is not left frozen because the task's time is up.
_AT_LEAST = 1.5


def check_quiesce(given: Dict[str, Any] | None) -> None:
    """Raise Refusal for what is not valid in the option ``quiesce``."""
    if given and not given["timeout"] > 0:
        raise Refusal(f"quiesce.timeout: {given['timeout']} is not a positive number of seconds")


class Freezer:
    """The agent of a guest. Without ``quiesce`` there is none, and it has no steps."""

    def __init__(self, quiesce: Dict[str, Any] | None, deadline: Deadline) -> None:
        """Ask the agent whether the guest is frozen: a task that was killed may have left it so."""
        self.address: str = quiesce["agent"] if quiesce else ""
        self.frozen_ms: int | None = None
        self.warnings: List[str] = []
        self.trouble = ""
        """Why the guest can't be frozen; empty where nothing is known against it."""
        self.was_frozen = False
        self.frozen = False
        """Whether it may be frozen now."""
        self._required = bool(quiesce and quiesce["required"])
        self._seconds: float = quiesce["timeout"] if quiesce else 0.0
        self._since = 0.0
        self._stopped: Any = None
        """How many file systems the agent says it has frozen."""
        if quiesce:
            self._look(deadline)

    def _look(self, deadline: Deadline) -> None:
        try:
            self.frozen = self.was_frozen = self._execute("guest-fsfreeze-status", deadline) == "frozen"
        except errors.QMPError as exc:
            self.trouble = (
                f"quiesce: the guest's agent at {self.address} does not tell whether the guest is frozen: {exc}"
            )

    @property
    def refusal(self) -> str:
        """Why nothing shall be done without a frozen guest; empty where something may be."""
        return self.trouble if self._required else ""

    @property
    def freeze_steps(self) -> List[Step]:
        """Return the step that freezes the guest, where it can be and is not."""
        if not self.address or self.trouble or self.was_frozen:
            return []
        thaw = self._step(_THAW, self.thaw).replace(still_needed=lambda vm: self.frozen)
        return [self._step(_FREEZE, self._freeze).replace(undo=[thaw])]

    @property
    def thaw_steps(self) -> List[Step]:
        """Return the step that thaws it."""
        return [self._step(_THAW, self.thaw)] if self.address and not self.trouble else []

    def _step(self, command: str, do: Callable[[Deadline], None]) -> Step:
        return Step(do=do, command_lines=[{"execute": command, "arguments": {}, "socket": self.address}])

    def _freeze(self, deadline: Deadline) -> None:
        self.frozen, self._since = True, time.monotonic()
        try:
            self._stopped = self._execute(_FREEZE, deadline)
        except errors.QMPError as exc:
            # one that says no has frozen nothing; one that says nothing may still do it
            self.frozen = not isinstance(exc, errors.CommandError)
            later = "; the guest may come to be frozen yet, and is then thawed" if self.frozen else ""
            text = f"quiesce: the guest's file systems could not be frozen: {exc}{later}"
            if self._required:
                raise OperationFailed(text) from exc
            self.warnings.append(text)
        if self._stopped == 0:
            text = "quiesce: the guest has no file system that its agent could freeze"
            if self._required:
                raise OperationFailed(text)
            self.warnings.append(text)

    def thaw(self, deadline: Deadline) -> None:
        """Thaw the guest. Raise OperationFailed where it may still be frozen."""
        left = deadline.remaining()
        deadline = deadline if left is None or left > _AT_LEAST else Deadline(_AT_LEAST)
        try:
            went_on = self._execute(_THAW, deadline)
        except errors.CommandError as exc:
            if not self._is_thawed(deadline):
                raise self._stuck(exc) from exc
            went_on = 0  # Windows ends a freeze by itself after ten seconds, and refuses to end it once more
        except errors.QMPError as exc:
            self._thaw_later()
            raise self._stuck(exc) from exc
        if self._stopped and went_on == 0:
            self.warnings.append(
                "quiesce: something else has thawed the guest before this task: its file systems may not be whole in what was taken"
            )
        if self._since:
            self.frozen_ms = round((time.monotonic() - self._since) * 1000)
        self.frozen = False

    def _is_thawed(self, deadline: Deadline) -> bool:
        with contextlib.suppress(errors.QMPError):
            return bool(self._execute("guest-fsfreeze-status", deadline) == "thawed")
        return False

    @staticmethod
    def _stuck(exc: errors.QMPError) -> OperationFailed:
        return OperationFailed(
            f"quiesce: the guest's file systems may still be frozen: {exc}; run this task again, or {_THAW} in its agent"
        )

    def _thaw_later(self) -> None:
        """Leave the command to an agent that does not answer: it may be freezing still, and comes to it after that."""
        with contextlib.suppress(errors.QMPError):
            tell(self.address, _THAW, Deadline(_AT_LEAST))

    def _execute(self, command: str, deadline: Deadline) -> Any:
        left = deadline.remaining()
        deadline = Deadline(self._seconds if left is None else min(self._seconds, left), deadline.stop)
        with Agent(self.address, deadline) as agent:
            return agent.execute(command, deadline)


def do_frozen(run: Run, freezer: Freezer) -> None:
    """Do the plan's first steps, of which the freezer has some, and its thawing after them. Raise PlanFailed."""
    try:
        run.begin()
        for step in run.plan.later:
            if step.do and step.title == _THAW:
                run.send(step, run.vm.deadline)
    except BaseException:
        if freezer.frozen:
            with contextlib.suppress(OperationFailed):
                freezer.thaw(Deadline(_AT_LEAST))
        raise
