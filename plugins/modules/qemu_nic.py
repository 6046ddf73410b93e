#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: network cards of a running QEMU virtual machine, backend and device in one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_nic
short_description: Plug and unplug network cards of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes a network card of a running virtual machine, over QMP. Its backend and its device are made, and undone, together.
  - A removal waits until the guest has given the card back, then removes the backend.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
attributes:
  idempotent:
    support: partial
    details:
      - QEMU does not tell whether a link is up. With O(link), C(set_link) is sent at every run, and the task is changed.
options:
  id:
    description: The card's id.
    type: str
    required: true
  netdev:
    description:
      - The backend, with the options of M(vmm.qemu.qemu_netdev).
      - Its V(id) is O(id) followed by C(-netdev) if not given.
    type: dict
    suboptions:
      id:
        description: The backend's id.
        type: str
      type:
        description: The type, such as V(user), V(tap), V(bridge), V(vhost-user).
        type: str
      ifname:
        description: The TAP interface on the host, 15 characters at most.
        type: str
      script:
        description: The script that sets the TAP up. V(no) for none.
        type: raw
      downscript:
        description: The script that takes the TAP down. V(no) for none.
        type: raw
      bridge:
        description: The host's bridge.
        type: str
      queues:
        description: The number of queues. It is O(queues) if not given, where the type can have several.
        type: int
      vhost:
        description: Whether the kernel's vhost-net moves the packets.
        type: bool
      chardev:
        description: The character device of a V(vhost-user) backend.
        type: str
      pass_fds:
        description: Open the TAP here and hand its descriptors to QEMU.
        type: bool
      fds:
        description: Files to open here and to hand to QEMU as the TAP's queues.
        type: list
        elements: path
      vhostfds:
        description: Files to open here and to hand to QEMU for vhost.
        type: list
        elements: path
      options:
        description: Further members of C(netdev_add), with QEMU's own names.
        type: dict
  driver:
    description:
      - The card's driver, such as V(virtio-net-pci), V(virtio-net-ccw), V(e1000e).
      - A new card is the machine's C(virtio-net) unless this says otherwise.
    type: str
  mac:
    description: The card's MAC address. Write it in quotes, since YAML reads some addresses as numbers.
    type: str
  bus:
    description: The bus to plug it into, such as the id of a C(pcie-root-port).
    type: str
  addr:
    description: The slot on the bus. On CCW (s390x) the device number, such as V(fe.0.0010).
    type: raw
  queues:
    description: The number of queue pairs of a virtio card. Sets C(mq), and C(vectors) on PCI.
    type: int
  link:
    description: Whether the link is up. Sent at every run, since QEMU can't tell.
    type: str
    choices: [up, down]
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
  - module: vmm.qemu.qemu_netdev
  - module: vmm.qemu.qemu_device
  - ref: ansible_collections.vmm.qemu.docsite.network
    description: Guide to network cards and their backends.
"""

EXAMPLES = r"""
- name: A card on a TAP, two queues, descriptors opened by the task
  vmm.qemu.qemu_nic:
    socket: /run/vm1.qmp
    id: nic1
    mac: '52:54:00:12:34:01'
    bus: rp2
    queues: 2
    netdev:
      type: tap
      ifname: vm1-nic1
      pass_fds: true

- name: Pull the cable
  vmm.qemu.qemu_nic:
    socket: /run/vm1.qmp
    id: nic1
    link: down

- name: Take the card out
  vmm.qemu.qemu_nic:
    socket: /run/vm1.qmp
    id: nic1
    state: absent
"""

RETURN = r"""
netdev:
  description: The backend as far as QEMU tells it, empty when it is absent.
  returned: success, when the task names a backend
  type: dict
device:
  description: The card as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: nic1
    driver: virtio-net-pci
    bus: rp2
    addr: '00.0'
    options:
      netdev: nic1-netdev
      mac: '52:54:00:12:34:01'
pending:
  description: The guest has not given the card back yet. Run the task again to finish the removal.
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.nic import NIC, nic
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(NIC, nic)
main = MODULE.main

if __name__ == "__main__":
    main()
