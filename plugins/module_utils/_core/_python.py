# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Says when a Python is too old: ``errors.py`` asks, which is there before anything that such a one can't read."""
# Private to the collection: may change without notice. Python 3.7 can read it.

import json
import sys


def check() -> None:
    """End a module's process with one sentence where its Python is older than 3.8."""
    if sys.hexversion < 0x3080000:
        version = sys.version.split()[0]
        said = f"vmm.qemu needs Python 3.8 or later on the managed host, and {sys.executable} there is {version}"
        sys.stdout.write(json.dumps({"failed": True, "msg": said}))
        sys.stdout.flush()
        raise SystemExit(1)
