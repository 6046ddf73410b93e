#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: pause, continue, reset, shut down and turn off QEMU virtual machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_power
short_description: Pause, continue, reset, shut down and turn off a QEMU virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Changes the run state of a virtual machine over QMP, and waits until it has changed.
  - To start one that is gone, use M(vmm.qemu.qemu_instance).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.machines
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - O(state=reset) resets every time. Every other state is reached once.
      - With O(wait=false) a shutdown that is still under way is asked for again.
options:
  state:
    description:
      - V(running) lets the guest run (C(cont)), or wakes it up when it is suspended.
      - V(paused) stops it where it is (C(stop)). Every status in which the guest does not run is good enough.
      - V(shutdown) presses the power button (C(system_powerdown)) and waits for the guest to shut down. The button is
        pressed again every few seconds, since a guest that boots does not notice. A guest that is paused could not
        answer, so that is an error unless O(force_after) is set.
      - V(reset) presses the reset button (C(system_reset)). A guest that was not running stays stopped.
      - V(off) ends QEMU (C(quit)), whatever the guest does, and waits until its process is gone.
      - A virtual machine that is gone already is fine for V(shutdown) and V(off), and an error for all others. Gone means
        that the socket does not exist or that nobody listens there. A monitor that does not answer is always an error, and so is one
        whose socket's file was deleted while its process lives.
      - With C(-no-shutdown), a shutdown ends in the status C(shutdown), with QEMU still there.
      - Required, be it here or in each of O(machines).
    type: str
    choices: [running, paused, shutdown, reset, 'off']
  wait:
    description:
      - Whether to wait until the state is reached.
      - If V(false), the command is sent and the module returns when QEMU has taken it.
    type: bool
    default: true
  force_after:
    description:
      - Seconds after which a guest that has not answered O(state=shutdown) is turned off. Must be less than O(timeout).
      - RV(commands) lists both commands then, in check mode too, since nobody can tell what the guest will do.
        RV(forced) tells whether the second one was needed.
      - It means nothing for other states.
    type: float
  force:
    description:
      - Allow what may do harm or takes another step.
      - O(state=running) and O(state=reset) for a virtual machine that has been migrated away (status C(postmigrate)). It
        may be running at its destination, and two of them destroy their disks.
      - O(state=running) after a shutdown with C(-no-shutdown) or an internal error. It is reset first.
    type: bool
    default: false
  only_if_status:
    description:
      - Run states, as C(query-status) names them. In every other one the task fails and does nothing, unless O(state) is reached already.
      - The run state is asked for right before the command is sent. So V(inmigrate) with O(state=off) ends a destination only
        if its guest has not arrived.
      - A virtual machine that is gone is fine for O(state=off) as ever.
    type: list
    elements: str
    version_added: 0.4.0
seealso:
  - module: vmm.qemu.qemu_instance
"""

EXAMPLES = r"""
- name: Let it run
  vmm.qemu.qemu_power:
    socket: /run/vm1.qmp
    state: running

- name: Shut it down, and after two minutes turn it off
  vmm.qemu.qemu_power:
    socket: /run/vm1.qmp
    state: shutdown
    timeout: 150
    force_after: 120

- name: Shut all down but the gateway, which goes on
  vmm.qemu.qemu_power:
    state: shutdown
    timeout: 150
    force_after: 120
    machines:
      gate: {socket: /run/gate.qmp, state: running}
      web1: {socket: /run/web1.qmp}
      web2: {socket: /run/web2.qmp}

- name: End a destination that waits for its guest, and none that has it
  vmm.qemu.qemu_power:
    socket: /run/vm1-new.qmp
    state: 'off'
    only_if_status: [inmigrate]

- name: Pull the plug
  vmm.qemu.qemu_power:
    socket: /run/vm1.qmp
    state: 'off'
"""

RETURN = r"""
status:
  description:
    - The run state before and after, as C(query-status) names it, or V(off) for a virtual machine that is gone.
    - In check mode C(after) is the state that would be aimed at. After a failure it is missing.
  returned: when the virtual machine was reached, or is gone
  type: dict
  sample: {before: running, after: 'off'}
  contains:
    before:
      description: The state that was found.
      type: str
    after:
      description: The state in the end.
      type: str
forced:
  description: Whether the guest did not answer within O(force_after), and was turned off.
  returned: when a virtual machine was shut down or turned off, not in check mode
  type: bool
machines:
  description:
    - What came of each of O(machines), by its name, with the keys that the result of a task for it alone has.
    - One that failed has C(failed) and C(msg).
    - Beside it the task's own result has only C(changed), RV(msg), the warnings and the diff.
  returned: with O(machines), unless their options are wrong
  type: dict
  sample:
    web1: {changed: true, commands: [{execute: system_powerdown, arguments: {}}], status: {before: running, after: 'off'}}
    web2: {changed: false, commands: [], failed: true, msg: '/run/web2.qmp: Permission denied; ...'}
msg:
  description: What failed. With O(machines), how many of them changed, and which failed and why.
  returned: when something failed, and with O(machines)
  type: str
  sample: 1 changed, 1 unchanged
commands:
  description:
    - The commands that changed the virtual machine, or in check mode those that would.
    - After a failure those that were sent. None of them can be taken back.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: system_powerdown
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

from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation
from ansible_collections.vmm.qemu.plugins.module_utils._operations.power import POWER

MODULE = operation(POWER, many=True)
main = MODULE.main

if __name__ == "__main__":
    main()
