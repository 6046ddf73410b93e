#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: full and incremental backups of the disks of running QEMU virtual machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_backup
short_description: Back up the disks of a running QEMU virtual machine, in full or what has changed, and restore them
version_added: 0.4.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Copies disks of any format while the guest runs, all of them as they are at one moment, each to a qcow2 image of its own. A
    later backup has what has changed since, in an image whose backing file is the image before it.
  - The images of a disk are the files C(DISK/NUMBER-LEVEL.qcow2) in O(path), where C(DISK) is the device's id. The file
    C(chain.json) there lists the complete backups. What is not listed there is not a backup, and the next run removes it.
  - What changes on a disk is recorded by a dirty bitmap of QEMU's. Each backup begins a bitmap of its own in the same transaction
    as its copy. The name of the bitmap is in C(chain.json), and is never used again.
  - The bitmap of an earlier backup is only read by the copy, and goes when the new backup is listed. So a run or a QEMU that is
    killed at any moment leaves either the old list with the old bitmap, or the new list with the new one.
  - A bitmap that is not the one of the list, is not there, or is found disabled or in use, is not used. The backup is then a full
    one, and RV(backup.why) tells the reason. What another tool has done to a bitmap meanwhile, such as to clear it, or to disable and
    enable it again, QEMU does not tell, nor that a disk was made smaller and larger again.
  - Restoring makes new images of a backup. That and verifying need no virtual machine. What is in the headers of a backup's images
    is not trusted, and no file that they name is opened unless C(chain.json) has it, too.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.states
  - vmm.qemu._qmp
attributes:
  idempotent:
    support: partial
    details:
      - With O(every) nothing is done while the newest backup is young enough. Without it each run takes a backup.
      - O(state=restored) does nothing where an image was made of the same backup already, be it changed since then or not. With
        O(force=true) it does nothing where the image has the data of the backup.
