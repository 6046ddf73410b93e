# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Whose a file is and what others may do with it, where a task says so."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import pwd
import stat
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.option import Option
from .._core.step import Step

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

OWNER = {"owner": Option("str"), "mode": Option("str")}
_MOST = 0o777


class Ownership(NamedTuple):
    """The options ``owner`` and ``mode``; None where the task names none."""

    owner: str | None = None
    uid: int | None = None
    mode: int | None = None

    @property
    def state(self) -> Dict[str, str]:
        """Return the options as ``state_of`` has them, so that the two can be compared."""
        state = {} if self.mode is None else {"mode": f"{self.mode:04o}"}
        return state if self.uid is None else {**state, "owner": _user(self.uid)}

    def command_lines(self, path: str) -> List[List[str]]:
        """Return what makes a new file so, as command lines to show."""
        lines = [] if self.mode is None else [["chmod", f"{self.mode:04o}", path]]
        return lines if self.owner is None else [*lines, ["chown", self.owner, path]]

    def steps(self, found: os.stat_result, path: str) -> List[Step]:
        """Return what makes a file that is there so. Raise Refusal for what may be another file than it looks."""
        before = Ownership(str(found.st_uid), found.st_uid, stat.S_IMODE(found.st_mode))
        pairs = []
        if self.mode not in (None, before.mode):
            pairs.append((Ownership(mode=self.mode), Ownership(mode=before.mode)))
        if self.uid not in (None, before.uid):
            pairs.append((self._replace(mode=None), before._replace(mode=None)))
        if pairs:
            _must_be_itself(found, path)
        return [new._step(path, undo=[old._step(path)]) for new, old in pairs]

    def _step(self, path: str, undo: Sequence[Step] = ()) -> Step:
        return Step(do=partial(self._give, path), command_lines=self.command_lines(path), undo=undo)

    def apply(self, file: int, path: str) -> None:
        """Make it so for an open file, ``path`` being its name. Raise OperationFailed."""
        try:
            if self.mode is not None:
                os.chmod(safe_open.by_number(file), self.mode)
            if self.uid is not None:
                os.chown(safe_open.by_number(file), self.uid, -1)
        except OSError as exc:
            raise OperationFailed(
                f"owner, mode: {path} can't be given to {self.owner or 'nobody else'}: {exc.strerror}"
            ) from exc

    def _give(self, path: str, deadline: Deadline) -> None:
        """Make it so for a file that was there before. Raise TaskError."""
        try:
            with safe_open.parent(path) as (directory, name):
                file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as exc:
            raise OperationFailed(f"owner, mode: can't look at {path}: {exc.strerror}") from exc
        try:
            _must_be_itself(os.fstat(file), path)
            self.apply(file, path)
        finally:
            os.close(file)


def state_of(found: os.stat_result) -> Dict[str, str]:
    """Return mode and owner of what is there."""
    return {"mode": f"{stat.S_IMODE(found.st_mode):04o}", "owner": _user(found.st_uid)}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _must_be_itself(found: os.stat_result, path: str) -> None:
    """Raise Refusal for a link: what it leads to may be any file of this host."""
    if os.path.islink(path) or stat.S_ISLNK(found.st_mode):
        raise Refusal(
            f"owner, mode: {path} is a symbolic link to {os.path.realpath(path)}, which is not given away under that "
            "name: name the file itself"
        )
    if found.st_nlink > 1:
        raise Refusal(
            f"owner, mode: {path} has {found.st_nlink} names (hard links), and under another one it may be somebody "
            "else's file: copy it, or give it away by hand"
        )


def owner(params: Dict[str, Any]) -> Ownership:
    """Return the options, checked. Raise Refusal for an unknown user, and for what is not a valid mode."""
    name, text = params.get("owner"), params.get("mode")
    try:
        uid = None if name is None else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise Refusal(f"owner: there is no user {name} on the managed host") from None
    try:
        mode = None if text is None else int(text, 8)
    except ValueError:
        mode = -1
    if mode is not None and not 0 <= mode <= _MOST:
        raise Refusal(f"mode: {text!r} is not a valid mode: write it as four quoted octal digits, such as '0600'")
    return Ownership(name, uid, mode)
