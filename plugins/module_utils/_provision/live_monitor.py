# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The monitor for events, added to a QEMU that runs without one. QEMU can do that since 11.1, where monitors are objects.

The socket is made here and handed over: QEMU has dropped its privileges, and may not write where it made the others.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, List, Sequence, Tuple

from .._core.errors import OperationFailed
from .._core.plan import Draft
from .._core.step import Descriptor, Step, pass_descriptors
from .._core.vm import EVENTS
from .._host.process import is_free
from .._kinds import host_path
from .._kinds.chardev import CHARDEV, chardevs
from .._kinds.object import OBJECT, OBJECTS, objects
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.address import Address
    from .._qmp.deadline import Deadline

_TYPE = "monitor-qmp"
_MODE = 0o750
"""As QEMU makes its sockets when it is started by this collection."""


def steps(vm: VM, address: Address, line: Sequence[str]) -> List[Step]:
    """Return the steps that add it, none where it is there or this QEMU can't. ``line``: what QEMU was started with.

    What a task that was killed has left is completed. Raise Refusal where the path is somebody else's.
    """
    path = address.path or "@"
    if path.startswith("@") or not vm.local or any(text.startswith(f"socket,id={EVENTS},") for text in line):
        return []
    try:
        vm.ask("qom-list-properties", typename=_TYPE)
    except errors.CommandError:
        return []
    path = os.path.abspath(path)
    serves = [ident for ident in chardevs(vm) if _serves(vm, ident, path)]
    if serves == [EVENTS] and EVENTS not in objects(vm) and not _has_monitor(vm):
        return _monitor_steps(vm)
    if serves or EVENTS in (*chardevs(vm), *objects(vm)):
        return []  # it has one, or by these names something of its owner's
    host_path.check_socket(vm, "events_socket", path, ("monitor", path))
    return [*_socket_steps(vm, address, path), *_monitor_steps(vm)]


def _serves(vm: VM, ident: str, path: str) -> bool:
    """Tell whether a character device is the listening end of a socket at a path."""
    if chardevs(vm)[ident] != "socket":
        return False
    have = CHARDEV.read(vm, {"id": ident}) or {}
    return bool(have.get("server")) and have.get("path") == path


def _has_monitor(vm: VM) -> bool:
    """Tell whether a monitor stands on the character device for events."""
    monitors = [name for name, kind in objects(vm).items() if kind == _TYPE]
    return any(vm.prop(f"{OBJECTS}/{name}", "chardev") == EVENTS for name in monitors)


def _monitor_steps(vm: VM) -> List[Step]:
    """Return the step that makes the monitor, on the character device for events."""
    return OBJECT.create(vm, {"id": EVENTS, "qom_type": _TYPE, "options": {"chardev": EVENTS}}, Draft())


def _socket_steps(vm: VM, address: Address, path: str) -> List[Step]:
    """Return the steps that make the socket, and the character device that listens there."""
    listener = _Listener(address, path)
    made = Step(do=listener.make, hidden=True, undo=[Step(do=listener.remove, hidden=True)])
    passed, name = pass_descriptors(EVENTS, "listener", [listener])
    options = {"addr": {"type": "fd", "data": {"str": name}}}
    want = {"id": EVENTS, "type": "socket", "server": True, "options": options}
    return [made, *passed, *CHARDEV.create(vm, want, Draft())]


class _Listener(Descriptor):
    """The socket to listen at, made by one step and handed over by the next."""

    def __init__(self, address: Address, path: str) -> None:
        super().__init__(path)
        self._address = address
        self._socket: socket.socket | None = None
        self._made: Tuple[int, int] | None = None

    def make(self, deadline: Deadline) -> None:
        """Make it. Raise OperationFailed where that can't be done, or somebody was quicker."""
        with contextlib.ExitStack() as failed:
            self._socket = failed.enter_context(socket.socket(socket.AF_UNIX))
            os.fchmod(self._socket.fileno(), _MODE)  # before it has a name, so that it never has another mode
            try:
                if is_free(self._address):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path)
                # QEMU listens when it has it: what a task that was killed has handed over is nobody's
                self._socket.bind(self.path)
                found = os.stat(self.path, follow_symlinks=False)
            except OSError as exc:
                raise OperationFailed(f"events_socket: {self.path} can't be made: {exc.strerror}") from exc
            self._made = found.st_dev, found.st_ino
            failed.pop_all()

    def open(self) -> int:
        """Return its descriptor, which the caller closes."""
        if self._socket is None:
            raise OperationFailed(f"events_socket: {self.path} was not made")
        return self._socket.detach()

    def remove(self, deadline: Deadline) -> None:
        """Remove it, if it is still the one that was made here."""
        if self._socket is not None:
            self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.path, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._made:
                os.unlink(self.path)
