# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What an image file says of itself, read without QEMU."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import stat

from .._core import safe_open
from .._host import qcow2_header


def virtual_size(path: str, driver: str) -> int | None:
    """Return the size in bytes that a guest would see of the image, or None where this can't tell (other formats, no access)."""
    try:
        with safe_open.regular(path, links=True, devices=True) as image:
            if driver == "qcow2":
                found = qcow2_header.read(image)
                return found.size if found else None
            if driver in ("raw", "file", "host_device"):
                regular = stat.S_ISREG(os.fstat(image.fileno()).st_mode)
                end = os.fstat(image.fileno()).st_size if regular else image.seek(0, os.SEEK_END)
                return -(-end // 512) * 512
    except OSError:
        pass
    return None
