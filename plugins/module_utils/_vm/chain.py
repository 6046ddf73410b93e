# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What images stand on: what they name in their headers, looked at before root opens them, and what lies over them by now.

QEMU opens the disks of its command line before it becomes its user. Who can write to an image can name any file of the host
in it, as what it stands on or where its data are.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

from .._core.errors import Refusal
from .._host import directory, qcow2_header
from .._host.qemu_img import QemuImg
from .._provision.image import describe
from .arguments import has_disk

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.deadline import Deadline

_DEEPEST = 64


def check(images: List[str], user: str, base: str | None, deadline: Deadline) -> None:
    """Raise Refusal for an image that names a file which its user could not open.

    ``base``: what the task itself says that an image stands on, whoever may read it.
    """
    account = directory.account(user)
    for image in images:
        path = image
        for _depth in range(_DEEPEST):
            found = _status(path)
            if found is None or found.st_uid != account.pw_uid:
                break  # what is in it was not written by that user
            names = describe(QemuImg("qemu-img", deadline).info(path, None))
            data = names.get("options", {}).get("data_file")
            if data is not None:
                _check_named(image, "its data file", str(data), account, writes=True)
            backing = names.get("backing_file")
            if backing is None or backing == base:
                break
            _check_named(image, "its backing file", str(backing), account, writes=False)
            path = str(backing)


def disks_named(params: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """Return the images that a task names for the guest to write to: the option, the path, and the device's id."""
    found = [("disk", str(params["disk"]), "disk")] if has_disk(params) else []
    return found + [
        (f"disks[{number}]", str(disk["filename"]), str(disk.get("id")))
        for number, disk in enumerate(params["disks"])
        if disk.get("filename") and disk.get("state") != "absent" and not disk.get("read_only")
    ]


def gone_on(vm: VM, named: Sequence[Tuple[str, str, str]]) -> Iterator[Tuple[str, str, str]]:
    """Yield the named images that have become what a disk stands on: the option, the path, and what the guest writes to now."""
    for drive in vm.ask("query-block"):
        image = drive.get("inserted", {}).get("image", {})
        top, below = str(image.get("filename")), image.get("backing-image")
        while below:
            for option, path, _ident in named:
                if os.path.realpath(below["filename"]) == os.path.realpath(path):
                    yield option, path, top
            below = below.get("backing-image")


def check_tops(params: Dict[str, Any], vm: VM | None) -> None:
    """Raise Refusal where it would start from an image below what a snapshot has put over it: from the guest's past.

    ``vm``: the one that runs, which knows also of overlays that are elsewhere.
    """
    named = disks_named(params)
    for option, path, ident in named:
        qcow2_header.check_top(option, path, ident)
    for option, path, top in gone_on(vm, named) if vm else ():
        raise qcow2_header.below(option, path, top)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None  # QEMU says so


def _check_named(image: str, what: str, path: str, account: pwd.struct_passwd, writes: bool) -> None:
    if not _may_open(path, account, 6 if writes else 4):
        raise Refusal(
            f"{image} names {path} as {what}, which {account.pw_name} may not open. Whoever can write to an image can name any "
            "file there, and root would open it for QEMU: if it is the right one, let that user open it"
        )


def _may_open(path: str, account: pwd.struct_passwd, wanted: int) -> bool:
    """Tell whether a user may open what QEMU would: a file that is there. QEMU takes ``json:{...}`` for a name, too."""
    if not path.startswith("/"):
        return False
    path = os.path.realpath(path)
    found = _status(path)
    if found is None:
        return True  # QEMU says so
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    may = stat.S_ISREG(found.st_mode) and _may(found, account, groups, wanted)
    while may and path != "/":
        path = os.path.dirname(path)
        may = _may(os.stat(path), account, groups, 1)
    return may


def _may(found: os.stat_result, account: pwd.struct_passwd, groups: List[int], wanted: int) -> bool:
    """Tell whether the mode of a file lets a user do what the bits say: 4 read, 2 write, 1 pass."""
    shift = 6 if found.st_uid == account.pw_uid else 3 if found.st_gid in groups else 0
    return found.st_mode >> shift & wanted == wanted