options:
  name:
    description:
      - The name of the backups, of 1 to 64 letters, digits, C(-), C(.) and C(_). One virtual machine can have backups of several
        names, each in a directory of its own.
      - Two directories for one name take the bitmaps from each other, so that all backups are full ones.
    type: str
    required: true
  path:
    description:
      - The directory that has the backups of this name and of this virtual machine, and nothing else. It is made if its parent
        directory is there. Only root and the task's user can write to it.
      - With O(state=exported), an existing directory for the scratch images.
      - QEMU must be able to reach it. A new one can be entered by the group of QEMU's user.
      - The images belong to the task's user when they are complete. A QEMU that its guest has taken over can keep one open and write to it
        still. Where guests are not trusted, restore from a copy that was made after the backup.
    type: path
    required: true
  state:
    description:
      - V(present) takes a backup, unless O(every) says that none is due. It needs O(socket).
      - V(absent) ends the backups of this name, which removes their bitmaps, and with O(remove_data) the files. It needs O(socket).
      - V(exported) shows the disks as they are at one moment to NBD clients, which fetch them while the guest writes on. What the guest
        writes over meanwhile is kept in scratch images in O(path). It is done once; V(absent) takes it away, and another
        V(exported) after that is of another moment. It needs O(socket), and QEMU 7.2 or later.
      - V(restored) makes the images O(to) of a backup.
      - V(verified) looks at a backup. It proves that all of its images are there and have the listed backing files, that
        C(qemu-img check) finds each of them whole, and that each byte of each disk can be read. It does not prove that these are the
        bytes that the guest had. With O(to) the images there are compared with the backup, too.
    type: str
    choices: [present, absent, exported, restored, verified]
    default: present
  disks:
    description:
      - The disks, as ids of their devices, names of their drives, or names of block nodes.
      - If not set, all that the guest can write to, firmware's variables excepted.
      - With O(state=restored) and O(state=verified), disks of the backup as it lists them; if not set, all of them.
    type: list
    elements: str
  exclude:
    description: Disks that are left out, by the same names.
    type: list
    elements: str
  level:
    description:
      - V(incremental) is what has changed since the last backup, V(differential) what has changed since the last full one. It is an
        error where that is not known.
      - V(auto) is V(incremental) where what has changed is known of all disks, and else V(full).
      - A chain has 100 images at most, which are all open when the last one is read. The next backup is a full one then, and
        V(incremental) is an error.
      - V(copy) is a full one on which no later backup builds. It leaves the bitmaps alone.
    type: str
    choices: [auto, full, incremental, differential, copy]
    default: auto
  every:
    description:
      - How old the newest backup must be before another one is taken, such as V(23h) for a task that runs each day.
      - With O(level=full) the newest full one counts, with O(level=copy) the newest copy, with O(level=differential) a full one or
        a differential one.
    type: str
  quiesce:
    description:
      - Have the guest's agent freeze its file systems for the moment of the backup, so that they are whole in it. If not set,
        they are as after a power failure.
      - The guest is thawed again whatever happens. One that a killed task has left frozen is thawed by the next run.
    type: dict
    suboptions:
      agent:
        description: The socket of the guest's agent, to which nobody else is connected.
        type: str
        required: true
      required:
        description:
          - Whether nothing is done when the agent does not answer or refuses. If V(false), the backup is then taken of a guest
            that is not frozen, with a warning.
        type: bool
        default: true
      timeout:
        description: Seconds for the agent to answer.
        type: float
        default: 10.0
  fleece:
    description:
      - A directory for scratch images, on a disk of this host that is fast. What the guest writes over while the backup goes on is
        kept there first, so that a slow target does not slow the guest down, and one that fails does not make its writes fail.
      - A scratch image grows by what the guest writes over meanwhile. Where that has no room the backup fails, and the guest goes on.
        It is removed when the backup is done.
      - The guest stands still for some milliseconds where there is more than one disk. A task that is killed just then leaves it
        paused; the next run lets it run.
      - It needs QEMU 7.2 or later.
    type: path
  listen:
    description:
      - The address of QEMU's NBD server with O(state=exported), as the path of a UNIX socket, C(HOST:PORT) or C([v6]:PORT). Each disk is
        an export of the name C(NAME/DISK).
      - QEMU has one such server. It is started for the first export, and ends with the last one. Where it runs already, this can be
        left out.
    type: str
  tls_creds:
    description: The object with the TLS credentials of the NBD server, as M(vmm.qemu.qemu_export) takes it.
    type: str
  bitmaps:
    description:
      - Dirty bitmaps of the disks, which clients see as C(qemu:dirty-bitmap:BITMAP) with O(state=exported), as they were at that moment.
        They stay as they are on the disks.
    type: list
    elements: str
  compress:
    description: Whether the images are compressed.
    type: bool
    default: false
  speed:
    description: How much is copied in a second at most of each disk, such as V(100M). If not set, there is no limit.
    type: str
  verify:
    description: Whether C(qemu-img check) looks at the images before the backup is listed.
    type: bool
    default: false
  keep:
    description:
      - Which backups are kept when another has been taken. A full backup and all that build on it are removed together. While
        O(keep.full) or O(keep.days) keeps one of them, all of them are kept. The newest full backup is never removed.
      - If not set, all are kept.
    type: dict
    suboptions:
      full:
        description: So many full backups, the newest ones. Copies that are older than those go, too.
        type: int
      days:
        description: Those that are not older than so many days.
        type: int
  remove_data:
    description: Whether the backups themselves are removed with O(state=absent). Nothing brings them back.
    type: bool
    default: false
  force:
    description:
      - Whether a backup is taken where the directory may have too little room for it.
      - With O(state=absent), whether exports end although clients are connected.
      - With O(state=restored), whether an image that is there is replaced, which nothing takes back. One that a running virtual
        machine uses is not.
    type: bool
    default: false
  to:
    description:
      - Where the restored images are. Either a directory, which has them as C(DISK.qcow2) or C(DISK.raw), or a dictionary of disks
        and absolute paths. Directories must be there.
      - Needed with O(state=restored).
      - A new image appears when it is whole, all new ones or none. It belongs to the task's user alone, and has no backing file.
      - One that is there already is kept, and is no change, if it was made of the same backup or has the same data. Any other is an
        error unless O(force) is set.
    type: raw
  until:
    description:
      - Which backup is restored or verified. Either its number, or a time such as V(2026-11-28T21:50:00Z), which is UTC unless it
        says otherwise. That is the newest one that was taken until then. A date alone is its first moment.
      - The times of backups are whole seconds, so that a backup can be up to a second later than the time that is given.
      - If not set, the newest.
    type: str
  format:
    description: The format of the images O(to).
    type: str
    choices: [qcow2, raw]
    default: qcow2
  qemu_img:
    description: The program C(qemu-img), which makes and reads the images, as a path or a name to be looked for.
    type: path
    default: qemu-img
notes:
  - The task has the monitor for as long as the backup takes. Other tasks wait for it, or take another monitor.
  - The task runs on QEMU's own host. A monitor over the network is refused.
  - Set O(timeout) to how long the copy may take. When that is over the backup is given up, and nothing of it is left.
  - While a backup goes on, what the guest writes waits until QEMU has copied what was there before. A target that is slow slows
    the guest down. One that is full or fails makes the guest's writes fail, or stops it; the backup is then given
    up, and the guest goes on.
  - Disks that are not qcow2 images have a bitmap in QEMU's memory only. Their first backup after QEMU has ended is a full one.
seealso:
  - module: vmm.qemu.qemu_disk_snapshot
  - module: vmm.qemu.qemu_bitmap
  - module: vmm.qemu.qemu_block_job
  - ref: ansible_collections.vmm.qemu.docsite.backups
    description: Guide to backups, and to what can go wrong.
