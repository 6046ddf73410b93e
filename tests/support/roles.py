# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the role vmm.qemu.vm by a real `ansible-playbook`, and look at what it left on this host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from support.observer import Observer
from support.plays import PlayRun, run_playbook
from support.vm import qemu_binary

# All that is quick: nothing is booted, nobody is waited for.
SMALL = {"vm_accel": "tcg", "vm_memory": "64M", "vm_power": "paused", "vm_service": "daemon", "vm_shutdown_timeout": 0}


class Roles:
    """A directory for virtual machines, and the role."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="role-", dir="/tmp"))
        self.home = self.base / "home"
        self.home.mkdir()
        self.prefix: Sequence[str] = ()
        self.environment: dict[str, str] = {}

    def run(self, check: bool = False, diff: bool = False, **variables: Any) -> PlayRun:
        """The role with these variables (`name=` is `vm_name`), for the small machine vm1 unless they say otherwise."""
        given = {f"vm_{key}" if not key.startswith("_") else key: value for key, value in variables.items()}
        name = given.get("vm_name", "vm1")
        own = {
            "vm_name": name,
            "vm_directory": str(self.base / name),
            "vm_user": "",
            "vm_binary": str(qemu_binary("7.2")),
            "__vm_record": str(self.record(name)),
        }
        role = {"role": "vmm.qemu.vm", "vars": {**SMALL, **own, **given}}
        play = [{"hosts": "all", "gather_facts": False, "roles": [role]}]
        return run_playbook(
            play, self.home, check=check, diff=diff, here=True, prefix=self.prefix, environment=self.environment
        )

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

    def record(self, name: str = "vm1") -> Path:
        """Where the role writes down how it started a virtual machine."""
        return self.home / f"{name}.json"

    def files(self, name: str = "vm1") -> set[str]:
        """What is in a virtual machine's directory, below it too; empty also if there is none."""
        directory = self.base / name
        return {str(path.relative_to(directory)) for path in directory.rglob("*")}

    def processes(self) -> dict[str, int]:
        """The QEMUs that belong here: name to process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
                if any(str(self.base) in word for word in words) and "-name" in words:
                    found[words[words.index("-name") + 1]] = int(entry.name)
        return found

    @contextlib.contextmanager
    def observer(self, name: str = "vm1") -> Iterator[Observer]:
        """The monitor for people, for as long as it is looked at."""
        with contextlib.closing(Observer(str(self.base / name / "run" / "monitor"))) as observer:
            yield observer

    def close(self) -> None:
        """End and remove all."""
        for pid in self.processes().values():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.base)
