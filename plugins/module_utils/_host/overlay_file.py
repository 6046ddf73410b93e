# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The file of an overlay: a qcow2 image that begins with nothing of its own, over another image."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Callable, Sequence

from .._core import safe_open
from .._core.errors import OperationFailed
from .._core.step import Step
from . import part_file, qcow2_header
from .ownership import Ownership
from .qemu_img import QemuImg

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.deadline import Deadline

_MOST_ENTRIES = 1 << 20


def make_step(path: str, base: Sequence[str], size: int, uid: int, binary: str, unused: Callable[[VM], bool]) -> Step:
    """Return the step that makes an overlay which only its user can open; nothing that is there is written over.

    ``base``: the name and the format of the image below, as its header will have them; empty where it stands on nothing.
    ``unused``: tells whether it may be removed where a later step has failed.
    """
    part, whose = part_file.part_path(path), Ownership(str(uid), uid if uid != os.geteuid() else None)
    below = ["-u", "-b", base[0], "-F", base[1]] if base else []
    line = [binary, "create", "-q", "-f", "qcow2", *below, part, str(size)]
    shown = [line, ["mv", "--no-clobber", part, path], *(whose.command_lines(path) if whose.uid is not None else [])]
    new = part_file.NewFile(path, 0o600)

    def make(deadline: Deadline) -> None:
        def fill(file: int) -> None:
            QemuImg(binary, deadline).run(line, f"{path} could not be made", (part, file))
            whose.apply(file, path)

        new.make(fill)
        part_file.remove(committing(path))

    remove = Step(do=lambda deadline: new.remove(), command_lines=[["rm", path]], removes=True, still_needed=unused)
    return Step(do=make, command_lines=shown, undo=[remove])


def committing(path: str) -> str:
    """Return the file that says that a commit of an overlay was begun: what is below it is not as it was any more."""
    return f"{path}.committing"


def mark_step(path: str) -> Step:
    """Return the step that makes that file, unless it is there."""
    mark = committing(path)

    def make(deadline: Deadline) -> None:
        try:
            with safe_open.parent(mark) as (directory, name):
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o600, dir_fd=directory))
        except OSError as exc:
            raise OperationFailed(f"{mark} could not be made: {exc.strerror}") from exc

    return Step(do=make, command_lines=[["touch", mark]])


def is_empty(path: str, base: str) -> bool:
    """Tell whether the file is an overlay of this image in which nothing has been written."""
    with contextlib.suppress(OSError), safe_open.regular(path) as image:
        found = qcow2_header.read(image)
        if found is None or found.snapshots or not 0 < found.l1_entries <= _MOST_ENTRIES:
            return False
        image.seek(found.l1_offset)
        return found.backing_file == os.fsencode(base) and not any(image.read(8 * found.l1_entries))
    return False
