#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the QEMU process of a virtual machine, started, stopped or restarted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_instance
short_description: Start, stop and restart the QEMU process of a virtual machine
version_added: 0.1.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Starts QEMU as a daemon, with the QMP monitor that the other modules use. A virtual machine that runs already is left alone.
  - Arguments that differ from those of the running process are reported as RV(restart_required), and never applied unless the
    task says V(restarted). How the guest began (C(-S), C(-incoming)) makes no difference.
  - A start is successful when QEMU is ready and its monitor answers. When it fails, the message has QEMU's own words, and neither
    a process nor its socket and pidfile stay behind.
  - The socket and pidfile that a killed process has left are removed. A socket at which something listens, a file that is
    not a socket or a pidfile, and a process that is not the QEMU of this name, are never touched.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - With O(state=restarted) every run restarts.
options:
  name:
    description:
      - The virtual machine's name (C(-name)). It is how the module tells this virtual machine from others.
      - A letter, digit or C(_), then also C(.), C(+), C(@), C(:), C(-) and spaces.
    type: str
    required: true
  socket:
    description:
      - Where QEMU makes its QMP monitor, and where it is looked for.
      - One of C(/path), C(unix:/path), C(unix:@name) (abstract), C(HOST:PORT), C(tcp:HOST:PORT) and C(tcp:[v6]:PORT).
      - A path may have 107 bytes. QEMU makes the socket accessible to the user that runs the task alone.
      - If not set, the value of the environment variable E(QEMU_QMP_SOCKET) is used.
    type: str
    required: true
  state:
    description:
      - V(started) starts it, unless it runs.
      - V(stopped) asks a running guest to shut down, as its power button does, gives it O(shutdown_timeout) for that, and then ends
        QEMU. A suspended guest is woken up first.
      - A guest that has been paused, by somebody or by QEMU after an I/O error, can't shut down. That is an error, unless
        O(shutdown_timeout=0) says that its power may be cut. Where there is no guest (it was never started, was migrated away, has shut
        down or has crashed), QEMU is ended at once.
      - V(restarted) is V(stopped), then V(started), with what O(arguments) say now. Always a change. It starts what is not running.
        If the start fails, it stays stopped.
    type: str
    choices: [started, stopped, restarted]
    default: started
  binary:
    description:
      - The QEMU to run, as a path or a name in the search path. A wrapper script is fine if it passes its arguments on and ends in
        C(exec).
      - If not set, the C(qemu-system-*) of the managed host's architecture, or else C(/usr/libexec/qemu-kvm).
    type: path
  arguments:
    description:
      - QEMU's options, all but those that this module makes from its own (C(-name), C(-pidfile), C(-daemonize), the monitor).
      - A list is passed on as it is, one element for each word of the command line. No shell is involved.
      - A dictionary has the options' names as keys. A value is V(true) or nothing for an option that stands alone, V(false) to leave
        it out, a string or number, a dictionary for what QEMU writes as C(key=value,key=value), or a list of these for an option
        that is given several times. In dictionaries commas are doubled as QEMU wants it, V(true) and V(false) become C(on) and
        C(off), and a dictionary in a dictionary is written with dots.
      - Write absolute paths, since QEMU runs in C(/).
      - Every user of the host can read a process's command line. Give secrets as C(secret) objects with a C(file).
    type: raw
  pidfile:
    description:
      - Where QEMU writes its process id.
      - If not set, it is O(socket) followed by C(.pid), or for a socket without a path V(/run/NAME.pid).
    type: path
  user:
    description:
      - The user that QEMU becomes once it has opened its files (C(-run-with user=), or C(-runas) where QEMU has only that). The task
        itself must run as root then.
      - Images that are hot-plugged later must be accessible to that user.
    type: str
  log:
    description:
      - A file for what QEMU writes to stderr (C(-D)), which a daemon's is otherwise lost after the start. It is begun anew with each start.
      - The guest's serial console is not part of this. It is an option of O(arguments).
      - QEMU opens it, like O(pidfile), as the user that runs the task. What is there must therefore be a regular file with one name.
    type: path
  events_socket:
    description:
      - Where QEMU makes a second QMP monitor, for one client that only watches, such as the event source C(vmm.qemu.qmp_events). QEMU serves
        one client at each monitor.
      - A virtual machine that runs without it gets it while it runs, if its QEMU is 11.1 or later and this is a path. Otherwise it
        gets it at its next start, and RV(restart_required) stays false.
      - Otherwise as O(socket).
    type: str
    version_added: 0.4.0
  shutdown_timeout:
    description:
      - Seconds that the guest has for its shutdown, before QEMU is ended all the same. Must be less than O(timeout).
      - V(0) ends QEMU at once, which to the guest is a power failure.
      - If not set, 30 seconds, or half of O(timeout) if that is less.
    type: float
