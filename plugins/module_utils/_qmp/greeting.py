# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What QEMU says of itself when a client connects."""
# Private to the collection: may change without notice.

from __future__ import annotations

from collections import namedtuple

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class _Numbers(NamedTuple):
        major: int
        minor: int
        micro: int
else:
    _Numbers = namedtuple("_Numbers", ("major", "minor", "micro"))


class Version(_Numbers):
    """QEMU's version (major, minor, micro), as in its greeting; ``package`` is the distribution's own text."""

    package = ""


def read_greeting(greeting: Any, peer: str) -> tuple[Version, list[str]]:
    """Return the version and the capabilities that a greeting offers. Raise `errors.NegotiationError`."""
    try:
        told = greeting["version"]
        numbers = told["qemu"]
        version = Version(int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"]))
        version.package = str(told.get("package") or "")
        offered = greeting.get("capabilities")
    except (TypeError, KeyError, ValueError, AttributeError):
        raise errors.NegotiationError(f"{peer}: a greeting without a QEMU version: {greeting!r:.200}") from None
    return version, [name for name in offered if isinstance(name, str)] if isinstance(offered, list) else []
