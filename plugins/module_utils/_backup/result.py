# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A backup as results show it."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import Any, Dict, Iterable

from .chain import Backup


def shown(directory: str, backup: Backup, disks: Iterable[str] | None = None, **more: Any) -> Dict[str, Any]:
    """Return it as ``backup``: number, level, why, time, quiesced, and by disk path, size, dirty, written, backing.

    ``disks``: those of them that the task is about. ``more``: further keys, such as ``frozen_ms``.
    """
    members = ("number", "level", "why", "time", "quiesced")
    return {
        **{name: value for name, value in backup._asdict().items() if name in members},
        "disks": {
            disk: {
                "path": os.path.join(directory, image.file),
                "size": image.size,
                "dirty": image.dirty,
                "written": image.written,
                "backing": image.backing and os.path.join(directory, image.backing),
            }
            for disk, image in backup.disks.items()
            if disks is None or disk in disks
        },
        **more,
    }
