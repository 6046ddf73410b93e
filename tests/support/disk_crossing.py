# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration with its disk that something befalls, and its user, who reads what the tasks say and does that."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from support.chaos import Signalled
from support.copying import MD5, clean, fill, image_arguments, keep_writing, written
from support.crossing import TIMEOUT, Crossing, Fault, Sides
from support.line import Line
from support.migration import MACHINE, incoming
from support.timing import no_hang
from support.vm import VM

KINDS = ("dies", "reset", "silent", "kill", "term")
MOMENTS = ("mirror", "memory", "switchover", "after")


class DiskSides(Sides):
    """A guest that counts and writes to a disk of its own."""

    def __init__(self, here: str, to: str) -> None:
        super().__init__(here, to)
        self.checksum = ""

    def start(self, version: str, incoming: bool = False) -> VM:
        vm = VM(version, guest=True, append="bed.count", machine=MACHINE, ports=["rp0"], start=False)
        vm.command += [*image_arguments(vm), *(["-incoming", "defer"] if incoming else [])]
        vm.start()
        if not incoming:
            self.checksum = fill(vm)
            keep_writing(vm)
        return vm


class DiskCrossing(Crossing):
    """One migration with its disk, and what befalls it at which moment."""

    sides: DiskSides

    def __init__(self, sides: DiskSides, dice: random.Random) -> None:
        super().__init__(sides, dice)
        self.fault = Fault(dice.choice(KINDS), 0)
        self.moment = dice.choice(MOMENTS)
        self._late = dice.uniform(0, 1)
        """How far into the moment."""
        self.gap = 0

    def results(self) -> Iterator[dict[str, Any] | None]:
        """Of the first task, and of those that a user runs who does what he is told."""
        self._heard = {vm: len(vm.serial) for vm in (self.source, self.there)}
        there = self.there.directory
        incoming(self.there, f"unix:{there}/migrate", copy_disks={"address": f"{there}/nbd"})
        task = Signalled()
        strikes = {"dies": self.there.kill, "kill": task.kill, "term": task.term}
        with Line(f"{there}/migrate", None, self.fault.kind) as line, Line(
            f"{there}/nbd", None, self.fault.kind
        ) as disks:
            self._uri, self._disks = line.uri, disks.uri[len("tcp:") :]
            over = threading.Event()

            def cut() -> None:
                line.strike_at(line.passed)
                disks.strike_at(disks.passed)

            striker = threading.Thread(target=self._strike, args=(strikes.get(self.fault.kind, cut), over))
            striker.start()
            try:
                with no_hang(TIMEOUT + 15):
                    result = task.run(self._migrate)
            finally:
                over.set()
                striker.join()
            yield result
            for _turn in range(4):
                if self._is_well(result):
                    break
                told = "run the task again" if result is None else result["msg"]
                self._warned |= "may run at the destination" in told or "has the guest" in told
                if self._stays(told) or (self._state(self.source) == "running" and self._unheard(told)):
                    break
                result = self._obey(told)
                yield result
            else:
                raise AssertionError(f"the user has done four times what he was told, and is still told: {told}")
        if not self.there.alive and self._state(self.source) == "postmigrate":
            # it died with a guest that had arrived: its user has the source, and the disk there, as they were when it left, and
            # hears again what the guest has said there
            self._warned = True
            self._run(self.source, "qemu_power", state="running", force=True)
        self._cleared()

    def _is_well(self, result: dict[str, Any] | None) -> bool:
        if result is not None and not result.get("failed"):
            self.gap = int(result.get("migration", {}).get("downtime", 0))
            return True
        return False

    def _unheard(self, told: str) -> bool:
        """Whether a message says that there is no destination any more."""
        return any(
            words in told for words in ("nobody listens", "nothing listens", "does not answer", "does not export")
        )

    def _migrate(self) -> dict[str, Any]:
        more = {"destination_socket": self.there.qmp} if self._named else {}
        disks = {"address": self._disks, "speed": "16M", "switch_timeout": 3.0}
        return self._run(self.source, "qemu_migrate", uri=self._uri, copy_disks=disks, **more)

    def _strike(self, strike: Callable[[], None], over: threading.Event) -> None:
        """When the moment has come, or the task is over without it."""
        look = self.source.observer
        with contextlib.suppress(ConnectionError, EOFError, OSError):
            while not over.is_set():
                now = look.look("query-migrate").get("status", "none")
                left = look.status() in ("finish-migrate", "postmigrate")  # not "completed": one to nowhere was, before
                jobs = look.look("query-jobs")
                moment = {
                    "mirror": bool(jobs),
                    "memory": now == "active",
                    "switchover": left or now in ("pre-switchover", "device"),
                    "after": left and now == "completed",
                }
                if moment[self.moment]:
                    time.sleep(
                        self._late * {"mirror": 1.5, "memory": 1.0, "switchover": 0.05, "after": 0.05}[self.moment]
                    )
                    strike()
                    return
                time.sleep(0.001)

    def _cleared(self) -> None:
        """What is left of the copy goes with the next task."""
        if self._running(self.source):
            self._run(self.source, "qemu_migrate", state="cancelled")
            assert clean(self.source), "something is left of the copy"
        elif self._running(self.there):
            disks = {"address": f"{self.there.directory}/nbd"}
            incoming(self.there, f"unix:{self.there.directory}/migrate", copy_disks=disks)
            assert self.there.observer.look("query-block-exports") == []

    def data_is_whole(self) -> None:
        """On the side that has the guest."""
        here = self.source if self._running(self.source) else self.there
        written(here)
        assert here.run_in_guest(MD5) == self.sides.checksum, "what was on the disk before is another"
        keep_writing(here)

    def story(self) -> str:
        """For whoever counts."""
        side = "source" if self._running(self.source) else "destination"
        return json.dumps({"fault": self.fault.kind, "moment": self.moment, "guest": side, "downtime_ms": self.gap})
