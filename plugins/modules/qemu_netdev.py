#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: network backends of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_netdev
short_description: Manage network backends of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds (C(netdev_add)) and removes (C(netdev_del)) network backends of a running virtual machine, over QMP.
  - QEMU tells little about a network backend afterwards. What can't be read back is listed in RV(unverifiable).
  - A backend that a network card still uses is not removed. QEMU itself would remove it, and the card would not work any more.
  - For a card with its backend in one task, use M(vmm.qemu.qemu_nic).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The backend's id.
    type: str
    required: true
  type:
    description:
      - The type, such as V(user), V(tap), V(bridge), V(socket), V(stream), V(vhost-user).
      - Needed to add one, except that one with O(ifname) or O(fds) is a V(tap), one with O(bridge) a V(bridge),
        and one with O(chardev) a V(vhost-user).
    type: str
  ifname:
    description: The TAP interface on the host, 15 characters at most.
    type: str
  script:
    description: The script that sets the TAP up. V(no) for none. QEMU runs C(/etc/qemu-ifup) when this is not set.
    type: raw
  downscript:
    description: The script that takes the TAP down. V(no) for none.
    type: raw
  bridge:
    description: The host's bridge, for a O(type) of V(bridge).
    type: str
  queues:
    description: The number of queues.
    type: int
  vhost:
    description:
      - Whether the kernel's vhost-net moves the packets. Needs C(/dev/vhost-net) on the managed host.
      - QEMU can't tell it afterwards.
    type: bool
  chardev:
    description: The character device, for a O(type) of V(vhost-user).
    type: str
  pass_fds:
    description:
      - Open the TAP named by O(ifname) here, once for each queue, and hand the descriptors to QEMU.
      - So QEMU itself needs no right to open C(/dev/net/tun). With O(vhost), C(/dev/vhost-net) is opened and handed over too.
      - An interface that isn't there is made, and lives as long as the backend.
    type: bool
  fds:
    description: Files to open here and to hand to QEMU as the TAP's queues, such as C(/dev/tap3) of a macvtap.
    type: list
    elements: path
  vhostfds:
    description: Files to open here and to hand to QEMU for vhost, one for each queue.
    type: list
    elements: path
  options:
    description: Further members of C(netdev_add), with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_nic
"""

EXAMPLES = r"""
- name: User mode networking with SSH forwarded
  vmm.qemu.qemu_netdev:
    socket: /run/vm1.qmp
    id: net1
    type: user
    options:
      hostfwd:
        - str: tcp:127.0.0.1:2222-:22

- name: A TAP that QEMU could not open itself
  vmm.qemu.qemu_netdev:
    socket: /run/vm1.qmp
    id: net2
    ifname: vm1-net2
    queues: 2
    pass_fds: true

- name: Remove both
  vmm.qemu.qemu_netdev:
    socket: /run/vm1.qmp
    id: "{{ item }}"
    state: absent
  loop: [net1, net2]
"""

RETURN = r"""
netdev:
  description: The backend as far as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: net2
    type: tap
    queues: 2
commands:
  description:
    - The commands that changed the virtual machine, or in check mode those that would.
    - The names of passed descriptors are made up anew in each run.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: netdev_add
      arguments:
        id: net1
        type: user
unverifiable:
  description: The options that were given and that QEMU can't tell of what is already there.
  returned: success
  type: list
  elements: str
  sample: [vhost]
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.netdev import NETDEV
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(NETDEV)
main = MODULE.main

if __name__ == "__main__":
    main()
