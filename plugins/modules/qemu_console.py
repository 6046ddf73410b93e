#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: wait for what a guest's console shows, and type."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_console
short_description: Wait for what a guest shows on its console, and type answers
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Waits for lines on a guest's serial line or text screen, and answers them on the line or by keys. The guest needs no agent and no
    network, nor an operating system, so that firmware, boot loaders, installers and kernels can be spoken to.
  - First O(keys) are pressed and O(text) is typed, then each of O(expect) is waited for and answered, and at last the console shall be
    O(stable).
  - While it waits, the last line of the guest is shown (where the task runs on the controller).
  - When O(timeout) is over the task fails, and says what was waited for and the last lines.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.states
  - vmm.qemu._qmp
attributes:
  check_mode:
    details:
      - In check mode nothing is typed and nothing waited for. RV(matched) has what shows already. A virtual machine that is not there
        is no error then.
      - RV(commands) has the answers to all of O(expect), also those that are O(expect[].optional).
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - What is typed changes something, every time. With O(unless) nothing is typed where the guest shows what that leads to.
      - A task that only waits changes nothing.
options:
  socket:
    description:
      - Needed to read the screen and to press keys.
      - With O(from=log) a monitor, where one is given and free, tells when the virtual machine ends, so that nothing is waited for then.
      - While the task waits, nobody else can use that monitor.
  from:
    description:
      - Where to read what the guest shows.
      - V(log) is the file that QEMU writes a serial line to (C(logfile) of the character device). Others can use the line meanwhile.
        What is typed is typed on the keyboard.
      - V(serial) is the socket of a serial line, which QEMU serves to one client at a time. What was printed before the task is not seen.
        O(text) and O(expect[].answer) are typed on the line.
      - V(screen) is the text screen of a PC's graphics card, read from the guest's memory. A guest that shows pictures has no such text.
    type: str
    required: true
    choices: [log, serial, screen]
  path:
    description:
      - The log, an absolute path. It may come to be while the task waits, and be cut or replaced. A symbolic link is not followed.
      - The serial line's socket, in one of the forms of O(socket).
      - Required with O(from=log) and O(from=serial).
    type: path
  offset:
    description:
      - The byte of the log at which to begin, such as RV(offset) of an earlier task.
      - A log that is shorter is read from its beginning.
    type: int
    default: 0
  expect:
    description:
      - What the guest shall show, one after the other, and what is typed when it does.
      - Each line is looked at by itself, without colours and the like. A line that has no end yet, such as a prompt, is one too.
      - On a line or log each is looked for behind the one before. A screen is looked at as a whole each time.
    type: list
    elements: dict
    suboptions:
      text:
        description: A part of a line. Exactly one of O(expect[].text) and O(expect[].regex) is needed.
        type: str
      regex:
        description:
          - A regular expression of Python's, to be found in a line.
          - At the end of a line that is still being printed it counts when nothing more has come for a moment.
        type: str
      answer:
        description: What is typed then. Enter follows. May be empty.
        type: str
      keys:
        description: Keys that are pressed then, before O(expect[].answer) is typed, as in O(keys).
        type: list
        elements: str
      secret:
        description: Whether the answer is hidden everywhere, also in what the guest prints.
        type: bool
        default: false
      timeout:
        description: Seconds for this one, within O(timeout).
        type: float
      optional:
        description: Whether the next one may come without this one. The first that comes counts.
        type: bool
        default: false
  fail_on:
    description: Regular expressions. When one shows while something else is waited for, the task fails at once.
    type: list
    elements: str
  keys:
    description:
      - Keys that are pressed at the start, by QEMU's names. Such as V(esc), V(f12), V(ret) or, together, V(ctrl-alt-delete).
      - They need a keyboard in the virtual machine, as every PC has. QEMU does not tell whether the guest reads the keys.
    type: list
    elements: str
  text:
    description:
      - What is typed at the start, as it is. A newline is Enter.
      - On a keyboard it is typed as an American one has it.
    type: str
  pace:
    description: Seconds from one key to the next, for guests that lose keys.
    type: float
    default: 0.1
  stable:
    description: Seconds for which the console shall not change at the end.
    type: float
  unless:
    description:
      - A regular expression. Where it shows when the task begins, nothing is done.
      - Not with O(from=serial), which does not tell what it has shown.
    type: str
notes:
  - Whoever rules the guest decides what it prints.
seealso:
  - module: vmm.qemu.qemu_wait
  - module: vmm.qemu.qemu_screendump
  - module: vmm.qemu.qemu_guest_exec
  - ref: ansible_collections.vmm.qemu.docsite.consoles
    description: Guide to consoles and unattended boots.
"""

EXAMPLES = r"""
- name: The kernel boots
  vmm.qemu.qemu_console:
    from: log
    path: /run/vm1.log
    expect: [{text: "login:"}]
    fail_on: [Kernel panic, "Oops:"]

- name: Log in on the serial line, and turn it off
  vmm.qemu.qemu_console:
    from: serial
    path: /run/vm1.serial
    text: "\n"
    expect:
      - text: "login:"
        answer: root
      - text: "Password:"
        answer: "{{ password }}"
        secret: true
      - regex: "[#$] $"
        answer: poweroff

- name: Boot from the network this time
  vmm.qemu.qemu_console:
    socket: /run/vm1.qmp
    from: screen
    expect:
      - text: Press ESC for boot menu
        keys: [esc]
      - text: "Select boot device:"
        keys: ["2"]
"""

RETURN = r"""
seen:
  description:
    - The last lines that the guest has shown, 64 KiB at most, without empty ones, colours and whatever else a terminal would act on.
    - Of a screen its lines. Where the guest scrolls within the card's memory, as Linux does, older lines too, in the memory's order.
  returned: always
  type: list
  elements: str
  sample: ["Debian GNU/Linux 12 vm1 ttyS0", "vm1 login: "]
matched:
  description: What of O(expect) has come, in its order.
  returned: always
  type: list
  elements: dict
  contains:
    entry:
      description: Its place in O(expect), from 0.
      type: int
    match:
      description: What matched.
      type: str
    groups:
      description: The groups of the regular expression.
      type: list
      elements: str
    groupdict:
      description: Its named groups.
      type: dict
offset:
  description: Where to go on reading the log, behind the line that matched last.
  returned: with O(from=log)
  type: int
  sample: 30211
commands:
  description: What was typed, or in check mode would be if all comes as expected. A secret answer is one entry.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: send-key
      arguments: {keys: [{type: qcode, data: esc}], hold-time: 50}
    - {path: /run/vm1.serial, action: type, text: "root\r"}
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

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._operations.console import OPTIONS, run, secrets

MODULE = Module(
    OPTIONS,
    run,
    secrets=secrets,
    monitor=False,
    required_one_of=[("expect", "keys", "text", "stable")],
    required_if=[("from", "log", ["path"]), ("from", "serial", ["path"])],
)
main = MODULE.main

if __name__ == "__main__":
    main()
