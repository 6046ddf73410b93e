# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `ansible-playbook` in a fork of a Python that waits, and has imported already what no setting of Ansible's changes.

It is the same program, in an environment of its own, and begins in little more than half of the time. `run()` is the client; this
file as a program is the server, which has one run at a time and ends with its stdin.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import Any

SETTINGS = "ansible.constants"
"""It reads the environment when it is imported, so that what imports it is not the same for each run."""

_idle: dict[str, list[subprocess.Popen[str]]] = {}


def run(command: Sequence[str], environment: Mapping[str, str], directory: Path, output: Path, timeout: float) -> int:
    """Return how `command`, an ansible-playbook, ended. Both its outputs are in the file. Raise TimeoutExpired."""
    early = {key: value for key, value in environment.items() if key.startswith(("PYTHON", "LC_", "LANG"))}
    idle = _idle.setdefault(json.dumps(early, sort_keys=True), [])
    server = idle.pop() if idle else _start({**early, "PATH": environment["PATH"]})
    assert server.stdin is not None and server.stdout is not None
    asked = {
        "argv": list(command),
        "environment": dict(environment),
        "directory": str(directory),
        "output": str(output),
    }
    print(json.dumps(asked), file=server.stdin, flush=True)
    child = int(server.stdout.readline())
    late = Timer(timeout, os.kill, (child, signal.SIGKILL))
    late.start()
    try:
        status = int(server.stdout.readline())
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        was_late = late.finished.is_set()
        late.cancel()
    idle.append(server)
    if was_late:
        raise subprocess.TimeoutExpired(command, timeout, output.read_bytes())
    return status


def _start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__], env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _import_what_no_setting_changes() -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        import_module("ansible.cli.playbook")
        os.write(writer, json.dumps(list(sys.modules)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as names:
        needed = json.load(names)
    os.wait()
    sys.modules[SETTINGS] = None  # type: ignore[assignment]  # an ImportError
    for name in needed:
        if not name.startswith("ansible.cli"):  # it ends the process where it can't import something
            with suppress(ImportError):
                import_module(name)
    del sys.modules[SETTINGS]


def _become(asked: dict[str, Any]) -> None:
    """Let this process be the run."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    for path, flags, descriptors in (
        (os.devnull, os.O_RDONLY, (0,)),
        (asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, (1, 2)),
    ):
        opened = os.open(path, flags, 0o600)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv[:] = asked["argv"]


def _serve() -> None:
    """Return in each run's process. The server itself tells its number, and then its status."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    sys.path[0] = str(Path(sys.executable).parent)  # where ansible-playbook is, and not the tests
    _import_what_no_setting_changes()
    gc.freeze()  # what is not searched for garbage stays shared
    _serve()
    sys.exit(import_module("ansible.cli.playbook").main())
