# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that all modules share. Private to the collection: may change without notice."""

from __future__ import annotations


class ModuleDocFragment:
    """What every module supports."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return changed status prediction without modifying the virtual machine.
    details:
      - In check mode the session itself refuses every command that is not a query.
  diff_mode:
    support: full
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
  platform:
    platforms: linux
    description: The platforms that the module runs on.
    support: full
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and return changed status prediction without modifying the virtual machine.
    details:
      - This module never changes anything.
  diff_mode:
    support: N/A
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    support: full
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
  platform:
    platforms: linux
    description: The platforms that the module runs on.
    support: full
"""

    ACTIONGROUP_QEMU = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/vmm.qemu.qemu) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - vmm.qemu.qemu
"""
