# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What a kind raises when reading already tells that a request can't be fulfilled."""

from __future__ import annotations


class Refusal(Exception):
    """The request can't be fulfilled, and reading was enough to tell; nothing was sent.

    The text is the whole message for the user: it names the thing, the value and what to do.
    """


class Pending(Refusal):
    """QEMU took the request, but the guest has not answered it yet; a later run finishes the job."""
