# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a guest tells of itself by its agent, in subsets, each with one command of the agent's."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.coercion import with_underscores
from .._core.errors import OperationFailed
from .._core.option import Option
from .._qmp import errors
from .._qmp.values import reachable
from . import guest_agent
from .info import select

if TYPE_CHECKING:
    from .._core.task import Task

OPTIONS = {**guest_agent.OPTIONS, "gather_subset": Option("list", elements="str", default=["min"])}
MIN = ("agent", "hostname", "os", "interfaces")
_COMMANDS = {
    "agent": "guest-info",
    "hostname": "guest-get-host-name",
    "os": "guest-get-osinfo",
    "interfaces": "guest-network-get-interfaces",
    "routes": "guest-network-get-route",
    "filesystems": "guest-get-fsinfo",
    "frozen": "guest-fsfreeze-status",
    "disks": "guest-get-disks",
    "disk_statistics": "guest-get-diskstats",
    "users": "guest-get-users",
    "time": "guest-get-time",
    "timezone": "guest-get-timezone",
    "vcpus": "guest-get-vcpus",
    "cpu_statistics": "guest-get-cpustats",
    "load": "guest-get-load",
    "memory_blocks": "guest-get-memory-blocks",
}
_ODD = (TypeError, KeyError, AttributeError, ValueError, OverflowError, RecursionError)
"""What an answer of another form than the agent's makes of itself: whoever rules the guest can send one."""


def run(task: Task) -> Dict[str, Any]:
    """Return ``{changed, commands, guest, unavailable, addresses}``.

    Raise Refusal for an unknown subset, and OperationFailed where the guest does not tell the only one that was named.
    """
    wanted = task.params["gather_subset"]
    names = select(wanted, _COMMANDS, MIN)
    guest: Dict[str, Any] = {}
    unavailable: Dict[str, str] = {}
    with guest_agent.open_agent(task) as agent:
        for name in names:
            try:
                guest[name] = _plain(name, agent.execute(_COMMANDS[name], task.deadline))
            except errors.CommandError as exc:
                guest[name], unavailable[name] = None, agent.explain(exc, task.deadline)
            except _ODD:
                guest[name], unavailable[name] = None, f"the guest's agent has no valid answer to {_COMMANDS[name]}"
    named = [name for name in wanted if name in guest]
    if unavailable and set(unavailable).issuperset(named[:1] if len(named) == 1 else names):
        raise OperationFailed("; ".join(unavailable[name] for name in (named or names)), unavailable=unavailable)
    result = {"changed": False, "commands": [], "guest": guest, "unavailable": unavailable}
    return {**result, "addresses": addresses(guest["interfaces"] or [])} if "interfaces" in guest else result


def _plain(name: str, told: Any) -> Any:
    """Return what the agent tells, with underscores in its keys, and a value of one member alone."""
    told = with_underscores(told)
    if name == "agent":
        commands = told["supported_commands"]
        return {
            "version": told["version"],
            "commands": sorted(entry["name"] for entry in commands if entry["enabled"]),
            "blocked": sorted(entry["name"] for entry in commands if not entry["enabled"]),
        }
    if name == "time":
        return told / 1e9
    if name == "interfaces":
        addresses(told)
    return told["host_name"] if name == "hostname" else told == "frozen" if name == "frozen" else told


def addresses(interfaces: List[Dict[str, Any]]) -> List[str]:
    """Return the addresses by which others may reach the guest: not those of loopback, and no link-local ones."""
    every = [at["ip_address"] for interface in interfaces for at in interface.get("ip_addresses", [])]
    return [address for address in map(reachable, every) if address]
