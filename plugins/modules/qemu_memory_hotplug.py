#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: memory modules of a running QEMU virtual machine, backend and device in one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_memory_hotplug
short_description: Plug, unplug and resize memory of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes memory modules of a running virtual machine, over QMP. The backend (an object whose id is O(id) followed by
    C(-mem)) and the device on it are made, and undone, together.
  - The virtual machine must have been started with room, such as C(-m 1G,slots=4,maxmem=8G).
  - Slots and room are checked first, where QEMU tells them (7.1 and later).
  - A removal waits until the guest has given the memory back. A guest that refuses is reported with its status, and keeps it.
  - The guest's operating system decides whether new memory is used at once. Linux does as C(memhp_default_state) says.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
notes:
  - QEMU can't unplug an V(nvdimm), and a V(virtio-mem) device only from 8.1 on. Both are refused before anything is sent.
  - Linux gives memory back only where it was brought online as C(online_movable).
options:
  id:
    description: The device's id.
    type: str
    required: true
  kind:
    description:
      - What it is. V(dimm) if not given.
      - V(virtio-mem) is a PCI device, whose memory grows and shrinks while it is there (O(requested_size)).
      - V(nvdimm) needs a machine that was started with C(nvdimm=on).
    type: str
    choices: [dimm, nvdimm, virtio-mem]
  size:
    description:
      - The module's size, in bytes or such as V(2G). For V(virtio-mem) the most that it can have.
      - Required to add one. Another size takes O(recreate).
    type: str
  backend:
    description: What the memory is made of. V(file) if O(mem_path) is given, else V(ram).
    type: str
    choices: [ram, file, memfd]
  mem_path:
    description: The file or directory of a V(file) backend, such as on a C(hugetlbfs).
    type: path
  share:
    description:
      - Whether the memory is shared with other processes, as vhost-user needs it.
      - An V(nvdimm) with O(mem_path) is shared unless this says otherwise. Else nothing it stores would reach the file.
    type: bool
  prealloc:
    description: Whether all of it is allocated at once on the host.
    type: bool
  pmem:
    description: Whether O(mem_path) is on persistent memory.
    type: bool
  label_size:
    description: The size of an V(nvdimm)'s label area.
    type: str
  numa_node:
    description: The guest's NUMA node that it belongs to.
    type: int
  requested_size:
    description:
      - How much of a V(virtio-mem) device's O(size) the guest shall have. Changed live, in both directions.
      - A multiple of the device's block size, usually 2 MiB. A new device has none of it unless this says otherwise.
    type: str
  bus:
    description: The bus of a V(virtio-mem) device, such as the id of a C(pcie-root-port).
    type: str
  addr:
    description: The slot on the bus, or of a module the address in the guest's memory.
    type: str
  wait:
    description:
      - Wait until the guest has O(requested_size). At the deadline (O(timeout)) the task fails, says where it stands, and takes the
        request back.
      - A removal is always waited for.
    type: bool
    default: true
  options:
    description: Further properties of the device, with QEMU's own names. C(memdev) names another backend.
    type: dict
seealso:
  - module: vmm.qemu.qemu_balloon
  - module: vmm.qemu.qemu_object
  - ref: ansible_collections.vmm.qemu.docsite.cpu_and_memory
    description: Guide to CPUs and memory.
"""

EXAMPLES = r"""
- name: Two gigabytes more
  vmm.qemu.qemu_memory_hotplug:
    socket: /run/vm1.qmp
    id: dimm0
    size: 2G

- name: And take them out again
  vmm.qemu.qemu_memory_hotplug:
    socket: /run/vm1.qmp
    id: dimm0
    state: absent

- name: A device that can have up to eight gigabytes, and now has one
  vmm.qemu.qemu_memory_hotplug:
    socket: /run/vm1.qmp
    id: vmem0
    kind: virtio-mem
    size: 8G
    requested_size: 1G
    bus: rp3

- name: Grow it
  vmm.qemu.qemu_memory_hotplug:
    socket: /run/vm1.qmp
    id: vmem0
    requested_size: 3G
"""

RETURN = r"""
memory_device:
  description:
    - The device as QEMU tells it, empty when it is absent.
    - A V(virtio-mem) device has C(max_size), C(requested_size), C(block_size) and C(memaddr), a module C(addr), C(slot) and others.
  returned: success
  type: dict
  contains:
    type:
      description: What it is.
      type: str
    id:
      description: Its id.
      type: str
    size:
      description: Its size in bytes. Of a V(virtio-mem) device what the guest has now.
      type: int
    memdev:
      description: Its backend.
      type: str
    node:
      description: Its NUMA node.
      type: int
  sample:
    type: dimm
    id: dimm0
    size: 2147483648
    memdev: /objects/dimm0-mem
    node: 0
    slot: 0
    addr: 4294967296
    hotplugged: true
    hotpluggable: true
object:
  description: The backend as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
pending:
  description: The guest has not given the memory back yet. Run the task again to finish the removal.
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.memory import MEMORY, memory
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(MEMORY, memory)
main = MODULE.main

if __name__ == "__main__":
    main()
