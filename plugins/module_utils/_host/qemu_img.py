# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The program ``qemu-img``, and the locks by which QEMU shows that it uses an image."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from .._core import safe_open
from .._core.errors import Refusal
from . import child

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

# Of what it says, at its beginning and at its end.
_SHOWN = 400
# `  cluster_size=<size>    - qcow2 cluster size`, as `-o help` lists them.
_LISTED = re.compile(r"^\s+([A-Za-z0-9_.-]+)=<", re.MULTILINE)
# struct flock: type, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi4x")
# QEMU locks a byte of an image for each thing it does with it, from 100 on, and for what others shall not do, from 200 on.
_LOCKS_FROM, _LOCKS_LENGTH = 100, 200


class QemuImg:
    """Runs it until the task's deadline."""

    def __init__(self, binary: str, deadline: Deadline) -> None:
        """``binary``: a path, or a name to be looked for. Raise Refusal where there is none."""
        found = shutil.which(binary)
        if found is None:
            raise Refusal(
                f"qemu_img: there is no program {binary} on the managed host: install it (the package is qemu-utils "
                "or qemu-img), or set qemu_img to its path"
            )
        self.binary = found
        self._deadline = deadline

    def run(self, command: List[str], failure: str, *files: Tuple[str, int]) -> str:
        """Return what it printed. Raise Refusal, begun with ``failure``, when it fails or lasts too long.

        ``files``: paths in the command, ``json:`` words included, and the open files that qemu-img uses in their place, whatever
        has these names by then.
        """
        try:
            done = child.run(
                [_by_number(word, files) for word in command],
                self._deadline,
                pass_fds=[file for _path, file in files],
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as exc:
            raise Refusal(f"{failure}: qemu-img {command[1]} was not done within the timeout, and was ended") from exc
        except OSError as exc:
            raise Refusal(f"qemu_img: {command[0]} can't be run: {exc.strerror}") from exc
        if done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            for path, file in files:
                text = re.sub(rf"{safe_open.by_number(file)}\b", path.replace("\\", r"\\"), text)
            said = "; ".join(line.replace("qemu-img: ", "", 1) for line in text.splitlines())
            if len(said) > 2 * _SHOWN:  # the name of an image in a long chain has all of it
                said = f"{said[:_SHOWN]} ... {said[-_SHOWN:]}"
            raise Refusal(f"{failure}: {said or 'qemu-img does not say why'}", rc=done.returncode, stderr=text)
        return done.stdout.decode(errors="replace")

    def info(self, path: str, kind: str | None = None) -> Dict[str, Any]:
        """Return what an image says of itself, be it in use or not; ``kind``: its format, which is else found by its content."""
        command = [self.binary, "info", "--output=json", "--force-share", *(["-f", kind] if kind else []), path]
        found: Dict[str, Any] = json.loads(self.run(command, f"{path} can't be read as an image"))
        return found

    def create_options(self, kind: str, path: str) -> List[str]:
        """Return the names of what a new image of this format can be told, empty where it does not say. Nothing is made.

        Raise Refusal for a format that it does not have.
        """
        command = [self.binary, "create", "-f", kind, "-o", "help", path]
        return _LISTED.findall(self.run(command, f"format: {kind} images can't be made"))


def _by_number(word: str, files: Sequence[Tuple[str, int]]) -> str:
    """Return a word of a command with open files in the place of their paths."""
    for path, file in files:
        if word == path:
            return safe_open.by_number(file)
        if word.startswith("json:"):
            word = word.replace(json.dumps(path), json.dumps(safe_open.by_number(file)))
    return word


def in_use(path: str) -> bool:
    """Tell whether a process holds QEMU's locks on the image, be it to read only. False where that can't be seen."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_FROM, _LOCKS_LENGTH, 0)
    with contextlib.suppress(OSError), safe_open.regular(path, links=True, devices=True) as image:
        lock = _FLOCK.unpack(fcntl.fcntl(image.fileno(), fcntl.F_GETLK, wanted))
        return bool(lock[0] != fcntl.F_UNLCK)
    return False
