# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What the inventory makes of what monitors told: the hosts' names, variables and addresses.

A virtual machine's name is its owner's choice, and what a guest says is anybody's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections import Counter
from typing import Any, Callable, Collection, Dict, Iterable, List, Sequence

from ansible import constants

from ansible_collections.vmm.qemu.plugins.module_utils._monitors import BUSY, UNREACHABLE, path_name
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import reachable

Machine = Dict[str, Any]

GROUP = "qemu"
SILENT = (BUSY, UNREACHABLE)
_PLAIN = re.compile(r"\w[\w.-]{0,252}")
"""What is a host's name: no part of a template, a pattern of hosts, an option of ssh, or a path."""
_ELSEWHERE = ("inmigrate", "postmigrate")
"""The states of a machine that runs in another QEMU: it has not come yet, or has left."""
_MEMBERS = {"socket", "status", "name", "uuid", "version", "reason", "agent", "agent_reason", "hypervisor"}
"""The members of a machine that are texts."""


class Unreachable(Exception):
    """Why a hypervisor does not tell of its monitors."""


def clean(value: Any) -> Any:
    """Return a value with no text in it that a terminal could obey, or that can't be written as UTF-8."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(character if character.isprintable() else "\ufffd" for character in value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value


def are_machines(told: Any, *needed: str) -> bool:
    """Tell whether it is a list of what ``_monitors`` tells of machines: a hypervisor may be in other hands, and a cache cut off.

    ``needed``: what each has besides a socket and a status.
    """
    return _all(told, lambda one: _is_machine(one) and all(name in one for name in needed))


def _is_machine(one: Any) -> bool:
    told = dict(one)
    client, interfaces = told.pop("client", {"name": "", "pid": 0}), told.pop("interfaces", [])
    return (
        isinstance(one, dict)  # not pairs, which make one
        and {"socket", "status"} <= set(told) <= _MEMBERS
        and texts(list(told.values()))
        and set(client) == {"name", "pid"}
        and isinstance(client["name"], str)
        and isinstance(client["pid"], int)
        and _all(interfaces, _is_interface)
    )


def _is_interface(one: Any) -> bool:
    addresses = one["addresses"]
    return (
        set(one) == {"name", "mac", "addresses"}
        and texts([one["name"], one["mac"], *addresses])
        and _all(addresses, lambda address: bool(ipaddress.ip_interface(address)))
    )


def texts(told: Any) -> bool:
    """Tell whether it is a list of texts."""
    return isinstance(told, list) and all(isinstance(one, str) for one in told)


def _all(told: Any, is_valid: Callable[[Any], bool]) -> bool:
    """Tell whether it is a list of what is valid; what can't be asked about is not."""
    try:
        return isinstance(told, list) and all(is_valid(one) for one in told)
    except (TypeError, ValueError, KeyError):
        return False


def left_alone(before: Iterable[Machine], hypervisor: str, reason: str) -> List[Machine]:
    """Return the machines that a hypervisor had, which does not answer now."""
    kept = ("hypervisor", "socket", "name", "uuid")
    return [
        {**{name: one[name] for name in kept if name in one}, "status": UNREACHABLE, "reason": reason}
        for one in before
        if one["hypervisor"] == hypervisor
    ]


def keep_names(machines: Iterable[Machine], before: Iterable[Machine]) -> None:
    """Give machines that do not tell their name the one that they last had at that monitor."""
    known = {(one["hypervisor"], one["socket"]): one.get("name") for one in before}
    for one in machines:
        name = known.get((one["hypervisor"], one["socket"]))
        if one["status"] in SILENT and name:
            one["name"] = name


def host_names(machines: Sequence[Machine], order: Sequence[str], taken: Collection[str]) -> List[str]:
    """Return a name for each machine, none twice and none that is ``taken``.

    ``order``: what to call it by, the first that is a host's name: ``name``, ``path`` or ``uuid``. Of several with one name
    the one that has it is the one that answers and is not on its way. Where that is not one alone none of them has it:
    whoever may name a machine could take the place of another.
    """
    wanted = [_wanted(one, order) for one in machines]
    best: Dict[str, List[int]] = {}
    for number, name in sorted(enumerate(wanted), key=lambda item: _rank(machines[item[0]])):
        same = best.setdefault(name, [])
        if not same or _rank(machines[same[0]]) == _rank(machines[number]):
            same.append(number)
    owners = {same[0] for name, same in best.items() if len(same) == 1 and name not in taken}
    longer = [f"{name}@{_slug(one['hypervisor'])}" for name, one in zip(wanted, machines)]
    times = Counter(name for number, name in enumerate(longer) if number not in owners)
    names = []
    for number, one in enumerate(machines):
        name = wanted[number] if number in owners else longer[number]
        if number not in owners and times[name] > 1:
            name += "-" + hashlib.sha256(os.fsencode(one["socket"])).hexdigest()[:8]
        names.append(name)
    return names


def _rank(machine: Machine) -> int:
    status = machine["status"]
    return 1 + SILENT.index(status) + 1 if status in SILENT else int(status in _ELSEWHERE)


def _wanted(machine: Machine, order: Sequence[str]) -> str:
    known = {**machine, "path": path_name(machine["socket"])}
    names = [known.get(name) or "" for name in order]
    return next((name for name in names if _PLAIN.fullmatch(name)), "") or _slug(known["path"])


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_.-")[:200] or "vm"


def state_group(status: str) -> str:
    """Return the group of those in a state."""
    return f"{GROUP}_" + re.sub(r"\W", "_", status)


def variables(machine: Machine, networks: Sequence[str]) -> Dict[str, Any]:
    """Return a host's variables."""
    told = {f"qemu_{name}": value for name, value in machine.items()}
    address = choose_address(machine.get("interfaces", []), networks)
    return {**told, **({"ansible_host": address} if address else {})}


def choose_address(interfaces: Sequence[Dict[str, Any]], networks: Sequence[str]) -> str:
    """Return the guest's lowest address in the first network that it has one in, else an empty text.

    That of its loopback is every host's own, so that the guest's tasks would run on the controller.
    """
    told = [reachable(text.partition("/")[0]) for one in interfaces for text in one["addresses"]]
    addresses = [ipaddress.ip_address(text) for text in told if text]
    for network in map(ipaddress.ip_network, networks):
        inside = [address for address in addresses if address in network]
        if inside:
            return str(min(inside, key=int))
    return ""


def reserved(groups: Collection[str], hypervisors: Iterable[str]) -> set[str]:
    """Return the names that no machine gets: it would be taken for something else."""
    return {*groups, *hypervisors, *constants.LOCALHOST}
