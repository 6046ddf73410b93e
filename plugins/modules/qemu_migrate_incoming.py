#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: let a QEMU listen for an incoming migration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_migrate_incoming
short_description: Let a QEMU listen for an incoming migration
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Makes a QEMU that was started with C(-incoming defer) listen for a guest. It is run on the destination.
  - The capabilities C(events) and, where the address can carry it, C(return-path) are on unless O(capabilities) says otherwise.
  - One that listens there already, or has its guest already, is fine.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
options:
  uri:
    description: Where to listen, as V(tcp:HOST:PORT), V(unix:/path), V(exec:COMMAND), V(file:/path) or V(fd:NAME).
    type: str
    required: true
  capabilities:
    description: Migration capabilities by name, also with underscores, each V(true) or V(false). C(multifd) and others must be alike
      on both sides.
    type: dict
  parameters:
    description: Migration parameters by name, also with underscores. Numbers may be sizes such as V(1G).
    type: dict
  wait:
    description: Whether to wait until the guest has arrived.
    type: bool
    default: false
  copy_disks:
    description:
      - Lets the source copy its guest's disks to those of this virtual machine, which are exported (NBD) to be written to. All that is in them is
        overwritten, so they must be new ones.
      - Run again when the guest has arrived, or with O(wait), it ends the exports.
    version_added: 0.4.0
    type: dict
    suboptions:
      address:
        description: Where the exports are, as V(/path) or V(HOST:PORT). QEMU has one such server.
        type: str
        required: true
      disks:
        description: The ids of the devices whose disks are copied to, the same as on the source. If not set, all that can be written to.
        type: list
        elements: str
      tls_creds:
        description:
          - The id of the object with the TLS credentials of a server that this virtual machine has.
        type: str
      plain:
        description:
          - Set it to V(true) if nobody on the network between the two hosts could read or change the disks. Without it, an
            O(copy_disks.address) that is neither a UNIX socket nor this host needs O(copy_disks.tls_creds).
        type: bool
        default: false
notes:
  - QEMU ends when the incoming migration fails. The reason is on its standard error or in its log.
seealso:
  - module: vmm.qemu.qemu_migrate
  - module: vmm.qemu.qemu_instance
"""

EXAMPLES = r"""
- name: Start a QEMU that waits for a guest
  vmm.qemu.qemu_instance:
    name: vm1-new
    socket: /run/vm1-new.qmp
    arguments:
      machine: q35
      m: 512
      incoming: defer

- name: Let it listen
  vmm.qemu.qemu_migrate_incoming:
    socket: /run/vm1-new.qmp
    uri: tcp:0.0.0.0:4444

- name: Let it listen for one that brings its disks, over a network of which nobody else is part
  vmm.qemu.qemu_migrate_incoming:
    socket: /run/vm1-new.qmp
    uri: tcp:0.0.0.0:4444
    copy_disks:
      address: 0.0.0.0:10809
      plain: true
"""

RETURN = r"""
migration:
  description: Where the migration stands, as C(query-migrate) has it, with underscores in the names.
  returned: success
  type: dict
  sample: {socket_address: [{type: unix, path: /run/vm1.migrate}]}
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
rolled_back:
  description: The commands that took settings back when it could not listen.
  returned: when something was taken back
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

from ansible_collections.vmm.qemu.plugins.module_utils._migration.incoming import INCOMING
from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation

MODULE = operation(INCOMING)
main = MODULE.main

if __name__ == "__main__":
    main()
