#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: save a guest to a file, and go on with it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_save
short_description: Save a running guest to a file, and go on with it later
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Writes a guest's memory and the state of its devices to a file and ends QEMU, so that the guest goes on later where it was, as
    after a reboot of the host. To the guest that is a pause. Its disks stay where they are.
  - A guest is in its file or runs, and never both. QEMU is ended when the file is whole and on the disk. The file loses its name
    before the guest runs, so that it can't be loaded a second time, when its disks have gone on.
  - If saving fails, the guest goes on and no file is left. It is refused while a block job works on the disks (see
    M(vmm.qemu.qemu_block_job)).
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: full
options:
  path:
    description:
      - The file, on the virtual machine's host. An absolute path.
      - Only the user that runs the task can read it. QEMU is handed the open file, and need not have access to its directory.
      - It is written under the name C(PATH.part), and is called C(PATH.loaded) from when it is loaded to when its guest runs.
      - What is there and is not a saved guest is never replaced or removed. The directory must not be one in which other users can
        rename files.
    type: path
    required: true
  state:
    description:
      - V(saved) writes the guest to the file and ends QEMU. The file must not be there, unless the virtual machine is gone or waits
        for it. A guest that was paused is paused when it is loaded.
      - V(running) goes on with the guest, in a virtual machine that was started with C(-incoming defer) and otherwise as the one that
        was saved, with what had been plugged in. It is refused where the file is not whole, is of another virtual
        machine (by name, UUID, machine type and memory), or where one of the images that the guest writes to is another one, or has changed
        since. The file is kept then.
      - V(absent) discards a saved guest.
    type: str
    choices: [saved, running, absent]
    default: saved
  parallel:
    description:
      - In how many threads QEMU writes the memory, each page at a fixed place in the file (C(mapped-ram)), past the host's cache
        where the file system can do that. It is loaded in the same way.
      - The file is as large as the guest's memory, with holes where that is zero.
      - Needs QEMU 9.0 or later. Without it the memory is one stream, as large as what is not zero in it.
    type: int
notes:
  - Saving needs as much free space as the guest has memory.
  - When O(timeout) has passed, saving is cancelled and the guest goes on.
  - A task that is ended leaves QEMU writing, and the next run finishes what it has begun.
  - What QEMU can't migrate can't be saved either, such as a device of the host's. The task names it.
  - Works over a UNIX socket only, since an open file is handed over.
seealso:
  - module: vmm.qemu.qemu_vm
  - module: vmm.qemu.qemu_snapshot
  - module: vmm.qemu.qemu_migrate
  - ref: ansible_collections.vmm.qemu.docsite.saving
    description: Guide to saving guests, and to what can go wrong.
"""

EXAMPLES = r"""
- name: Save a guest before the host is repaired
  vmm.qemu.qemu_save:
    socket: /run/vm1.qmp
    path: /var/lib/saved/vm1
    timeout: 600

- name: Start its virtual machine, to wait for it
  vmm.qemu.qemu_instance:
    name: vm1
    socket: /run/vm1.qmp
    arguments: "{{ vm1_arguments | combine({'S': false, 'incoming': 'defer'}) }}"

- name: Go on with it
  vmm.qemu.qemu_save:
    socket: /run/vm1.qmp
    path: /var/lib/saved/vm1
    state: running
    timeout: 600
"""

RETURN = r"""
save:
  description: The file.
  returned: success
  type: dict
  sample: {path: /var/lib/saved/vm1, size: 184029184, duration: 1.204}
  contains:
    path:
      description: Its name.
      type: str
    size:
      description: How many bytes it has or had. None where there is none, and in check mode.
      type: int
    duration:
      description: Seconds that it took to save or load the guest. None where nothing was done.
      type: float
commands:
  description:
    - What was sent to QEMU, and what was done to the file, in this order. In check mode what would be.
    - Handing over the file is left out.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: migrate
      arguments: {uri: 'file:/dev/fdset/1,offset=65536'}
    - path: /var/lib/saved/vm1
      action: mv
    - execute: quit
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

from ansible_collections.vmm.qemu.plugins.module_utils._migration.save import SAVE
from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation

MODULE = operation(SAVE)
main = MODULE.main

if __name__ == "__main__":
    main()
