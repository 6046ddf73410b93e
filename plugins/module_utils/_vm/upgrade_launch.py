# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The new QEMU of an upgrade, started beside the old one, with all that it has, and waiting for its guest."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any, Dict, List, cast

from .._core.errors import OperationFailed, TaskError
from .._core.plan import NotReadBack, PlanFailed
from .._core.step import Step
from .._engine.apply import execute_step
from .._host import command_line, directory, process
from .._migration import settings
from .._qmp import errors
from .._qmp.holder import is_heard
from . import upgrade_checks, upgrade_taps
from .process import plug

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline
    from .record import Record
    from .service import Service
    from .upgrade_pair import Pair, Side


class Launch:
    """How it is started."""

    def __init__(self, pair: Pair, kept: Record, line: List[str], cpr: bool, unit: Service | None) -> None:
        """``line``: how the old one was started, but for the program. ``cpr``: whether it takes the guest's memory as it is.

        ``unit``: what the old one is a part of.
        """
        self.pair = pair
        self.kept = kept
        self.cpr = cpr
        self.unit = unit
        self.socket = f"{pair.place.run}/cpr"
        main = _channel("main", pair.beside.listens_at)
        handed = _channel("cpr", self.socket)
        self.channels = [main, handed]
        incoming = ["-incoming", "defer", *(["-incoming", json.dumps(handed)] if cpr else [])]
        self.line = [line[0], *command_line.without_beginning(line[1:-1]), *incoming, line[-1]]

    def start(self, deadline: Deadline) -> None:
        """Start it, and give it what the old one has. Raise TaskError with nothing of it left, and the old one where it was."""
        pair, beside = self.pair, self.pair.beside
        mark = process.new_mark()
        beside.prepare()
        try:
            upgrade_taps.give_new(pair.task, pair.place, self.kept, deadline)
            beside.turn_to_new()
            self._launch(mark, deadline)
            new = pair.side(beside.run)
            if new is None:
                raise OperationFailed(f"{pair.place.name}: the new QEMU has ended: {self._logged()}")
            pair.new = new
            self._plug(new)
            beside.turn_to_old()
        except BaseException as exc:
            process.kill(mark)
            cause = exc.cause if isinstance(exc, (PlanFailed, NotReadBack)) else exc
            try:
                pair.take_back()
            except (TaskError, errors.QMPError) as other:
                raise OperationFailed(f"{cause}; and what was begun could not be taken back: {other}") from exc
            raise cause from exc

    def _plug(self, new: Side) -> None:
        plug(self.pair.task, new.vm, self.kept, None, False)
        others = upgrade_checks.differences(cast("Side", self.pair.old).vm, new.vm)
        if others:
            raise OperationFailed(
                f"{self.pair.place.name}: the new QEMU would not be the same machine: {'; '.join(others)}"
            )

    def _launch(self, mark: str, deadline: Deadline) -> None:
        if not self.cpr:
            self._run(mark, deadline)
            return
        failed: List[BaseException] = []
        done = threading.Event()

        def launch() -> None:
            try:
                self._run(mark, deadline)
            except BaseException as exc:
                failed.append(exc)
            done.set()

        # it returns when the memory has been handed over
        threading.Thread(target=launch, daemon=True).start()
        while not is_heard(self.socket) and not done.wait(process.POLL):
            if deadline.expired:
                break
        if not done.is_set():
            self._let_in()
            self._hand_over(deadline)
        while not done.wait(process.POLL):
            pass  # it has the deadline itself
        if failed:
            raise failed[0]

    def _run(self, mark: str, deadline: Deadline) -> None:
        if self.unit is None:
            process.launch(self.line, mark, deadline, self._logged)
        else:
            self.unit.start_beside(self.line, mark, deadline)

    def _let_in(self) -> None:
        """Let the old one connect, which is not root by now, to what the new one has made as root."""
        if self.pair.place.user:
            whose = directory.account(self.pair.place.user)
            os.chown(self.socket, whose.pw_uid, whose.pw_gid, follow_symlinks=False)

    def _hand_over(self, deadline: Deadline) -> None:
        """Begin the migration at the old one, whose guest runs on until the new one listens for the rest."""
        vm = cast("Side", self.pair.old).vm
        usual = {"events": True, "return-path": True}
        steps = settings.setting_steps(settings.read_settings(vm, None), {"capabilities": {}, "parameters": {}}, usual)
        steps += [
            Step("migrate-set-parameters", {"mode": "cpr-transfer"}),
            Step("migrate", {"channels": self.channels}),
        ]
        for step in steps:
            execute_step(step.replace(hidden=True), vm, deadline)
        vm.forget()

    def _logged(self) -> str:
        try:
            with open(self.pair.place.log, "rb") as file:
                return process.tail(file)
        except OSError:
            return ""


def _channel(kind: str, path: str) -> Dict[str, Any]:
    return {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": path}}
