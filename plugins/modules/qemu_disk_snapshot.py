#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: external snapshots of the disks of running QEMU virtual machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_disk_snapshot
short_description: Take snapshots of the disks of a running QEMU virtual machine, commit them, and go back
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Takes external snapshots of disks of any format while the guest runs. From then on the guest writes to a new qcow2 image over
    each disk's own, the overlay, and what was there before stays as it was at one moment, the same for all of the disks.
  - The machine's memory is not part of it. M(vmm.qemu.qemu_snapshot) takes snapshots with memory, inside qcow2 images.
  - The overlay of a disk is the file C(DISK@NAME.qcow2), where C(DISK) is the device's id. By that name it is found again, also
    after the virtual machine has been started anew from it. Only QEMU's user can open it.
  - To go back to a snapshot the guest is stopped, given new overlays and reset, since what it has in memory is of the disks as
    they were. All disks go back, or none does.
  - M(vmm.qemu.qemu_disk) and M(vmm.qemu.qemu_machine) take the chain of images for the disk. A virtual machine that is started
    anew must be given the overlay as its disk's image.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - O(state=reverted) goes back every time. The other states are reached once.
options:
  name:
    description: The snapshot's name, of 1 to 64 letters, digits, C(-), C(.) and C(_).
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot unless it is there. One that is on some of the O(disks) only is an error that names them.
      - V(absent) commits it while the guest runs. What was written since goes into the image below by a job for each disk, one
        after the other, and then the overlay is removed. That works for one with later snapshots over it, too. When the task
        is out of time the job goes on, and the next run joins it.
      - V(reverted) throws away what was written since, and resets the guest, which then runs if it ran before. Snapshots that
        were taken over this one go, too, which is warned of. This one stays. An overlay that something else has put there
        since is taken out of the chain, and its file is left. It needs QEMU 6.2 or later. A task that is killed can leave the
        guest paused; the next run resets it and lets it run.
    type: str
    choices: [present, absent, reverted]
    default: present
  disks:
    description:
      - The disks, as ids of their devices, names of their drives, or names of block nodes.
      - If not set, all that the guest can write to, firmware's variables excepted; with O(state=reverted), those of them that
        have the snapshot.
    type: list
    elements: str
  directory:
    description:
      - Where the overlays are made. A file that is there is never written over.
      - If not set, beside each disk's image. Needed for disks that are not in files.
    type: path
  quiesce:
    description:
      - Have the guest's agent freeze its file systems for the moment of the snapshot, so that they are whole in it. If not set,
        they are as after a power failure.
      - The guest is thawed again whatever happens. One that a killed task has left frozen is thawed by the next run.
    type: dict
    suboptions:
      agent:
        description: The socket of the guest's agent, to which nobody else is connected.
        type: str
        required: true
      required:
        description:
          - Whether nothing is done when the agent does not answer or refuses. If V(false), the snapshot is then taken of a guest
            that is not frozen, with a warning.
        type: bool
        default: true
      timeout:
        description: Seconds for the agent to answer.
        type: float
        default: 10.0
  keep_file:
    description: Whether the file of an overlay that has been committed is kept with O(state=absent).
    type: bool
    default: false
  qemu_img:
    description: The program C(qemu-img), which makes the overlays, as a path or a name to be looked for.
    type: path
    default: qemu-img
notes:
  - The task runs on QEMU's own host. A monitor over the network is refused.
seealso:
  - module: vmm.qemu.qemu_snapshot
  - module: vmm.qemu.qemu_block_job
  - ref: ansible_collections.vmm.qemu.docsite.disks_over_time
    description: Guide to what happens to disks while their guest runs.
"""

EXAMPLES = r"""
- name: Keep the disks as they are now
  vmm.qemu.qemu_disk_snapshot:
    socket: /run/vm1.qmp
    name: before-update
    quiesce:
      agent: /run/vm1.agent

- name: Update the guest, and take it back where a test fails
  block:
    - name: Keep the disks as they are now
      vmm.qemu.qemu_disk_snapshot:
        socket: /run/vm1.qmp
        name: before-update
        quiesce:
          agent: /run/vm1.agent
    - name: Update and test
      ansible.builtin.include_role:
        name: update_and_test
        apply:
          delegate_to: vm1
  rescue:
    - name: The guest is what it was
      vmm.qemu.qemu_disk_snapshot:
        socket: /run/vm1.qmp
        name: before-update
        state: reverted
  always:
    - name: Give the snapshot up
      vmm.qemu.qemu_disk_snapshot:
        socket: /run/vm1.qmp
        name: before-update
        state: absent
        timeout: 3600

- name: Only the data disk, with its overlay elsewhere
  vmm.qemu.qemu_disk_snapshot:
    socket: /run/vm1.qmp
    name: daily
    disks: [data]
    directory: /var/lib/overlays
"""

RETURN = r"""
snapshot:
  description: The snapshot. In check mode as it would be. Without disks where it is gone.
  returned: success
  type: dict
  sample:
    disks:
      data: {overlay: /var/lib/vm1/data@before-update.qcow2, base: /var/lib/vm1/data.raw}
    frozen_ms: 41
  contains:
    disks:
      description: By disk, the file that the guest writes to and the one that is kept as it was.
      type: dict
    frozen_ms:
      description: For how many milliseconds the guest was frozen. Null where it was not.
      type: int
commands:
  description:
    - What changed the virtual machine or the host, in order, or in check mode what would. QMP commands, those for the guest's agent
      (with its C(socket)), and command lines.
    - After a failure those that were sent.
  returned: always
  type: list
  elements: raw
job:
  description: The job as it was seen last, with the members that M(vmm.qemu.qemu_block_job) returns.
  returned: when a job failed or the time was up
  type: dict
error:
  description: QEMU's own refusal, or the error that a job ended with.
  returned: when QEMU refused a command or a job failed
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
from ansible_collections.vmm.qemu.plugins.module_utils._operations.disk_snapshot import DISK_SNAPSHOT

MODULE = operation(DISK_SNAPSHOT)
main = MODULE.main

if __name__ == "__main__":
    main()
