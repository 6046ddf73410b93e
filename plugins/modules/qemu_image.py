#!/usr/bin/python
# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: make, grow and remove disk images."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_image
short_description: Make, grow and remove disk images
version_added: 0.2.0
author:
  - The vmm.qemu contributors (@vmm-qemu)
description:
  - Makes image files with C(qemu-img), grows them, and removes them. No virtual machine is needed.
  - A new image is made under the name C(PATH.part), and gets its own when it is whole. A file that is there is never overwritten.
  - An image is never converted, and never put on another backing file. Where that would be needed, the task fails and says what can
    do it.
extends_documentation_fragment:
  - vmm.qemu._attributes
  - vmm.qemu._attributes.actiongroup_qemu
  - vmm.qemu._qmp.unused
attributes:
  check_mode:
    support: full
    details:
      - In check mode C(qemu-img) is only run to read.
options:
  path:
    description: The image file. An absolute path. Its directory must be there.
    type: path
    required: true
  state:
    description:
      - V(present) makes the image if it is not there, and grows it if it is smaller than O(size).
      - V(absent) removes the file. One that a virtual machine uses is not removed, and neither is what is no regular file.
        Whether it is the backing file of another image can't be told.
    type: str
    choices: [present, absent]
    default: present
  format:
    description:
      - The format, V(raw), V(qcow2) or another that C(qemu-img) has.
      - If not set, a new image is V(qcow2) if it has a O(backing_file), else V(raw), and one that is there may be any.
      - An image of another format makes the task fail. With V(raw) it can't be told. What the image begins with is not looked at,
        since a guest can make its raw disk look like another format.
      - Set it to V(raw) for raw images that guests write to.
    type: str
  size:
    description:
      - The size of the disk that a guest sees, in bytes or as C(20G). It is rounded up to whole sectors of 512 bytes.
      - Needed for a new image, unless that has a O(backing_file), whose size it then gets.
      - An image that a virtual machine uses can't be resized here. Use O(vmm.qemu.qemu_disk#module:size) or
        O(vmm.qemu.qemu_blockdev#module:size).
    type: str
  backing_file:
    description:
      - The image below this one, which has all that was not written to this one. An absolute path.
      - Nothing may write to it from then on.
    type: path
  backing_format:
    description:
      - The format of the O(backing_file). Needed with it, since a guessed format is a hole that guests can use.
    type: str
  options:
    description:
      - The format's own options for a new image, as C(qemu-img create -o) takes them. For example C(cluster_size),
        C(preallocation), C(lazy_refcounts).
      - For an image that is there, those that can be read back must be the same. The others are in RV(unverifiable).
      - C(preallocation) is used for what an image grows by, too.
    type: dict
    default: {}
  resize:
    description: Whether an image that is there is brought to O(size). If V(false), it keeps the size that it has.
    type: bool
    default: true
    version_added: 0.3.0
  owner:
    description: The user whose file the image shall be. If not set, a new one belongs to the task's user.
    type: str
    version_added: 0.3.0
  mode:
    description:
      - What its owner and others may do with the file, as octal digits. For example V(0600), quoted in YAML.
      - If not set, a new one has what the task's C(umask) leaves.
    type: str
    version_added: 0.3.0
  shrink:
    description: Allow a O(size) that is smaller than the image. What is at its end is lost.
    type: bool
    default: false
  qemu_img:
    description: The program, as a path or a name to look for.
    type: path
    default: qemu-img
  timeout:
    description: Seconds for all of the task's work. Preallocation may take long.
    type: float
    default: 600.0
requirements:
  - Python 3.8 or later
  - C(qemu-img) 5.2 or later, from the packages C(qemu-utils) or C(qemu-img). O(state=absent) does without.
notes:
  - Symbolic links on the way to O(path) count only if root made them, or the user that runs the task. Where O(path) itself is one,
    it can be looked at, but what it leads to is not changed under that name.
  - Whether an image is in use is told by the locks that QEMU keeps on it. A file system without such locks tells nothing.
seealso:
  - module: vmm.qemu.qemu_disk
  - module: vmm.qemu.qemu_blockdev
  - module: vmm.qemu.qemu_block_job
"""

EXAMPLES = r"""
- name: An empty disk
  vmm.qemu.qemu_image:
    path: /srv/images/data.qcow2
    format: qcow2
    size: 20G

- name: A disk of its own on top of a common system
  vmm.qemu.qemu_image:
    path: /srv/images/vm1.qcow2
    size: 40G
    backing_file: /srv/images/debian.qcow2
    backing_format: qcow2

- name: With all of its room taken right away
  vmm.qemu.qemu_image:
    path: /srv/images/log.raw
    format: raw
    size: 4G
    options:
      preallocation: falloc

- name: No longer needed
  vmm.qemu.qemu_image:
    path: /srv/images/data.qcow2
    state: absent
"""

RETURN = r"""
image:
  description: The image. In check mode as it would be, as far as that is known. Empty with O(state=absent).
  returned: success
  type: dict
  sample:
    path: /srv/images/data.qcow2
    format: qcow2
    virtual_size: 21474836480
    actual_size: 200704
    options: {cluster_size: 65536, compat: '1.1', lazy_refcounts: false}
  contains:
    path:
      description: The file.
      type: str
    format:
      description: Its format.
      type: str
    virtual_size:
      description: Bytes that a guest sees.
      type: int
    actual_size:
      description: Bytes that the file takes on the disk.
      type: int
    backing_file:
      description: Its backing file, if it has one.
      type: str
    backing_format:
      description: That one's format, as far as this one knows it.
      type: str
    options:
      description: Those of the format's options that can be read back.
      type: dict
unverifiable:
  description: The names in O(options) that can't be read back from an image that is there, so that they were not compared.
  returned: success, with O(state=present)
  type: list
  elements: str
  sample: [preallocation]
commands:
  description:
    - The command lines that were run, or in check mode would be, each as a list.
    - C(mv), C(chmod), C(chown) and C(rm) stand for what the module does by itself.
  returned: always
  type: list
  elements: list
  sample:
    - [/usr/bin/qemu-img, create, -q, -f, qcow2, /srv/images/data.qcow2.part, '21474836480']
    - [mv, --no-clobber, /srv/images/data.qcow2.part, /srv/images/data.qcow2]
rolled_back:
  description: The command lines of what took back what had been done before the task failed.
  returned: when something was taken back
  type: list
  elements: list
rc:
  description: The exit status of C(qemu-img).
  returned: when it failed
  type: int
stderr:
  description: What C(qemu-img) said.
  returned: when it failed
  type: str
"""

from ansible_collections.vmm.qemu.plugins.module_utils._module import Module
from ansible_collections.vmm.qemu.plugins.module_utils._provision.image import OPTIONS, run

MODULE = Module(OPTIONS, run, monitor=False)
main = MODULE.main

if __name__ == "__main__":
    main()
