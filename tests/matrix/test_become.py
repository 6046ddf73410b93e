# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By each ansible-core, like the rest here: the user that a task becomes has the host's code in a directory of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from support.collection import REPO
from support.plays import PlayRun
from support.sshd import Sshd

NOBODY = 65534


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody can reach and write to."""
    with TemporaryDirectory(prefix="bed-", dir="/tmp") as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_code_is_that_of_the_user_that_the_task_becomes(playbook: Callable[..., PlayRun], shared: Path) -> None:
    task = {
        "name": "image",
        "vmm.qemu.qemu_image": {"path": f"{shared}/i.raw", "format": "raw", "size": "1M"},
        "become": True,
    }
    play = {"hosts": "all", "gather_facts": False}
    how: dict[str, Any] = {
        "variables": {
            "vmm_qemu_runner": True,
            "ansible_remote_tmp": f"{shared}/remote",
            "ansible_become_method": "bed_nobody",
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
        },
        "environment": {"ANSIBLE_BECOME_PLUGINS": str(REPO / "tests" / "support" / "become")},
    }
    run = playbook([{**play, "tasks": [task]}], "-v", **how)
    assert run["image"].changed, run.output
    assert (shared / "i.raw").stat().st_uid == NOBODY
    (pack,) = (shared / "remote" / f"vmm.qemu-{NOBODY}").glob("[!.]*")
    assert pack.stat().st_uid == pack.parent.stat().st_uid == NOBODY
    assert "ordinary modules" not in run.output

    # what is another's is not run: the module's process is, and that is said
    pack.write_bytes(b"")
    os.chown(pack, 0, 0)
    pack.chmod(0o644)
    run = playbook([{**play, "tasks": [task, task]}], "-v", **how)
    assert [task.status for task in run.tasks] == ["ok", "ok"] and not run["image"].changed
    assert run.output.count("run as ordinary modules: Odd: ") == 1 and "somebody else's" in run.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("connection", ["local", "ssh"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_password(
    playbook: Callable[..., PlayRun], sshd: Sshd, shared: Path, connection: str, pipelining: bool
) -> None:
    """A local command that may ask for one has a terminal for its stdin, where nothing of a task would come."""
    task = {"name": "image", "vmm.qemu.qemu_image": {"path": f"{shared}/i.raw", "format": "raw", "size": "1M"}}
    run = playbook(
        [{"hosts": "all", "gather_facts": False, "tasks": [{**task, "become": True, "timeout": 60}]}],
        "-v",
        variables={
            **(sshd.variables if connection == "ssh" else {}),
            "ansible_remote_tmp": f"{shared}/remote",
            "ansible_become_method": "bed_nobody",
            "ansible_become_password": "open",
            "ansible_pipelining": pipelining,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_shell_allow_world_readable_temp": True,
            "vmm_qemu_runner": True,
        },
        environment={"ANSIBLE_BECOME_PLUGINS": str(REPO / "tests" / "support" / "become")},
    )
    assert run["image"].changed, run.output
    assert (shared / "i.raw").stat().st_uid == NOBODY
    by_runner = bool(list((shared / "remote").glob(f"vmm.qemu-{NOBODY}/[!.]*")))
    assert by_runner == (connection == "ssh" or pipelining)
