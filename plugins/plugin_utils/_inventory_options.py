# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""What an inventory's file may say, beyond what Ansible checks itself."""

from __future__ import annotations

import ipaddress
import os
from typing import Any, Callable, Iterator, Mapping

from ansible.errors import AnsibleParserError

from ansible_collections.vmm.qemu.plugins.module_utils._core.option import suggestion
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.errors import ConnectError

_READING = ("sockets", "hypervisors", "connect_timeout", "timeout", "guest_agent")


def reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options by which machines are read: what is in the cache was read by the same."""
    return {name: options[name] for name in _READING}


def check(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise AnsibleParserError for what is not valid in a file: ``given`` as it is written, ``options`` as they are read."""
    for name in given:
        if name not in options:
            raise AnsibleParserError(f"{name}: there is no such option{suggestion(str(name), list(options))}")
    for name, wrong in _CHECKS.items():
        for value in options[name] if isinstance(options[name], (list, dict)) else [options[name]]:
            problem = wrong(value)
            if problem:
                raise AnsibleParserError(f"{name}: {problem}")
    for name in ("sockets", "hypervisors", "hostnames"):
        if not options[name]:
            raise AnsibleParserError(f"{name}: the list is empty")
    if options["networks"] and not options["guest_agent"]:
        raise AnsibleParserError(
            "networks: the guests' agents alone know addresses; add guest_agent: true, or leave networks out"
        )


def _time(value: float) -> str:
    return "" if 0 < value < float("inf") else f"{value} is not a valid time; write seconds above 0"


def _socket(value: str) -> str:
    try:
        parse(os.path.expanduser(value))
    except ConnectError as exc:
        return str(exc)
    return ""


def _hypervisor(value: str) -> str:
    plain = value and not value.startswith("-")
    return "" if plain else f"{value!r} is not a valid name of a host; write localhost, a host, a group or USER@HOST"


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as exc:
        return f"{exc}; write a network as 10.0.0.0/8 or 2001:db8::/32"
    return ""


def _name(value: Any) -> str:
    if isinstance(value, str):
        return ""
    return f"{value!r} is not a valid name; put it in quotes, since YAML reads on, off, yes and no as truth values"


_CHECKS: dict[str, Callable[[Any], str]] = {
    "connect_timeout": _time,
    "timeout": _time,
    "sockets": _socket,
    "hypervisors": _hypervisor,
    "networks": _network,
    "compose": _name,
    "groups": _name,
}
"""What is wrong with an option's value, or with each that is in it; empty where nothing is."""


def each(option: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an option of expressions has: how each is called in messages, and the option with that one alone."""
    if isinstance(value, Mapping):
        yield from ((f"{option}: {name}", {name: expression}) for name, expression in value.items())
    else:
        yield from ((f"{option}: {one.get('key')}", [one]) for one in value)
