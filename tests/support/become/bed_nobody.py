# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Become plugin: the user nobody, for root, without sudo; where a password is given, by what asks for it as sudo does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.become import BecomeBase

DOCUMENTATION = """
name: bed_nobody
short_description: The user nobody
description: By setpriv, whose user has the home of the one that was before.
author: The vmm.qemu contributors (@vmm-qemu)
options:
  become_user:
    description: Not looked at.
    default: nobody
    vars: [{name: ansible_become_user}]
  become_exe:
    description: Not looked at.
  become_flags:
    description: Not looked at.
  become_pass:
    description: The password of asks.py.
    vars: [{name: ansible_become_password}]
"""
ASKS = Path(__file__).resolve().parents[1] / "asks.py"


class BecomeModule(BecomeBase):
    """Runs a command as nobody."""

    name = "bed_nobody"
    fail = ("Sorry, try again.",)

    def build_become_command(self, cmd: str, shell: Any) -> str:
        super().build_become_command(cmd, shell)
        asks = ""
        if self.get_option("become_pass"):
            self.prompt = "[asks] password:"  # only now, as sudo's
            asks = f"/usr/bin/python3 -I {ASKS} "
        return f"{asks}setpriv --reuid=65534 --regid=65534 --clear-groups {self._build_success_command(cmd, shell)}"