"""

EXAMPLES = r"""
- name: Back up all disks, once a day, in full or what has changed
  vmm.qemu.qemu_backup:
    socket: /run/vm1.qmp
    name: daily
    path: /backup/vm1
    every: 23h
    keep:
      days: 30
    timeout: 7200
    quiesce:
      agent: /run/vm1.agent

- name: A full backup of the system disk now
  vmm.qemu.qemu_backup:
    socket: /run/vm1.qmp
    name: daily
    path: /backup/vm1
    level: full
    disks: [system]
    verify: true
    timeout: 7200

- name: Fetch the disks as they are now
  block:
    - name: Show them
      vmm.qemu.qemu_backup:
        socket: /run/vm1.qmp
        name: fetch
        path: /var/lib/scratch
        state: exported
        listen: /run/vm1.nbd
      register: shown
    - name: Fetch each
      ansible.builtin.command:
        argv: [nbdcopy, "{{ item.value.uri }}", "/backup/{{ item.key }}.raw"]
      loop: "{{ shown.backup.disks | dict2items }}"
      changed_when: true
  always:
    - name: Take the view away
      vmm.qemu.qemu_backup:
        socket: /run/vm1.qmp
        name: fetch
        path: /var/lib/scratch
        state: absent

- name: No more backups, and those that are there can go
  vmm.qemu.qemu_backup:
    socket: /run/vm1.qmp
    name: daily
    path: /backup/vm1
    state: absent
    remove_data: true

- name: The newest backup can be read
  vmm.qemu.qemu_backup:
    name: daily
    path: /backup/vm1
    state: verified
    timeout: 7200

- name: The disks as they were on Saturday evening, as new images
  vmm.qemu.qemu_backup:
    name: daily
    path: /backup/vm1
    state: restored
    until: "2026-11-28T21:50:00Z"
    to:
      system: /var/lib/vm2/disk.qcow2
      data: /var/lib/vm2/data.qcow2
    timeout: 7200
"""

RETURN = r"""
backup:
  description:
    - The backup that was taken, in check mode as it would be; where none was due the newest one.
    - The one that was restored or verified.
  returned: success
  type: dict
  sample:
    level: incremental
    why: the bitmaps of backup 4 are good
    number: 5
    time: "2026-11-28T21:50:00Z"
    quiesced: true
    frozen_ms: 35
    duration: 2.4
    disks:
      system:
        path: /backup/vm1/system/5-incremental.qcow2
        size: 10737418240
        dirty: 104857600
        written: 105119744
        backing: /backup/vm1/system/4-incremental.qcow2
  contains:
    level:
      description: Its level.
      type: str
    why:
      description: Why it is of this level.
      type: str
    number:
      description: Its number, by which it can be named.
      type: int
    time:
      description: When it was taken, in UTC. Null in check mode.
      type: str
    quiesced:
      description: Whether the guest's file systems were frozen.
      type: bool
    frozen_ms:
      description: For how many milliseconds the guest was frozen. Null where it was not.
      type: int
    duration:
      description: Seconds that it took. Null where none was taken.
      type: float
    disks:
      description:
        - By disk, the C(path) of its image; its C(size) as the guest sees it; how many bytes had changed (C(dirty)), null for a
          full one; how many bytes were C(written) to the file; and its backing file (C(backing)), null where there is none.
        - With O(state=exported) the name of each disk's C(export), its C(uri) where O(listen) is given, its C(size) and its C(bitmaps).
        - With O(state=restored) the image that it was made, too (C(restored)).
      type: dict
    verified:
      description:
        - By disk, the C(images) that were checked, from the top one down; how many bytes of the disk were C(read); those images whose
          clusters are not all in use (C(leaks)), which costs room only; and the image that has the same data (C(same_as)), null
          where none was compared.
      returned: with O(state=verified)
      type: dict
unverifiable:
  description: Options of exports that are there already, which QEMU does not tell.
  returned: with O(state=exported)
  type: list
  elements: str
commands:
  description:
    - What changed the virtual machine or the host, in order, or in check mode what would. QMP commands, those for the guest's agent
      (with its C(socket)), and command lines.
    - After a failure those that were sent.
  returned: always
  type: list
  elements: raw
error:
  description: QEMU's own refusal, or the error that a job ended with.
  returned: when QEMU refused a command or a job failed
  type: dict
  contains:
    class:
      description: QEMU's error class.
      type: str
    desc:
      description: QEMU's text.
      type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._backup.module import OPTIONS, REQUIRED_IF, run
from ansible_collections.vmm.qemu.plugins.module_utils._module import Module

MODULE = Module(OPTIONS, run, monitor=False, required_if=REQUIRED_IF)
main = MODULE.main

if __name__ == "__main__":
    main()
