# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of disks that are written to, in which at a random moment QEMU, an NBD server or the task dies, or the room runs out.

Afterwards each backup that is listed is what the disks were, the next one succeeds, and nothing is left of the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmm.qemu.plugins.module_utils._backup.place import Lock
from support.chaos import Signalled, chance, runs
from support.modules import ModuleFailed, run_module
from support.numbered_disks import NumberedDisks
from support.timing import no_hang

KINDS = ("kill", "term", "qemu", "full", "nbd")
"""SIGKILL and SIGTERM of the task, SIGKILL of QEMU, no space left, SIGKILL of the NBD server that has a disk."""
MOMENTS = {"begins": 0.3, "copies": 0.6, "ends": 0.1}
"""What the backup does, and how many seconds after that it strikes at most."""
TIMEOUT = 90.0


class Life:
    """The disks, their backups on a small file system, and what befalls these."""

    def __init__(self, version: str, kind: str, dice: random.Random, room: Path) -> None:
        self.kind, self.dice, self.room = kind, dice, room
        self.disks = NumberedDisks(version, kind == "nbd", room.parent)
        self.place, self.scratch = room / "bk", room / "scratch"
        self.scratch.mkdir()
        self._chain: dict[str, Any] = {"name": "daily", "path": str(self.place)}
        self._known: dict[int, tuple[tuple[int, ...], str]] = {}
        """What the listed backups hold: the writer's numbers, and a checksum."""

    # -- backups -------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Of a backup."""
        dice, fleece = self.dice, self.dice.random() < 0.4
        return {
            "level": dice.choice(("auto", "auto", "auto", "full")),
            "compress": dice.random() < 0.2,
            "verify": dice.random() < 0.2,
            "speed": dice.choice(("2M", "8M")),
            **({"fleece": str(self.scratch)} if fleece else {}),
        }

    def backup(self, **options: Any) -> dict[str, Any]:
        try:
            return run_module(self.disks.vm, "qemu_backup", **self._chain, timeout=TIMEOUT, force=True, **options)
        except ModuleFailed as failed:
            return failed.result

    def good(self, **options: Any) -> None:
        """One that succeeds, and has all that was written before it."""
        before = self.disks.written
        with self.disks.being_written():
            done = self.backup(**options)
        assert not done.get("failed"), done
        print("good:", done["backup"]["level"], done["backup"]["why"])
        number = done["backup"]["number"]
        self.restored()
        numbers = self._known[number][0]
        assert all(before <= one <= self.disks.written + 1 for one in numbers), (before, numbers, self.disks.written)
        if "fleece" not in options:  # the writer is not the guest, which stands still while filters are put in
            assert numbers[0] - numbers[1] in (0, 1), numbers
        self.tidy()

    def listed(self) -> list[dict[str, Any]]:
        path = self.place / "chain.json"
        found: list[dict[str, Any]] = json.loads(path.read_text())["backups"] if path.exists() else []
        return found

    def restored(self) -> None:
        """Each listed backup is what the disks were, and always the same."""
        for entry in self.listed():
            number = entry["number"]
            to = self.room.parent / "restored"
            to.mkdir()
            point: dict[str, Any] = {**self._chain, "until": str(number), "timeout": TIMEOUT}
            run_module(None, "qemu_backup", state="restored", to=str(to), format="raw", **point)
            checksum = hashlib.md5(b"".join((to / f"{disk}.raw").read_bytes() for disk in "ab")).hexdigest()
            assert self._known.setdefault(number, (self.disks.numbers(to), checksum))[1] == checksum, number
            shutil.rmtree(to)

    def tidy(self) -> None:
        """No job, node, bitmap, image or lock is there but those of the list."""
        look = self.disks.vm.observer
        assert look.execute("query-jobs") == [] and look.status() == "running"
        assert {node for node in look.nodes() if not node.startswith("#")} == {"a-node", "b-node"}
        entries = self.listed()
        files = {image["file"] for entry in entries for image in entry["disks"].values()}
        there = {str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file()}
        assert there - {"chain.json"} == files and os.listdir(self.scratch) == []
        bases = [entries[-1], [entry for entry in entries if entry["level"] == "full"][-1]]
        for disk in "ab":
            bitmaps = {bitmap["name"] for bitmap in look.node(f"{disk}-node").get("dirty-bitmaps", [])}
            assert bitmaps == {base["disks"][disk]["bitmap"] for base in bases}
        lock = Lock(str(self.place))
        lock.acquire()
        lock.release()

    # -- what befalls them ---------------------------------------------------

    def struck(self) -> dict[str, Any]:
        """A backup that this befalls; the one after it is good. What happened, for whoever counts."""
        options, task, over = self.options(), Signalled(), threading.Event()
        moment = self.dice.choice(list(MOMENTS))
        deeds = {
            **{"kill": task.kill, "term": task.term, "qemu": self.disks.vm.kill},
            **{"full": self._fill_up, "nbd": self.disks.kill_server},
        }
        late, before = self.dice.uniform(0, MOMENTS[moment]), len(self.listed())
        print("strikes:", self.kind, "when it", moment, f"and {late:.3f} s later:", json.dumps(options))
        self._in_time = False
        striker = threading.Thread(target=self._strike, args=(deeds[self.kind], moment, late, over))
        with self.disks.watched() as self._watcher, self.disks.being_written(), no_hang(TIMEOUT + 15):
            striker.start()
            result = task.run(lambda: self.backup(**options))
            over.set()
            striker.join()
        told = "dead" if result is None else "failed" if result.get("failed") else "done"
        print("told:", told, (result or {}).get("msg"), (result or {}).get("not_rolled_back"))
        (self.room / "ballast").unlink(missing_ok=True)
        self.disks.mend()
        self.restored()
        new = len(self.listed()) - before
        assert new == 1 if told == "done" else new in (0, 1)
        self.good(**{**options, "level": "auto"})
        story = {"kind": self.kind, "version": self.disks.vm.version, "moment": moment, "in_time": self._in_time}
        return {**story, "fleece": "fleece" in options, "task": told, "listed": new}

    def _strike(self, deed: Callable[[], None], moment: str, late: float, over: threading.Event) -> None:
        """When the moment has come, unless the task is over without it."""
        seen = False
        while not over.is_set():
            running = [job for job in self._watcher.look("query-jobs") if job["status"] != "concluded"]
            seen = seen or bool(running)
            if moment == "begins" or (moment == "copies" and running) or (moment == "ends" and seen and not running):
                self._in_time = not over.wait(late)
                if self._in_time:
                    with contextlib.suppress(ProcessLookupError):  # the task has ended this moment
                        deed()
                return
            time.sleep(0.002)

    def _fill_up(self) -> None:
        with (self.room / "ballast").open("wb") as ballast:
            found = os.statvfs(self.room)
            left = max(found.f_bavail * found.f_frsize - self.dice.choice((0, 64 << 10, 512 << 10)), 4096)
            with contextlib.suppress(OSError):  # somebody was faster
                os.posix_fallocate(ballast.fileno(), 0, left)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A file system for backups alone, in another one, both in memory."""
    paths = [tmp_path / "disks", tmp_path / "disks" / "room"]
    for path in paths:
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m,mode=700", "tmpfs", str(path)], check=True)
    yield paths[1]
    for path in reversed(paths):
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize(("version", "number"), runs(3, of_ten=1))
def test_each_listed_backup_is_what_the_disks_were(version: str, number: int, room: Path) -> None:
    dice = chance(number)
    life = Life(version, KINDS[number % len(KINDS)], dice, room)
    try:
        for _turn in range(dice.choice((0, 1, 1, 2))):
            life.good(**life.options())
        for _turn in range(dice.choice((1, 1, 2))):
            print("story:", json.dumps(life.struck()))
    finally:
        life.disks.close()
