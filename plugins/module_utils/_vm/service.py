# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The unit by which systemd starts a VM with all that it has, and stops it."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.step import Step
from .._host import part_file, program
from . import code
from .options import Place

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

UNITS = "/etc/systemd/system"
_PREFIX = "vmm-qemu-"
_OURS = "# Made by vmm.qemu"
# How the role of 0.3.0 ended the first line of its units.
_FORMER = ": the role vmm.qemu.vm"


class Service:
    """One VM's unit."""

    def __init__(self, place: Place, params: Dict[str, Any]) -> None:
        """``params``: the task's, checked."""
        self.place = place
        self.params = params
        self.unit = f"{_PREFIX}{place.name}.service"
        self.path = f"{UNITS}/{self.unit}"
        self.wants = f"{UNITS}/multi-user.target.wants/{self.unit}"
        self.before = self._read()

    def _read(self) -> str | None:
        """Return the unit as it is. Raise Refusal for one that somebody else has made."""
        try:
            with safe_open.regular(self.path) as file:
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Refusal(f"service: the unit {self.path} can't be read: {exc.strerror}") from exc
        first = text.partition("\n")[0]
        if not first.startswith(_OURS) and not first.endswith(_FORMER):
            raise Refusal(
                f"service: there is a unit {self.path} that this collection has not made: it is kept; remove it"
            )
        return text

    @property
    def enabled(self) -> bool:
        """Whether systemd starts it with the host."""
        return os.path.lexists(self.wants)

    def steps(self, where: str) -> List[Step]:
        """Return what makes the unit as it shall be. ``where``: the code that it runs."""
        text = self._text(where)
        steps = [self._write_step(text)] if text != self.before else []
        if self.params["autostart"] != self.enabled:
            steps.append(self._enable_step(self.params["autostart"]))
        return steps

    def _text(self, where: str) -> str:
        params, place = self.params, self.place
        start, stop, reload = (
            " ".join(map(_word, code.command(where, verb, place.directory))) for verb in ("start", "stop", "reload")
        )
        saves = params["save_timeout"] if params["on_host_shutdown"] == "save" else 0
        # a guest that can't go on is started anew, and one that can't be saved is shut down
        limits = [
            max(params["start_timeout"] + params["plug_timeout"], 1) * (2 if saves else 1) + saves + 5,
            max(params["shutdown_timeout"] * 2, 1) + saves + 10,
        ]
        mounts = " ".join(_word(path) for path in (place.directory, os.path.dirname(params["disk"])))
        restart = "on-failure" if params["autostart"] else "no"
        return f"""{_OURS}.qemu_vm: what is changed here is lost
[Unit]
Description=QEMU virtual machine {place.name}
Wants=network-online.target
After=network-online.target remote-fs.target
RequiresMountsFor={mounts}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=forking
PIDFile={place.pidfile.replace("%", "%%")}
ExecStart={start}
ExecStop=-{stop}
ExecReload={reload}
TimeoutStartSec={limits[0]}
TimeoutStopSec={limits[1]}
Restart={restart}
RestartSec=5
UMask=0077

[Install]
WantedBy=multi-user.target
"""

    def _write_step(self, text: str | None) -> Step:
        """Return the step that writes the unit, or removes it."""

        def write(content: str | None, deadline: Deadline) -> None:
            if content is None:
                part_file.remove(self.path)
            else:
                part_file.write("service", self.path, content.encode(), 0o644)
            program.run(["systemctl", "daemon-reload"], deadline, "service: systemctl daemon-reload")

        shown = [["rm" if text is None else "write", self.path], ["systemctl", "daemon-reload"]]
        undo = Step(
            do=lambda deadline: write(self.before, deadline),
            command_lines=[["rm" if self.before is None else "write", self.path]],
        )
        return Step(do=lambda deadline: write(text, deadline), command_lines=shown, undo=[undo])

    def _enable_step(self, wanted: bool) -> Step:
        verbs = ("enable", "disable") if wanted else ("disable", "enable")
        there, back = [["systemctl", verb, self.unit] for verb in verbs]
        undo = Step(do=lambda deadline: _run(back, deadline), command_lines=[back])
        return Step(do=lambda deadline: _run(there, deadline), command_lines=[there], undo=[undo])

    def remove_steps(self) -> List[Step]:
        """Return what removes the unit."""
        steps = [self._enable_step(False)] if self.enabled else []
        if self.before is not None:
            steps.append(self._write_step(None))
        return steps

    def start(self, deadline: Deadline) -> None:
        """Have systemd start the process alone: nothing is plugged in, and its guest does not run yet.

        Raise OperationFailed with what was said.
        """
        mark = begin_file(self.place)
        part_file.write("service", mark, b"", 0o600)
        try:
            _run(["systemctl", "reset-failed", self.unit], deadline, optional=True)
            _run(["systemctl", "start", self.unit], deadline)
        except OperationFailed as exc:
            said = _journal(self.unit, deadline)
            raise OperationFailed("; ".join(filter(None, [str(exc), said]))) from exc
        finally:
            part_file.remove(mark)

    def main_pid(self, deadline: Deadline) -> int:
        """Return the unit's process; 0 where there is none. Raise OperationFailed."""
        shown = program.run(
            ["systemctl", "show", "--property", "MainPID", "--value", self.unit], deadline, "service: systemctl show"
        )
        return int(shown)

    def check_renewable(self) -> None:
        """Raise Refusal for a unit that can't start a second process."""
        if "\nExecReload=" not in (self.before or ""):
            raise Refusal(
                f"service: the unit {self.unit} was made by an earlier version of this collection: run qemu_vm (the role "
                "vmm.qemu.vm), which renews it, and then this again"
            )

    def start_beside(self, line: List[str], mark: str, deadline: Deadline) -> None:
        """Have systemd start another process beside the one that it has, as part of the unit.

        ``mark``: as ``process.launch`` takes it. Raise OperationFailed with what was said.
        """
        order = beside_file(self.place)
        part_file.write("service", order, json.dumps({"line": line, "mark": mark}).encode(), 0o600)
        try:
            _run(["systemctl", "reload", self.unit], deadline)
        except OperationFailed as exc:
            raise OperationFailed("; ".join(filter(None, [str(exc), _journal(self.unit, deadline)]))) from exc
        finally:
            part_file.remove(order)

    def change_main_pid(self, pid: int, deadline: Deadline) -> None:
        """Have systemd take another process of the unit for its main one: after a reload it reads the pidfile again.

        Raise OperationFailed where it does not.
        """
        part_file.write("service", self.place.pidfile, f"{pid}\n".encode(), 0o644)
        _run(["systemctl", "reload", self.unit], deadline)
        if self.main_pid(deadline) != pid:
            raise OperationFailed(f"service: {self.unit} does not take the process {pid} for its own")


