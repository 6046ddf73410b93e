# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""A NIC's link, up or down. No QEMU tells which: ``set_link`` is sent whenever ``link`` is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, Want
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Kind, State

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Draft
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM


class Link(Kind):
    """The state of a link, by the id of its NIC."""

    name = "link"
    returned = False
    options = {"link": Option("str", choices=["up", "down"])}

    def read(self, vm: VM, want: Want) -> State | None:
        """Nothing can be read."""
        return {"id": want["id"]}

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """``set_link``."""
        return [Step("set_link", {"name": want["id"], "up": want["link"] == "up"})]

    def warnings(self, want: Want) -> List[str]:
        """Why a run with ``link`` is never unchanged."""
        return [f"link: QEMU does not tell whether a link is up, so set_link is sent for {want['id']} at every run"]


LINK = Link()
