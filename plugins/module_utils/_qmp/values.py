# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Sizes and truth as people write them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtpe]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
TRUE = frozenset(("true", "yes", "on"))
FALSE = frozenset(("false", "no", "off"))


def parse_int(value: Any) -> int:
    """Return the int of 8, 8.0, "8", "0x5", "-1". Raise ValueError for anything else (a bool is not a number)."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():  # neither infinity nor nan
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        try:
            return int(text, 0)
        except ValueError:
            return int(text, 10)  # "010" is ten, as QEMU's own size parser reads it
    raise ValueError(f"{value!r} is not a whole number")


def human_size(value: Any) -> int:
    """Bytes of "2G", "512M", "64k", "1.5g", "0x1000", 4096. Suffixes are powers of 1024, as QEMU's are.

    Raise ValueError for what is not a valid size (negative numbers too).
    """
    try:
        size = parse_int(value)
    except (ValueError, OverflowError):
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(
                f"{value!r} is not a valid size: write bytes, or a number with k, M, G, T, P or E"
            ) from None
        number, unit = match.groups()
        factor = 1024 ** _POWERS[unit.lower()]
        exact = float(number) * factor if "." in number else int(number) * factor
        size = int(exact)
        if size != exact:
            raise ValueError(f"{value!r} is not a whole number of bytes") from None
    if size < 0:
        raise ValueError(f"{value!r}: a size can't be negative")
    return size


def parse_bool(value: Any) -> bool:
    """Return the bool of true, "yes", "on", "True", "off" and so on. Raise ValueError for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        if text in TRUE or text in FALSE:
            return text in TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def reachable(text: Any) -> str:
    """Return the IP address that a guest has told, empty where it is not one by which others may reach the guest.

    That is no other text (an option of ssh, say), no address of loopback or of a link, and none that stands for many.
    """
    import ipaddress

    try:
        address = ipaddress.ip_address(text if isinstance(text, str) and "%" not in text else "")
    except ValueError:
        return ""
    meant = getattr(address, "ipv4_mapped", None) or address
    nobody_elses = meant.is_loopback or meant.is_link_local or meant.is_unspecified or meant.is_multicast
    return "" if nobody_elses else str(address)
