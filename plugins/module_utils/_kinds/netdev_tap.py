# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Opening a TAP interface as QEMU does, so that its descriptor can be handed over."""
# Private to the collection: may change without notice.

from __future__ import annotations

import fcntl
import struct

from .._core.step import Descriptor

TUN = "/dev/net/tun"
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100


def tap_descriptor(ifname: str, *, multi_queue: bool) -> Descriptor:
    """Return a descriptor of the TAP ``ifname``, with virtio headers as QEMU wants them.

    Opening creates the interface if it isn't there (it then lives as long as QEMU holds it); that takes CAP_NET_ADMIN.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi_queue else 0)

    def attach(fd: int) -> None:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))

    return Descriptor(TUN, attach)
