# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Which QMP commands only look. A read-only session (check mode) sends nothing else."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

_PREFIXES = ("query-", "x-query-")
_NAMES = frozenset(
    (
        "device-list-properties",
        "qom-get",
        "qom-list",
        "qom-list-get",
        "qom-list-properties",
        "qom-list-types",
        "trace-event-get-state",
        "x-debug-query-block-graph",
    )
)
# One line, one `info`, words only: nothing that a monitor could take for a second command or a redirection.
_INFO = r"info(?: +[A-Za-z0-9_./:=,@\[\]-]+)*"
# To read a device's memory can change the device. That of a text screen does not change.
_SCREEN = r"xp /[0-9]+gx 0xb8000"


def is_query(name: str, arguments: Mapping[str, Any] | None = None) -> bool:
    """Tell whether the command ``name`` with ``arguments`` changes nothing in QEMU, by QEMU's documentation.

    A ``human-monitor-command`` is one if its command line is a single plain ``info ...``, or reads the text screen.
    """
    if not isinstance(name, str):
        return False
    if name in _NAMES or name.startswith(_PREFIXES):
        return True
    if name == "human-monitor-command" and arguments is not None:
        line = arguments.get("command-line")
        known = set(arguments) <= {"command-line", "cpu-index"}
        return known and isinstance(line, str) and re.fullmatch(f"{_INFO}|{_SCREEN}", line) is not None
    return False