def begin_file(place: Place) -> str:
    """Return the file that tells the unit to start the process alone. A reboot removes it."""
    return _run_file(place, "begin")


def beside_file(place: Place) -> str:
    """Return the file that tells the unit which process to start beside its own."""
    return _run_file(place, "beside")


def _run_file(place: Place, what: str) -> str:
    import hashlib

    return f"/run/{_PREFIX}{place.name}-{hashlib.sha1(place.directory.encode()).hexdigest()[:8]}.{what}"


def is_wanted(params: Dict[str, Any]) -> bool:
    """Tell whether systemd starts it. Raise Refusal where it can't."""
    if params["service"] == "systemd" and os.geteuid() != 0:
        raise Refusal("service: only root has units of systemd: run the task as root, or set service to daemon")
    return params["service"] == "systemd" or (
        params["service"] == "auto" and os.geteuid() == 0 and os.path.isdir("/run/systemd/system")
    )


def _run(command: List[str], deadline: Deadline, optional: bool = False) -> None:
    try:
        program.run(command, deadline, f"service: {' '.join(command)}")
    except OperationFailed:
        if not optional:
            raise


def _journal(unit: str, deadline: Deadline) -> str:
    """Return what the unit's last start said."""
    command = ["journalctl", "--unit", unit, "--output", "cat", "--no-pager", "--lines", "20"]
    with contextlib.suppress(OperationFailed):
        said = program.run(command, deadline, "journalctl").strip().splitlines()
        return "; ".join(said)
    return ""


def _word(text: str) -> str:
    """Return a word of a command line as systemd reads it."""
    for char, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(char, written)
    return f'"{text}"'
