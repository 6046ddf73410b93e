#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: disks of a running QEMU virtual machine, node and device in one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_disk
short_description: Plug, grow, limit and unplug disks of a running QEMU virtual machine, and change their media
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes a disk of a running virtual machine, over QMP. Its block node and its device are made, and undone, together.
  - A removal waits until the guest has given the device back, then removes the node.
  - The image itself is neither made nor deleted.
  - A CD drive that a task names an image for has that image in it and its tray closed. Another image is put in while the guest runs.
    The new one is opened before the drive is touched. If something fails, the old one is back in the drive.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The device's id.
    type: str
    required: true
  node_name:
    description:
      - The block node's name. It is O(id) followed by C(-node) if not set, or the node that the device has where QEMU was
        started with the disk (C(-drive)).
      - A node that lies below others, such as the overlay of a snapshot or a job's filter, is still the disk's node.
    type: str
  filename:
    description:
      - The image file, or a block device. The module itself finds out which of the two it is.
      - The empty string is O(medium=absent).
    type: str
  format:
    description:
      - The image's format. A new disk is V(raw) unless this says otherwise.
      - Needed where the file begins like a qcow2 image. Give V(raw) for a raw disk of a guest, which may have written such a
        beginning itself.
    type: str
  driver:
    description:
      - The device's driver, such as V(virtio-blk-pci), V(scsi-hd), V(scsi-cd), V(nvme), V(virtio-blk-ccw).
      - A new disk is the machine's C(virtio-blk) unless this says otherwise.
    type: str
  bus:
    description: The bus to plug it into, such as the id of a C(pcie-root-port), or V(scsi0.0).
    type: str
  addr:
    description: The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
    type: raw
  scsi_id:
    description: The SCSI target.
    type: int
  lun:
    description: The SCSI logical unit.
    type: int
  serial:
    description: The serial number that the guest sees.
    type: str
  queues:
    description: The number of queues.
    type: int
  shared:
    description: Allow other devices to write to the same image (C(share-rw)).
    type: bool
  read_only:
    description: Open the image for reading only.
    type: bool
  cache:
    description: How the host caches.
    type: dict
    suboptions:
      direct:
        description: Bypass the host's page cache (C(O_DIRECT)).
        type: bool
      no_flush:
        description: Ignore the guest's flushes. Data is lost when the host fails.
        type: bool
  discard:
    description: What a guest's discard does. QEMU can't tell it afterwards.
    type: str
    choices: [ignore, unmap]
  iothread:
    description: The id of the C(iothread) object that does the disk's I/O.
    type: str
  romfile:
    description: The option ROM of a PCI device. The empty string for none.
    type: str
  disable_modern:
    description: Make a virtio PCI device a legacy one only.
    type: bool
  size:
    description:
      - The size that the guest shall see, in bytes or as V(10G). It grows while the guest runs.
      - A size smaller than the current one is an error. QEMU is asked for the current size right before C(block_resize) is sent.
      - A new disk grows before anything uses it. If a later step fails, its image keeps the new size.
    type: str
  medium:
    description:
      - V(absent) for a drive with nothing in it, a new one too. The medium's node is deleted. What else is said of the medium, such as
        O(filename), counts once it is V(present).
      - Only a drive whose medium can be taken out, such as V(scsi-cd) or V(ide-cd), can be empty.
    type: str
    choices: [present, absent]
    version_added: 0.4.0
  tray:
    description:
      - Whether the drive's tray shall be open. A task that names a medium closes it if this is not set.
      - A floppy drive has none.
    type: str
    choices: [open, closed]
    version_added: 0.4.0
  force:
    description:
      - Open a tray that the guest has locked. If this is not set, the guest is asked, and has O(timeout) seconds to open it.
      - What the guest reads of the medium at that time fails.
    type: bool
    version_added: 0.4.0
  limits:
    description:
      - How fast the disk may be. Limits that are not named stay as they are, so that an empty dictionary changes nothing. V(0) is no limit.
      - A limit of both directions and one of a single direction exclude each other.
      - A new disk has its limits right after it was plugged in. A guest that runs may be faster for that moment.
      - An empty drive can't be limited. A drive with limits keeps them when it is emptied, and for the next medium. But QEMU does
        not tell them, so that limits that are named together with the next medium replace all of them, in the drive's own group if
        no O(limit_group) is named.
    type: dict
    version_added: 0.4.0
    suboptions:
      bps:
        description: The bytes a second in both directions, such as V(10M). V(0) for no limit.
        type: str
      bps_max:
        description: What O(limits.bps) may be for O(limits.bps_max_length) seconds.
        type: str
      bps_max_length:
        description: How many seconds a burst may last.
        type: int
      bps_rd:
        description: The bytes a second that the guest reads. V(0) for no limit.
        type: str
      bps_rd_max:
        description: What O(limits.bps_rd) may be for O(limits.bps_rd_max_length) seconds.
        type: str
      bps_rd_max_length:
        description: How many seconds a burst may last.
        type: int
      bps_wr:
        description: The bytes a second that the guest writes. V(0) for no limit.
        type: str
      bps_wr_max:
        description: What O(limits.bps_wr) may be for O(limits.bps_wr_max_length) seconds.
        type: str
      bps_wr_max_length:
        description: How many seconds a burst may last.
        type: int
      iops:
        description: The operations a second in both directions. V(0) for no limit.
        type: str
      iops_max:
        description: What O(limits.iops) may be for O(limits.iops_max_length) seconds.
        type: str
      iops_max_length:
        description: How many seconds a burst may last.
        type: int
      iops_rd:
        description: The operations a second that read. V(0) for no limit.
        type: str
      iops_rd_max:
        description: What O(limits.iops_rd) may be for O(limits.iops_rd_max_length) seconds.
        type: str
      iops_rd_max_length:
        description: How many seconds a burst may last.
        type: int
      iops_wr:
        description: The operations a second that write. V(0) for no limit.
        type: str
      iops_wr_max:
        description: What O(limits.iops_wr) may be for O(limits.iops_wr_max_length) seconds.
        type: str
      iops_wr_max_length:
        description: How many seconds a burst may last.
        type: int
      iops_size:
        description: The size up to which one operation counts as one. A larger one counts as several.
        type: str
  limit_group:
    description:
      - The group of disks that O(limits) are for. The limits hold for all of these disks together. By default each disk is in its
        own group.
      - A group has one set of limits. A disk that joins a group without naming limits gets those of the group. The limits of the
        last task hold for all of the group, and the task warns of that. In one document of M(vmm.qemu.qemu_machine), all of a group
        must have the same.
      - To leave a group, name another one, such as the disk's O(id).
    type: str
    version_added: 0.4.0
  write_threshold:
    description:
      - The offset in the image's file, such as V(8G). When a write goes beyond it, QEMU sends the event C(BLOCK_WRITE_THRESHOLD) once, and
        there is no threshold any more. Run again, the task sets it anew. V(0) for none.
      - The event names the node that stores the image. That of a disk that is made with a threshold is the name of the disk's node followed by
        C(-file), unless O(blockdev) names it.
      - The threshold belongs to the node. A task that makes the node anew, for another medium or with O(recreate=true), has to name
        it again.
    type: str
    version_added: 0.4.0
  options:
    description: Further properties of the device, with QEMU's own names.
    type: dict
  blockdev:
    description: Further options of the node, those of M(vmm.qemu.qemu_blockdev) or QEMU's own.
    type: dict
