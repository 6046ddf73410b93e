# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What can be told of a backup without the disk that it was made of."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

from .._core import safe_open
from .._core.errors import Refusal
from .point import check_plain, source

if TYPE_CHECKING:
    from .._host.qemu_img import QemuImg
    from .point import Point

# How qemu-img ends: the image is damaged; clusters are lost, which costs room and nothing else.
_DAMAGED, _LEAKS = 2, 3
_DIFFER = 1


def verify(tool: QemuImg, point: Point, path: str | None, kind: str) -> Dict[str, Any]:
    """Return what was proved of a disk. Raise Refusal for an image that is damaged or missing, or differs from that at ``path``.

    That every image is there, the disk's size, what it stands on, and that its own tables are whole; that every byte of the disk
    can be read; where a path is given, that the image there has the same data.
    """
    with point.opened() as files:
        leaks = [path for path, file in files if check(tool, path, file)]
        target = f"driver=null-co,size={point.size}"
        line = [tool.binary, "convert", "-n", "--target-image-opts", point.source, target]
        tool.run(line, f"path: disk {point.disk} of the backup can't be read to its end", *files)
    if path is not None and not is_the_same(tool, point, path, kind):
        raise Refusal(f"to: {path} has other data than {point.paths[0]}")
    return {"images": point.paths, "read": point.size, "leaks": leaks, "same_as": path}


def check(tool: QemuImg, path: str, file: int) -> bool:
    """Tell whether an image takes more room than it needs. Raise Refusal for one whose tables are damaged.

    What it stands on is not needed for that, and opening all of it for each image takes long.
    """
    try:
        tool.run([tool.binary, "check", "-q", source([path])], f"path: {path} can't be checked", (path, file))
    except Refusal as exc:
        code = exc.details.get("rc")
        if code == _LEAKS:
            return True
        if code != _DAMAGED:
            raise
        first = next(iter(exc.details["stderr"].splitlines()), "it does not say what")
        raise Refusal(f"path: {path} is damaged: qemu-img check says: {first}", **exc.details) from exc
    return False


def is_the_same(tool: QemuImg, point: Point, path: str, kind: str) -> bool:
    """Tell whether an image has the data of a backup. Raise Refusal for one that can't be read, or is in use."""
    try:
        file = safe_open.regular(path)
    except OSError as exc:
        raise Refusal(f"to: {path} can't be read: {exc.strerror}") from exc
    with file, point.opened() as files:
        if kind == "qcow2" and check_plain("to", path, file).backing_file:
            raise Refusal(f"to: {path} has a backing file, which no restored image has")
        line = [tool.binary, "compare", "-q", point.source, source([path], kind)]
        try:
            tool.run(line, f"to: {path} can't be compared with the backup", *files, (path, file.fileno()))
        except Refusal as exc:
            if exc.details.get("rc") == _DIFFER:
                return False
            raise
    return True
