# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Module ``qemu_backup``: its options, and which operation each state is."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict

from .._core.errors import Refusal
from .._core.option import Option
from .._engine.operation import Operation
from .._operations.disk_snapshot_disks import check_here
from .._operations.freeze import QUIESCE, check_quiesce
from .._qmp.values import human_size
from .absent import ABSENT
from .chain import LEVELS, seconds
from .level import AUTO
from .pull import PULL
from .retention import check_keep
from .take import TAKE

if TYPE_CHECKING:
    from .._core.plan import Plan
    from .._core.vm import VM
    from .._engine.operation import Params, Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MOST = (1 << 63) - 1
_STATES: Dict[str, Operation] = {"present": TAKE, "absent": ABSENT, "exported": PULL}


class Backups(Operation):
    """What happens to the backups of one name. Each state is an operation of its own."""

    options = {
        "name": Option("str", required=True),
        "path": Option("path", required=True),
        "state": Option("str", choices=list(_STATES), default="present"),
        "disks": Option("list", elements="str"),
        "exclude": Option("list", elements="str"),
        "level": Option("str", choices=[AUTO, *LEVELS], default=AUTO),
        "every": Option("str"),
        "quiesce": QUIESCE,
        "fleece": Option("path"),
        "listen": Option("str"),
        "tls_creds": Option("str"),
        "bitmaps": Option("list", elements="str"),
        "compress": Option("bool", default=False),
        "speed": Option("str"),
        "verify": Option("bool", default=False),
        "keep": Option("dict", options={"full": Option("int"), "days": Option("int")}),
        "remove_data": Option("bool", default=False),
        "force": Option("bool", default=False),
        "qemu_img": Option("path", default="qemu-img"),
    }

    def check(self, params: Params) -> Params:
        """Return the parameters in their types. Raise Refusal for what is not valid whatever the VM is like."""
        name, path, speed = (params[key] for key in ("name", "path", "speed"))
        if not _NAME.match(name):
            raise Refusal(
                f"name: {name!r} is not a valid name for backups, which is part of their bitmaps' names: it has 1 to 64 letters, "
                "digits, '-', '.' or '_', and begins with a letter or a digit"
            )
        if not path.startswith("/") or "\0" in path:
            raise Refusal(f"path: {path!r} is not an absolute path")
        for option in ("disks", "exclude", "bitmaps"):
            if params[option] is not None and not params[option]:
                raise Refusal(f"{option}: the list is empty; leave it out")
        check_quiesce(params["quiesce"])
        check_keep(params["keep"])
        try:
            size = human_size(speed) if speed else 0
        except ValueError as exc:
            raise Refusal(f"speed: {exc}") from exc
        if size > _MOST:
            raise Refusal(f"speed: {speed} bytes a second is more than QEMU can count")
        every = seconds("every", params["every"]) if params["every"] else 0
        return {**params, "path": os.path.normpath(path), "speed": size, "every": every}

    def read(self, vm: VM, params: Params) -> Any:
        """Return what the state's operation reads. Raise Refusal where QEMU's files are not this host's."""
        check_here(vm, params["socket"], "a backup")
        return _STATES[params["state"]].read(vm, params)

    def plan(self, current: Any, params: Params) -> Plan:
        """Return the operation's plan."""
        return _STATES[params["state"]].plan(current, params)

    def begin(self, run: Run, current: Any, params: Params) -> None:
        """Begin it."""
        _STATES[params["state"]].begin(run, current, params)

    def follow(self, run: Run, current: Any, params: Params) -> Any:
        """Follow it to its end."""
        return _STATES[params["state"]].follow(run, current, params)

    def describe(self, current: Any, params: Params, plan: Plan, end: Any) -> Dict[str, Any]:
        """Return what it tells."""
        return _STATES[params["state"]].describe(current, params, plan, end)


BACKUP = Backups()
