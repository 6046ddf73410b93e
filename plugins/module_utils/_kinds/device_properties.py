# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The properties that a device's driver has."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict

from .._core.errors import Refusal
from .._core.option import suggestion

Properties = Dict[str, Dict[str, Any]]
"""What ``device-list-properties`` says of a driver, by property name."""


# QEMU's own aliases that do not begin the driver's name.
ALIASES = {"ahci": "ich9-ahci", "lsi": "lsi53c895a"}


def spelled(known: Properties, name: str) -> str:
    """Return a property's own name, empty for one that the driver lacks."""
    names = (name, name.replace("_", "-"), name.replace("-", "_"))
    return next((candidate for candidate in names if candidate in known), "")


def property_name(known: Properties, driver: str, name: str) -> str:
    """Return the property's own name: ``num_queues`` is taken for ``num-queues``. Raise Refusal for an unknown one."""
    real = spelled(known, name)
    if real:
        return real
    raise Refusal(f"options: {driver} has no property {name!r}{suggestion(name, known)}")
