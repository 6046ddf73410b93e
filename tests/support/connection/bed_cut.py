# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection plugin: this host, whose line is cut when the module that BED_CUT names has done its work."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: bed_cut
short_description: This host, on a line that is cut
description: As local, until a module has done its work.
author: The vmm.qemu contributors (@vmm-qemu)
extends_documentation_fragment: [connection_pipelining]
"""


class Connection(Local):
    """What is sent there is done, and its answer is lost."""

    transport = "bed_cut"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
        done = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        name = os.environ["BED_CUT"]
        by_module = f"AnsiballZ_{name}.py" in cmd and "chmod" not in cmd
        if by_module or f'"module": "vmm.qemu.{name}"'.encode() in (in_data or b""):
            raise AnsibleConnectionFailure("the line is cut")
        return done
