# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run tasks and playbooks as a user does: by a real `ansible-playbook`, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import playbook_server
from support.collection import COMPILED, REPO, collection_root


@dataclass(frozen=True)
class TaskResult:
    """What one task said on one host."""

    task: str
    host: str
    status: str  # ok, failed, skipped or unreachable
    result: dict[str, Any]

    @property
    def changed(self) -> bool:
        return bool(self.result.get("changed"))

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "unreachable")


@dataclass(frozen=True)
class PlayRun:
    """A finished `ansible-playbook`."""

    rc: int
    output: str
    tasks: list[TaskResult]

    def __getitem__(self, task: str) -> TaskResult:
        """The (first) result of the task of that name."""
        return next(result for result in self.tasks if result.task == task)


def compare(one_run: PlayRun, other_run: PlayRun) -> None:
    """Fail unless each task has the same result in both runs, warnings included."""
    assert len(one_run.tasks) == len(other_run.tasks)
    for one, other in zip(one_run.tasks, other_run.tasks):
        results = []
        for task in (one, other):
            result = {key: value for key, value in task.result.items() if key not in ("exception", "deprecations")}
            result["warnings"] = [text for text in result.get("warnings", []) if "interpreter" not in str(text)]
            results.append((task.status, result))
        assert results[0] == results[1], f"{one.task}: {results[0]}, and {results[1]}"


def ansible_environment(home: Path) -> dict[str, str]:
    """Nothing of the user's own Ansible: no configuration, no home, no cows."""
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment.setdefault("LC_ALL", "C.UTF-8")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    return {
        **environment,
        "HOME": str(home),
        "ANSIBLE_HOME": str(home / "ansible"),
        "ANSIBLE_CONFIG": str(home / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(collection_root()),
        # with root's HOME changed, Ansible would still put these below the real one
        "ANSIBLE_LOCAL_TEMP": str(home / "local"),
        "ANSIBLE_REMOTE_TEMP": str(home / "remote"),
        "ANSIBLE_ASYNC_DIR": str(home / "async"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_CALLBACK_PLUGINS": str(REPO / "tests" / "support" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "bed_results",
        "BED_RESULTS": str(home / "results.jsonl"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(COMPILED),
    }


def run_playbook(
    play: Path | str | Sequence[Mapping[str, Any]],
    home: Path,
    *arguments: str,
    variables: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = False,
    diff: bool = False,
    timeout: float = 900.0,  # CI may be busy
    here: bool = False,
    prefix: Sequence[str] = (),
) -> PlayRun:
    """Run a playbook: its path, or its plays as data. `arguments` go to ansible-playbook as they are.

    Each module has a process of its own, as on another host, unless `here`: then the action plugin may do without. The code that
    hosts keep is used where the variable `vmm_qemu_runner` says so.
    `prefix` are words before `ansible-playbook`, nsenter's for example. A variable that is None is not given.
    """
    if isinstance(play, (str, Path)):
        path = Path(play)
    else:
        path = home / "play.json"  # JSON is YAML enough
        path.write_text(json.dumps(list(play)))
    (home / "ansible.cfg").touch()  # an empty one, or Ansible would look for the host's
    results = home / "results.jsonl"
    results.unlink(missing_ok=True)
    python = sys.executable if here else str(another_python(home))
    given = {"ansible_python_interpreter": python, "ansible_connection": "local", "vmm_qemu_runner": False}
    given.update(variables or {})
    given = {name: value for name, value in given.items() if value is not None}
    command = [
        *prefix,
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        "localhost,",
        "-e",
        json.dumps(given),
    ]
    command += ["--check"] * check + ["--diff"] * diff + [*arguments, str(path)]
    whole, output = {**ansible_environment(home), **(environment or {})}, home / "output.txt"
    if prefix:
        with output.open("wb") as to:
            status = subprocess.run(
                command,
                check=False,
                env=whole,
                stdin=subprocess.DEVNULL,
                stdout=to,
                stderr=to,
                timeout=timeout,
                cwd=home,
            ).returncode
    else:
        status = playbook_server.run(command, whole, home, output, timeout)
    lines = results.read_text().splitlines() if results.exists() else []
    return PlayRun(status, output.read_text(), [TaskResult(**json.loads(line)) for line in lines])


def another_python(home: Path) -> Path:
    """This Python by another name, which the action plugin takes for one that somebody chose for the managed host."""
    path = home / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def run_task(module: str, options: Mapping[str, Any], home: Path, **how: Any) -> TaskResult:
    """Run one task on localhost; a name without a dot is one of this collection's modules."""
    task = {"name": "task", (module if "." in module else f"vmm.qemu.{module}"): dict(options)}
    run = run_playbook([{"hosts": "all", "gather_facts": False, "tasks": [task]}], home, **how)
    if not run.tasks:
        raise AssertionError(f"the task never ran:\n{run.output}")
    return run.tasks[-1]
