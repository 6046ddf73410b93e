#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a whole QEMU virtual machine in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_machine
short_description: Converge a whole running QEMU virtual machine in one task
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Takes a document that says what a running virtual machine shall have, reads what it has once, and makes one plan of all that
    differs.
  - Things are added after what they need and removed before it, wherever they are in the document.
  - The plan is carried out whole or not at all. When a step fails, those before it are taken back.
  - What is wrong with the document, and what reading can tell will fail, is found before the first command. The message begins
    with the place in the document, such as C(disks[3] data).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.machines
  - vmm.qemu._qmp
options:
  objects:
    description: Objects, each with the options of M(vmm.qemu.qemu_object), O(ignore:state) included.
    type: list
    elements: dict
  chardevs:
    description: Character devices, each with the options of M(vmm.qemu.qemu_chardev).
    type: list
    elements: dict
  netdevs:
    description: Network backends, each with the options of M(vmm.qemu.qemu_netdev).
    type: list
    elements: dict
  blockdevs:
    description: Block nodes, each with the options of M(vmm.qemu.qemu_blockdev).
    type: list
    elements: dict
  memory:
    description: Memory modules, each with the options of M(vmm.qemu.qemu_memory_hotplug).
    type: list
    elements: dict
  disks:
    description: Disks (node and device), each with the options of M(vmm.qemu.qemu_disk).
    type: list
    elements: dict
  nics:
    description: NICs (network backend and device), each with the options of M(vmm.qemu.qemu_nic).
    type: list
    elements: dict
  devices:
    description: Any other devices, each with the options of M(vmm.qemu.qemu_device).
    type: list
    elements: dict
  vcpus:
    description: How many virtual CPUs there shall be, as in M(vmm.qemu.qemu_cpu_hotplug).
    type: int
  balloon:
    description:
      - How much memory the guest shall have, as O(vmm.qemu.qemu_balloon#module:size), such as V(512M).
      - Less than 64 MiB is refused. M(vmm.qemu.qemu_balloon) with C(force) can do that.
    type: str
  power:
    description:
      - Whether the guest shall run, when all else is done. A guest that does not run is let run before that where it has to do something
        itself, such as to give a device back or to follow the balloon.
      - If not set, it stays as it is.
    type: str
    choices: [running, paused]
  purge:
    description:
      - Whether to remove what the document does not name.
      - Only of the kinds whose lists are in the document (an empty list is one), and only what was hot-plugged. What the virtual
        machine was started with always stays, and so does what bears a name that QEMU itself gives (V(serial0), V(hub0port0)).
      - The backend of a removed disk, NIC or memory module goes with it.
      - The command line of QEMU's process must be readable for backends, so the task must run on its host.
    type: bool
    default: false
  recreate:
    description:
      - Allow to remove and add again what differs in a property that QEMU can't change while it is there, with all that needs
        it.
      - Without it such a difference is an error, and nothing is done.
    type: bool
    default: false
seealso:
  - module: vmm.qemu.qemu_instance
  - module: vmm.qemu.qemu_info
  - ref: ansible_collections.vmm.qemu.docsite.whole_machine
    description: Guide to a whole virtual machine in one task.
"""

EXAMPLES = r"""
- name: All that vm1 has
  vmm.qemu.qemu_machine:
    socket: /run/vm1.qmp
    objects:
      - {id: io0, qom_type: iothread}
    disks:
      - id: data
        filename: /var/lib/vm1/data.qcow2
        format: qcow2
        bus: rp0
        iothread: io0
      - id: scratch
        filename: /var/lib/vm1/scratch.raw
        bus: rp1
    nics:
      - id: net0
        netdev: {type: tap, ifname: vm1-0, script: 'no', downscript: 'no'}
        mac: 52:54:00:12:34:01
        bus: rp2
    vcpus: 4
    power: running
    purge: true

- name: What all virtual machines of this host have
  vmm.qemu.qemu_machine:
    power: running
    machines:
      web1:
        socket: /run/web1.qmp
        vcpus: 4
      web2:
        socket: /run/web2.qmp
        disks:
          - {id: data, filename: /var/lib/web2/data.qcow2, format: qcow2, bus: rp0}
  register: it

- name: Only what its plan would be
  vmm.qemu.qemu_machine:
    socket: /run/vm1.qmp
    disks: []
    purge: true
  check_mode: true
  register: plan
"""

RETURN = r"""
plan:
  description: What changes, in the document's order. In check mode what would.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: add, kind: disk, id: data, changes: {}}
    - {action: change, kind: nic, id: net0, changes: {options.mac: {before: '52:54:00:12:34:01', after: '52:54:00:12:34:02'}}}
  contains:
    action:
      description: V(add), V(change) or V(remove).
      type: str
    kind:
      description: What it is, such as V(disk).
      type: str
    id:
      description: Which one.
      type: str
    changes:
      description: The properties that differ, each with C(before) and C(after).
      type: dict
summary:
  description: How many things of the document (and purged ones) are added, changed, removed, and unchanged.
  returned: success
  type: dict
  sample: {add: 3, change: 1, remove: 2, unchanged: 14}
msg:
  description: The summary as a line, or what failed. With O(machines), how many of them changed, and which failed and why.
  returned: always
  type: str
  sample: add 3, change 1, remove 2, unchanged 14
machines:
  description:
    - What came of each of O(machines), by its name, with the keys that the result of a task for it alone has.
    - One that failed has C(failed) and C(msg).
    - Beside it the task's own result has only C(changed), RV(msg), the warnings and the diff.
  returned: with O(machines), unless their options are wrong
  type: dict
  sample:
    web1: {changed: true, commands: [{execute: cont, arguments: {}}], summary: {add: 0, change: 1, remove: 0, unchanged: 2}}
    web2: {changed: false, commands: [], failed: true, msg: 'disks[0] data: ...'}
vm:
  description: Everything that the document names as it is in the end, by kind and id, and the run state as C(status).
  returned: success
  type: dict
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
unverifiable:
  description: What was asked for and can't be read back from QEMU.
  returned: success
  type: list
  elements: str
rolled_back:
  description: The commands that took back what was done before a step failed.
  returned: when something was taken back
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
pending:
  description: Whether something that was to go is still there, since the guest has not given it back yet.
  returned: when that is so
  type: bool
"""

from ansible_collections.vmm.qemu.plugins.module_utils._machine.document import prepared
from ansible_collections.vmm.qemu.plugins.module_utils._machine.machine import MACHINE, run, secrets
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module

MODULE = Module(MACHINE, run, secrets=secrets, many=True, prepare=prepared)
main = MODULE.main

if __name__ == "__main__":
    main()
