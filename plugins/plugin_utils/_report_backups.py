# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""How old a virtual machine's newest backup is, by the lists that ``qemu_backup`` writes."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from datetime import datetime, timedelta, timezone
from typing import Any, Collection, Dict, List, NamedTuple

from ansible.errors import AnsibleFilterError

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_values import mapping, mappings, text

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Listed(NamedTuple):
    """A ``chain.json``."""

    directory: str
    """The name of the directory that it is in."""
    chain: Dict[str, Any]


def period(written: str) -> timedelta:
    """Return a time such as ``23h``. Raise AnsibleFilterError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", written)
    if not found:
        raise AnsibleFilterError(f"backup_every: {written!r} is not a valid time: write a number and s, m, h, d or w")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def listed(output: str) -> List[Listed]:
    """Return the lists in the output of ``find``: a directory, what its list says in base64, each with a NUL behind it."""
    words = output.split("\0")
    return [Listed(posixpath.basename(where), _parsed(said)) for where, said in zip(words[::2], words[1::2])]


def _parsed(said: str) -> Dict[str, Any]:
    try:
        return mapping(json.loads(base64.b64decode(said, validate=True)))
    except (ValueError, RecursionError):
        return {}


def newest(
    lists: Collection[Listed], names: Collection[str], uuid: str, every: timedelta, now: datetime
) -> Dict[str, Any]:
    """Return ``{time, level, old}`` of the newest backup of the machine that has one of these names, or that UUID.

    ``time`` is empty where there is none. One of a time that is yet to come is old, too: the clock was wrong.
    """
    mine = [
        one.chain
        for one in lists
        if one.directory in names or (uuid.strip("0-") and mapping(one.chain.get("vm")).get("uuid") == uuid)
    ]
    found = [
        (when, text(one.get("level")))
        for chain in mine
        for one in mappings(chain.get("backups"), None)
        if (when := _when(one))
    ]
    if not found:
        return {"time": "", "level": "", "old": True}
    when, level = max(found)
    return {"time": when.strftime(_TIME), "level": level, "old": not timedelta(0) <= now - when < every}


def _when(backup: Dict[str, Any]) -> datetime | None:
    try:
        return datetime.strptime(backup["time"], _TIME).replace(tzinfo=timezone.utc)
    except (KeyError, TypeError, ValueError):
        return None
