#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: block jobs of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_block_job
short_description: Mirror, back up, commit and stream disks of a running QEMU virtual machine
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Begins a block job over QMP while the guest runs, and sees it through to its end.
  - A job of the same id that is there already is joined, also one that an interrupted task left. It is never begun twice.
  - The result of a job that has ended meanwhile is read, and the job dismissed. A V(stream), and before QEMU 7.2 a
    V(backup), is dismissed by QEMU itself, since QEMU crashes when it is asked for its block nodes beside one that is over;
    what a stream has done is read from the images, and why one failed only by a task that waits for it.
  - Nodes are made with M(vmm.qemu.qemu_blockdev).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - What a finished V(mirror), V(commit) or V(stream) has left can be read, so that it runs once. A V(backup) runs every time,
        and so does a V(mirror) with O(complete=copy), since nothing tells of a target what it is a copy of.
options:
  id:
    description: The job's id.
    type: str
    required: true
  operation:
    description:
      - V(mirror) copies the disk to O(target), keeps both the same, and in the end gives the device the target instead.
      - V(backup) copies the disk as it was when the job began to O(target).
      - V(commit) writes what an image has into one below it.
      - V(stream) copies what an image lacks from those below it, so that it needs them no longer.
      - Needed to begin a job. To join one it may be left out.
    type: str
    choices: [mirror, backup, commit, stream]
  state:
    description:
      - V(finished) waits for the end. When the task is out of time the job goes on, and the next run joins it.
      - V(running) only begins it, or lets one that is paused go on, as V(finished) does.
      - V(paused) pauses it, and where there is none begins it paused. That is possible since version 0.4.0.
      - V(cancelled) cancels it. A mirror's target is then left as it is, half written perhaps, and the device keeps its source.
    type: str
    choices: [finished, running, paused, cancelled]
    default: finished
  device:
    description: The block node to work on, or the id of the device or drive that has it. Needed to begin a job.
    type: str
    aliases: [node]
  target:
    description: The block node to copy to, of the same size and not in use. Needed for V(mirror) and V(backup).
    type: str
  base_node:
    description:
      - For V(stream), the node down to which images are copied. It stays below.
      - For V(commit), the node to write to. If not set, the lowest.
    type: str
  top_node:
    description: For V(commit), the topmost node to write down. If not set, the one that the guest writes to.
    type: str
  sync:
    description:
      - What V(mirror) and V(backup) copy, as QEMU calls it, such as V(full), V(top) or V(none).
      - If not set, V(full).
    type: str
  speed:
    description:
      - At most so many bytes a second, also as V(100M). V(0) means no limit.
      - A running job's is changed.
    type: str
  complete:
    description:
      - What is done with a V(mirror), or a V(commit) of what the guest writes to, when it is ready.
      - V(pivot) completes it. The device then changes over.
      - V(copy) ends a V(mirror) so that the device keeps its source, and the target is a copy of it at that moment. It is for
        no other operation. Added in version 0.4.0.
      - V(false) leaves it ready, once it is, with O(state=finished).
      - As before version 0.4.0 it may be a boolean, of which V(true) means V(pivot).
    type: str
    default: pivot
  options:
    description: Further arguments of the QMP command (C(blockdev-mirror), C(blockdev-backup), C(block-commit), C(block-stream)).
    type: dict
    default: {}
seealso:
  - module: vmm.qemu.qemu_blockdev
  - module: vmm.qemu.qemu_image
  - ref: ansible_collections.vmm.qemu.docsite.disks_over_time
    description: Guide to what happens to disks while their guest runs.
"""

EXAMPLES = r"""
- name: An image to back up to
  vmm.qemu.qemu_image:
    path: /var/backups/vm1.qcow2
    format: qcow2
    size: 20G

- name: The running virtual machine has it
  vmm.qemu.qemu_blockdev:
    socket: /run/vm1.qmp
    node_name: backup-node
    filename: /var/backups/vm1.qcow2
    driver: qcow2

- name: Back up the disk while the guest runs
  vmm.qemu.qemu_block_job:
    socket: /run/vm1.qmp
    id: backup-data
    operation: backup
    device: data
    target: backup-node
    speed: 200M
    timeout: 3600

- name: Move a disk to another image, and the guest with it
  vmm.qemu.qemu_block_job:
    socket: /run/vm1.qmp
    id: move-data
    operation: mirror
    device: data
    target: new-node

- name: Copy a disk as it is at the end of the copy, and leave the guest where it is
  vmm.qemu.qemu_block_job:
    socket: /run/vm1.qmp
    id: clone-data
    operation: mirror
    device: data
    target: clone-node
    complete: copy
    timeout: 3600

- name: Let a job wait until the night
  vmm.qemu.qemu_block_job:
    socket: /run/vm1.qmp
    id: move-data
    state: paused

- name: Cancel a job
  vmm.qemu.qemu_block_job:
    socket: /run/vm1.qmp
    id: move-data
    state: cancelled
"""

RETURN = r"""
job:
  description: The job as it was seen last. Empty when there was none and none is needed.
  returned: success, and when the job failed or the time was up
  type: dict
  sample:
    {id: backup-data, type: backup, status: concluded, current_progress: 1048576, total_progress: 1048576, percent: 100.0, speed: 0}
  contains:
    status:
      description: QEMU's word, such as V(running), V(ready) or V(concluded).
      type: str
    percent:
      description: How far it is.
      type: float
    error:
      description: Why it failed.
      type: str
commands:
  description:
    - The commands that changed the virtual machine, or in check mode those that would.
    - After a failure those that were sent.
  returned: always
  type: list
  elements: dict
error:
  description: Why QEMU refused a command, or why the job failed.
  returned: when that is so
  type: dict
  contains:
    class:
      description: QEMU's error class.
      type: str
    desc:
      description: QEMU's text.
      type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation
from ansible_collections.vmm.qemu.plugins.module_utils._operations.block_job import BLOCK_JOB

MODULE = operation(BLOCK_JOB)
main = MODULE.main

if __name__ == "__main__":
    main()
