# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that the playbook vmm.qemu.report writes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_page
author: The vmm.qemu contributors (@vmm-qemu)
version_added: 0.4.0
short_description: The page of the playbook vmm.qemu.report
description:
  - Makes a page of HTML of what the playbook C(vmm.qemu.report) has registered. It is of no use elsewhere.
positional: hostvars
options:
  _input:
    description: The hosts that have asked, each for all virtual machines of one hypervisor.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  title:
    description: The page's title.
    type: str
    required: true
  style:
    description: The page's style sheet.
    type: str
    required: true
  script:
    description: The page's script.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ ansible_play_hosts_all | vmm.qemu.report_page(hostvars, title='Fleet', style=style, script=script) }}"
    dest: fleet.html
    mode: "0600"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.vmm.qemu.plugins.plugin_utils._report_fleet import rows
from ansible_collections.vmm.qemu.plugins.plugin_utils._report_page import page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def report_page(
    askers: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], title: str, style: str, script: str
) -> str:
    """Return the page as of now."""
    now = datetime.now(timezone.utc)
    return page(rows(askers, hostvars, now), str(title), now, str(style), str(script))


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return it by its name."""
        return {"report_page": report_page}
