#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: migrate a running QEMU virtual machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_migrate
short_description: Migrate a running QEMU virtual machine to another QEMU
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Migrates a running guest over QMP, and waits until it has arrived. It is run on the source.
  - The destination is a QEMU with the same devices, started with C(-incoming defer), that M(vmm.qemu.qemu_migrate_incoming) has
    made listen.
  - The capabilities C(events) and, where the address can carry it, C(return-path) are on unless O(capabilities) says otherwise.
    With a return path the source knows whether the destination could load the guest.
  - A migration that is under way already is joined, and those of O(parameters) that can still be set are set. If it has completed
    already, nothing is done. QEMU does not tell where such a migration goes to, so the module takes it for one to O(uri), with a
    warning.
  - When it fails, the guest stays here, and runs if it ran before. A source whose migration has completed is never continued. Where the
    connection breaks when all has been sent, QEMU lets the guest go on here whatever the destination does; then RV(guest) and the message
    say what is known, and the guest is stopped here if O(destination_socket) says that it has arrived.
  - When a migration fails or is cancelled, the capabilities and parameters that were set for it are set back.
  - No migration begins while a block job works on the disks (see M(vmm.qemu.qemu_block_job)), unless it is to stay before its switchover
    (O(capabilities) C(pause-before-switchover) without O(wait)), where whoever runs the job has to end it.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp
options:
  uri:
    description:
      - Where to, as V(tcp:HOST:PORT), V(unix:/path), V(exec:COMMAND), V(file:/path) (QEMU 8.2 or later) or V(fd:NAME).
      - Required with O(state=migrated) and O(state=recovered).
      - A V(file:/path) with something in it is refused, unless an C(offset) says where to begin (V(file:/path,offset=1M)).
    type: str
  state:
    description:
      - V(migrated) migrates.
      - V(cancelled) stops a migration that is under way. The guest stays here. What is left of copies of its disks (O(copy_disks)) goes.
      - In its last phase (C(device), before QEMU 10.0 C(active) with the run state C(finish-migrate)) all of the guest may have been
        sent. It is stopped then only if the destination that O(destination_socket) names is receiving it and has no guest yet. That one
        is told not to run it any more.
      - V(paused) interrupts one that is in postcopy.
      - V(recovered) goes on with one that was interrupted in postcopy. With O(destination_socket) the destination listens again
        at O(uri) first.
    type: str
    choices: [migrated, cancelled, paused, recovered]
    default: migrated
  capabilities:
    description: Migration capabilities by name, also with underscores, each V(true) or V(false).
    type: dict
  parameters:
    description: Migration parameters by name, also with underscores. Numbers may be sizes such as V(1G).
    type: dict
  wait:
    description:
      - Whether to wait for the end.
      - If V(false), a migration with C(pause-before-switchover) stays there until the next run.
    type: bool
    default: true
  on_timeout:
    description:
      - What to do with a migration that is not over within O(timeout). The task fails in any case.
      - V(cancel) cancels it, as far as that can still be done, so that the guest stays here. If QEMU does not answer, as when the network
        has fallen silent, the connection is cut (C(yank), QEMU 6.0 or later).
      - V(leave) lets it go on. The next run joins it.
    type: str
    choices: [cancel, leave]
    default: cancel
  source_after:
    description:
      - What becomes of this QEMU when the guest has left. V(leave) leaves it there, stopped. V(quit) ends it.
      - It is ended only when O(destination_socket) or the return path proves that the guest has arrived.
    type: str
    choices: [leave, quit]
    default: leave
  destination_socket:
    description:
      - The destination's QMP monitor, as seen from the managed host, in the forms of O(socket).
      - It is looked at before (whether it waits for a guest), after (whether it has it), and where the migration fails or is to be cancelled
        in its last phase.
      - Only if the task has seen the destination wait before, a guest there is taken for this one, and a destination that is gone
        is taken for one without the guest.
      - With it, a source that is gone is fine when the guest is at the destination.
    type: str
  postcopy_after:
    description:
      - Seconds after which to switch to postcopy. The guest then runs at the destination, which fetches what it lacks.
      - Needs the capability C(postcopy-ram) on both sides, and O(wait).
    type: float
  copy_disks:
    description:
      - Copies disks that the destination does not have. The destination exports its own disks, of the same size, to which all that
        the guest has and writes is copied first. Then the guest migrates. When it stands still, the disks are brought up to date;
        only then it goes over.
      - Of an overlay and its backing files, the destination's disk gets the contents as the guest sees them (but see
        O(copy_disks.chain)). What is zero stays a hole where the destination's disk has C(discard=unmap).
      - When anything fails before the guest goes over, it goes on here with its disks, and nothing is left of the copies. The disks
        are never removed on either side.
      - A run that finds a migration under way ends the copies that an earlier run has begun, if they are as they should be, and else cancels
        the migration. It is for O(state=migrated), with O(wait), without O(postcopy_after), and with O(on_timeout=cancel).
      - The capability C(pause-before-switchover) is on for it. Needs QEMU 6.0 or later.
    version_added: 0.4.0
    type: dict
    suboptions:
      address:
        description: Where the destination exports its disks (NBD), as V(/path) or V(HOST:PORT).
        type: str
        required: true
      disks:
        description: The ids of the devices whose disks go along. If not set, all that the guest can write to.
        type: list
        elements: str
      tls_creds:
        description:
          - The id of the object with the TLS credentials of a client that the source has.
        type: str
      plain:
        description:
          - Set it to V(true) if nobody on the network between the two hosts could read or change the disks. Without it, an
            O(copy_disks.address) that is neither a UNIX socket nor this host needs O(copy_disks.tls_creds).
        type: bool
        default: false
      chain:
        description:
          - What is copied of a disk that is an overlay. V(flatten) is all that the guest sees. V(keep) is what is in the topmost image.
          - With V(keep) the backing files of the destination's image must have the same contents as those of the source's.
            You have to make sure of that, since QEMU does not check it, and with other images the guest's data would be ruined. The
            role C(vmm.qemu.migrate) proves it. An image of which the source's QEMU has another file open than is at its path is
            refused.
          - With V(keep) the destination's image must be empty, too. One that an earlier run has begun to fill may have what is not
            overwritten.
        type: str
        choices: [flatten, keep]
        default: flatten
      files:
        description: With O(copy_disks.chain=keep), the images that each disk had when they were compared with the destination's, as
          M(vmm.qemu.qemu_info) tells them (C(images)). When it has others by now, nothing is copied.
        type: dict
      speed:
        description: How many bytes a second each disk is copied at the most, such as V(100M).
        type: str
      switch_timeout:
        description: Seconds that the guest may stand still for its disks to be brought up to date. The migration is cancelled then.
        type: float
        default: 10
