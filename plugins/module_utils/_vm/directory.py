# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The directories of a VM, as a kind."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import OperationFailed, Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .._host import directory
from .._host.directory import Access
from .._kinds.kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._qmp.deadline import Deadline
    from .options import Place


class Directory(Kind):
    """A directory. ``access``: whose it is, None: as it is. ``whole``: it goes with all that is in it."""

    name = "directory"
    keys = ("path",)
    returned = False
    kept_for_removal = ("whole",)
    options = {"path": Option("path"), "access": Option("raw"), "whole": Option("bool")}
    changeable_keys = frozenset(("owner", "group", "mode"))

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

    def create(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that makes it, and takes it away again if this task has made it."""
        path, access, made = want["path"], want["access"], []

        def make(deadline: Deadline) -> None:
            made.append(directory.make(path, access))

        def remove(deadline: Deadline) -> None:
            if any(made):
                directory.remove(path, want.get("whole", False))
            if os.path.lexists(path):
                raise OperationFailed(f"directory: {path} was made or is used by another task, and is left")

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


def check_own(place: Place, params: Dict[str, Any], removal: bool) -> None:
    """Raise Refusal for a directory of somebody else's, such as ``/etc`` for a VM named etc: all in it goes with the VM.

    It is the VM's where one of the files is there by which that is known, or a disk that the task names. Else it must be empty,
    or, but for a ``removal``, have files only: what a user has put there for its first start.
    """
    path = place.directory
    disks = [params["disk"], *(disk.get("filename") for disk in params["disks"])]
    own = [str(disk) for disk in disks if disk and str(disk).startswith(f"{path}/")]
    own += [
        place.record,
        place.moving,
        place.uefi_vars,
        place.socket,
        place.log,
        place.console_log,
        place.seed,
        place.sockets,
    ]
    if not os.path.isdir(path) or any(os.path.lexists(name) for name in own):
        return
    try:
        with os.scandir(path) as found:
            others = sorted(entry.name for entry in found if removal or entry.is_dir(follow_symlinks=False))
        others = [name for name in others if name != "run" or os.listdir(place.run)]
    except OSError as exc:
        raise Refusal(f"directory: {path} can't be read: {exc.strerror}") from exc
    if others:
        raise Refusal(
            f"directory: {path} has {', '.join(others[:3])}, and nothing of a virtual machine's. All that is in a virtual "
            "machine's directory is removed with it, so name another directory, or empty this one"
        )
