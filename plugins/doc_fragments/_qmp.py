# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches the monitor. Private to the collection: may change without notice."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of every module that speaks QMP, and those of every resource."""

    DOCUMENTATION = r"""
options:
  socket:
    description:
      - The QMP monitor of the virtual machine, as seen from the managed host.
      - One of C(/path), C(unix:/path), C(unix:@name) (abstract), C(HOST:PORT), C(tcp:HOST:PORT) and C(tcp:[v6]:PORT).
      - QEMU serves one client for each monitor at a time. Give the virtual machine a monitor of its own for Ansible.
      - If not set, the value of the environment variable E(QEMU_QMP_SOCKET) is used.
    type: str
    required: true
  connect_timeout:
    description:
      - Seconds for connecting, QEMU's greeting, and the negotiation of capabilities.
      - A monitor that another client holds is reported as such, with the process that holds it where the system tells.
    type: float
    default: 10.0
  timeout:
    description: Seconds for all of the task's work, waits for the guest included.
    type: float
    default: 60.0
  tls:
    description: TLS for a monitor on TCP, whose QEMU side is a C(tls-creds-x509) object.
    type: dict
    suboptions:
      ca_path:
        description: The authority's certificate that the server is checked against.
        type: path
      cert_path:
        description: The client's certificate.
        type: path
      key_path:
        description: The client certificate's key.
        type: path
      server_name:
        description: The name to check the server's certificate for, when it is not the host in O(socket).
        type: str
requirements:
  - Python 3.8 or later
  - QEMU 5.2 or later
notes:
  - The module runs where the monitor's socket is. It needs nothing there but Python.
"""

    # of modules that take many at once; to be named before the fragment above, in whose socket this one's line is put
    MACHINES = r"""
options:
  machines:
    description:
      - Many virtual machines in one task. The keys are names for them, for messages and results. The values are dictionaries of
        this module's own options, or empty.
      - Options outside of O(machines) hold for each entry that does not set them itself. Only O(socket) must be in each entry, and
        one outside (for example from C(module_defaults) or the environment) is not used. No two entries may have the same
        O(socket). Without O(machines), O(socket) is required.
      - What is wrong with the options of any of them is an error before anything is done to one.
      - Eight at a time are worked on side by side, each with its own plan and undo. O(timeout) is that of each one, so that all
        of them together may take longer.
      - When some fail, the others are finished all the same. Then the task fails, with the names of the first few in RV(msg) and
        all of them in RV(machines).
    type: dict
    version_added: 0.4.0
  socket:
    required: false
"""

    # of modules some of whose states need no virtual machine; to be named before the fragment above
    STATES = r"""
options:
  socket:
    required: false
"""

    # of modules that need no virtual machine
    UNUSED = r"""
options:
  socket:
    description: Not used.
    type: str
  connect_timeout:
    description: Not used.
    type: float
    default: 10.0
  tls:
    description: Not used.
    type: dict
notes:
  - O(socket), O(connect_timeout) and O(tls) are accepted and not used, so that C(module_defaults) of the action group can cover
    this module, too.
"""

    RESOURCE = r"""
options:
  state:
    description: Whether it shall be there.
    type: str
    choices: [present, absent]
    default: present
  recreate:
    description:
      - Allow to remove and add again what differs in a property that QEMU can't change while it is there.
      - Without it such a difference is an error that names the property, its current and its wanted value.
      - What the task does not name stays as it was, as far as QEMU tells what it was.
      - Nothing is ever recreated silently.
    type: bool
    default: false
"""
