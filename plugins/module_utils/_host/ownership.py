# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Whose a file is and what others may do with it, where a task says so."""

from __future__ import annotations

import os
import pwd
import stat
from typing import Any, Callable, Dict, List, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core import safe_open
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option

OWNER = {"owner": Option("str"), "mode": Option("str")}
_MOST = 0o777

Did = Callable[[List[str]], None]


class Ownership(NamedTuple):
    """The options ``owner`` and ``mode``; None where the task names none."""

    owner: str | None
    uid: int | None
    mode: int | None

    def commands(self, found: os.stat_result | None, path: str) -> List[List[str]]:
        """What makes ``path`` so, as command lines to show; ``found``: what is there, None for a file yet to be made.

        Raises Refusal for what may be another file than it looks.
        """
        lines = self._lines(found, path)
        if lines and found is not None:
            _must_be_itself(found, path)
        return lines

    def _lines(self, found: os.stat_result | None, path: str) -> List[List[str]]:
        lines = []
        if self.mode is not None and (found is None or stat.S_IMODE(found.st_mode) != self.mode):
            lines.append(["chmod", f"{self.mode:04o}", path])
        if self.uid is not None and self.owner is not None and (found is None or found.st_uid != self.uid):
            lines.append(["chown", self.owner, path])
        return lines

    def apply(self, file: int, path: str, did: Did = lambda command: None) -> None:
        """Make it so for an open file; ``did`` is called with each command line whose work is done. Raises Refusal."""
        try:
            for command in self._lines(os.fstat(file), path):
                if command[0] == "chmod":
                    os.chmod(safe_open.by_number(file), self.mode or 0)
                else:
                    os.chown(safe_open.by_number(file), -1 if self.uid is None else self.uid, -1)
                did(command)
        except OSError as exc:
            raise Refusal(
                f"owner, mode: {path} can't be given to {self.owner or 'nobody else'}: {exc.strerror}"
            ) from exc

    def apply_to_existing(self, path: str, did: Did) -> None:
        """Make it so for a file that was there before; ``did`` as ``give`` has it. Raises Refusal."""
        if self.uid is None and self.mode is None:
            return
        try:
            with safe_open.parent(path) as (directory, name):
                file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as exc:
            raise Refusal(f"owner, mode: can't look at {path}: {exc.strerror}") from exc
        try:
            if self.commands(os.fstat(file), path):
                self.apply(file, path, did)
        finally:
            os.close(file)


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
    """The options, checked. Raises Refusal for a user that is not there, and a mode that is none."""
    name, text = params["owner"], params["mode"]
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
