#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: properties in the object tree of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_qom
short_description: Read and set a property of a running QEMU virtual machine's object tree
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Reads a property of any object or device of a running virtual machine, over QMP, and sets it where another value is wanted.
  - Without O(value) it only reads.
  - A value is given the type that the property has. Which properties can be set while the virtual machine runs, QEMU says.
  - The values of properties called C(data), C(password) and C(passphrase) never show.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
options:
  path:
    description: The path in QEMU's object tree, such as V(/machine/peripheral/net0), or its end where that is unique, such as V(net0).
    type: str
    required: true
  property:
    description: The property's name.
    type: str
    required: true
  value:
    description: What it shall be. If not set, the property is only read.
    type: raw
seealso:
  - module: vmm.qemu.qemu_device
  - module: vmm.qemu.qemu_object
"""

EXAMPLES = r"""
- name: Which port is the disk in?
  vmm.qemu.qemu_qom:
    socket: /run/vm1.qmp
    path: /machine/peripheral/data
    property: parent_bus
  register: bus

- name: Boot from it first the next time
  vmm.qemu.qemu_qom:
    socket: /run/vm1.qmp
    path: /machine/peripheral/data
    property: bootindex
    value: 1
"""

RETURN = r"""
value:
  description: The property's value as QEMU tells it, in check mode the one before the change.
  returned: success
  type: raw
  sample: 1
commands:
  description: The commands that changed the virtual machine, or in check mode those that would, without secrets.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: qom-set
      arguments:
        path: /machine/peripheral/data
        property: bootindex
        value: 1
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Part
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.qom import QOM
from ansible_collections.vmm.qemu.plugins.module_utils._resource import setting

MODULE = setting(QOM.options, lambda want: [Part(QOM, want)], secrets=QOM.secrets)
main = MODULE.main

if __name__ == "__main__":
    main()