notes:
  - Of the environment of the task QEMU gets C(PATH), C(HOME), C(LANG), C(LC_ALL), C(TZ), C(TMPDIR), C(LD_LIBRARY_PATH),
    C(QEMU_MODULE_DIR), for a display C(XDG_RUNTIME_DIR), C(DISPLAY), C(WAYLAND_DISPLAY) and C(XAUTHORITY), and nothing else. A wrapper
    script can set more.
  - Symbolic links on the way to O(pidfile) and O(log) count only if root made them, or the user that runs the task.
  - O(tls) can't be used for a start, since the monitor that the module makes is a plain one.
  - Which QEMU a wrapper script runs can't be told, so that only a O(binary) that is QEMU itself counts for RV(restart_required).
seealso:
  - module: vmm.qemu.qemu_power
  - module: vmm.qemu.qemu_info
"""

EXAMPLES = r"""
- name: A virtual machine that waits for its disks
  vmm.qemu.qemu_instance:
    name: vm1
    socket: /run/vm1.qmp
    arguments:
      machine: {type: q35, accel: kvm}
      cpu: host
      smp: 2
      m: 2G
      nodefaults: true
      display: none
      device:
        - {driver: pcie-root-port, id: rp0, chassis: 1, slot: 1}
        - {driver: pcie-root-port, id: rp1, chassis: 2, slot: 2}
      serial: file:/var/log/vm1-console.log
    log: /var/log/vm1-qemu.log

- name: The same as words of a command line, as another user
  vmm.qemu.qemu_instance:
    name: vm2
    socket: /run/vm2.qmp
    binary: /usr/bin/qemu-system-x86_64
    user: nobody
    arguments: [-machine, q35, -m, 1G, -display, none]
  register: vm2

- name: Restart it if its arguments have changed
  vmm.qemu.qemu_instance:
    name: vm2
    socket: /run/vm2.qmp
    binary: /usr/bin/qemu-system-x86_64
    user: nobody
    arguments: [-machine, q35, -m, 1G, -display, none]
    state: restarted
  when: vm2.restart_required

- name: Shut it down
  vmm.qemu.qemu_instance:
    name: vm1
    socket: /run/vm1.qmp
    state: stopped
    shutdown_timeout: 120
    timeout: 300
"""

RETURN = r"""
instance:
  description: The process after the task, or in check mode as far as it can be foretold.
  returned: success
  type: dict
  contains:
    name:
      description: The virtual machine's name.
      type: str
    state:
      description: V(started) or V(stopped).
      type: str
    status:
      description: QEMU's run state, such as V(running). Null when it is stopped.
      type: str
    pid:
      description: The process id. Null when it is stopped, or can't be told.
      type: int
    socket:
      description: The monitor.
      type: str
    pidfile:
      description: The file with the process id.
      type: str
    command_line:
      description: The process's command line, with secrets redacted. Empty when it is stopped.
      type: list
      elements: str
    restart_required:
      description: As RV(restart_required).
      type: bool
restart_required:
  description: Whether the process runs with other arguments than the task names.
  returned: success
  type: bool
pid:
  description: The process id. Null when it is stopped, or can't be told.
  returned: success
  type: int
  sample: 4711
command_line:
  description:
    - The command line that the task stands for, whether or not it had to be run. Secrets are redacted.
    - Empty with O(state=stopped).
  returned: success
  type: list
  elements: str
  sample: [/usr/bin/qemu-system-x86_64, -name, vm1, -display, none, -daemonize]
commands:
  description:
    - The commands that ended the virtual machine, or in check mode those that would.
    - Both are listed where the guest was asked to shut down. The second was needed only if it did not.
  returned: always
  type: list
  elements: dict
  sample:
    - execute: system_powerdown
      arguments: {}
    - execute: quit
      arguments: {}
"""

from ansible_collections.vmm.qemu.plugins.module_utils._host.command_line import secrets
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._provision.instance import OPTIONS, run

MODULE = Module(OPTIONS, run, secrets=lambda params: list(secrets(params.get("arguments"))))
main = MODULE.main

if __name__ == "__main__":
    main()
