# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks for a password as `sudo -S` does, of the byte after which it reads no more, and runs a command as nobody."""

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
os.execvp("setpriv", ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *sys.argv[1:]])
