# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The directory of a chain: whose it is, who works in it, and what a run that was killed has left there and in QEMU."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Sequence

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.step import Step
from .._host import directory as directories
from .._host import part_file
from .._host.qemu_img import in_use
from .._kinds.blockdev_graph import users
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.qemu_texts import is_busy
from .._operations import job_end, jobs
from .._operations.disk_snapshot_disks import all_disks, openers
from . import chain as chains
from .disks import bitmaps, is_scratch, job_id, node_name

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Run
    from .._qmp.deadline import Deadline

_NO_UUID = "00000000-0000-0000-0000-000000000000"


class Lock:
    """The lock that a run holds on the directory while it works there. It goes with the process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Lock it. Raise Refusal while another run does; a file system without locks has nothing to say."""
        try:
            with safe_open.reached(self.path) as found:
                self._file = os.open(safe_open.by_number(found), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise Refusal(
                f"path: another task makes a backup in {self.path} now: run this one when that is done"
            ) from None
        except OSError as exc:
            if self._file is None:
                raise Refusal(f"path: can't look at {self.path}: {exc.strerror}") from exc

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def check_free(self) -> None:
        """Raise Refusal where another run has it."""
        if os.path.isdir(self.path):
            self.acquire()
            self.release()

    @contextlib.contextmanager
    def held(self, vm: VM, name: str, chain: chains.Chain | None) -> Iterator[None]:
        """Hold it, once there is a directory. Raise Refusal where another run has it, or has listed a backup since ``chain``."""
        try:
            if os.path.isdir(self.path):
                self.acquire()
                if read_chain(vm, self.path, name) != chain:
                    raise Refusal(f"path: another task has made a backup in {self.path} meanwhile: run this one again")
            yield
        finally:
            self.release()


def read_chain(vm: VM, path: str, name: str) -> chains.Chain | None:
    """Return the chain in a directory; None where there is none yet. Raise Refusal for a directory that can't be its own."""
    found = directories.look(path)
    if found is None:
        above = os.path.dirname(path)
        if not os.path.isdir(above):
            raise Refusal(f"path: there is no directory {above}, in which {path} would be made")
        return None
    if found.uid not in (0, os.geteuid()) or found.mode & 0o022:
        raise Refusal(
            f"path: others than root and the task's user can write to {path} (owner {found.uid}, mode {found.mode:04o}), and so "
            "to all backups: name another directory, or give it to the user that runs the task"
        )
    chain = chains.read(path, name)
    if chain is None:
        there = set(os.listdir(path)) - {part_file.part_path(chains.FILE), "lost+found"}
        strange = sorted(found for found in there if not is_scratch(found))
        if strange:
            raise Refusal(
                f"path: {path} has no {chains.FILE}, and {strange[0]} is in it: a chain of backups takes a directory of its own"
            )
        return None
    mine = identity(vm)
    for key in ("uuid", "name"):
        if key in mine and key in chain.vm:
            if mine[key] != chain.vm[key]:
                raise Refusal(
                    f"path: {path} has the backups of another virtual machine ({key} {chain.vm[key]}; this one's is {mine[key]})"
                )
            break
    return chain


def identity(vm: VM) -> Dict[str, Any]:
    """Return what QEMU tells of who it is: ``name`` and ``uuid``, where it was given them."""
    name, uuid = vm.ask("query-name").get("name"), vm.ask("query-uuid")["UUID"]
    return {**({"name": name} if name else {}), **({"uuid": uuid} if uuid != _NO_UUID else {})}


def send(run: Run, steps: Sequence[Step]) -> None:
    """Send steps of the plan, but for those that would remove what is not there any more."""
    for step in steps:
        run.vm.forget()
        if not step.removes or step.still_needed is None or step.still_needed(run.vm):
            run.send(step)


def remove_bitmap(node: str, name: str) -> Step:
    """Return the step that removes a bitmap, if it is there."""
    where = {"node": node, "name": name}
    there = partial(_has_bitmap, node=node, name=name)
    return Step("block-dirty-bitmap-remove", where, removes=True, still_needed=there, retry=is_busy)


def _has_bitmap(vm: VM, node: str, name: str) -> bool:
    return any(told.get("name") == name for told in nodes(vm).get(node, {}).get("dirty-bitmaps", []))


def stray_bitmaps(vm: VM, name: str, kept: Sequence[str | None]) -> List[Step]:
    """Return the steps that remove the chain's bitmaps from all disks, but for those that are kept, or in use."""
    return [
        _remove_stray(disk.layers[0].node, bitmap)
        for disk in all_disks(vm).values()
        for bitmap, told in bitmaps(vm, disk, name).items()
        if bitmap not in kept and not told["busy"] and not nodes(vm)[disk.layers[0].node]["ro"]
    ]


def _remove_stray(node: str, bitmap: str) -> Step:
    """Return the step that removes a bitmap, unless its image has become what an overlay stands on."""
    return remove_bitmap(node, bitmap).replace(
        still_needed=lambda vm: _has_bitmap(vm, node, bitmap) and not nodes(vm)[node]["ro"]
    )


def clear_qemu(vm: VM, name: str, files: Sequence[str]) -> List[Step]:
    """Return the steps that end the jobs of a killed run, and remove its nodes, which have these files open.

    Raise Refusal for a job of that name which works on others.
    """
    found = jobs.jobs(vm)
    left = [node for path in files for node in openers(vm, path)]
    ended, steps = [], []
    for disk in sorted(all_disks(vm)):
        ident = job_id(name, disk)
        if ident in found:
            if not jobs.has_concluded(found[ident]) and not any(
                ("block job", ident) in users(vm, node) for node in left
            ):
                raise Refusal(
                    f"name: job {ident} goes on: it makes a backup {name!r} in another directory; wait until it is done"
                )
            ended.append(ident)
        node = node_name(name, disk)
        left += [node] if node in nodes(vm) and node not in left else []
    left_jobs = sorted({ident for node in left for kind, ident in users(vm, node) if kind == "block job"} - set(ended))
    for ident in [*ended, *left_jobs]:
        cancel, dismiss = job_end.end(ident)
        steps += [dismiss] if ident in found and jobs.has_concluded(found[ident]) else [cancel, dismiss]
    return [*steps, *(delete_node(node) for node in left)]


def remove_file(vm: VM, path: str) -> Step:
    """Return the step that removes the file of an image that is not listed."""

    def remove(deadline: Deadline) -> None:
        vm.forget()
        if openers(vm, path) or in_use(path):
            raise OperationFailed(f"{path} is still in use, and was not removed")
        if os.path.lexists(path):
            part_file.existing("path", path)
            part_file.remove(path)

    return Step(do=remove, command_lines=[["rm", path]], removes=True)


def make_directory(path: str, access: directories.Access, after: Callable[[], None] = lambda: None) -> Step:
    """Return the step that makes a directory for good, which goes again while nothing is in it. ``after``: what follows at once."""

    def make(deadline: Deadline) -> None:
        if not directories.make(path, access):
            raise OperationFailed(f"path: {path} has come to be meanwhile: run the task again")
        try:
            chains.sync_directory(os.path.dirname(path))
        except OSError as exc:
            remove(deadline)
            raise OperationFailed(f"path: {path} can't be made: {exc.strerror}") from exc
        after()

    def remove(deadline: Deadline) -> None:
        with contextlib.suppress(OSError):
            directories.remove(path, whole=False)

    def take_back(deadline: Deadline) -> None:
        remove(deadline)
        if os.path.isdir(path):
            raise OperationFailed("it is not empty")

    back = Step(do=take_back, command_lines=[["rmdir", path]])
    return Step(do=make, command_lines=[["mkdir", path]], undo=[back])
