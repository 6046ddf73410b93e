#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: character devices of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_chardev
short_description: Manage character devices of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes character devices (C(chardev-add)) of a running virtual machine, over QMP.
  - A character device is the backend of a serial port, of a vhost-user device, or of another that talks in bytes.
    To plug a port with its character device in one task, use M(vmm.qemu.qemu_serial_port).
  - One that a device or a network backend uses is not removed.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The character device's id.
    type: str
    required: true
  type:
    description:
      - The type, such as V(socket), V(pty), V(file), V(null), V(ringbuf), V(udp), V(serial), V(pipe).
      - Needed to add one.
    type: str
  path:
    description:
      - The path of a V(socket) on the host, of the V(file) to write, or of the device behind V(pipe), V(serial) or V(parallel).
      - Of a V(pty), for QEMU 10.0 and later, a link to make to it.
      - QEMU would delete what is at the path of a server, and empty a file. So what is there and is not a socket, or is one at
        which somebody listens, is refused, and so is a file with something in it unless C(append) is set in O(options).
        Over a monitor on TCP nobody looks.
    type: str
  host:
    description:
      - The host to connect or to listen to, for V(socket), or to send to, for V(udp).
      - It is V(127.0.0.1) if only the port is given.
    type: str
  port:
    description: The port. A server with port V(0) gets a free one.
    type: str
  server:
    description: Whether QEMU listens. If not set, it connects, and somebody must listen there.
    type: bool
  wait:
    description:
      - Whether a server waits for its first client. Only V(false) is accepted.
      - QEMU would stop until then, with all its monitors.
    type: bool
  reconnect:
    description:
      - The seconds after which a client connects again, and tries again where nobody listens yet.
      - QEMU can't tell it afterwards.
    type: int
  options:
    description: Further members of the type's own in C(chardev-add), with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_serial_port
  - module: vmm.qemu.qemu_vhost_user
"""

EXAMPLES = r"""
- name: A socket that the host's side connects to
  vmm.qemu.qemu_chardev:
    socket: /run/vm1.qmp
    id: agent
    type: socket
    path: /run/vm1.agent
    server: true

- name: A pseudo-terminal
  vmm.qemu.qemu_chardev:
    socket: /run/vm1.qmp
    id: console
    type: pty
  register: console

- name: Where it is
  ansible.builtin.debug:
    var: console.chardev.path

- name: A log on another host, over TCP, as soon as somebody listens there
  vmm.qemu.qemu_chardev:
    socket: /run/vm1.qmp
    id: log
    type: socket
    host: 192.0.2.7
    port: 5140
    reconnect: 5

- name: Remove it
  vmm.qemu.qemu_chardev:
    socket: /run/vm1.qmp
    id: log
    state: absent
"""

RETURN = r"""
chardev:
  description:
    - The character device as far as QEMU tells it, empty when it is absent.
    - Of a pseudo-terminal C(path) is the path, of a socket with port 0 C(port) the port it got.
  returned: success
  type: dict
  sample:
    id: console
    type: pty
    path: /dev/pts/3
commands:
  description: The commands that changed the virtual machine, or in check mode those that would.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: chardev-remove
      arguments:
        id: log
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.chardev import CHARDEV
from ansible_collections.vmm.qemu.plugins.module_utils._resource import resource

MODULE = resource(CHARDEV)
main = MODULE.main

if __name__ == "__main__":
    main()
