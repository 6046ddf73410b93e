#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what a running QEMU virtual machine is made of."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_info
short_description: Look at a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Tells what a running virtual machine is, has and does, over QMP.
  - Values are QEMU's own. In their keys hyphens are underscores, so that templates can say C(vm.memory.base_memory).
  - Ids are kept as they are.
  - Secrets are never shown. Of an object only its type is told, and the settings of memory backends and I/O threads.
extends_documentation_fragment:
  - vmm.qemu._attributes.info
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.machines
  - vmm.qemu._qmp
options:
  gather_subset:
    description:
      - What to look at. What is named comes on top of V(min), as with M(ansible.builtin.setup).
      - V(min) is V(status), V(version) and V(name).
      - With a V(!) in front, a subset is left out. Exclusions alone leave out of V(all).
      - V(!all) is only V(min). V(!all,!min) and a name is only what is named.
      - "The subsets are V(status), V(version), V(name), V(uuid), V(cpus), V(hotpluggable_cpus), V(memory),
        V(memory_devices), V(balloon), V(block), V(block_nodes), V(block_jobs), V(images), V(jobs), V(chardevs), V(netdevs),
        V(devices), V(pci), V(objects), V(iothreads), V(migration), V(machine), V(binary), V(commands), V(events), V(document)."
      - Another name is an error.
    type: list
    elements: str
    default: [min]
seealso:
  - module: vmm.qemu.qemu_command
"""

EXAMPLES = r"""
- name: Is it running?
  vmm.qemu.qemu_info:
    socket: /run/vm1.qmp
  register: it
  failed_when: it.vm.status.status != 'running'

- name: All of this host
  vmm.qemu.qemu_info:
    machines: {vm1: {socket: /run/vm1.qmp}, vm2: {socket: /run/vm2.qmp}}
  register: all

- name: Those that run
  ansible.builtin.debug:
    msg: "{{ all.machines | dict2items | selectattr('value.vm.status.running') | map(attribute='key') }}"

- name: Devices and disks
  vmm.qemu.qemu_info:
    socket: /run/vm1.qmp
    gather_subset:
      - devices
      - block_nodes
  register: it

- name: Where the data disk sits, and how large it is
  ansible.builtin.debug:
    msg: "{{ it.vm.devices.data.bus }}: {{ it.vm.block_nodes['data-node'].image.virtual_size }}"

- name: Everything but the long lists
  vmm.qemu.qemu_info:
    socket: /run/vm1.qmp
    gather_subset:
      - all
      - '!commands'
      - '!events'
      - '!pci'
