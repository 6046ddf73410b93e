# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches a guest's agent. Private to the collection: may change without notice."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of the modules that speak to the guest's agent."""

    DOCUMENTATION = r"""
options:
  socket:
    description:
      - The socket of the guest's agent, as seen from the managed host. It is not the monitor's.
      - The role P(vmm.qemu.vm#role) makes it as C(run/agent) in the virtual machine's directory.
      - One of C(/path), C(unix:/path), C(unix:@name) (abstract), C(HOST:PORT), C(tcp:HOST:PORT) and C(tcp:[v6]:PORT).
      - The agent serves one client at a time.
      - A task that does not set it gets that of C(module_defaults) for the group, which is a monitor's, and says so.
    type: str
    required: true
  connect_timeout:
    description:
      - Seconds until the agent answers. One that is still to be started is waited for, and so is another client's end.
    type: float
    default: 10.0
  timeout:
    description: Seconds for all of the task's work.
    type: float
    default: 60.0
  tls:
    description: TLS for a socket on TCP, whose QEMU side is a C(tls-creds-x509) object.
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
  - In the guest the agent, C(qemu-ga) 5.2 or later, from the package C(qemu-guest-agent), on Linux
notes:
  - The module runs where the agent's socket is. It needs nothing there but Python. No monitor is used.
  - Some distributions ship the agent with commands blocked. The message then says which, and where the guest allows them.
seealso:
  - ref: ansible_collections.vmm.qemu.docsite.guests
    description: Guests from within.
"""
