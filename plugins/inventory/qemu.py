# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of running virtual machines: a host for each QMP monitor."""

from __future__ import annotations

DOCUMENTATION = r"""
name: qemu
author: The vmm.qemu contributors (@vmm-qemu)
version_added: 0.4.0
short_description: Virtual machines by the sockets of their QMP monitors
description:
  - Makes a host of each QMP monitor that is found on this host or on hypervisors, and asks it for the run state, name and UUID of its
    virtual machine.
  - Hosts are in the group C(qemu), and in one for their run state, such as C(qemu_running), C(qemu_paused) or C(qemu_io_error). A
    monitor that another client holds is in C(qemu_busy), and one that does not answer in C(qemu_unreachable). Neither is an error.
  - The file's name has to end in C(qemu.yml) or C(qemu.yaml).
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: Names this plugin.
    type: str
    required: true
    choices: [vmm.qemu.qemu]
  sockets:
    description:
      - The monitors, on each of O(hypervisors). Paths may have wildcards (C(*), C(?), C([a-z])), which stand for the sockets that are
        there. A path without one, and any other address that the modules' O(vmm.qemu.qemu_info#module:socket) takes, is a host also where
        nothing listens.
      - Name monitors only. Another socket of a virtual machine, a serial port's say, is connected to as well.
    type: list
    elements: str
    default: [/var/lib/vmm-qemu/*/run/qmp]
  hypervisors:
    description:
      - The hosts of the virtual machines. V(localhost) is this one; the others are asked by one SSH each.
      - A host of the inventory is reached by its variables, C(ansible_become) among them, and by C(ansible.cfg); a group stands for all
        of its hosts. They have to come from a source before this one. Any other name is given to C(ssh) as it is.
      - No password can be typed in. So SSH needs a key, and becoming another user must need no password.
      - The first time, the code of the collection's modules is put on the host, where tasks use it, too.
    type: list
    elements: str
    default: [localhost]
  hostnames:
    description:
      - What hosts are called by, in order of precedence. V(name) is the virtual machine's own, V(path) is from its monitor's path,
        C(vm1) for C(/run/vm1.qmp) and for C(/run/vm1/qmp), V(uuid) its UUID.
      - A name that has other characters than letters, digits and C(._-) is passed over.
      - Several with the same name, and one that is the name of a group or hypervisor, are called C(NAME@HYPERVISOR). Where only one of
        them answers, and is not migrating in or migrated away, that one has the name.
    type: list
    elements: str
    choices: [name, path, uuid]
    default: [name, path]
  connect_timeout:
    description: Seconds that a monitor has to answer, and a guest's agent.
    type: float
    default: 1.0
  timeout:
    description: Seconds for all of it. What has not been read by then is unreachable.
    type: float
    default: 30.0
  guest_agent:
    description:
      - Ask the guests' agents for their network interfaces. It takes a port C(org.qemu.guest_agent.0) with a socket at which QEMU
        listens. A guest without an agent costs O(connect_timeout).
    type: bool
    default: false
  networks:
    description:
      - Networks in order of precedence, such as V(10.0.0.0/8). A guest's lowest address in the first network that it has one in
        becomes its C(ansible_host). Loopback and link-local addresses never do. The guest may say any address that it likes. Needs
        O(guest_agent).
    type: list
    elements: str
    default: []
  strict:
    description:
      - Fail where an expression can't be evaluated, and where a wildcard in O(sockets) matches nothing on any hypervisor. Otherwise
        such expressions are skipped with a warning.
notes:
  - Every host has the variables C(qemu_status), C(qemu_socket), which is right as O(vmm.qemu.qemu_info#module:socket), and
    C(qemu_hypervisor), which is right for C(delegate_to). Those whose monitor answers have C(qemu_name), C(qemu_uuid) and
    C(qemu_version), the others C(qemu_reason) and, where it is known who holds the monitor, C(qemu_client) with its C(pid) and C(name).
  - With O(guest_agent) there are C(qemu_agent), the agent's socket, and C(qemu_interfaces), each with C(name), C(mac) and C(addresses), or
    C(qemu_agent_reason), why the agent does not tell.
  - With O(cache) a monitor that does not answer keeps its last known name, and the machines of a hypervisor that does not are
    unreachable instead of gone, as long as the cache has them.
seealso:
  - ref: Inventory of virtual machines <ansible_collections.vmm.qemu.docsite.inventory>
    description: How to use it.
"""

EXAMPLES = r"""
# vms.qemu.yml: those on this host that qemu_vm and the role vm have made
plugin: vmm.qemu.qemu

---
# by a name of one's own, on two hosts that SSH can reach
plugin: vmm.qemu.qemu
sockets:
  - /run/vms/*.qmp
hypervisors:
  - root@hv1.example.com
  - root@hv2.example.com

---
# all hosts of a group, in groups by their hypervisor and QEMU's version, kept for ten minutes
plugin: vmm.qemu.qemu
hypervisors: [kvm_hosts]
keyed_groups:
  - {key: qemu_hypervisor, prefix: "on"}
  - {key: qemu_version | default('unknown'), prefix: qemu_version}
groups:
  needs_attention: qemu_status in ['io-error', 'internal-error', 'guest-panicked']
compose:
  ansible_user: "'admin'"
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/ansible-qemu
cache_timeout: 600

---
# reached at the addresses that the guests' agents tell
plugin: vmm.qemu.qemu
guest_agent: true
networks: [10.20.0.0/16, "2001:db8::/32"]
"""

