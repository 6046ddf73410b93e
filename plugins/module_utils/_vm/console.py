# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The console's log, which a guest could fill without end, kept within bounds."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import stat

_MOST = 16 << 20
_KEPT = 1 << 20


def bound_log(path: str) -> None:
    """Cut a log that has grown too large to its last part. QEMU, which appends to it, goes on at the new end.

    What is not a file of this user's own is left alone.
    """
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            own = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
            if own and found.st_size > _MOST:
                last = os.pread(file, _KEPT, found.st_size - _KEPT)
                os.ftruncate(file, 0)
                os.pwrite(file, last, 0)
        finally:
            os.close(file)
