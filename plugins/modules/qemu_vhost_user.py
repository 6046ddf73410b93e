#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: vhost-user devices of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_vhost_user
short_description: Plug and unplug vhost-user devices of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes a device whose work another process on the host does (C(virtiofsd), C(qemu-storage-daemon), SPDK, a GPU or input
    backend). The connection to that process and the device are made, and undone, together, over QMP.
  - That process must see the guest's memory. If it is not shared, the module refuses. QEMU would make a device that never works.
  - For a vhost-user network card, use M(vmm.qemu.qemu_chardev) and M(vmm.qemu.qemu_nic).
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
  driver:
    description:
      - The device's driver, such as V(vhost-user-blk-pci), V(vhost-user-fs-pci), V(vhost-user-scsi-pci).
      - Without the ending, it is the one for the machine. Needed to add one.
    type: str
  path:
    description: The socket that the process listens on. Needed to add one. The character device for it is O(id) followed by C(-chardev).
    type: str
  reconnect:
    description:
      - The seconds after which QEMU connects again to a process that was restarted.
      - QEMU can't tell it afterwards.
    type: int
  bus:
    description: The bus to plug it into, such as the id of a C(pcie-root-port).
    type: str
  addr:
    description: The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
    type: raw
  options:
    description: Further properties of the device, with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_chardev
  - module: vmm.qemu.qemu_device
"""

EXAMPLES = r"""
- name: A disk that the storage daemon serves
  vmm.qemu.qemu_vhost_user:
    socket: /run/vm1.qmp
    id: fast
    driver: vhost-user-blk-pci
    path: /run/storage.sock
    bus: rp5

- name: A directory of the host, served by virtiofsd
  vmm.qemu.qemu_vhost_user:
    socket: /run/vm1.qmp
    id: src
    driver: vhost-user-fs-pci
    path: /run/virtiofsd.sock
    bus: rp6
    options:
      tag: src

- name: Take the disk out
  vmm.qemu.qemu_vhost_user:
    socket: /run/vm1.qmp
    id: fast
    state: absent
"""

RETURN = r"""
chardev:
  description:
    - The connection as far as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: fast
    driver: vhost-user-blk-pci
    bus: rp5
    addr: '00.0'
    options:
      chardev: fast-chardev
pending:
  description: The guest has not given the device back yet. Run the task again to finish the removal.
  returned: when a removal was requested and is not over
  type: bool
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vhost_user import VHOST_USER, vhost_user
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(VHOST_USER, vhost_user)
main = MODULE.main

if __name__ == "__main__":
    main()
