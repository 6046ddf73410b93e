# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The host as kinds and steps see it where no monitor is needed: files, programs, processes."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict

from .account import Account

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline


class Host:
    """What a plan under way needs to know: how long it may take, and what was done."""

    def __init__(self, deadline: Deadline, account: Account | None = None) -> None:
        """``account``: where each step that is sent or done is entered."""
        self.deadline = deadline
        self.account = account or Account()
        self.coming: Dict[str, int | None] = {}
        """The paths that the same task makes before, and of a disk's image its size in bytes."""
        self.ends: int | None = None
        """The process that the same task ends before: what that listens at is free by then."""
        self.goes_with_failure: Callable[[], bool] = lambda: False
        """Tells whether the VM itself is ended where a plan fails, so that nothing in it need be taken back."""
        self._tables: Dict[str, Dict[str, Any]] = {}

    def forget(self) -> None:
        """Drop what was read: something has changed since."""
        self._tables.clear()

    def table(self, name: str, make: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
        """Return what ``make`` returned first, until ``forget()``: each of many things is looked up in it."""
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]