"""

RETURN = r"""
vm:
  description: One key for each subset, and no other. Where the machine has nothing of the kind it is empty.
  returned: success
  type: dict
  contains:
    status:
      description: The run state.
      type: dict
      sample: {status: running, running: true}
    version:
      description: QEMU's version, as one string, in numbers, and the distribution's own text.
      type: dict
      sample: {full: 10.0.2, qemu: {major: 10, minor: 0, micro: 2}, package: 'Debian 1:10.0.2+ds-2'}
    name:
      description: The name given with C(-name).
      type: str
    uuid:
      description: The UUID.
      type: str
    cpus:
      description: The virtual CPUs that are there, as C(query-cpus-fast) returns them.
      type: list
      elements: dict
      sample:
        - cpu_index: 0
          props: {core_id: 0, socket_id: 0, thread_id: 0}
          qom_path: /machine/unattached/device[0]
          target: x86_64
          thread_id: 4711
    hotpluggable_cpus:
      description: The CPU slots. One without C(qom_path) is free. Empty on machines without CPU hot-plug.
      type: list
      elements: dict
      sample:
        - props: {core_id: 1, socket_id: 0, thread_id: 0}
          type: qemu64-x86_64-cpu
          vcpus_count: 1
    memory:
      description: How much memory it was started with, and how much was plugged in, in bytes.
      type: dict
      sample: {base_memory: 268435456, plugged_memory: 0}
    memory_devices:
      description: Memory devices, each with C(type) and C(data), as C(query-memory-devices) returns them.
      type: list
      elements: dict
    balloon:
      description: The memory that the guest has, in bytes. Empty without a balloon device.
      type: dict
      sample: {actual: 268435456}
    block:
      description: The disks as the devices see them, as C(query-block) returns them.
      type: list
      elements: dict
    block_nodes:
      description: The block nodes by node name, as C(query-named-block-nodes) returns them.
      type: dict
      sample:
        data-node: {drv: qcow2, file: /var/lib/vm1/data.qcow2, ro: false, image: {virtual_size: 10737418240}}
    block_jobs:
      description: The block jobs, as C(query-block-jobs) returns them.
      type: list
      elements: dict
    images:
      description: The images of each device's disk, by the device's id, from the top one down (C(files)); how large the guest sees it
        (C(size)), and the bytes that all of them take (C(used)) and the top one alone (C(top_used)).
      type: dict
      sample:
        data: {size: 10737418240, used: 1310720, top_used: 1310720, writable: true, files: [/var/lib/vm1/data.qcow2]}
    jobs:
      description: All jobs, as C(query-jobs) returns them.
      type: list
      elements: dict
    chardevs:
      description: The character devices by id.
      type: dict
      sample:
        console0: {type: socket, filename: 'disconnected:unix:/run/vm1.console,server=on', frontend_open: true}
    netdevs:
      description:
        - The network backends by id. RV(vm.netdevs) has for each its C(type), the C(nic) that uses it (or the empty string),
          C(queues), and C(settings), what QEMU's monitor prints of it.
      type: dict
      sample:
        net0: {type: user, nic: nic0, queues: 1, settings: {net: 10.0.2.0, restrict: 'off'}}
    devices:
      description:
        - The devices that have an id, by id. Each has its C(driver) and the C(bus) it sits on.
        - C(addr) is there on PCI and CCW, C(node) for disks (empty for a drive without a medium),
          C(netdev) and C(mac) for network cards.
      type: dict
      sample:
        data: {driver: virtio-blk-pci, bus: rp1, addr: '00.0', node: data-node}
        nic0: {driver: virtio-net-pci, bus: rp0, addr: '00.0', netdev: net0, mac: '52:54:00:12:34:56'}
    pci:
      description: The PCI buses and their devices, as C(query-pci) returns them.
      type: list
      elements: dict
    objects:
      description: The objects by id, with their C(qom_type), and for memory backends and I/O threads their settings.
      type: dict
      sample:
        io0: {qom_type: iothread, thread_id: 4712, poll_max_ns: 32768}
        sec0: {qom_type: secret}
    iothreads:
      description: The I/O threads, as C(query-iothreads) returns them.
      type: list
      elements: dict
    migration:
      description: The latest migration, as C(query-migrate) returns it. Empty when there was none.
      type: dict
    machine:
      description: Architecture, machine type, whether KVM runs it, and whether it can wake up from suspension.
      type: dict
      sample: {arch: x86_64, type: pc-q35-10.0, kvm: true, wakeup_suspend_support: true}
    binary:
      description:
        - The QEMU that runs, the one that its path gives by now, and whether the first is outdated.
        - Told of a process on the managed host. Elsewhere only the version that runs is known, and the rest is null.
        - C(installed) is null also where the program is gone, does not tell its version, or could have been put there by others than root.
      type: dict
      sample:
        running: {version: 7.2.22, package: 'Debian 1:7.2+dfsg-7', path: /usr/bin/qemu-system-x86_64, deleted: true}
        installed: {version: 10.0.2, package: 'Debian 1:10.0.2+ds-2'}
        outdated: true
    commands:
      description: The names of the commands that this QEMU has.
      type: list
      elements: str
    events:
      description: The names of the events that this QEMU can send.
      type: list
      elements: str
    document:
      description:
        - How it differs from what M(vmm.qemu.qemu_vm) last made true of it, by the record that is kept beside its monitor (C(vm.json)). Only queries
          are sent.
        - Empty for one of which there is no record. A record that can't be read, or that others could have written, is never followed.
      type: dict
      sample:
        differences: [{action: change, kind: disk, id: data, changes: {limits.iops: {before: 0, after: 500}}}]
        restart_required: true
        arguments: {before: ['-m size=1G'], after: ['-m size=2G']}
        reason: ''
      contains:
        differences:
          description: What a task would change, as RV(vmm.qemu.qemu_vm#module:plan) has it. A tap or an image that is gone is among it.
          type: list
          elements: dict
        restart_required:
          description: Whether it runs with another command line than it is started with the next time. Null where that is not known.
          type: bool
        arguments:
          description: The options that only the command line that runs has (C(before)), and those that only the next one has (C(after)).
          type: dict
        reason:
          description: Why something can't be told. Else empty.
          type: str
machines:
  description:
    - What came of each of O(machines), by its name, with the keys that the result of a task for it alone has.
    - One that failed has C(failed) and C(msg).
    - Beside it the task's own result has only C(changed), RV(msg), the warnings and the diff.
  returned: with O(machines), unless their options are wrong
  type: dict
  sample:
    vm1: {changed: false, commands: [], vm: {status: {status: running, running: true}}}
msg:
  description: How many of O(machines) were looked at, and which failed and why.
  returned: with O(machines)
  type: str
  sample: 0 changed, 2 unchanged
commands:
  description: Always empty.
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
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._operations.info import OPTIONS
from ansible_collections.vmm.qemu.plugins.module_utils._vm.info import run

MODULE = Module(OPTIONS, run, many=True)
main = MODULE.main

if __name__ == "__main__":
    main()
