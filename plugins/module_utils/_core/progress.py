# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How far a piece of long work is."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a piece of long work is."""

    what: str
    """In the user's words: ``migration``, ``backup b0``."""
    phase: str
    """QEMU's own word for where it stands: ``active``, ``ready``."""
    done: int = 0
    """Bytes, or whatever the work counts."""
    total: int = 0
    """0: not known yet."""
    rate: float = 0.0
    """Bytes a second, where QEMU tells it; 0: to be worked out from two looks."""
    downtime: int = -1
    """Milliseconds for which the guest will stand still, as expected by now; -1: not known."""

    @property
    def percent(self) -> float:
        """0.0 to 100.0."""
        return min(100.0, 100.0 * self.done / self.total) if self.total else 0.0
