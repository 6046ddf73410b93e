#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: run a program in a guest by its agent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_guest_exec
short_description: Run a program in a guest, without network or SSH
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Runs a program in a running guest by its agent, as the agent's user, which is root, and returns what it printed.
  - The guest needs neither a network nor Python.
  - The task fails when the program does not end with status 0, as with M(ansible.builtin.command), and when it printed more than the
    agent keeps, 16 MiB of each stream, so that the rest is lost.
  - A program whose end is not known by O(timeout) fails the task with RV(outcome_unknown). It is neither ended nor run again.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._guest
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the guest.
    details:
      - In check mode the guest is only asked for O(creates) and O(removes), which its shell looks for.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - With O(creates) or O(removes).
options:
  argv:
    description:
      - The program and its arguments. No shell is involved. A name without a slash is looked for in the agent's C(PATH).
      - Exactly one of O(argv) and O(cmd) is needed.
    type: list
    elements: str
  cmd:
    description: A line for the guest's C(/bin/sh).
    type: str
  chdir:
    description: The directory to run it in, which is C(/) otherwise.
    type: str
  creates:
    description: A path or a shell's pattern. Where there is such a thing in the guest, the program is not run. Relative to O(chdir).
    type: str
  removes:
    description: A path or a shell's pattern. Where there is no such thing in the guest, the program is not run. Relative to O(chdir).
    type: str
  stdin:
    description:
      - What the program reads, 40 MiB at most. It is never shown.
      - Without it the program reads nothing. There is no terminal.
    type: str
  stdin_add_newline:
    description: Whether O(stdin) ends with a newline, which is added where there is none.
    type: bool
    default: true
  environment:
    description:
      - Variables for the program. Their values are never shown.
      - They come on top of the agent's own, which are few, and of C(HOME).
    type: dict
  secrets:
    description:
      - Words that are hidden in everything that is shown of the task, be it O(argv) or what the program prints.
      - While a program runs, everybody in the guest can read its arguments. Give a secret by O(stdin) or O(environment) where it can be.
    type: list
    elements: str
notes:
  - What a program has started, and keeps its output open, keeps the task waiting. Redirect the output of what shall stay, as in
    C(server >/dev/null 2>&1 &).
  - Where SELinux confines the agent (C(virt_qemu_ga_t)), it confines the program.
seealso:
  - module: vmm.qemu.qemu_guest_info
  - module: ansible.builtin.command
"""

EXAMPLES = r"""
- name: Let cloud-init finish
  vmm.qemu.qemu_guest_exec:
    socket: /run/vm1.agent
    argv: [cloud-init, status, --wait]
    timeout: 600
  changed_when: false

- name: A user's password
  vmm.qemu.qemu_guest_exec:
    socket: /run/vm1.agent
    argv: [chpasswd]
    stdin: "ada:{{ password }}"

- name: A file system on the new disk, once
  vmm.qemu.qemu_guest_exec:
    socket: /run/vm1.agent
    cmd: mkfs.ext4 -q /dev/vdb && mkdir /data && mount /dev/vdb /data
    creates: /data/lost+found
"""

RETURN = r"""
rc:
  description:
    - The program's exit status, below zero for the signal that ended it.
    - V(0) where it was not run for O(creates) or O(removes). Null in check mode.
  returned: when the program ended, or was not run
  type: int
  sample: 0
signal:
  description: The signal that ended the program.
  returned: when one did
  type: int
  sample: 9
stdout:
  description: What it printed. What is not UTF-8 is replaced.
  returned: when the program ended, or was not run
  type: str
stdout_lines:
  description: The lines of RV(stdout).
  returned: when the program ended, or was not run
  type: list
  elements: str
stderr:
  description: What it printed on the standard error.
  returned: when the program ended, or was not run
  type: str
stderr_lines:
  description: The lines of RV(stderr).
  returned: when the program ended, or was not run
  type: list
  elements: str
truncated:
  description: That more was printed than the agent keeps.
  returned: when it was
  type: bool
outcome_unknown:
  description: That the program was or may have been started, and its end is not known.
  returned: when that is so
  type: bool
pid:
  description: The program's process in the guest.
  returned: when its end is not known, and the agent told
  type: int
commands:
  description: What the agent was told, or in check mode would be. What was only looked at is not listed.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: guest-exec
      arguments: {path: cloud-init, arg: [status, --wait], capture-output: true}
      socket: /run/vm1.agent
"""

from ansible_collections.vmm.qemu.plugins.module_utils._core.secrets import quoted_forms
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._operations.guest_exec import OPTIONS, run

MODULE = Module(
    OPTIONS,
    run,
    monitor=False,
    agent=True,
    secrets=lambda params: list(quoted_forms(params.get("secrets"))),
    mutually_exclusive=[("argv", "cmd")],
    required_one_of=[("argv", "cmd")],
)
main = MODULE.main

if __name__ == "__main__":
    main()
