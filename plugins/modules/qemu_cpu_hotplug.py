#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: virtual CPUs of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_cpu_hotplug
short_description: Plug and unplug virtual CPUs of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Gives a running virtual machine a number of virtual CPUs, or fills or empties one CPU slot, over QMP.
  - The virtual machine must have been started with room, such as C(-smp 2,maxcpus=8).
  - QEMU itself says which slots there are, so that every machine type that can plug CPUs is served.
  - The guest's operating system decides what it does with a new CPU. Some leave it offline until told otherwise.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
notes:
  - CPUs that the virtual machine was started with can't be unplugged, and on s390x none can.
  - Many guests answer an unplug only when their system is up. Until then QEMU refuses it.
  - QEMU 7.2 without KVM (C(accel=tcg)) may crash some time after a CPU was unplugged. That is a fault of QEMU.
options:
  vcpus:
    description:
      - How many virtual CPUs the virtual machine shall have.
      - Free slots are filled from the lowest up, and hot-plugged CPUs are taken out from the highest down.
      - Where a slot has several virtual CPUs (C(pseries)), a number that can't be reached with whole slots is refused.
      - Exactly one of O(vcpus) and O(slot) is required.
    type: int
  slot:
    description:
      - One slot, named by topology ids such as C(core-id), C(socket-id) and C(thread-id), also with underscores.
      - As many of them as it takes to tell the slot from the others. The subset V(hotpluggable_cpus) of
        M(vmm.qemu.qemu_info) lists the slots.
    type: dict
  state:
    description: Whether there shall be a CPU in O(slot). With O(vcpus) only V(present) makes sense.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description: Wait until the machine shows the new CPU, or has let go of the old one.
    type: bool
    default: true
seealso:
  - module: vmm.qemu.qemu_info
  - ref: ansible_collections.vmm.qemu.docsite.cpu_and_memory
    description: Guide to CPUs and memory.
"""

EXAMPLES = r"""
- name: Four CPUs
  vmm.qemu.qemu_cpu_hotplug:
    socket: /run/vm1.qmp
    vcpus: 4

- name: A CPU in one slot
  vmm.qemu.qemu_cpu_hotplug:
    socket: /run/vm1.qmp
    slot:
      core-id: 5

- name: Take it out again
  vmm.qemu.qemu_cpu_hotplug:
    socket: /run/vm1.qmp
    slot:
      core-id: 5
    state: absent
"""

RETURN = r"""
cpus:
  description: The slots that have a CPU after the task, lowest first. In check mode as they are.
  returned: success
  type: list
  elements: dict
  contains:
    slot:
      description: The slot's topology ids, as QEMU names them.
      type: dict
    vcpus:
      description: The number of virtual CPUs in it.
      type: int
    type:
      description: The CPU's type. It is left out on a machine without CPU hot-plug.
      type: str
    id:
      description: The CPU's device id. Only a CPU that was plugged with one has it.
      type: str
  sample:
    - slot: {socket-id: 0, core-id: 0, thread-id: 0}
      vcpus: 1
      type: host-x86_64-cpu
    - slot: {socket-id: 0, core-id: 1, thread-id: 0}
      vcpus: 1
      type: host-x86_64-cpu
      id: cpu1
pending:
  description: The guest has not given a CPU back yet. Run the task again to finish the removal.
  returned: when a removal was requested and is not over at the deadline
  type: bool
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
error:
  description: QEMU's own refusal.
  returned: when QEMU refused a command
  type: dict
  contains:
    class:
      description: QEMU's error class.
      type: str
    desc:
      description: QEMU's text.
      type: str
rolled_back:
  description: The commands that undid what had been done before the task failed.
  returned: when something was undone
  type: list
  elements: dict
"""

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.cpu import CPU, cpu
from ansible_collections.vmm.qemu.plugins.module_utils._resource import setting

MODULE = setting(
    CPU,
    cpu,
    mutually_exclusive=[("vcpus", "slot")],
    required_one_of=[("vcpus", "slot")],
    required_if=[("state", "absent", ("slot",))],
)
main = MODULE.main

if __name__ == "__main__":
    main()
