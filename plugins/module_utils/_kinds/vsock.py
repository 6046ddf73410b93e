# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""vsock: a socket family between guest and host, over a descriptor that is opened here and handed over."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, List

from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Descriptor, Step, pass_descriptors
from .device import DEVICE, Device
from .kind import Part, State, properties

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

VSOCK = {
    **{name: option for name, option in DEVICE.options.items() if name != "wait"},
    "guest_cid": Option("int"),
    "vhostfd": Option("path"),
    "romfile": Option("str"),
    "disable_modern": Option("bool"),
}
VHOST_VSOCK = "/dev/vhost-vsock"
_PROPERTIES = {"guest_cid": "guest-cid", "romfile": "romfile", "disable_modern": "disable-modern"}


class Vsock(Device):
    """The device, with the descriptor that it works on."""

    def check(self, want: Want) -> None:
        """Raise Refusal also for context ids up to 2, which are the host's own."""
        super().check(want)
        cid = want.get("options", {}).get("guest-cid")
        if isinstance(cid, int) and not 2 < cid < 2**32 - 1:
            raise Refusal(f"guest_cid: {cid} is not a guest's: it must be greater than 2 and less than 4294967295")

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it without the descriptor's file, which can't be told afterwards."""
        return super().wanted(vm, {key: value for key, value in want.items() if key != "vhostfd"})

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with all but the descriptor, which goes with the device."""
        full = super().complete(vm, want, have)
        return {**full, "options": {name: value for name, value in full["options"].items() if name != "vhostfd"}}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return a ``getfd``, then ``device_add`` with the descriptor's name. Over TCP QEMU opens it by itself."""
        from .vhost_user import on_machine

        if "guest-cid" not in want["options"]:
            raise Refusal(
                f"guest_cid: vsock device {want['id']} does not exist yet, and to add it its guest_cid must be given"
            )
        plain = {**want, "driver": on_machine(vm, want.get("driver", "vhost-vsock"))}
        if not vm.local and "vhostfd" not in want:
            return super().create(vm, plain, draft)
        path = want.get("vhostfd", VHOST_VSOCK)
        if not os.path.exists(path):
            why = ": load its kernel's vhost_vsock module" if path == VHOST_VSOCK else ""
            raise Refusal(f"vhostfd: {path} does not exist on this host{why}")
        if not vm.local:
            raise Refusal("vhostfd: a descriptor can be handed over by a Unix socket only, and this monitor is on TCP")
        steps, name = pass_descriptors(want["id"], "vsock", [Descriptor(path)])
        plain["options"] = {**want["options"], "vhostfd": name}
        return [*steps, *super().create(vm, plain, draft)]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_del``. To take that back needs a new descriptor."""
        step = super().remove(vm, want, draft)[0]
        recall = step.capture_undo

        def again(vm: VM) -> List[Step]:
            added = list(recall(vm)) if recall else []
            steps, name = pass_descriptors(want["id"], "vsock", [Descriptor(want.get("vhostfd", VHOST_VSOCK))])
            last = added[-1].replace(arguments={**added[-1].arguments, "vhostfd": name})
            return [*steps, *added[:-1], last]

        return [step.replace(capture_undo=again)]


_DEVICE = Vsock(mark="guest-cid")


def vsock(want: Want, present: bool) -> List[Part]:
    """Return the one part, the device."""
    device: Want = {key: want[key] for key in ("id", "driver", "bus", "addr", "vhostfd") if key in want}
    device["options"] = {**properties(want, _PROPERTIES), **want.get("options", {})}
    return [Part(_DEVICE, device)]
