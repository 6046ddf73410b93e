# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks as a user's `ansible-playbook` runs them, and what each of them took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.plays import run_playbook

CALLBACKS = Path(__file__).resolve().parent / "callback"
PING: dict[str, Any] = {"name": "ping", "ansible.builtin.ping": {}}


class BenchError(Exception):
    """What should have been measured did not happen."""


class Taken(NamedTuple):
    """What a task took, all its hosts together. Seconds by the clock are those until the last host's result is there.

    Seconds by the processor are Ansible's and its modules', not QEMU's.
    """

    name: str
    wall: float
    processor: float
    changed: int
    """On how many hosts."""


def play(
    home: Path,
    tasks: Sequence[dict[str, Any]],
    *arguments: str,
    hosts: str = "all",
    roles: Sequence[str] = (),
    here: bool = False,
    environment: dict[str, str] | None = None,
    variables: dict[str, Any] | None = None,
) -> list[Taken]:
    """Run the tasks. `here`: in Ansible's own process where the collection can do that; `arguments`: ansible-playbook's.
    `roles` come before the tasks."""
    times = home / "times.json"
    times.unlink(missing_ok=True)
    done = run_playbook(
        [{"hosts": hosts, "gather_facts": False, "tasks": list(tasks), "roles": list(roles)}],
        home,
        *arguments,
        environment={
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "bench_times",
            "BENCH_TIMES": str(times),
            "PYTHONPATH": "",  # nothing is kept that each task of a user's would compile
            **(environment or {}),
        },
        here=here,
        variables=variables,
    )
    if done.rc != 0:
        raise BenchError(done.output)
    return [Taken(**line) for line in json.loads(times.read_text())]


def expect(taken: Taken, changed: int) -> Taken:
    """What the task took, if it changed something on so many hosts. Raises BenchError otherwise."""
    if taken.changed != changed:
        raise BenchError(
            f"{taken.name} changed something on {taken.changed} hosts, where it should have been {changed}"
        )
    return taken
