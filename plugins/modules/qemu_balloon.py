#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the balloon of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_balloon
short_description: Set how much memory the guest of a running QEMU virtual machine has
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Inflates or deflates the balloon of a running virtual machine, over QMP, and waits until the guest has the size.
  - The virtual machine must have a balloon device, and the guest its driver. M(vmm.qemu.qemu_device) plugs one,
    with the driver C(virtio-balloon-pci) or C(virtio-balloon-ccw).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
options:
  size:
    description:
      - How much memory the guest shall have, in bytes or such as V(2G). A number without a unit is bytes, not MiB as QEMU's C(-m)
        has it.
      - Less than 64 MiB is refused without O(force), since guests have crashed with so little. QEMU itself has no lower limit.
    type: str
    required: true
  wait:
    description:
      - Wait until the guest has got there. At the deadline (O(timeout)) the task fails, says where the guest stands, and asks it for
        what it had before.
      - If V(false), the task ends when the guest has been asked, and the request stays.
    type: bool
    default: true
  tolerance:
    description: How far from O(size) is near enough, in bytes or such as V(1M).
    type: str
    default: 1M
  force:
    description: Allow less than 64 MiB, too, with which guests have crashed.
    type: bool
    default: false
seealso:
  - module: vmm.qemu.qemu_memory_hotplug
  - module: vmm.qemu.qemu_device
  - ref: ansible_collections.vmm.qemu.docsite.cpu_and_memory
    description: Guide to CPUs and memory.
"""

EXAMPLES = r"""
- name: The virtual machine has a balloon
  vmm.qemu.qemu_device:
    socket: /run/vm1.qmp
    id: balloon0
    driver: virtio-balloon-pci
    bus: rp5

- name: Leave the guest one and a half gigabytes
  vmm.qemu.qemu_balloon:
    socket: /run/vm1.qmp
    size: 1536M

- name: Give it all of its memory back, and do not wait
  vmm.qemu.qemu_balloon:
    socket: /run/vm1.qmp
    size: 2G
    wait: false
"""

RETURN = r"""
balloon:
  description: The balloon after the task. In check mode as it is.
  returned: success
  type: dict
  contains:
    actual:
      description: What the guest has, in bytes.
      type: int
    target:
      description: What the task asks for, in bytes.
      type: int
  sample:
    actual: 1610612736
    target: 1610612736
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.balloon import BALLOON, balloon
from ansible_collections.vmm.qemu.plugins.module_utils._resource import setting

MODULE = setting(BALLOON.options, balloon)
main = MODULE.main

if __name__ == "__main__":
    main()
