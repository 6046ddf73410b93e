# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""How a virtual machine differs from its document, by what ``qemu_info`` tells of that, in the words of the page."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_values import mapping, mappings, text, texts

Row = Dict[str, Any]

_MOST = 500
_SIDES = {"add": ("there", "not there"), "remove": ("not there", "there"), "change": ("", "")}


def drift(document: Any) -> Row | None:
    """Return ``{says, count, restart, reason, lines}``; None where it was not asked for.

    ``says`` are the words for it, ``count`` how many differences there are, ``lines`` each one: ``{what, option, wanted, there}``.
    """
    if not isinstance(document, dict):
        return None
    if not document:
        return {"says": ["not kept by qemu_vm"], "count": None, "restart": False, "reason": "", "lines": []}
    lines = [line for one in mappings(document.get("differences"), None) for line in _lines(one)]
    restart, reason = document.get("restart_required") is True, text(document.get("reason"))
    says = [f"{len(lines)} difference{'s' * (len(lines) != 1)}"] if lines else []
    says += ["needs a restart"] if restart else []
    says += ["could not be told"] if reason else []
    arguments = list(_arguments(mapping(document.get("arguments")))) if restart else []
    return {
        "says": says or ["nothing differs"],
        "count": None if reason and not lines and not restart else len(lines),
        "restart": restart,
        "reason": reason,
        "lines": [*arguments, *lines][:_MOST],
    }


def _lines(one: Row) -> Iterator[Row]:
    """Yield what differs of one thing."""
    what = f"{text(one.get('kind'))} {text(one.get('id'))}".strip()
    wanted, there = _SIDES.get(text(one.get("action")), ("", ""))
    changes = mapping(one.get("changes"))
    if wanted or not changes:
        yield {"what": what, "option": "", "wanted": wanted, "there": there}
        return
    for option, change in changes.items():
        sides = mapping(change)
        yield {
            "what": what,
            "option": text(option),
            "wanted": value(sides.get("after")),
            "there": value(sides.get("before")),
        }


def _arguments(told: Row) -> Iterator[Row]:
    """Yield the options of the command line that differ, those of one name beside each other."""
    running = texts(told.get("before"))
    for wanted in texts(told.get("after")):
        beside = next((one for one in running if one.split(" ")[0] == wanted.split(" ")[0]), "")
        if beside:
            running.remove(beside)
        yield {"what": "command line", "option": "", "wanted": wanted, "there": beside}
    for one in running:
        yield {"what": "command line", "option": "", "wanted": "", "there": one}


def value(told: Any) -> str:
    """Return any value as text."""
    return text(told if isinstance(told, str) else json.dumps(told, sort_keys=True, default=str))
