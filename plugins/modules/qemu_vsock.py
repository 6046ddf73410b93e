#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the vsock device of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_vsock
short_description: Plug and unplug the vsock device of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes the device behind C(AF_VSOCK), sockets between guest and host that need no network, of a running virtual machine,
    over QMP.
  - The host's device is opened by the module and handed to QEMU, whose user needs no access to it.
    Over a monitor on TCP nothing can be handed over, and QEMU opens it.
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
  guest_cid:
    description: The guest's address (context id), 3 or greater, and unique on the host. Needed to add one.
    type: int
  vhostfd:
    description:
      - The host's device, to open and to hand over. It is V(/dev/vhost-vsock) if not set.
      - QEMU can't tell it afterwards.
    type: path
  driver:
    description: The device's driver. It is the machine's C(vhost-vsock) if not set.
    type: str
  bus:
    description: The bus to plug it into, such as the id of a C(pcie-root-port).
    type: str
  addr:
    description: The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
    type: raw
  romfile:
    description: The option ROM of a PCI device. The empty string for none.
    type: str
  disable_modern:
    description: Make a virtio PCI device a legacy one only.
    type: bool
  options:
    description: Further properties of the device, with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_device
  - module: vmm.qemu.qemu_serial_port
"""

EXAMPLES = r"""
- name: Sockets between guest and host
  vmm.qemu.qemu_vsock:
    socket: /run/vm1.qmp
    id: vsock0
    guest_cid: 42
    bus: rp7

- name: Take the device out
  vmm.qemu.qemu_vsock:
    socket: /run/vm1.qmp
    id: vsock0
    state: absent
"""

RETURN = r"""
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: vsock0
    driver: vhost-vsock-pci
    bus: rp7
    addr: '00.0'
    options:
      guest-cid: 42
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vsock import VSOCK, vsock
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(VSOCK, vsock)
main = MODULE.main

if __name__ == "__main__":
    main()
