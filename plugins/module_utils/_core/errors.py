# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What a kind raises when reading already tells that a request can't be fulfilled."""

from __future__ import annotations

from typing import Any, Dict


class Refusal(Exception):
    """The request can't be fulfilled. The text is the whole message for the user: the thing, the value, what to do.

    Unless ``details`` say otherwise nothing was sent. They are what else belongs in the failed task's result:
    ``changed`` and ``commands`` of work that failed late, the figures it had come to.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details: Dict[str, Any] = details


class Pending(Refusal):
    """QEMU took the request, but the guest has not answered it yet; a later run finishes the job."""
