#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what a guest tells of itself by its agent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_guest_info
short_description: Ask a guest for its addresses, system, file systems and more
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Tells what a running guest says of itself by its agent. There need be no network, and no account in the guest.
  - Nothing is asked for but what O(gather_subset) names, one command for each.
  - Values are the agent's own. In their keys hyphens are underscores.
  - What the guest says is its own word. Whoever rules the guest can make it say anything.
extends_documentation_fragment:
  - vmm.qemu._attributes.info
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._guest
options:
  gather_subset:
    description:
      - What to ask for. What is named comes on top of V(min), as with M(ansible.builtin.setup).
      - V(min) is V(agent), V(hostname), V(os) and V(interfaces).
      - With a V(!) in front, a subset is left out. Exclusions alone leave out of V(all).
      - V(!all) is only V(min). V(!all,!min) and a name is only what is named.
      - "The subsets are V(agent), V(hostname), V(os), V(interfaces), V(routes), V(filesystems), V(frozen), V(disks),
        V(disk_statistics), V(users), V(time), V(timezone), V(vcpus), V(cpu_statistics), V(load), V(memory_blocks)."
      - Another name is an error.
      - A subset that the guest does not tell is null, and RV(unavailable) says why. It is an error only where it is the only one that
        was named, or none is told.
    type: list
    elements: str
    default: [min]
seealso:
  - module: vmm.qemu.qemu_guest_exec
  - module: vmm.qemu.qemu_wait
"""

EXAMPLES = r"""
- name: Where is it?
  vmm.qemu.qemu_guest_info:
    socket: /run/vm1.agent
    connect_timeout: 120
  register: it

- name: Its address in the management network
  ansible.builtin.add_host:
    name: vm1
    ansible_host: "{{ it.addresses | ansible.utils.ipaddr('192.0.2.0/24') | first }}"

- name: How full its file systems are
  vmm.qemu.qemu_guest_info:
    socket: /run/vm1.agent
    gather_subset: ['!all', '!min', filesystems]
  register: it
  failed_when: it.guest.filesystems | selectattr('used_bytes', 'defined') | selectattr('used_bytes', '>', 10000000000)
"""

RETURN = r"""
guest:
  description: One key for each subset, and no other.
  returned: success
  type: dict
  contains:
    agent:
      description: The agent's version, the commands that it carries out, and those that the guest or its system does not allow.
      type: dict
      sample: {version: 7.2.22, commands: [guest-exec, guest-info], blocked: [guest-get-devices]}
    hostname:
      description: The guest's host name.
      type: str
    os:
      description: The system and its kernel.
      type: dict
      sample: {id: debian, version_id: '12', pretty_name: Debian GNU/Linux 12 (bookworm), machine: x86_64, kernel_release: 6.1.0-50-amd64}
    interfaces:
      description: The network's interfaces, loopback included. One without an address has no C(ip_addresses).
      type: list
      elements: dict
      sample:
        - name: eth0
          hardware_address: '52:54:00:12:34:56'
          ip_addresses: [{ip_address: 192.0.2.7, ip_address_type: ipv4, prefix: 24}]
    routes:
      description: The routes. Agents since QEMU 9.2 tell them.
      type: list
      elements: dict
    filesystems:
      description: What is mounted from disks, with its size and use where the agent tells them, and the disks below it.
      type: list
      elements: dict
      sample:
        - {name: vda1, mountpoint: /, type: ext4, total_bytes: 3078885376, used_bytes: 484872192, disk: [{dev: /dev/vda1, bus_type: virtio}]}
    frozen:
      description: Whether file systems are frozen.
      type: bool
    disks:
      description: The disks and their partitions.
      type: list
      elements: dict
    disk_statistics:
      description: What the kernel counts for each disk.
      type: list
      elements: dict
    users:
      description: Who is logged in, since when in seconds of the epoch.
      type: list
      elements: dict
      sample: [{user: ada, login_time: 1763827200.25}]
    time:
      description: The guest's clock, in seconds of the epoch.
      type: float
    timezone:
      description: Its time zone, and seconds ahead of UTC.
      type: dict
      sample: {zone: UTC, offset: 0}
    vcpus:
      description: Its CPUs, and whether they are used.
      type: list
      elements: dict
    cpu_statistics:
      description: What the kernel counts for each CPU.
      type: list
      elements: dict
    load:
      description: The load averages. Agents since QEMU 10.0 tell them.
      type: dict
    memory_blocks:
      description: The memory's blocks, and whether they are used.
      type: list
      elements: dict
addresses:
  description: The IP addresses of all interfaces, without those of loopback and link-local ones, as the guest orders them.
  returned: success, with the subset V(interfaces)
  type: list
  elements: str
  sample: [192.0.2.7, '2001:db8::7']
unavailable:
  description: Why a subset is null, by its name.
  returned: always
  type: dict
  sample: {load: "the guest's agent has no guest-get-load: it is too old for that, or of another system"}
commands:
  description: Always empty. Asking changes nothing.
  returned: always
  type: list
  elements: dict
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._operations.guest_info import OPTIONS, run

MODULE = Module(OPTIONS, run, monitor=False, agent=True)
main = MODULE.main

if __name__ == "__main__":
    main()
