# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A network card: a backend, the device on it, and its link, as one."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List

from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .device import DEVICE, Device
from .kind import Kind, Part, State, properties
from .netdev import NETDEV

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM


class Link(Kind):
    """A card's link, up or down. No QEMU tells which: ``set_link`` is sent whenever ``link`` is given."""

    name = "link"
    returned = False
    options = {"link": Option("str", choices=["up", "down"])}

    def read(self, vm: VM, want: Want) -> State | None:
        """Return the id: nothing can be read."""
        return {"id": want["id"]}

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``set_link``."""
        return [Step("set_link", {"name": want["id"], "up": want["link"] == "up"})]

    def warnings(self, want: Want) -> List[str]:
        """Return why a run with ``link`` is never unchanged."""
        return [f"link: QEMU does not tell whether a link is up, so set_link is sent for {want['id']} at every run"]


LINK = Link()
NIC = {
    **{name: option for name, option in DEVICE.options.items() if name != "wait"},
    **LINK.options,
    "netdev": Option("dict", options={**NETDEV.options, "id": Option("str")}),
    "mac": Option("str"),
    "queues": Option("int"),
    "romfile": Option("str"),
    "disable_modern": Option("bool"),
}
_PROPERTIES = {"mac": "mac", "romfile": "romfile", "disable_modern": "disable-modern"}
_MULTI_QUEUE = ("tap", "vhost-user")


class Card(Device):
    """The device; a channel subsystem's has no vectors."""

    def read(self, vm: VM, want: Want) -> State | None:
        """Pass on what fits the machine."""
        return super().read(vm, self._fitting(vm, want))

    def wanted(self, vm: VM, want: Want) -> State:
        """Pass on what fits the machine."""
        return super().wanted(vm, self._fitting(vm, want))

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``device_add``. Raise Refusal for a new card without a backend, which would be of no use."""
        if "netdev" not in want["options"]:
            raise Refusal(f"netdev: NIC {want['id']} does not exist yet, and to add it its netdev must be given")
        return super().create(vm, self._fitting(vm, want), draft)

    def _fitting(self, vm: VM, want: Want) -> Want:
        options = want.get("options", {})
        driver = want.get("driver", "virtio-net")
        if "vectors" not in options or driver.endswith("-pci"):
            return want
        if driver.endswith("-ccw") or vm.ask("query-target")["arch"] == "s390x":
            return {**want, "options": {name: value for name, value in options.items() if name != "vectors"}}
        return want


_DEVICE = Card(usual="virtio-net", mark="netdev")


def nic(want: Want, present: bool) -> List[Part]:
    """Return the backend (where the task names one, or when it goes), the card, and the link where it is given."""
    backend: Want = {"id": f"{want['id']}-netdev", **want.get("netdev", {})}
    queues = want.get("queues", 0)
    if queues < 0 or ("queues" in want and queues < 1):
        raise Refusal(f"queues: {queues} is not at least 1")
    if want.get("mac", "").isdigit():
        raise Refusal(f"mac: YAML has read {want['mac']} out of an address without letters: write it in quotes")
    several = backend.get("type", "tap" if "ifname" in backend else "") in _MULTI_QUEUE
    if queues > 1 and several:
        backend.setdefault("queues", queues)
    device: Want = {key: want[key] for key in ("id", "driver", "bus", "addr") if key in want}
    device["options"] = properties(want, _PROPERTIES)
    parts: List[Part] = []
    if "netdev" in want:
        device["options"]["netdev"] = backend["id"]
    if queues:
        device["options"]["mq"] = True
        # One vector for each direction of a queue pair, one for the control queue, one for changes of configuration.
        device["options"]["vectors"] = 2 * queues + 2
    device["options"].update(want.get("options", {}))
    if "netdev" in want or not present:
        parts.append(Part(NETDEV, backend))
    parts.append(Part(_DEVICE, device))
    if "link" in want and present:
        parts.append(Part(LINK, {"id": want["id"], "link": want["link"]}))
    return parts
