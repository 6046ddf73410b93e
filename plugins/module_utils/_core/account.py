# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The account of a task: what it has sent to QEMU, or done on the host, and has not taken back."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple


class _Entry(NamedTuple):
    owner: object
    command: Any


class Account:
    """What a failed task's result gives as ``changed`` and ``commands``.

    The engine enters each step before it is sent, since a command without an answer may have run.
    """

    def __init__(self) -> None:
        """``details``: what else the result has if the task fails."""
        self.details: Dict[str, Any] = {}
        self._entries: List[_Entry] = []

    @property
    def commands(self) -> List[Any]:
        """The public forms, in their order: ``{execute, arguments}``, or the words of a command line."""
        return [entry.command for entry in self._entries]

    def add(self, owner: object, *commands: Any) -> None:
        """Enter commands that are sent or done now; ``owner``: the step that they are part of."""
        self._entries += [_Entry(owner, command) for command in commands]

    def drop(self, owner: object) -> None:
        """Strike out a step that QEMU did not take, or that was taken back."""
        self._entries = [entry for entry in self._entries if entry.owner is not owner]

    def cut(self, count: int) -> None:
        """Strike out all but the first ``count`` commands: what they were done to is gone."""
        del self._entries[count:]
