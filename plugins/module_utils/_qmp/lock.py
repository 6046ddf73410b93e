# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A lock that an exception of a signal handler leaves open."""
# Private to the collection: may change without notice.

from __future__ import annotations

from _thread import RLock


class SignalLock(RLock):  # type: ignore[misc]  # typeshed calls RLock final, and Python does not
    """For ``with``, not to be nested.

    Since 3.14 Python may hear a signal when ``with`` has taken the lock and does not yet watch over it. Where a function in Python
    takes it, nothing is heard between that and ``with``.
    """

    def __enter__(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, or leave it open."""
        try:
            return self.acquire(blocking, timeout)
        except BaseException:
            if self._is_owned():  # type: ignore[attr-defined]
                self.release()
            raise
