# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""The hosts of the virtual machines: which there are, and what each tells of its monitors.

A hypervisor that the inventory knows from a source before is reached as Ansible reaches it: by its variables and ansible.cfg.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple

from ansible import constants
from ansible.inventory.helpers import get_group_vars
from ansible.utils.vars import combine_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

from ansible_collections.vmm.qemu.plugins.module_utils._monitors import read_all
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_hosts import Unreachable

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

    Answer = Dict[str, Any]
    Reader = Callable[[Answer, Deadline], Answer]

AT_A_TIME = 32


class Hypervisor(NamedTuple):
    """A host of virtual machines, with the variables that Ansible has for it."""

    name: str
    variables: dict[str, Any]

    @property
    def is_here(self) -> bool:
        """Tell whether its monitors are this host's."""
        usual = "local" if self.name in constants.LOCALHOST else "ssh"
        return self.variables.get("ansible_connection", usual) in ("local", "ansible.builtin.local")


def hypervisors(names: list[str], inventory: InventoryData, loader: DataLoader) -> list[Hypervisor]:
    """Return each hypervisor once: a name is that of a group, of a host, or of what SSH can reach."""
    found: dict[str, Hypervisor] = {}
    for name in names:
        group = inventory.groups.get(name)
        for host in [host.name for host in group.get_hosts()] if group else [name]:
            found.setdefault(host, Hypervisor(host, _variables(host, inventory, loader)))
    return list(found.values())


def _variables(name: str, inventory: InventoryData, loader: DataLoader) -> dict[str, Any]:
    """Return a host's variables from the sources before, and from the files beside them."""
    host = inventory.hosts.get(name)
    found: dict[str, Any] = {}
    if host is not None:
        sources, groups = inventory.processed_sources, host.get_groups()
        for more in (
            get_group_vars(groups),
            get_vars_from_inventory_sources(loader, sources, groups, "all"),
            host.get_vars(),
            get_vars_from_inventory_sources(loader, sources, [host], "all"),
        ):
            found = combine_vars(found, more)
    return {"inventory_hostname": name, "ansible_host": name, **found}


def read_hypervisors(
    found: list[Hypervisor], request: dict[str, Any], timeout: float, loader: DataLoader
) -> dict[str, Answer | Unreachable]:
    """Return what each hypervisor tells by its name, as ``module_utils/_monitors.py`` returns it, or why it does not."""
    deadline = Deadline(timeout)
    readers: dict[str, Reader] = {one.name: _read_here for one in found if one.is_here}
    others = [one for one in found if not one.is_here]
    if others:
        from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_ssh as ssh  # it takes a while

        readers.update(zip([one.name for one in others], ssh.readers([one.variables for one in others], loader)))

    def read(one: Hypervisor) -> Answer | Unreachable:
        try:
            return readers[one.name](request, deadline)
        except Unreachable as exc:
            return exc

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        try:
            return dict(zip([one.name for one in found], pool.map(read, found)))
        except BaseException:
            deadline.cancel()
            raise


def _read_here(request: dict[str, Any], deadline: Deadline) -> Answer:
    return read_all({**request, "timeout": deadline.remaining()}, deadline.stop)
