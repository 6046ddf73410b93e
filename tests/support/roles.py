# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the role vmm.qemu.vm by a real `ansible-playbook`, or its module alone, and look at what it left on this host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from support import own_process
from support.collection import collection_root
from support.modules import run_module
from support.observer import Observer
from support.plays import PlayRun, TaskResult, run_playbook
from support.vm import process_exists, qemu_binary

# All that is quick: nothing is booted, nobody is waited for.
SMALL = {"vm_accel": "tcg", "vm_memory": "64M", "vm_power": "paused", "vm_service": "daemon", "vm_shutdown_timeout": 0}

RUN = {
    "run",
    "run/agent",
    "run/console",
    "run/console.log",
    "run/events",
    "run/monitor",
    "run/pid",
    "run/qemu.log",
    "run/qmp",
    "vm.json",
}

# What the module's process runs first, to start a virtual machine without a monitor for events.
WITHOUT_EVENTS = """
from ansible_collections.vmm.qemu.plugins.module_utils._host import command_line
command_line.monitor = lambda address, ident="", make=command_line.monitor: [] if ident else make(address)
"""


class Roles:
    """A directory for virtual machines, and the role."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="role-", dir="/tmp"))
        self.home = self.base / "home"
        self.home.mkdir()
        self.prefix: Sequence[str] = ()
        self.before = ""  # Python that the module's process runs first
        self.environment: dict[str, str] = {}

    def small(self, name: str = "vm1") -> dict[str, Any]:
        """Those of a small machine."""
        own = {
            "vm_name": name,
            "vm_directory": str(self.base / name),
            "vm_user": "",
            "vm_binary": str(qemu_binary("7.2")),
        }
        return {**SMALL, **own}

    def run(self, check: bool = False, diff: bool = False, **variables: Any) -> PlayRun:
        """The role with these variables (`name=` is `vm_name`), for the small machine vm1 unless they say otherwise."""
        given = {f"vm_{key}" if not key.startswith("_") else key: value for key, value in variables.items()}
        role = {"role": "vmm.qemu.vm", "vars": {**self.small(given.get("vm_name", "vm1")), **given}}
        play = [{"hosts": "all", "gather_facts": False, "roles": [role]}]
        return run_playbook(
            play, self.home, check=check, diff=diff, here=True, prefix=self.prefix, environment=self.environment
        )

    def by_module(self, options: dict[str, Any], check: bool = False, diff: bool = False) -> PlayRun:
        """The role's module alone, in a process of its own."""
        code, call = self.before + CALL, json.dumps({"options": options, "check": check, "diff": diff})
        if self.prefix:
            environment = {**os.environ, "PYTHONPATH": str(collection_root()), **self.environment}
            command = [*self.prefix, sys.executable, "-c", code]
            done = subprocess.run(
                command,
                check=False,
                input=call,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300.0,
            )
        else:
            for name in (ACTION, MODULE):  # so that the process that is to come has them
                import_module(name)
            done = own_process.run(code, call, self.environment)
        result = json.loads(done.stdout.splitlines()[-1]) if done.returncode in (0, 2) else {}
        task = TaskResult("qemu_vm", "localhost", "failed" if done.returncode else "ok", result)
        return PlayRun(done.returncode, done.stdout, [task])

    def done(self, changed: bool, **variables: Any) -> PlayRun:
        """Run it: it must work, and change something or nothing."""
        run = self.run(**variables)
        assert run.rc == 0, run.output
        assert any(task.changed for task in run.tasks) == changed, run.output
        return run

    def refused(self, **variables: Any) -> str:
        """Run it: it must fail; what it says in the end."""
        run = self.run(**variables)
        assert run.rc != 0, run.output
        assert "Traceback" not in run.output
        return str([task for task in run.tasks if task.failed][-1].result["msg"])

    def files(self, name: str = "vm1") -> set[str]:
        """What is in a virtual machine's directory, below it too; empty also if there is none."""
        directory = self.base / name
        return {str(path.relative_to(directory)) for path in directory.rglob("*")}

    def processes(self) -> dict[str, int]:
        """The QEMUs that belong here: name to process id."""
        return processes(self.base)

    @contextlib.contextmanager
    def observer(self, name: str = "vm1") -> Iterator[Observer]:
        """The monitor for people, for as long as it is looked at."""
        with contextlib.closing(Observer(str(self.base / name / "run" / "monitor"))) as observer:
            yield observer

    def close(self) -> None:
        """End and remove all."""
        ended(self.base)
        shutil.rmtree(self.base)


class Machines(Roles):
    """The role's module qemu_vm in its place, which is what the role does: a process of its own, and no play."""

    def run(self, check: bool = False, diff: bool = False, **variables: Any) -> PlayRun:
        """The module with these options, the role's without `vm_`."""
        name = variables.get("name", "vm1")
        own = {"name": name, "directory": str(self.base / name), "user": "", "binary": str(qemu_binary("7.2"))}
        small = {key.removeprefix("vm_"): value for key, value in SMALL.items()}
        if "machines" in variables:
            own = {key: value for key, value in own.items() if key not in ("name", "directory")}
        return self.by_module({**small, **own, **variables}, check, diff)

    def done(self, changed: bool, **variables: Any) -> PlayRun:
        """The same. One of which nothing changes does not differ from its record either."""
        run = super().done(changed, **variables)
        result = run.tasks[-1].result
        if not changed and not self.prefix and result.get("instance", {}).get("pid") and "upgrade" not in variables:
            told = run_module(result["instance"]["socket"], "qemu_info", gather_subset=["document"])["vm"]["document"]
            assert (told["differences"], told["reason"]) == ([], ""), told
            assert told["restart_required"] == result["restart_required"]
        return run


ACTION = "ansible_collections.vmm.qemu.plugins.action.qemu_info"
MODULE = "ansible_collections.vmm.qemu.plugins.modules.qemu_vm"
CALL = f"""
import json, sys
from {ACTION} import validate
from ansible_collections.vmm.qemu.plugins.module_utils._core.interrupt import interruptible
from {MODULE} import MODULE
call = json.load(sys.stdin)
params, error, hidden = validate(MODULE, "qemu_vm", call["options"])
with interruptible():
    result = dict(failed=True, msg=error) if error else MODULE.run(params, call["check"], call["diff"])
print(json.dumps(result))
sys.exit(2 if result.get("failed") else 0)
"""


def processes(base: Path) -> dict[str, int]:
    """The QEMUs of the virtual machines in a directory: name to process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
            if any(str(base) in word for word in words) and "-name" in words:
                found[words[words.index("-name") + 1]] = int(entry.name)
    return found


def ended(base: Path) -> None:
    """End the QEMUs of a directory, of which several can have one name."""
    end = time.monotonic() + 10
    while (found := processes(base)) and time.monotonic() < end:
        for pid in found.values():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def image(roles: Roles, name: str = "base.qcow2", size: str = "8M") -> tuple[str, str]:
    """A new image, and its checksum."""
    path = roles.base / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return str(path), f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def nothing_is_there(roles: Roles, *but: str) -> None:
    assert roles.processes() == {}
    assert {path.name for path in roles.base.iterdir()} - {"home"} == set(but)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while process_exists(pid):
        assert time.monotonic() < end
        time.sleep(0.02)
