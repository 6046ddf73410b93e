# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all tests: real QEMUs (support/vm.py), modules in this process (modules.py), plays (plays.py)."""

from __future__ import annotations

import functools
import gc
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support import collection, modules, plays
from support.architectures import OTHERS
from support.vm import VERSIONS, VM

collection.make_importable()


# What takes longest is begun first: last, one of them would leave the other workers with nothing to do.
LONG = (
    *("test_migrations", "test_documents", "test_action", "test_cloud_image", "test_role_migrate", "test_runner"),
    *("test_role_vm", "test_migrate_once", "test_migrate", "test_migrate_failures", "test_properties"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files come first. With BED_TURN, a number, a third of the tests runs on each QEMU."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))
    if os.environ.get("BED_TURN"):
        left_out = [item for item in items if not has_its_turn(item, int(os.environ["BED_TURN"]))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def has_its_turn(item: pytest.Item, turn: int) -> bool:
    """Whether a test that is there for each QEMU of VERSIONS is to run on this one. What shares a guest stays together."""
    versions = [value for value in getattr(item, "callspec", NO_CALLSPEC).params.values() if value in VERSIONS]
    if len(versions) != 1 or item.path.parent.name == "chaos":  # none, from one to another, or a number that tells all
        return True
    (version,) = versions
    name = item.path.stem if shares_something(item.path) else item.nodeid.replace(version, "")
    return (zlib.crc32(name.encode()) + turn) % len(VERSIONS) == VERSIONS.index(version)


NO_CALLSPEC = SimpleNamespace(params={})


@functools.lru_cache(maxsize=None)
def shares_something(path: Path) -> bool:
    """Whether the tests of a file have a guest or anything else in common that is made only once."""
    text = path.read_text()
    return "live_vm" in text or 'scope="module"' in text


def pytest_collection_finish(session: pytest.Session) -> None:
    """All that is there now stays: it is not searched for garbage time and again, and forks share it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file that share a guest stay on one worker, for each QEMU. All others go where there is time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGuest(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _colons, test = nodeid.partition("::")
            if file.startswith("tests/qemu/") and not shares_something(config.rootpath / file):
                return nodeid
            return file + next((version for version in (*OTHERS, *VERSIONS) if f"[{version}" in test), "")

    return ByGuest(config, log)


@pytest.fixture(scope="module", params=VERSIONS)
def qemu_version(request: pytest.FixtureRequest) -> str:
    """Every test that uses it, directly or through a VM, runs on each QEMU."""
    version: str = request.param
    return version


@pytest.fixture
def start_vm(qemu_version: str) -> Iterator[Callable[..., VM]]:
    """`start_vm(guest=True, args=[...])`: as many VMs as a test needs, gone after it. `version=` for another QEMU."""
    started: list[VM] = []

    def start(version: str = qemu_version, **options: Any) -> VM:
        vm = VM(version, start=False, **options)
        started.append(vm)
        return vm.start()

    yield start
    for vm in started:
        vm.close()


@pytest.fixture
def paused_vm(start_vm: Callable[..., VM]) -> VM:
    """A VM of the test's own without a guest, stopped before its first instruction (0.1 s)."""
    return start_vm()


class LiveVM:
    """One booted guest for many tests. A test that leaves it changed makes the next one pay for a new boot (3 s)."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._vm: VM | None = None
        self._clean: dict[str, Any] = {}

    def get(self) -> VM:
        if self._vm is None or not self._vm.alive or self._vm.fingerprint() != self._clean:
            self.close()
            self._vm = VM(guest=True, **self._options)
            self._clean = self._vm.fingerprint()
        self._vm.observer.forget_events()
        # its guest tells late on a busy machine: what was there would be taken for what this test brings
        self._vm.guest_sees(blk=set(self._vm.run_in_guest("ls /sys/block").split()))
        self._vm.guest_sees(net=set(self._vm.run_in_guest("ls /sys/class/net").split()))
        return self._vm

    def close(self) -> None:
        if self._vm is not None:
            self._vm.close()
            self._vm = None


@pytest.fixture(scope="module")
def live_vm_holder(request: pytest.FixtureRequest, qemu_version: str) -> Iterator[LiveVM]:
    """A test file's `LIVE_VM = {"args": [...], "memory": ...}` are options for the VM behind its `live_vm`.

    They may be a function of the QEMU.
    """
    options = getattr(request.module, "LIVE_VM", {})
    holder = LiveVM(version=qemu_version, **(options(qemu_version) if callable(options) else options))
    yield holder
    holder.close()


@pytest.fixture
def live_vm(live_vm_holder: LiveVM) -> VM:
    """A VM with a running guest that answers hot-plug, shared by the tests of a file, clean for each of them."""
    return live_vm_holder.get()


@pytest.fixture
def run_module() -> Callable[..., dict[str, Any]]:
    """`run_module(vm, "qemu_disk", check=False, diff=False, **options)` in this process; see support/modules.py."""
    return modules.run_module


@pytest.fixture
def playbook(tmp_path: Path) -> Callable[..., plays.PlayRun]:
    """`playbook(path or plays, *arguments, variables=, environment=, check=, diff=)` by a real ansible-playbook."""

    def run(play: Any, *arguments: str, **how: Any) -> plays.PlayRun:
        return plays.run_playbook(play, tmp_path, *arguments, **how)

    return run


@pytest.fixture
def ansible_task(tmp_path: Path) -> Callable[..., plays.TaskResult]:
    """`ansible_task("qemu_disk", {options}, check=, diff=, variables=, environment=)` by a real ansible-playbook."""

    def run(module: str, options: dict[str, Any] | None = None, **how: Any) -> plays.TaskResult:
        return plays.run_task(module, options or {}, tmp_path, **how)

    return run
