#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: internal snapshots of running QEMU virtual machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_snapshot
short_description: Take, load and delete snapshots of a running QEMU virtual machine
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Takes, loads and deletes internal snapshots, which hold the machine's memory and devices and the contents of its disks
    at one moment. They are kept inside the disks' qcow2 images.
  - QEMU does it as a job (C(snapshot-save), C(snapshot-load), C(snapshot-delete)), which goes on when the task is stopped
    or its time is up. The next run with the same O(name) finds the job and joins it.
  - The guest stands still while its memory is copied, and the monitor does not answer.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - O(state=loaded) loads the snapshot every time. The other states are reached once.
options:
  name:
    description:
      - The snapshot's name (QEMU's C(tag)), 255 bytes at most.
      - A new one can't be just a number, which QEMU would take for another snapshot's id.
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot unless it is there. One that is on some of the O(devices) only, or on others too, is
        an error that names them. It is never replaced silently.
      - V(absent) deletes it from every disk that has it, or of those in O(devices), half-made ones included.
      - V(loaded) takes the machine and its disks back to the snapshot. A virtual machine that was running runs on from
        there, and one that was paused stays paused, whatever it was when the snapshot was taken.
      - A snapshot that is not there, or that lacks the machine's state, is refused before QEMU is asked to load it, since
        QEMU would stop the guest first. If QEMU fails to load one for such a reason all the same, the guest is continued.
        If it fails later, the disks may be in the past while memory is not. Then the guest is left stopped (status
        C(restore-vm)), and the message says so.
    type: str
    choices: [present, absent, loaded]
    default: present
  vmstate:
    description:
      - The node that takes the machine's memory and devices. It must be one of O(devices).
      - If not set, it is the first of them, or with O(state=loaded) the one that has them.
    type: str
  devices:
    description:
      - The disks, as names of block nodes, or ids of their devices or drives.
      - If not set, all writable nodes that can hold snapshots, which are those of format qcow2 that a device has or that
        nothing uses.
      - If a device has a writable disk that can't hold any (a raw image, also one with firmware variables), the task fails
        unless O(devices) is set. When memory goes back in time and such a disk does not, the guest ruins the file systems
        on it. Leave such a disk out only if the guest does not use it.
    type: list
    elements: str
notes:
  - With QEMU before 6.0, which has no jobs for it, the module fails.
  - Memory is copied at the speed of the disk. For big machines raise O(timeout), and O(connect_timeout) for a run that
    shall join a job.
seealso:
  - module: vmm.qemu.qemu_block_job
  - module: vmm.qemu.qemu_power
"""

EXAMPLES = r"""
- name: Take a snapshot before an upgrade
  vmm.qemu.qemu_snapshot:
    socket: /run/vm1.qmp
    name: before-upgrade
    timeout: 600

- name: Go back to it
  vmm.qemu.qemu_snapshot:
    socket: /run/vm1.qmp
    name: before-upgrade
    state: loaded
    timeout: 600

- name: Delete it
  vmm.qemu.qemu_snapshot:
    socket: /run/vm1.qmp
    name: before-upgrade
    state: absent
"""

RETURN = r"""
snapshots:
  description: All snapshots on the virtual machine's disks. In check mode those that were found.
  returned: success
  type: list
  elements: dict
  sample:
    - name: before-upgrade
      devices: [d0-node, d1-node]
      ids: {d0-node: '1', d1-node: '1'}
      vmstate: d0-node
      vm_state_size: 104857600
      date: '2026-11-24T12:00:00Z'
      vm_clock: 61.25
  contains:
    name:
      description: Its name.
      type: str
    devices:
      description: The block nodes that have it.
      type: list
      elements: str
    ids:
      description: The id that each node's image gave it.
      type: dict
    vmstate:
      description: The node that has the machine's state, or null for a snapshot of disks only.
      type: str
    vm_state_size:
      description: Bytes that the machine's state takes. Missing where there is none.
      type: int
    date:
      description: When it was taken, in UTC.
      type: str
    vm_clock:
      description: Seconds that the machine had run by then.
      type: float
commands:
  description:
    - The commands that changed the virtual machine, or in check mode those that would.
    - After a failure those that were sent.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: snapshot-save
      arguments: {job-id: ansible-snapshot-save-s1, tag: s1, vmstate: d0-node, devices: [d0-node]}
    - execute: job-dismiss
      arguments: {id: ansible-snapshot-save-s1}
job:
  description: The job as it was seen last, with the members that M(vmm.qemu.qemu_block_job) returns.
  returned: when the job failed or the time was up
  type: dict
  version_added: 0.4.0
error:
  description: QEMU's own refusal, or the error that the job ended with.
  returned: when QEMU refused a command or a job failed
  type: dict
  contains:
    class:
      description: QEMU's error class. Jobs have none, so theirs is always C(GenericError).
      type: str
    desc:
      description: QEMU's text.
      type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation
from ansible_collections.vmm.qemu.plugins.module_utils._operations.snapshot import SNAPSHOT

MODULE = operation(SNAPSHOT)
main = MODULE.main

if __name__ == "__main__":
    main()