seealso:
  - module: vmm.qemu.qemu_blockdev
  - module: vmm.qemu.qemu_device
  - ref: ansible_collections.vmm.qemu.docsite.storage
    description: Guide to disks, with the messages of this module.
"""

EXAMPLES = r"""
- name: A data disk in a free port
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: data
    filename: /var/lib/vm1/data.qcow2
    format: qcow2
    bus: rp1
    serial: DATA01

- name: Twice the size, while the guest uses it
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: data
    size: 20G

- name: A disk behind a SCSI controller
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: log
    driver: scsi-hd
    bus: scsi0.0
    scsi_id: 0
    lun: 3
    filename: /dev/vg0/vm1-log
    cache:
      direct: true
    blockdev:
      aio: native

- name: Another CD, while the guest runs
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: cd
    driver: scsi-cd
    bus: scsi0.0
    filename: /srv/iso/drivers.iso
    read_only: true

- name: Nothing in the drive, whether the guest has locked the tray or not
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: cd
    filename: ''
    force: true

- name: At most 50 MiB a second, 200 for 10 seconds, and 1000 operations
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: data
    limits:
      bps: 50M
      bps_max: 200M
      bps_max_length: 10
      iops: 1000

- name: Take it out
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: data
    state: absent
"""

RETURN = r"""
blockdev:
  description: The block node as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: data
    driver: virtio-blk-pci
    bus: rp1
    addr: '00.0'
    options:
      drive: data-node
      serial: DATA01
drive:
  description: What QEMU tells of the drive that the device has its disk in, empty limits being 0.
  returned: when an empty drive, O(tray), O(limits) or O(limit_group) was asked for
  type: dict
  contains:
    removable:
      description: Whether the medium can be taken out.
      type: bool
    medium:
      description: V(present) or V(absent).
      returned: when the medium can be taken out
      type: str
    tray:
      description: V(open) or V(closed).
      returned: when the medium can be taken out
      type: str
    locked:
      description: Whether the guest has locked the tray.
      returned: when the medium can be taken out
      type: bool
    limits:
      description: All limits, by the names of the options.
      type: dict
    limit_group:
      description: The group, by default the drive's own, whatever name QEMU gives it. Empty where there is no limit.
      type: str
pending:
  description: The guest has not given the device back yet. Run the task again to finish the removal.
  returned: when a removal was requested and is not over
  type: bool
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: device_del
      arguments:
        id: data
    - execute: blockdev-del
      arguments:
        node-name: data-node
unverifiable:
  description: The options that were given and that QEMU can't tell of what is already there.
  returned: success
  type: list
  elements: str
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.disk import DISK, disk
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(DISK, disk)
main = MODULE.main

if __name__ == "__main__":
    main()
