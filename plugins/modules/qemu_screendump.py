#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: take a picture of a guest's screen."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_screendump
short_description: Take a picture of the screen of a QEMU virtual machine
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Writes what the guest's screen shows into a file (C(screendump)). The guest does not notice.
  - The picture is taken under the name C(PATH.part). If it is another than the one at O(path) it takes its place, else it
    is removed, and nothing has changed.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  check_mode:
    support: full
    details:
      - Whether the screen has changed can't be told without a picture. So RV(ignore:changed) is always V(true) in check mode.
  idempotent:
    support: partial
    details:
      - The picture is taken every time. RV(ignore:changed) tells whether the file at O(path) is another one than before.
      - Over a monitor on TCP nobody can look at the file, so that it always counts as changed.
options:
  path:
    description:
      - The file, on the virtual machine's host. An absolute path.
      - QEMU makes it, as the user it runs as. Its directory must be writable for QEMU and for the user that runs the task.
      - A picture that is there is replaced; anything else is refused.
      - Over a monitor on TCP, which may be another host's, QEMU writes straight to this path.
    type: path
    required: true
  format:
    description:
      - The format of the picture.
      - V(png) needs QEMU 7.1 or later. QEMU 5.2 writes V(ppm) only.
    type: str
    choices: [png, ppm]
    default: png
  device:
    description: The id of the graphics card whose screen is meant, if there are several.
    type: str
  head:
    description: Which of that card's screens, counted from 0. Needs O(device).
    type: int
seealso:
  - module: vmm.qemu.qemu_dump
  - module: vmm.qemu.qemu_info
"""

EXAMPLES = r"""
- name: What does it show?
  vmm.qemu.qemu_screendump:
    socket: /run/vm1.qmp
    path: /tmp/vm1.png

- name: The second screen of a card that has several
  vmm.qemu.qemu_screendump:
    socket: /run/vm1.qmp
    path: /tmp/vm1-right.png
    device: gpu0
    head: 1
"""

RETURN = r"""
path:
  description: The file with the picture.
  returned: success
  type: str
  sample: /tmp/vm1.png
sha256:
  description: The SHA-256 of the file.
  returned: success, not in check mode, not over TCP
  type: str
  sample: 9d9f290527a6be626a8f5985b26e19b237b44872b03631811df4416fc1713178
format:
  description: The format of the picture.
  returned: success
  type: str
  sample: png
commands:
  description:
    - The command that took the picture, or in check mode would, with the path that is written to at first.
    - It is there too when the picture turned out to be the same as before.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: screendump
      arguments: {filename: /tmp/vm1.png.part, format: png}
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
from ansible_collections.vmm.qemu.plugins.module_utils._operations.screendump import SCREENDUMP

MODULE = operation(SCREENDUMP)
main = MODULE.main

if __name__ == "__main__":
    main()
