#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: block nodes of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_blockdev
short_description: Manage block nodes of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds, changes and removes block nodes (C(blockdev-add)) of a running virtual machine, over QMP.
  - A node is the backend of a disk. To plug a disk with its node in one task, use M(vmm.qemu.qemu_disk).
  - The size, and how the file is opened (O(read_only), O(cache), O(detect_zeroes)), change while the node is in use.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  node_name:
    description:
      - The node's name, 31 characters at most.
      - A node that is there can be named by the id of its C(-drive) too, or by the name that QEMU gave it (V(#block123)).
    type: str
    required: true
  driver:
    description:
      - The format or protocol, such as V(raw), V(qcow2), V(null-co).
      - A new node is V(raw) unless this says otherwise.
      - Needed where the file begins like a qcow2 image. Give V(raw) for a raw disk of a guest, which may have written such a
        beginning itself.
    type: str
  filename:
    description:
      - The image file, or a block device. The module itself finds out which of the two it is.
      - Mutually exclusive with O(file).
    type: str
  file:
    description: The protocol layer below the format, with QEMU's own member names, for what is not a local file.
    type: dict
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
  detect_zeroes:
    description: Whether writes of zeroes become cheaper operations.
    type: str
    choices: ['off', 'on', unmap]
  aio:
    description: How the host does I/O. QEMU can't tell it afterwards.
    type: str
    choices: [threads, native, io_uring]
  size:
    description:
      - The size that the guest shall see, in bytes or as V(10G). It grows while the node is in use.
      - A size smaller than the current one is an error. QEMU is asked for the current size right before C(block_resize) is sent.
      - A new disk grows before anything uses it. If a later step fails, its image keeps the new size.
    type: str
  options:
    description: Further members of C(blockdev-add), with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_disk
"""

EXAMPLES = r"""
- name: A qcow2 image as a node
  vmm.qemu.qemu_blockdev:
    socket: /run/vm1.qmp
    node_name: data
    driver: qcow2
    filename: /var/lib/vm1/data.qcow2
    cache:
      direct: true

- name: Grow it while the guest uses it
  vmm.qemu.qemu_blockdev:
    socket: /run/vm1.qmp
    node_name: data
    size: 20G

- name: Remove it
  vmm.qemu.qemu_blockdev:
    socket: /run/vm1.qmp
    node_name: data
    state: absent
"""

RETURN = r"""
blockdev:
  description: The node as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    node_name: data
    driver: qcow2
    filename: /var/lib/vm1/data.qcow2
    read_only: false
    cache:
      direct: true
      no_flush: false
    detect_zeroes: 'off'
    size: 10737418240
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: block_resize
      arguments:
        node-name: data
        size: 21474836480
unverifiable:
  description: The options that were given and that QEMU can't tell of what is already there.
  returned: success
  type: list
  elements: str
  sample: [discard]
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev import BLOCKDEV
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(BLOCKDEV)
main = MODULE.main

if __name__ == "__main__":
    main()
