#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: dump a guest's memory into a file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_dump
short_description: Dump the memory of a QEMU virtual machine into a file
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Writes the guest's memory into a file for C(crash), C(gdb) and the like (C(dump-guest-memory)), and waits until it is whole.
  - QEMU stops the guest as long as it writes, and lets it go on by itself. A guest that was stopped stays so.
  - The dump is written under the name C(PATH.part), and gets its own when it is complete. So what is at O(path) is
    always a whole dump, and a failed one destroys nothing.
  - A task that is ended, or runs out of time, leaves the dump going. The next run joins it.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - A file that is there is left alone, unless O(force) is set, which makes a new dump every time.
      - Over a monitor on TCP nobody can look for the file, so that a dump is made every time.
options:
  path:
    description:
      - The file, on the virtual machine's host. An absolute path.
      - QEMU makes it, as the user it runs as, and only that user may read it.
      - Its directory must be writable for QEMU and for the user that runs the task.
      - A dump in the format V(elf) is as large as the guest's memory.
      - Over a monitor on TCP, which may be another host's, QEMU writes straight to this path, whatever is there.
    type: path
    required: true
  format:
    description:
      - V(elf), V(kdump-zlib), V(kdump-lzo), V(kdump-snappy), V(kdump-raw-zlib), V(kdump-raw-lzo), V(kdump-raw-snappy)
        or V(win-dmp), of which every QEMU has only some. For others the task fails and names what there is.
      - V(win-dmp) needs a Windows guest with a driver for the C(vmcoreinfo) device.
    type: str
    default: elf
  paging:
    description:
      - Whether the guest's virtual addresses are in the dump, too, for C(gdb).
      - Only with O(format=elf). A guest that has damaged its page tables may make it very large.
    type: bool
    default: false
  begin:
    description:
      - The physical address that the dump starts with, in bytes or as C(1G).
      - Only with O(format=elf), and together with O(length).
    type: str
  length:
    description: How much memory is dumped from O(begin) on, in bytes or as C(16M).
    type: str
  force:
    description:
      - Replace a dump that is there by a new one, when that is complete. A file that is not a dump is never replaced.
      - Without it such a file is fine as it is, and a warning says so.
    type: bool
    default: false
notes:
  - QEMU can't cancel a dump. When O(timeout) has passed the task fails with how far the dump is, and the dump goes on.
  - Of a dump that is under way QEMU does not tell the path. It is joined when C(PATH.part) is the file that is being
    written. Any other is an error, since QEMU makes one dump at a time.
  - When an earlier run's dump was completed after that run had ended, it gets its name now, with a warning.
seealso:
  - module: vmm.qemu.qemu_screendump
  - module: vmm.qemu.qemu_snapshot
"""

EXAMPLES = r"""
- name: Dump the memory of a guest that hangs
  vmm.qemu.qemu_dump:
    socket: /run/vm1.qmp
    path: /var/crash/vm1.elf
    timeout: 600

- name: A smaller one, in place of an older one
  vmm.qemu.qemu_dump:
    socket: /run/vm1.qmp
    path: /var/crash/vm1.kdump
    format: kdump-zlib
    force: true
    timeout: 600

- name: The first 16 MiB
  vmm.qemu.qemu_dump:
    socket: /run/vm1.qmp
    path: /var/crash/vm1-low.elf
    begin: 0
    length: 16M
"""

RETURN = r"""
dump:
  description:
    - The dump. After a failure on the way, how far it was.
    - In check mode only C(path) and C(format). C(path) and C(size) for a file that was there and stays.
  returned: when the virtual machine was reached
  type: dict
  sample: {path: /var/crash/vm1.elf, format: elf, status: completed, total: 268697600, completed: 268697600, size: 268698595}
  contains:
    path:
      description: The file.
      type: str
    format:
      description: What was asked for.
      type: str
    status:
      description: As C(query-dump) has it, V(completed) when all went well.
      type: str
    total:
      description: Bytes of memory to dump.
      type: int
    completed:
      description: Bytes of memory that were dumped.
      type: int
    size:
      description: Bytes that the file has. Not over TCP.
      type: int
commands:
  description:
    - The command that began the dump, or in check mode would. It has the path that is written to at first.
    - Empty when there was nothing to do, and when a dump was joined.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: dump-guest-memory
      arguments: {paging: false, protocol: 'file:/var/crash/vm1.elf.part', detach: true, format: elf}
error:
  description: QEMU's own refusal.
  returned: when QEMU refused a command, or the dump failed
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
from ansible_collections.vmm.qemu.plugins.module_utils._operations.dump import DUMP

MODULE = operation(DUMP)
main = MODULE.main

if __name__ == "__main__":
    main()
