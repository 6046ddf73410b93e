# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The directories of a VM, as a kind."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, FrozenSet, List

from .._core.option import Option, Want
from .._core.step import Step
from .._host import directory
from .._host.directory import Access
from .._kinds.kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._qmp.deadline import Deadline


class Directory(Kind):
    """A directory. ``access``: whose it is, None: as it is. ``whole``: it goes with all that is in it."""

    name = "directory"
    keys = ("path",)
    returned = False
    kept_for_removal = ("whole",)
    options = {"path": Option("path"), "access": Option("raw"), "whole": Option("bool")}

    def check(self, want: Want) -> None:
        """Take what comes: the paths are made by the collection."""

    def read(self, host: Host, want: Want) -> State | None:
        """Return its path, owner, group and mode. Raise Refusal for what is not a directory."""
        found = directory.look(want["path"])
        return None if found is None else {"path": want["path"], **found.state}

    def wanted(self, host: Host, want: Want) -> State:
        """Return the same as it shall be."""
        access: Access | None = want.get("access")
        return {"path": want["path"], **(access.state if access else {})}

    def changeable(self, host: Host, have: State) -> FrozenSet[str]:
        """Return what can change."""
        return frozenset(("owner", "group", "mode"))

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that makes it, and takes it away again if this task has made it."""
        path, access, made = want["path"], want["access"], []

        def make(deadline: Deadline) -> None:
            made.append(directory.make(path, access))

        def remove(deadline: Deadline) -> None:
            if any(made):
                directory.remove(path, want.get("whole", False))

        undo = Step(do=remove, command_lines=[["rmdir", path]], removes=True)
        return [Step(do=make, command_lines=[["mkdir", path]], undo=[undo])]

    def change(self, host: Host, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the step that gives it to whom it shall belong."""
        path, access = want["path"], want["access"]
        before = directory.look(path) or access
        undo = Step(do=lambda deadline: directory.give(path, before), command_lines=[["chmod", path]])
        return [Step(do=lambda deadline: directory.give(path, access), command_lines=[["chmod", path]], undo=[undo])]

    def remove(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that removes it."""
        path, whole = want["path"], want.get("whole", False)
        shown = [["rm" if whole else "rmdir", path]]
        return [Step(do=lambda deadline: directory.remove(path, whole), command_lines=shown, removes=True)]


DIRECTORY = Directory()
