#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: dirty bitmaps of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_bitmap
short_description: Manage dirty bitmaps of a running QEMU virtual machine
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds, changes and removes dirty bitmaps (C(block-dirty-bitmap-add)) of a running virtual machine's disks, over QMP.
    A bitmap records which parts of a disk were written to since it was made, or cleared. Incremental backups need that.
  - What a bitmap has recorded can't be given back. So a bitmap that can't be changed as asked, such as one of another
    O(granularity), is never removed and added again, not even with O(recreate=true). An empty one in its place would make the
    next incremental backup miss what was written before.
  - A bitmap stays on its node. After an external snapshot the writes go to the new overlay, so O(node) with a device's id then
    means the overlay, which has bitmaps of its own.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
attributes:
  idempotent:
    support: partial
    details:
      - O(merge_from) is done whenever a bitmap that it names has something in it, since nothing tells whether that has been
        merged before. O(clear) is done whenever the bitmap has something in it, which one that records soon has again.
options:
  node:
    description:
      - The block node that has the bitmap, by its name, or by the id of a device or drive. That stands for the image that it
        writes to, which is the top of its chain without filters.
    type: str
    required: true
  name:
    description: The bitmap's name, 1023 bytes at most.
    type: str
    required: true
  granularity:
    description:
      - How much of the disk one bit stands for, in bytes or as V(64k). A power of two from 512 bytes to 2 GiB.
      - QEMU's default is the image's cluster size, 64 KiB or less. It can't change later.
    type: str
  persistent:
    description:
      - Whether it is kept in the image, and is there again when the virtual machine is started the next time.
      - Only qcow2 images keep bitmaps, and not those of version 2 (C(compat=0.10)). It can't change later.
      - If QEMU is killed, a persistent bitmap that was in use is RV(bitmap.inconsistent) from then on. It can only be removed.
    type: bool
  enabled:
    description: Whether it records. A new one does unless this is V(false).
    type: bool
  clear:
    description:
      - Makes it empty, if there is anything in it, before O(merge_from) is done.
      - A new bitmap is empty.
    type: bool
  merge_from:
    description:
      - Bitmaps to merge into it, which themselves stay as they are. Each is a name on the same node, or a dictionary of C(node)
        and C(name). The node may be given as in O(node).
      - Everything that one task changes in a bitmap is one transaction. It is done whole, or not at all.
    type: list
    elements: raw
seealso:
  - module: vmm.qemu.qemu_block_job
  - module: vmm.qemu.qemu_export
"""

EXAMPLES = r"""
- name: Record from now on what is written to the disk
  vmm.qemu.qemu_bitmap:
    socket: /run/vm1.qmp
    node: data
    name: daily
    persistent: true

- name: Stop recording, so that it can be exported
  vmm.qemu.qemu_bitmap:
    socket: /run/vm1.qmp
    node: data
    name: daily
    enabled: false

- name: What was written on these two days
  vmm.qemu.qemu_bitmap:
    socket: /run/vm1.qmp
    node: data
    name: both
    enabled: false
    clear: true
    merge_from:
      - monday
      - tuesday

- name: Remove it
  vmm.qemu.qemu_bitmap:
    socket: /run/vm1.qmp
    node: data
    name: both
    state: absent
"""

RETURN = r"""
bitmap:
  description: The bitmap as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  contains:
    node:
      description: The name of its block node.
      type: str
    name:
      description: Its name.
      type: str
    granularity:
      description: How many bytes one bit stands for.
      type: int
    count:
      description: How many bytes of the disk were written to.
      type: int
    recording:
      description: Whether it records.
      type: bool
    busy:
      description: Whether a job or an export has it, so that it can't be changed.
      type: bool
    persistent:
      description: Whether the image keeps it.
      type: bool
    inconsistent:
      description: Whether QEMU was killed while it had the bitmap. Such a bitmap can only be removed.
      type: bool
  sample:
    node: data-node
    name: daily
    granularity: 65536
    count: 131072
    recording: true
    busy: false
    persistent: true
    inconsistent: false
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: block-dirty-bitmap-add
      arguments:
        node: data-node
        name: daily
        persistent: true
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.bitmap import BITMAP
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(BITMAP)
main = MODULE.main

if __name__ == "__main__":
    main()
