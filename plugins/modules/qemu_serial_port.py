#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: virtio serial ports of a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_serial_port
short_description: Plug and unplug virtio serial ports of a running QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Adds and removes a virtio serial port of a running virtual machine, over QMP. Its character device and the port are made, and undone,
    together.
  - The guest finds the port by its name, below C(/dev/virtio-ports).
  - The port needs a controller (C(virtio-serial-pci)), which M(vmm.qemu.qemu_device) can plug.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
  - vmm.qemu._qmp.resource
options:
  id:
    description: The port's id.
    type: str
    required: true
  name:
    description: The name by which the guest finds the port, such as V(org.qemu.guest_agent.0).
    type: str
  chardev:
    description:
      - The character device, with the options of M(vmm.qemu.qemu_chardev).
      - Its V(id) is O(id) followed by C(-chardev) if not given.
    type: dict
    suboptions:
      id:
        description: The character device's id.
        type: str
      type:
        description:
          - The type, such as V(socket), V(pty), V(file), V(null), V(ringbuf), V(udp), V(serial), V(pipe).
          - Needed to add one.
        type: str
      path:
        description:
          - The path of a V(socket) on the host, of the V(file) to write, or of the device behind V(pipe), V(serial) or V(parallel).
          - Of a V(pty), for QEMU 10.0 and later, a link to make to it.
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
  bus:
    description: The bus of the controller, its id followed by C(.0). If not set, QEMU takes the first that has room.
    type: str
  options:
    description: Further properties of the port, with QEMU's own names.
    type: dict
seealso:
  - module: vmm.qemu.qemu_chardev
  - module: vmm.qemu.qemu_device
"""

EXAMPLES = r"""
- name: A controller for serial ports
  vmm.qemu.qemu_device:
    socket: /run/vm1.qmp
    id: vs0
    driver: virtio-serial-pci
    bus: rp4

- name: The guest agent's port
  vmm.qemu.qemu_serial_port:
    socket: /run/vm1.qmp
    id: agent
    name: org.qemu.guest_agent.0
    bus: vs0.0
    chardev:
      type: socket
      path: /run/vm1.agent
      server: true

- name: Take it out, and its socket with it
  vmm.qemu.qemu_serial_port:
    socket: /run/vm1.qmp
    id: agent
    state: absent
"""

RETURN = r"""
chardev:
  description:
    - The character device as far as QEMU tells it, empty when it is absent.
    - Of a pseudo-terminal C(path) is the path, of a socket with port 0 C(port) the port it got.
  returned: success, when the task names a character device
  type: dict
device:
  description: The device as QEMU tells it, empty when it is absent.
  returned: success
  type: dict
  sample:
    id: agent
    driver: virtserialport
    bus: vs0.0
    options:
      name: org.qemu.guest_agent.0
      chardev: agent-chardev
pending:
  description: The guest has not given the device back yet. Run the task again to finish the removal.
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

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.serial_port import SERIAL_PORT, serial_port
from ansible_collections.vmm.qemu.plugins.module_utils._resource import composite

MODULE = composite(SERIAL_PORT, serial_port)
main = MODULE.main

if __name__ == "__main__":
    main()
