# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every task's worker has from the start.

Ansible's main process imports this package to look for an action plugin of a module's own name; the one that there is it
loads in each task's worker alone. It keeps no compiled files of collections, so that whatever a worker has to import costs
each task more than all its other work. What is imported here is there once, before workers are forked.
"""

from ansible_collections.vmm.qemu.plugins.action import qemu_info
from ansible_collections.vmm.qemu.plugins.module_utils._engine import apply
from ansible_collections.vmm.qemu.plugins.module_utils._kinds import device_qtree, device_steps
from ansible_collections.vmm.qemu.plugins.module_utils._machine import machine
from ansible_collections.vmm.qemu.plugins.module_utils._provision import instance
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import schema
from ansible_collections.vmm.qemu.plugins.module_utils._vm import module
from ansible_collections.vmm.qemu.plugins.plugin_utils import _runner_bundle

_runner_bundle.name()  # it reads each file, and keeps the answer
