# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What saving a guest, and loading it, are decided by; and how the file is handed to QEMU."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple, cast

from .._core import safe_open
from .._core.errors import Refusal
from .._core.step import Descriptor, Step
from .._host import saved_file
from .._host.saved_file import Header
from .current import Current as Migration
from .settings import Settings

if TYPE_CHECKING:
    from .._core.vm import VM

_REMOTE = frozenset(
    "nbd rbd iscsi ssh nfs gluster http https host_device nvme vhost-user-blk virtio-blk-vhost-vdpa".split()
)


BY_NAME = "vmm-save"
"""What a descriptor is called where there are no sets of them for migrations."""
OPAQUE = "vmm.qemu.save"
"""By which a set of descriptors is known for one that was made here."""


class Current(NamedTuple):
    """What was read."""

    now: Migration
    me: str
    """The QEMU that was asked (``Process.identity``)."""
    handed: Handed
    part: Header | None
    whole: Header | None
    loaded: Header | None
    guest: Dict[str, Any] = {}
    """What ``Header.guest`` is to be, where it matters."""
    settings: Settings = Settings()
    fdset: int = 0
    """A number that no set of descriptors has."""
    sets: List[int] = []
    """The sets of descriptors that an earlier task has handed over."""
    direct: bool = False
    """Whether the file can be written past the host's cache."""
    disks: Dict[str, List[int]] = {}
    """The images that a virtual machine which waits would write to, as they are."""
    size: int = 0
    """Bytes of the file."""

    ended: bool = False
    """Whether an earlier task's file has all of the guest, and no disk was written to since."""

    @property
    def header(self) -> Header:
        """What is noted of the guest when its file is begun; what was, where an earlier task has begun it."""
        if not self.guest and self.part is not None:
            return self.part
        return Header(**self.guest, running=self.now.running, channels=self.handed.wanted, writer=self.me)

    def check_fits(self, path: str) -> None:
        """Raise Refusal for a file that the virtual machine which waits can't or must not go on from."""
        whole = cast(Header, self.whole)
        if not whole.size or self.size != whole.size:
            raise Refusal(f"path: {path} is not whole: it has {self.size} bytes of {whole.size or 'more'}; it is kept")
        for name, value in whole.guest.items():
            if value != self.guest[name]:
                raise Refusal(
                    f"path: {path} is the guest of another virtual machine: its {name} is {value}, and this one's is "
                    f"{self.guest[name]}; it is kept"
                )
        if whole.channels and "mapped-ram" not in self.settings.capabilities:
            raise Refusal(f"path: {path} was saved in parallel, which this QEMU can't read")
        for name in sorted({*whole.disks, *self.disks}):
            if whole.disks.get(name) != self.disks.get(name):
                what = "has changed since" if name in whole.disks and name in self.disks else "is not in both"
                raise Refusal(
                    f"path: the guest was saved in {path} with its disks, and {name} {what}: its memory does not fit them any "
                    "more. The file is kept; start the virtual machine without it, and discard it (state=absent)"
                )


class Handed:
    """The file, once it is open, and how QEMU is given it: opened anew, for reading or for writing only."""

    def __init__(self) -> None:
        self.file = -1
        self.wanted = 0
        """In how many channels the guest's memory is to be written."""
        self.header: Header | None = None
        """What is noted when all is written."""

    def in_set(self, number: int, mode: int, direct: bool) -> Tuple[List[Step], str]:
        """Return the steps that add it to a set of descriptors, and its address."""
        modes = [mode, mode | os.O_DIRECT] if direct else [mode]
        steps = [
            Step("add-fd", {"fdset-id": number, "opaque": OPAQUE}, fds=[_Opened(self, flags)], hidden=True)
            for flags in modes
        ]
        return steps, f"file:/dev/fdset/{number},offset={saved_file.LENGTH}"

    def by_name(self, path: str, mode: int) -> Tuple[List[Step], str]:
        """Return the step that hands it over under a name, for a QEMU which has no ``file:``, and its address."""
        return [Step("getfd", {"fdname": BY_NAME}, fds=[_Opened(self, mode)], hidden=True)], f"fd:{BY_NAME}"

    def closed(self, number: int) -> Step:
        """Return the step that has QEMU close what is in a set."""
        return Step("remove-fd", {"fdset-id": number}, hidden=True)

    def mark(self, header: Header) -> None:
        """Note to whom it is given."""
        saved_file.note(self.file, header)

    def finish(self, path: str) -> None:
        """Give it its name, with what is noted of the guest. Raise TaskError."""
        saved_file.finish(path, self.file, cast(Header, self.header))


class _Opened(Descriptor):
    """A file that is open here, opened anew behind its header."""

    def __init__(self, handed: Handed, flags: int) -> None:
        super().__init__("the saved guest's file")
        self._handed = handed
        self._flags = flags

    def open(self) -> int:
        """Return a descriptor of its own."""
        try:
            fd = os.open(safe_open.by_number(self._handed.file), self._flags | os.O_CLOEXEC)
        except OSError as exc:
            raise Refusal(f"cannot open {self.path} to pass it to QEMU: {exc.strerror}") from exc
        os.lseek(fd, saved_file.LENGTH, os.SEEK_SET)
        return fd


def guest_of(vm: VM) -> Dict[str, Any]:
    """Return what a saved guest and the virtual machine that loads it must have in common: see ``Header.guest``."""
    return {
        "name": str(vm.ask("query-name").get("name", "")),
        "uuid": str(vm.ask("query-uuid")["UUID"]),
        "machine": str(vm.prop("/machine", "type")),
        "memory": int(vm.ask("query-memory-size-summary")["base-memory"]),
    }


def images(vm: VM) -> Tuple[Dict[str, List[int]], List[str]]:
    """Return the state of each image that the guest writes to, and the disks whose state can't be told here."""
    disks, unseen = {}, []
    for node in vm.ask("query-named-block-nodes", flat=True):
        if node["ro"] or (node["drv"] != "file" and node["drv"] not in _REMOTE):
            continue
        path = os.path.realpath(str(node["file"]))
        found = saved_file.image_state(path)
        if found is None or node["drv"] != "file":
            unseen.append(str(node["file"]))
        else:
            disks[path] = found
    return disks, sorted(set(unseen))
