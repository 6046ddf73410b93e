# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What can be told to be wrong of a process's paths and its user, before anything is started."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from .._core.errors import Refusal
from .._host import part_file
from .._qmp.address import UNIX_LONGEST

if TYPE_CHECKING:
    from .._qmp.address import Address


def socket_path(address: Address) -> bytes:
    """Return a socket's name as QEMU will use it, that of the abstract socket without one for TCP."""
    path = address.path or "@"
    return address.sun_path if path.startswith("@") else os.fsencode(os.path.abspath(path))


def check_socket(option: str, address: Address) -> None:
    """Raise Refusal for a path at which QEMU can't listen, or where it would delete something."""
    size = len(socket_path(address))
    if size > UNIX_LONGEST:
        longest = f"the {UNIX_LONGEST} bytes that a UNIX socket's path may have"
        raise Refusal(f"{option}: {address} is {size} bytes long, more than {longest}")
    if address.is_file(follow=False):
        raise Refusal(f"{option}: {address} is there and is not a socket; QEMU would delete it")


def check_written(option: str, path: str) -> None:
    """Raise Refusal for a file that QEMU would write to, as whoever starts it, and that may be any file of this host."""
    found = part_file.existing(option, path)
    part_file.check_itself(option, path)
    if found is not None and found.st_nlink > 1:
        raise Refusal(
            f"{option}: {path} has {found.st_nlink} names (hard links), and QEMU would write to what they name"
        )


def check_user(user: str) -> None:
    """Raise Refusal for a user that QEMU could not become; it takes ``UID:GID``, too."""
    try:
        if not all(number.isdigit() for number in user.split(":")) or ":" not in user:
            pwd.getpwnam(user)
    except KeyError:
        raise Refusal(f"user: there is no user {user} on the managed host") from None
