#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: devices of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_device
short_description: Plug and unplug any device of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds (C(device_add)) and removes (C(device_del)) devices of a running virtual machine, over QMP.
  - Every property of the device's driver can be set through O(options). Values are given the property's own type.
  - A removal is a request to the guest. The module waits until the device has gone.
  - For disks and network cards with their backends in one task, use M(vmm.qemu.qemu_disk) and M(vmm.qemu.qemu_nic).
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
    description: The device's driver, such as V(virtio-rng-pci). Needed to add one.
    type: str
  bus:
    description:
      - The bus to plug it into, such as the id of a C(pcie-root-port).
      - A PCI Express port takes one device. The root bus of a C(q35) machine takes no hot-plug.
    type: str
  addr:
    description:
      - The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
      - The functions of one slot (V(0.1), then V(0.0) with C(multifunction)) leave together. A guest gives back a slot as a
        whole, so one is not removed without the others. M(vmm.qemu.qemu_machine) removes them in one task.
      - QEMU reads PCI slots as hexadecimal numbers. Write them as strings, since YAML turns V(0x10) into 16.
    type: raw
  options:
    description:
      - Further properties of the driver, with QEMU's own names.
      - Only what is named here is compared with what is there.
    type: dict
  wait:
    description:
      - Whether a removal waits until the guest has given the device back.
      - If V(false), the removal is requested, and RV(pending) tells that it may not be over.
    type: bool
    default: true
seealso:
  - module: vmm.qemu.qemu_disk
  - module: vmm.qemu.qemu_nic
"""

EXAMPLES = r"""
- name: A random number generator
  vmm.qemu.qemu_device:
    socket: /run/vm1.qmp
    id: rng0
    driver: virtio-rng-pci
    bus: rp3
    options:
      max-bytes: 1024
      period: 1000

- name: Take it out again
  vmm.qemu.qemu_device:
    socket: /run/vm1.qmp
    id: rng0
    state: absent
    timeout: 30
"""

RETURN = r"""
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: rng0
    driver: virtio-rng-pci
    bus: rp3
    addr: '00.0'
    options:
      max-bytes: 1024
      period: 1000
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
        id: rng0
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.device import DEVICE
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(DEVICE)
main = MODULE.main

if __name__ == "__main__":
    main()
