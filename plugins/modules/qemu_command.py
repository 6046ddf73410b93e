#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: any QMP command for a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_command
short_description: Send QMP commands to a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Sends commands in their order and returns what QEMU responds.
  - For what the collection has a module for, use that. It knows what is there already, and undoes what fails half way.
  - A command that fails ends the task. Those before it stay done.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  check_mode:
    support: full
    details:
      - Queries are sent, all other commands are left out. Their responses are null.
  diff_mode:
    support: none
    details:
      - What a command changes can't be told in general.
  idempotent:
    support: partial
    details:
      - Commands are sent every time. A task of queries alone never changes anything.
options:
  commands:
    description:
      - The commands. Each is a name, or a dictionary of C(execute) (the name) and C(arguments) (a dictionary).
      - C(exec-oob) in place of C(execute) has a command executed out of band, overtaking others.
      - Passwords and the data of secret objects in them are not shown. Set C(no_log) on the task for any other secret.
    type: list
    elements: raw
    required: true
  validate:
    description:
      - Check all commands against what this QEMU says it takes before the first is sent. Values are turned into the
        types that it wants, such as V(yes) into true, V("8") into a number and V(2G) into bytes.
      - If V(false), everything is sent as it is.
    type: bool
    default: true
seealso:
  - module: vmm.qemu.qemu_info
"""

EXAMPLES = r"""
- name: What the block layer has counted
  vmm.qemu.qemu_command:
    socket: /run/vm1.qmp
    commands:
      - query-blockstats
  register: it

- name: Throttle a disk, and look at it
  vmm.qemu.qemu_command:
    socket: /run/vm1.qmp
    commands:
      - execute: block_set_io_throttle
        arguments:
          id: data
          bps: 100M
          bps_rd: 0
          bps_wr: 0
          iops: 500
          iops_rd: 0
          iops_wr: 0
      - query-block

- name: A line for the human monitor
  vmm.qemu.qemu_command:
    socket: /run/vm1.qmp
    commands:
      - execute: human-monitor-command
        arguments:
          command-line: info mtree
"""

RETURN = r"""
responses:
  description:
    - What QEMU returned for each command, as it is. Null for those that check mode left out.
    - After a failure, the responses so far.
  returned: when the commands passed the check
  type: list
  elements: raw
  sample:
    - running: true
      status: running
commands:
  description:
    - Those of the commands that are not queries and ran, or in check mode would. Their secrets are not shown.
    - After a failure this includes a command that QEMU has not answered.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: system_wakeup
      arguments: {}
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
from ansible_collections.vmm.qemu.plugins.module_utils._operations.command import OPTIONS, run, secrets

MODULE = Module(OPTIONS, run, secrets=secrets)
main = MODULE.main

if __name__ == "__main__":
    main()
