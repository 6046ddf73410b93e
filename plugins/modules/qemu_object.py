#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: objects of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_object
short_description: Manage objects of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds, changes and removes objects (C(object-add)) of a running virtual machine, over QMP. These are memory backends, I/O threads,
    random number sources, throttle groups, network filters, secrets, TLS credentials, authorization lists and more.
  - What can change while an object is in use (an I/O thread's polling, a throttle group's limits, a filter's status, an authorization
    list's rules) is changed in place.
  - One that a device uses is not removed. QEMU itself would remove some of them.
  - The values of C(data), C(password) and C(passphrase) never show, neither in results nor in the invocation nor in QEMU's errors.
    They are compared with what is there.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The object's id.
    type: str
    required: true
  qom_type:
    description:
      - The type, such as V(iothread), V(secret), V(tls-creds-x509), V(rng-random), V(throttle-group), V(memory-backend-memfd).
      - Needed to add one.
    type: str
  options:
    description:
      - The object's properties, with QEMU's own names. Sizes may be written as V(2G).
      - Only what is named here is compared with what is there, of a structure only the members that are named.
    type: dict
seealso:
  - module: vmm.qemu.qemu_memory_hotplug
  - module: vmm.qemu.qemu_qom
"""

EXAMPLES = r"""
- name: An I/O thread
  vmm.qemu.qemu_object:
    socket: /run/vm1.qmp
    id: io1
    qom_type: iothread
    options:
      poll-max-ns: 32768

- name: A secret
  vmm.qemu.qemu_object:
    socket: /run/vm1.qmp
    id: luks1
    qom_type: secret
    options:
      data: "{{ vault_luks1 }}"

- name: TLS for a socket
  vmm.qemu.qemu_object:
    socket: /run/vm1.qmp
    id: tls0
    qom_type: tls-creds-x509
    options:
      endpoint: server
      dir: /etc/pki/qemu
      verify-peer: true

- name: At most 500 operations a second from here on
  vmm.qemu.qemu_object:
    socket: /run/vm1.qmp
    id: slow
    qom_type: throttle-group
    options:
      limits:
        iops-total: 500

- name: Remove the I/O thread
  vmm.qemu.qemu_object:
    socket: /run/vm1.qmp
    id: io1
    state: absent
"""

RETURN = r"""
object:
  description: The object as QEMU tells it, of its properties those that O(options) names, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: io1
    qom_type: iothread
    options:
      poll-max-ns: 32768
commands:
  description: The commands that changed the virtual machine, or in check mode those that would, without secrets.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: object-add
      arguments:
        qom-type: iothread
        id: io1
        poll-max-ns: 32768
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.object import OBJECT
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(OBJECT)
main = MODULE.main

if __name__ == "__main__":
    main()
