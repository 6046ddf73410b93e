# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event source for rulebooks: what QEMU tells of many virtual machines."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

DOCUMENTATION = r"""
---
short_description: Events of many QEMU virtual machines
description:
  - Sends the events of QEMU's monitors (C(SHUTDOWN), C(BLOCK_WRITE_THRESHOLD), C(BLOCK_JOB_COMPLETED), and all others), and three of its own.
  - C(connected) is the first of each virtual machine, and comes again when it was out of sight. Its C(data) has the run state as C(status),
    the C(version) of QEMU, and the C(name) that QEMU has been given.
  - C(gone) is told when QEMU has ended. Its C(data) has a C(reason), QEMU's own (C(guest-shutdown), C(host-qmp-quit), C(host-signal),
    C(guest-panic) for example), or C(crash), or C(unknown) where its end was not seen. C(crashed) is true, false or null accordingly.
  - C(unreachable) is told once, when a monitor does not answer, or is another client's. C(data.reason) is a sentence.
  - An event is C(vm), C(socket), C(event), C(data) and C(timestamp) (seconds since 1970, or null).
  - Each virtual machine needs a monitor for this source alone, as QEMU serves one client at a time.
options:
  sockets:
    description:
      - The monitors. Paths may have wildcards, which stand for the sockets that are there, and are looked up every O(rescan) seconds.
      - Without a wildcard it is one of C(/path), C(unix:/path), C(unix:@name), C(HOST:PORT), C(tcp:HOST:PORT) and C(tcp:[v6]:PORT).
    type: list
    elements: str
    default: [/var/lib/vmm-qemu/*/run/events]
  vms:
    description:
      - The names of the virtual machines that count, with wildcards. All, if not set.
      - The name is from the monitor's path, V(web1) for C(/var/lib/vmm-qemu/web1/run/events) and for C(/run/vms/web1.sock). What QEMU
        calls itself does not count, so that none can take the name of another.
    type: list
    elements: str
    default: []
  events:
    description: The events that are sent, the source's own ones among them. All, if not set.
    type: list
    elements: str
    default: []
  connect_timeout:
    description: Seconds that a monitor has to answer when it is connected to.
    type: float
    default: 10
  rescan:
    description: Seconds between two looks for new sockets.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Virtual machines of this host
  hosts: all
  sources:
    - name: What happens to them
      vmm.qemu.qmp_events:
        vms: [web*, db1]
        events: [gone, unreachable, BLOCK_IO_ERROR]
      filters:
        - eda.builtin.insert_hosts_to_meta: # a playbook runs for the virtual machine that it is about
            host_path: vm
  rules:
    - name: One has crashed
      condition: event.event == "gone" and event.data.crashed == true
      action:
        run_playbook:
          name: vmm.qemu.fleet
"""

# ansible-rulebook runs this file alone, so that nothing of the collection can be imported before its root is known
sys.path.append(os.path.abspath(__file__).rpartition("/ansible_collections/")[0])

from ansible_collections.vmm.qemu.plugins.plugin_utils._events_source import Source, read_options


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Put events into ``queue`` until cancelled. Raise ValueError for arguments that are not valid."""
    await Source(read_options(args), queue.put).run()


if __name__ == "__main__":

    class Printed:
        """A queue that shows what is put into it."""

        async def put(self, event: Any) -> None:
            """Print an event."""
            print(event)

    asyncio.run(main(Printed(), {"sockets": sys.argv[1:]} if sys.argv[1:] else {}))  # type: ignore[arg-type]  # put() is all it needs