from typing import TYPE_CHECKING, Any, Callable, Iterator

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_hosts as hosts
from ansible_collections.vmm.qemu.plugins.plugin_utils import _inventory_options as options
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_hypervisors import (
    hypervisors,
    read_hypervisors,
)
from ansible_collections.vmm.qemu.plugins.plugin_utils._inventory_unsafe import unsafe

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

    Machine = dict[str, Any]
    Expressions = tuple[Callable[..., None], dict[str, Any], list[tuple[str, Any]]]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Makes hosts of monitors."""

    NAME = "vmm.qemu.qemu"

    def verify_file(self, path: str) -> bool:
        """Tell whether the file is for this plugin, by its name."""
        return bool(super().verify_file(path)) and path.endswith(("qemu.yml", "qemu.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Add the hosts of a file to the inventory. Raise AnsibleParserError."""
        super().parse(inventory, loader, path, cache)
        options.check(self._read_config_data(path), self.get_options())
        machines = self._machines(path, cache)
        taken = hosts.reserved(inventory.groups, [hosts.GROUP, *(one["hypervisor"] for one in machines)])
        names = hosts.host_names(machines, self.get_option("hostnames"), taken)
        self._add(machines, names)
        # a group that was made by what the file says may be called as one of the machines is
        now = hosts.reserved(inventory.groups, taken)
        again = hosts.host_names(machines, self.get_option("hostnames"), now) if now & {*names} else names
        renamed = [number for number, name in enumerate(names) if name != again[number]]
        for number in renamed:
            inventory.remove_host(inventory.hosts[names[number]])
        self._add([machines[number] for number in renamed], [again[number] for number in renamed])

    # -- reading -----------------------------------------------------------------------------------------------

    def _machines(self, path: str, cache: bool) -> list[Machine]:
        """Return what is known of each machine, by the cache where it is to be used, else by the monitors."""
        wanted = options.reading(self.get_options())
        key, kept = self.get_cache_key(path), self.get_option("cache")
        before = self._cache.get(key) if kept and key in self._cache else None
        if not isinstance(before, dict) or before.get("by") != wanted:
            before = {}
        if not hosts.are_machines(before.get("machines"), "hypervisor"):  # another version's
            before = {}
        if before and cache:
            return list(before["machines"])
        machines = self._read(before.get("machines", []))
        if kept:
            self._cache[key] = {"by": wanted, "machines": machines}
        return machines

    def _read(self, before: list[Machine]) -> list[Machine]:
        request = {name: self.get_option(name) for name in ("sockets", "connect_timeout", "guest_agent")}
        found = hypervisors(self.get_option("hypervisors"), self.inventory, self.loader)
        told = read_hypervisors(found, request, self.get_option("timeout"), self.loader)
        machines: list[Machine] = []
        unmatched = [answer["unmatched"] for answer in told.values() if not isinstance(answer, hosts.Unreachable)]
        for name, answer in told.items():
            if isinstance(answer, hosts.Unreachable):
                reason = hosts.clean(str(answer))
                self.display.warning(f"hypervisor {name}: {reason}")
                machines += hosts.left_alone(before, name, reason)
            else:
                machines += [{**one, "hypervisor": name} for one in answer["machines"]]
        nowhere = [pattern for pattern in request["sockets"] if unmatched and all(pattern in one for one in unmatched)]
        if nowhere and self.get_option("strict"):
            raise AnsibleParserError(f"sockets: nothing matches {', '.join(nowhere)}")
        hidden = [one["socket"] for one in machines if not one["socket"].isprintable()]
        if hidden:
            self.display.warning(f"left out, since their paths can't be written: {', '.join(map(ascii, hidden))}")
        machines = [hosts.clean(one) for one in machines if one["socket"].isprintable()]
        hosts.keep_names(machines, before)
        return machines

    # -- telling -----------------------------------------------------------------------------------------------

    def _add(self, machines: list[Machine], names: list[str]) -> None:
        """Add machines as hosts of those names, with what the file says on variables and groups."""
        self.inventory.add_group(hosts.GROUP)
        networks = self.get_option("networks")
        failed: dict[str, list[str]] = {}
        expressions = self._expressions()
        for name, machine in zip(names, machines):
            group = self.inventory.add_group(hosts.state_group(machine["status"]))
            self.inventory.add_child(hosts.GROUP, group)
            self.inventory.add_host(name, group)
            for variable, value in hosts.variables(machine, networks).items():
                self.inventory.set_variable(name, variable, unsafe(value))
            for expression, reason in self._construct(name, expressions):
                if self.get_option("strict"):
                    raise AnsibleParserError(reason)
                if machine["status"] not in hosts.SILENT:  # of those, little is known
                    failed.setdefault(expression, []).append(reason)
        for expression, reasons in failed.items():
            more = f" (and {len(reasons) - 1} more hosts)" if len(reasons) > 1 else ""
            self.display.warning(f"{expression} is left out: {hosts.clean(reasons[0])}{more}")

    def _expressions(self) -> list[Expressions]:
        """Return what the file has of each option of expressions, with what evaluates it."""
        kinds: list[tuple[str, Callable[..., None], dict[str, Any]]] = [
            ("compose", self._set_composite_vars, {}),
            ("groups", self._add_host_to_composed_groups, {"fetch_hostvars": False}),
            ("keyed_groups", self._add_host_to_keyed_groups, {"fetch_hostvars": False}),
        ]
        found = [(do, more, list(options.each(option, self.get_option(option)))) for option, do, more in kinds]
        return [one for one in found if one[2]]

    def _construct(self, name: str, expressions: list[Expressions]) -> Iterator[tuple[str, str]]:
        """Give a host its variables and groups by expressions. Yield each that can't be evaluated, and why."""
        for do, more, each in expressions:
            known = self.inventory.get_host(name).get_vars()
            for what, wanted in each:
                try:
                    do(wanted, known, name, strict=True, **more)
                except AnsibleError as exc:
                    yield what, str(exc)
