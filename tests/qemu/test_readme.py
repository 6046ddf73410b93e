# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README has a new user type."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.collection import REPO
from support.modules import run_module
from support.observer import Observer
from support.vm import qemu_binary

README = (REPO / "README.md").read_text()


@pytest.fixture
def host() -> Iterator[Path]:
    """A directory in the place of the host's own, with a short name for sockets. The VM in it ends with the test."""
    with tempfile.TemporaryDirectory(prefix="readme-", dir="/tmp") as root:
        for name in ("run", "var/lib", "bin"):
            Path(root, name).mkdir(parents=True)
        try:
            yield Path(root)
        finally:
            run_module(
                None, "qemu_instance", name="vm1", socket=f"{root}/run/vm1.qmp", state="stopped", shutdown_timeout=0
            )


def test_the_quick_start_works_as_it_is_typed(qemu_version: str, host: Path, playbook: Callable[..., Any]) -> None:
    quick_start = README.partition("## Quick start")[2]
    found = re.search(r"in `vm1.yml`:\n\n```yaml\n(.*?)```\n\n```console\n(.*?)```", quick_start, re.DOTALL)
    assert found
    play = host / "vm1.yml"
    play.write_text(re.sub("/(run|var/lib)/", f"{host}/\\1/", found[1]))
    (host / "bin/qemu-system-x86_64").symlink_to(qemu_binary(qemu_version))
    path = {"PATH": f"{host}/bin:{os.environ['PATH']}"}

    promised = re.findall(r"ok=\d+ +changed=\d+", found[2])
    runs = [playbook(play, here=True, environment=path) for _command in re.findall("^# ", found[2], re.MULTILINE)]
    assert [re.findall(r"ok=\d+ +changed=\d+", run.output) for run in runs] == [[text] for text in promised], runs[
        0
    ].output

    observer = Observer(str(host / "run/vm1.qmp"))
    assert ".".join(str(observer.greeting["version"]["qemu"][part]) for part in ("major", "minor")) == qemu_version
    assert observer.devices()["data"] == "virtio-blk-pci"
    assert observer.node("data-node")["image"]["virtual-size"] == 1 << 30
    assert observer.status() == "running"
    observer.close()
