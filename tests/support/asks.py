# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks for a password as `sudo -S` does, a byte at a time, and runs a command."""

import os
import sys

os.write(2, b"[asks] password:")
line = b""
while not line.endswith(b"\n"):
    byte = os.read(0, 1)
    if not byte:
        sys.exit("no password was provided")
    line += byte
if line != b"open\n":
    sys.exit("Sorry, try again.")
os.execvp(sys.argv[1], sys.argv[1:])
