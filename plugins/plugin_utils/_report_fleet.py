# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What the report shows of each machine of a fleet, by what the playbook has registered for the host that asked for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Collection, Dict, Iterable, List, Mapping

from ansible_collections.vmm.qemu.plugins.module_utils._monitors import BUSY, UNREACHABLE
from ansible_collections.vmm.qemu.plugins.plugin_utils import _report_backups as backups
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_hosts import SILENT, path_name
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_values import mapping, text
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_vm import Row, shown

Variables = Mapping[str, Any]

_HELD = "another client is attached"


def rows(askers: Iterable[str], hostvars: Mapping[str, Variables], now: datetime) -> List[Row]:
    """Return what is shown of each machine. ``askers``: the hosts that have asked, each for all of one hypervisor."""
    found: List[Row] = []
    for asker in askers:
        told = hostvars[asker]
        answers = mapping(told.get("__report_told"))
        lists = backups.listed(str(mapping(told.get("__report_listed")).get("stdout", "")))
        for name in told["__report_names"]:
            known = hostvars[name]
            row = {
                "name": text(name),
                "hypervisor": text(known["qemu_hypervisor"]),
                "socket": text(known["qemu_socket"]),
            }
            row.update(_machine(known, answers, name))
            found.append({**row, "backup": _backup(told, lists, known, name, row.get("uuid", ""), now)})
    return sorted(found, key=lambda row: (row["hypervisor"], row["name"]))


def _machine(known: Variables, answers: Dict[str, Any], name: str) -> Row:
    """Return what a machine has told, or why it has not."""
    answer = mapping(mapping(answers.get("machines")).get(name, answers))
    if not answer.get("failed") and isinstance(answer.get("vm"), dict):
        return shown(answer["vm"])
    reason = text(answer.get("msg")) or text(known.get("qemu_reason")) or "it was not asked"
    before = known.get("qemu_status")
    state = BUSY if _HELD in reason else before if before in SILENT and not answers else UNREACHABLE
    return {
        "state": state,
        "reason": reason,
        "own_name": text(known.get("qemu_name")),
        "uuid": text(known.get("qemu_uuid")),
    }


def _backup(
    told: Variables, lists: Collection[backups.Listed], known: Variables, name: str, uuid: str, now: datetime
) -> Row | None:
    """Return ``{time, level, old}``, or ``{reason}`` where it can't be known; None where no backups are known of."""
    output = mapping(told.get("__report_listed"))
    if output.get("skipped") or not output:
        return None
    every = backups.period(str(told.get("__report_every", "23h")))
    newest = backups.newest(lists, {name, path_name(known["qemu_socket"])}, uuid, every, now)
    if output.get("rc") == 0 or newest["time"]:
        return newest
    return {"reason": text(output.get("stderr")) or text(output.get("msg"))}