seealso:
  - module: vmm.qemu.qemu_migrate_incoming
  - module: vmm.qemu.qemu_power
  - ref: ansible_collections.vmm.qemu.docsite.long_work
    description: Guide to long work, with what makes a migration safe.
"""

EXAMPLES = r"""
- name: Move vm1 to host2, and end its QEMU here
  vmm.qemu.qemu_migrate:
    socket: /run/vm1.qmp
    uri: tcp:host2.example.org:4444
    capabilities:
      auto-converge: true
    parameters:
      max-bandwidth: 1G
      downtime-limit: 200
    source_after: quit
    timeout: 600

- name: Move it to another QEMU on this host
  vmm.qemu.qemu_migrate:
    socket: /run/vm1.qmp
    uri: unix:/run/vm1.migrate
    destination_socket: /run/vm1-new.qmp

- name: Move it with its disks, through a port that SSH forwards
  vmm.qemu.qemu_migrate:
    socket: /run/vm1.qmp
    uri: tcp:127.0.0.1:4444
    copy_disks:
      address: 127.0.0.1:10809
    timeout: 3600

- name: Stop a migration that is under way
  vmm.qemu.qemu_migrate:
    socket: /run/vm1.qmp
    state: cancelled
"""

RETURN = r"""
migration:
  description:
    - Where the migration stands, as C(query-migrate) has it, with underscores in the names. Times are in milliseconds.
    - Of a source that is gone already, what the destination says.
  returned: always, but for failures before it began
  type: dict
  sample: {status: completed, total_time: 704, downtime: 49, setup_time: 1, ram: {transferred: 101012345, total: 285220864}}
  contains:
    status:
      description: QEMU's word, such as V(completed).
      type: str
    total_time:
      description: How long it took.
      type: int
    downtime:
      description: How long the guest stood still.
      type: int
    ram:
      description: What was transferred, and how fast.
      type: dict
guest:
  description:
    - Where the guest is. V(here) and V(left) only where that is certain, else V(unknown).
    - V(here) means that this migration has not sent the guest in full, or that the destination says that it does not have it. QEMU
      does not tell how far an earlier migration came that failed; see the result of the task that failed.
    - V(left) means that the migration has completed, or that the destination says that it has the guest.
  returned: once the virtual machine has been looked at
  type: str
  sample: left
commands:
  description:
    - The commands that changed the virtual machine, or in check mode those that would. One that went to the destination has its
      C(socket), too.
  returned: always
  type: list
  elements: dict
rolled_back:
  description: The commands that set capabilities and parameters back when the migration could not be started, failed or was cancelled.
  returned: when something was taken back
  type: list
  elements: dict
error:
  description: Why it failed, as QEMU tells it.
  returned: when QEMU refused a command, or the migration failed
  type: dict
  contains:
    class:
      description: QEMU's error class.
      type: str
    desc:
      description: QEMU's text.
      type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._migration.source import MIGRATE
from ansible_collections.vmm.qemu.plugins.module_utils._operation import operation

MODULE = operation(MIGRATE, required_if=[("state", "migrated", ["uri"]), ("state", "recovered", ["uri"])])
main = MODULE.main

if __name__ == "__main__":
    main()
