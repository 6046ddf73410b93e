#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: host devices in a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_vfio
short_description: Hand devices of the host to a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Plugs a device of the host into a running virtual machine, and takes it out, over QMP. This is a PCI device, a mediated device (a share
    of a GPU, say), on s390x also a channel device or crypto adapters.
  - The host's device must be bound to a VFIO driver first. Where another driver has a PCI device, the module names it.
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
  host:
    description:
      - The PCI address on the host, such as V("0000:01:00.0"). For V(vfio-pci) only.
      - Write it in quotes, since YAML takes some addresses for numbers.
      - Mutually exclusive with O(sysfsdev). One of both is needed to add one.
    type: str
  sysfsdev:
    description: The host's device as a path below C(/sys), such as V(/sys/bus/mdev/devices/UUID).
    type: path
  driver:
    description: The device's driver. A new one is V(vfio-pci) unless this says otherwise.
    type: str
    choices: [vfio-pci, vfio-ccw, vfio-ap]
  bus:
    description: The bus to plug it into, such as the id of a C(pcie-root-port).
    type: str
  addr:
    description: The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
    type: raw
  romfile:
    description: The option ROM of a PCI device. The empty string for none.
    type: str
  options:
    description: Further properties of the device, with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_device
"""

EXAMPLES = r"""
- name: A network card of the host
  vmm.qemu.qemu_vfio:
    socket: /run/vm1.qmp
    id: hostnic
    host: "0000:3b:00.1"
    bus: rp3
    romfile: ""

- name: A share of a GPU
  vmm.qemu.qemu_vfio:
    socket: /run/vm1.qmp
    id: gpu
    sysfsdev: /sys/bus/mdev/devices/c0fe1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b
    bus: rp4

- name: A disk behind a subchannel, on s390x
  vmm.qemu.qemu_vfio:
    socket: /run/vm2.qmp
    id: dasd
    driver: vfio-ccw
    sysfsdev: /sys/bus/mdev/devices/7e270a25-e163-4922-af60-757fc8ed48c6
    addr: fe.0.1234

- name: Give the card back to the host
  vmm.qemu.qemu_vfio:
    socket: /run/vm1.qmp
    id: hostnic
    state: absent
"""

RETURN = r"""
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: hostnic
    driver: vfio-pci
    bus: rp3
    addr: '00.0'
    options:
      host: '0000:3b:00.1'
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vfio import VFIO, vfio
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(VFIO, vfio)
main = MODULE.main

if __name__ == "__main__":
    main()
