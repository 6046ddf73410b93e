#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: block exports of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_export
short_description: Let others use disks of a running QEMU virtual machine
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes block exports (C(block-export-add)) over QMP. An export serves a block node to NBD clients, to a vhost-user
    frontend, or as a file (FUSE). The server is a running virtual machine, or a C(qemu-storage-daemon).
  - QEMU has one NBD server for all its NBD exports. It is started with the first one, and ended with the last one.
  - QEMU tells only the type and the node of an export. All else is RV(unverifiable) once it is there. To change it, remove the
    export and add it again.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The export's id.
    type: str
    required: true
  node:
    description:
      - The block node, by its name, or by the id of a device or drive, as with O(device).
      - A new export needs this or O(device).
    type: str
  device:
    description:
      - The id of a device or drive, whose image is exported. That is the top of its chain without filters.
      - QEMU takes an export along to the new node when an external snapshot is taken or a mirror ends, as it does the device.
        A task that names the device still fits then, one that names the old node does not.
    type: str
  type:
    description:
      - How it is served. V(fuse) takes QEMU 6.0 or later and C(/dev/fuse) on the host.
      - A new export is V(nbd) if this is not set.
    type: str
    choices: [nbd, vhost-user-blk, fuse]
  name:
    description: The name that NBD clients ask for. QEMU's default is the node's name.
    type: str
  writable:
    description:
      - Whether clients may write. QEMU's default is V(false).
      - QEMU refuses that while a device has the node, unless the device was made with C(share-rw). With that it is allowed, and there
        is a warning, since most file systems do not survive two writers.
    type: bool
  bitmaps:
    description:
      - Dirty bitmaps that NBD clients can see (C(qemu:dirty-bitmap:NAME)), of the node or one below it.
      - For a read-only export of a disk that is written to, they must be disabled first (M(vmm.qemu.qemu_bitmap)).
    type: list
    elements: str
  listen:
    description:
      - Where the NBD server listens, or with O(type=vhost-user-blk) this export does. The path of a UNIX socket, or for NBD also
        V(HOST:PORT) or V([v6]:PORT).
      - For NBD it is needed by the first export, and can be left out by others.
      - What is at that path is not overwritten.
    type: str
  tls_creds:
    description:
      - The id of an object with the server's TLS credentials, for the NBD server that is started. Without them everybody who
        reaches its address can read the disk. If the server runs already and has no TLS, a new export is refused.
      - With a UNIX socket this takes QEMU 7.0 or later.
    type: str
  mountpoint:
    description: With O(type=fuse), an existing file, which shows the disk while the export is there.
    type: str
  options:
    description: Further members of C(block-export-add), with QEMU's own names, such as C(iothread), C(num-queues) or C(growable).
    type: dict
  force:
    description:
      - Ends the connections of NBD clients when the export is removed. Otherwise the task waits for them to end, until O(timeout).
      - Of the clients of other types QEMU knows nothing. They lose the disk.
    type: bool
seealso:
  - module: vmm.qemu.qemu_bitmap
  - module: vmm.qemu.qemu_blockdev
  - ref: ansible_collections.vmm.qemu.docsite.disks_over_time
    description: Guide to what happens to disks while their guest runs.
"""

EXAMPLES = r"""
- name: Let a backup program read the disk
  vmm.qemu.qemu_export:
    socket: /run/vm1.qmp
    id: backup
    device: data
    name: data
    listen: /run/vm1.nbd
    bitmaps:
      - daily

- name: End that when its clients have gone
  vmm.qemu.qemu_export:
    socket: /run/vm1.qmp
    id: backup
    state: absent
    timeout: 600

- name: Take a disk that is migrated here, with TLS
  vmm.qemu.qemu_export:
    socket: /run/vm2.qmp
    id: incoming
    node: data-node
    writable: true
    listen: 192.0.2.7:10809
    tls_creds: tls0

- name: Serve an image without a virtual machine, by a qemu-storage-daemon
  vmm.qemu.qemu_export:
    socket: /run/qsd.qmp
    id: disk1
    node: disk1
    type: vhost-user-blk
    writable: true
    listen: /run/disk1.vhost
"""

RETURN = r"""
export:
  description: The export as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
    type:
      description: How it is served.
      type: str
    node:
      description: The name of its block node.
      type: str
  sample:
    id: backup
    type: nbd
    node: data-node
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: nbd-server-start
      arguments:
        addr:
          type: unix
          data:
            path: /run/vm1.nbd
    - execute: block-export-add
      arguments:
        type: nbd
        id: backup
        node-name: data-node
        name: data
        bitmaps:
          - daily
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.export import EXPORT
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(EXPORT)
main = MODULE.main

if __name__ == "__main__":
    main()
