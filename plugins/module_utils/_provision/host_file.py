# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What images and seeds have in common: a file of the host at an absolute path, with an owner and a mode."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple, cast

from .._core.option import Option, Want, given
from .._core.step import Step
from .._engine.comparison import Comparison, Item
from .._engine.converge import converge
from .._host import ownership, part_file
from .._kinds.kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.host import Host
    from .._core.plan import Draft
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.deadline import Deadline

UNUSED = {"socket": Option("str"), "connect_timeout": Option("float", default=10.0), "tls": Option("dict")}
"""What ``module_defaults`` of the action group set for the modules that speak to a monitor."""


class HostFile(Kind):
    """A file that a VM is made of. Subclasses say what is in it."""

    keys = ("path",)
    returned = False
    in_diff: Tuple[str, ...] = ("path",)
    """What of its state a diff has, whether it changes or not."""
    changeable_keys = frozenset(("owner", "mode"))

    def check_ident(self, want: Want) -> None:
        """Raise Refusal for what is not the absolute path of a file."""
        part_file.check_absolute("path", want["path"])

    def check(self, want: Want) -> None:
        """Raise Refusal for a path, an owner or a mode that is not valid."""
        self.check_ident(want)
        ownership.owner(want)

    def read(self, host: Host, want: Want) -> State | None:
        """Return its path and size, owner and mode; None where there is nothing. Raise Refusal for what is not a file."""
        found = part_file.existing("path", want["path"])
        if found is None:
            return None
        return {"path": want["path"], "file_size": found.st_size, **ownership.state_of(found)}

    def wanted(self, host: Host, want: Want) -> State:
        """Return the path, and owner and mode as far as they are named."""
        return {"path": want["path"], **ownership.owner(want).state}

    def change(self, host: Host, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps that give it away."""
        found = part_file.existing("path", want["path"])
        return [] if found is None else ownership.owner(want).steps(found, want["path"])

    def remove(self, host: Host, want: Want, draft: Draft) -> List[Step]:
        """Return the step that removes it, which nothing takes back."""
        path = want["path"]
        part_file.check_itself("path", path)
        return [Step(do=lambda deadline: part_file.remove(path), command_lines=[["rm", path]], removes=True, last=True)]


def make_step(
    path: str,
    fill: Callable[[int, Deadline], None],
    whose: ownership.Ownership,
    command_lines: Sequence[Sequence[str]],
    *,
    draft: Draft | None = None,
    mode: int = 0o600,
    replace: bool = False,
    undo: Sequence[Step] = (),
) -> Step:
    """Return the step that makes a file all or nothing, its owner and mode included. Raise Refusal where none can be made.

    ``fill`` writes to the open file. ``command_lines``: what it stands for, but for owner and mode. ``draft``: may make the
    directory before. ``mode``: where the task names none. ``replace``: what is there is replaced. ``undo``: how that is put
    back; else the new file is removed.
    """
    if draft is None or ("directory", os.path.dirname(path)) not in draft.adding:
        part_file.check_directory("path", path)
        part_file.check_leftover("path", path)
    new = part_file.NewFile(path, mode, replace)

    def make(deadline: Deadline) -> None:
        def fill_and_give(file: int) -> None:
            fill(file, deadline)
            whose.apply(file, path)

        new.make(fill_and_give)

    remove = Step(do=lambda deadline: new.remove(), command_lines=[["rm", path]], removes=True)
    return Step(do=make, command_lines=[*command_lines, *whose.command_lines(path)], undo=undo or [remove])


def converge_file(kind: HostFile, task: Task, host: Host) -> Tuple[Comparison, Dict[str, Any]]:
    """Make a file as the task wants it. Return what was found and wanted, and what the result of every such task has."""
    present = task.params.get("state") != "absent"
    want = given(task.params, kind.options)
    item = Item(kind, want if present else kind.identity(want), present)
    kind.check(item.want)
    # no kind of the host and none of its steps speaks to a monitor
    outcome = converge(cast("VM", host), [item], recreate=False, check_mode=task.check_mode)
    comparison = outcome.comparisons[0]
    return comparison, {
        "changed": outcome.plan.changed,
        "commands": outcome.plan.commands,
        "diff": _diff(kind, comparison),
    }


def _diff(kind: HostFile, comparison: Comparison) -> Dict[str, Any]:
    """Return Ansible's ``{before, after}``, each the file's own state."""
    have, want = comparison.have or {}, comparison.want
    changes = {change.key: change.after for change in comparison.changes}
    names = (*kind.in_diff, *changes) if comparison.item.present else ("path", "file_size")
    gone = {"path": comparison.item.want["path"], "state": "absent"}
    before = {name: have[name] for name in names if have.get(name) is not None}
    if comparison.is_added:
        changes = {name: want[name] for name in (*names, "mode", "owner") if name in want}
    return {
        "before": {**before, "state": "present"} if have else gone,
        "after": {**before, **changes, "state": "present"} if comparison.item.present else gone,
    }
