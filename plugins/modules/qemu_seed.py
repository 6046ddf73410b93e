#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a seed for cloud-init, as a small ISO image."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_seed
short_description: Make a seed for cloud-init, as a small ISO image
version_added: 0.3.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Writes an ISO 9660 volume with the label C(cidata), from which a guest's cloud-init (its data source C(NoCloud)) takes its user,
    keys, network and so on. Give it to the guest as a disk that is read only.
  - It is written anew only when its content changes. No program is needed for it.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.unused
options:
  path:
    description:
      - The image file. An absolute path. Its directory must be there.
      - What is there is replaced if it is a C(cidata) volume; anything else is refused.
    type: path
    required: true
  meta_data:
    description:
      - The text of C(meta-data). cloud-init does its work once for each C(instance-id) in it.
      - A dictionary is written as JSON, which is YAML, too. The same holds for the other texts.
    type: raw
    required: true
  user_data:
    description:
      - The text of C(user-data). It begins with C(#cloud-config) unless it is a script. A dictionary gets that line.
      - It may have secrets, so that what stands in it is hidden wherever it occurs in the result. Of a dictionary that is each value.
    type: raw
    default: ''
  network_config:
    description: The text of C(network-config), or a dictionary.
    type: raw
  vendor_data:
    description: The text of C(vendor-data), or a dictionary, as in O(user_data).
    type: raw
  owner:
    description: The user whose file it shall be. If not set, a new one belongs to the task's user.
    type: str
  mode:
    description: What its owner and others may do with the file, as quoted octal digits.
    type: str
    default: '0600'
  timeout:
    description: Not used, as O(socket) is not.
    type: float
    default: 60.0
requirements:
  - Python 3.8 or later
notes:
  - Symbolic links on the way to O(path) count only if root made them, or the user that runs the task. Where O(path) itself is one,
    it can be looked at, but what it leads to is not changed under that name.
  - A virtual machine that runs keeps the seed that it was started with.
seealso:
  - module: vmm.qemu.qemu_image
"""

EXAMPLES = r"""
- name: Vm1's seed
  vmm.qemu.qemu_seed:
    path: /var/lib/vm1/seed.iso
    meta_data:
      instance-id: vm1
      local-hostname: vm1
    user_data: |
      #cloud-config
      ssh_authorized_keys:
        - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... me@example.org

- name: It is plugged in
  vmm.qemu.qemu_disk:
    socket: /run/vm1.qmp
    id: seed
    filename: /var/lib/vm1/seed.iso
    read_only: true
    bus: rp7
"""

RETURN = r"""
path:
  description: The image file.
  returned: success
  type: str
  sample: /var/lib/vm1/seed.iso
commands:
  description: What was done, or in check mode would be, as command lines. C(mv) stands for what the module does by itself.
  returned: always
  type: list
  elements: list
  sample:
    - [mv, /var/lib/vm1/seed.iso.part, /var/lib/vm1/seed.iso]
    - [chmod, '0600', /var/lib/vm1/seed.iso]
rolled_back:
  description: The command lines of what took back what had been done before the task failed.
  returned: when something was taken back
  type: list
  elements: list
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._provision.seed import OPTIONS, run

MODULE = Module(OPTIONS, run, monitor=False)
main = MODULE.main

if __name__ == "__main__":
    main()
