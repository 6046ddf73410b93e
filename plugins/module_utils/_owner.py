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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Option

OWNER = {"owner": Option("str"), "mode": Option("str")}
_MOST = 0o777


class Owner(NamedTuple):
    """The options ``owner`` and ``mode``; None where the task names none."""

    owner: str | None
    uid: int | None
    mode: int | None

    def commands(self, found: os.stat_result | None, path: str) -> List[List[str]]:
        """What makes ``path`` so, as command lines to show; ``found``: what is there, None for a file yet to be made."""
        lines = []
        if self.mode is not None and (found is None or stat.S_IMODE(found.st_mode) != self.mode):
            lines.append(["chmod", f"{self.mode:04o}", path])
        if self.uid is not None and self.owner is not None and (found is None or found.st_uid != self.uid):
            lines.append(["chown", self.owner, path])
        return lines

    def give(self, path: str, did: Callable[[List[str]], None] = lambda command: None) -> None:
        """Make it so; ``did`` is called with each command line whose work is done. Raises Refusal."""
        try:
            for command in self.commands(os.stat(path), path):
                if command[0] == "chmod":
                    os.chmod(path, self.mode or 0)
                else:
                    os.chown(path, -1 if self.uid is None else self.uid, -1)
                did(command)
        except OSError as exc:
            raise Refusal(
                f"owner, mode: {path} can't be given to {self.owner or 'nobody else'}: {exc.strerror}"
            ) from exc


def owner(params: Dict[str, Any]) -> Owner:
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
        raise Refusal(f"mode: {text!r} is no mode: write it as four quoted octal digits, such as '0600'")
    return Owner(name, uid, mode)
