#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: wait for a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_wait
short_description: Wait for an event, a run state or the guest agent of a QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Waits until a virtual machine sends an event, is in a run state, or its guest's agent answers.
  - What the module waits for is given by exactly one of O(event), O(status) and O(guest_agent).
  - A monitor, or a socket of the agent, that is not there yet is waited for, too.
  - At O(timeout) the task fails, and says what was seen meanwhile.
extends_documentation_fragment:
  - vmm.qemu._attributes.info
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  check_mode:
    details:
      - In check mode nothing is waited for, since the task that would cause it has not run either. A virtual machine that is not there is no error then.
options:
  event:
    description:
      - The names of events, one of which shall come. They count from the task's start.
      - An event that came before is gone. Ask for a state with O(status) where there is one.
    type: list
    elements: str
  data:
    description: "Only an event with these data counts, such as V({device: data})."
    type: dict
  status:
    description:
      - Run states, such as V(running), V(paused), V(shutdown), one of which shall be reached.
      - A state that the virtual machine is already in counts.
    type: list
    elements: str
  guest_agent:
    description:
      - The address of the guest agent's socket, in the forms of O(socket). The agent shall answer.
      - The monitor at O(socket) is not used then.
    type: str
seealso:
  - module: vmm.qemu.qemu_power
"""

EXAMPLES = r"""
- name: Until the guest has shut down by itself
  vmm.qemu.qemu_wait:
    socket: /run/vm1.qmp
    event: SHUTDOWN
    timeout: 600

- name: Until it runs
  vmm.qemu.qemu_wait:
    socket: /run/vm1.qmp
    status: [running]

- name: Until the guest's agent answers
  vmm.qemu.qemu_wait:
    socket: /run/vm1.qmp
    guest_agent: /run/vm1.qga
    timeout: 120
"""

RETURN = r"""
event:
  description: The event that came.
  returned: when an event was waited for
  type: dict
  sample:
    name: SHUTDOWN
    data:
      guest: true
      reason: guest-shutdown
    timestamp: 1763827200.25
status:
  description: The run state that was reached, or in check mode the current one.
  returned: when a run state was waited for
  type: str
  sample: running
commands:
  description: Always empty. Waiting changes nothing.
  returned: always
  type: list
  elements: dict
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._operations.wait import OPTIONS, run

MODULE = Module(
    OPTIONS,
    run,
    mutually_exclusive=[("event", "status", "guest_agent")],
    required_one_of=[("event", "status", "guest_agent")],
    required_by={"data": ["event"]},
)
main = MODULE.main

if __name__ == "__main__":
    main()
