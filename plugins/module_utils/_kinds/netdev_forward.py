# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The ports of the host that a user network forwards to its guest, as QEMU tells them and as people write them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, List, Tuple

if TYPE_CHECKING:
    from .._core.vm import VM

_RULE = re.compile(r"(?:(tcp|udp):)?([^:]*):(\d+)-([^:]*):(\d+)\Z")
_TOLD = re.compile(r"\s*(TCP|UDP)\[HOST_FORWARD\]\s+\S+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)")
_ANY = ("", "*", "0.0.0.0")


def forwards(vm: VM, ident: str) -> List[str]:
    """Return the rules of a user netdev, as ``hostfwd`` takes them, from ``info usernet``."""
    rules: List[str] = []
    mine = False
    for text in vm.monitor("info usernet").splitlines():
        head = re.match(r"Hub -?\d+ \((.+)\):", text)
        if head:
            mine = head.group(1) == ident
        rule = _TOLD.match(text)
        if mine and rule:
            protocol, host, port, guest, guest_port = rule.groups()
            rules.append(f"{protocol.lower()}:{'' if host == '*' else host}:{port}-{guest}:{guest_port}")
    return rules


def same_rules(have: List[str], want: List[Any]) -> bool:
    """Tell whether the wanted rules are those that are there, in any order. What a rule leaves open fits all: a guest, port 0."""
    left = [_parts(rule) for rule in have]
    for rule in want:
        wanted = _parts(rule)
        found = next((there for there in left if _fits(there, wanted)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _parts(rule: Any) -> Tuple[str, ...]:
    """Return protocol, host, its port, guest, its port; of what is not such a rule the text alone."""
    found = _RULE.match(str(rule))
    if not found:
        return (str(rule),)
    protocol, host, port, guest, guest_port = (part or "" for part in found.groups())
    return protocol or "tcp", "" if host in _ANY else host, str(int(port)), guest, str(int(guest_port))


def _fits(have: Tuple[str, ...], want: Tuple[str, ...]) -> bool:
    if len(have) != len(want) or len(have) == 1:
        return have == want
    return all(theirs == mine or mine in open_ for theirs, mine, open_ in zip(have, want, ((), (), ("0",), ("",), ())))
