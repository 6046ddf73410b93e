# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The guest's memory into a file: begun, joined, seen through, and shown under its name only when it is whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core import safe_open
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, suggestion
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.apply import execute_step
from ansible_collections.vmm.qemu.plugins.module_utils._engine.watch import watch
from ansible_collections.vmm.qemu.plugins.module_utils._host import part_file
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.events import EventFilter
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

DUMP = {
    "path": Option("path", required=True),
    "format": Option("str", default="elf"),
    "paging": Option("bool", default=False),
    "begin": Option("str"),
    "length": Option("str"),
    "force": Option("bool", default=False),
}
_COMPLETED = "DUMP_COMPLETED"
# Stopped by QEMU for the dump; it goes on by itself a moment after the dump is complete.
_STOPPED = "save-vm"
_EVENT_SECONDS = 2.0
# How a flattened kdump file begins, and how only a whole one ends.
_FLAT, _FLAT_END = b"makedumpfile", b"\xff" * 16
# How files begin that QEMU writes: elf, kdump flattened and raw, win-dmp.
_DUMPS = (b"\x7fELF", _FLAT, b"KDUMP", b"PAGE")


class Want(NamedTuple):
    """The task's parameters, checked. ``begin`` and ``length`` are bytes."""

    path: str
    format: str
    paging: bool
    force: bool
    begin: int | None
    length: int | None


class Found(NamedTuple):
    """What there is: ``query-dump``, and where the VM is local the files."""

    dump: Dict[str, Any]
    status: str
    formats: List[str]
    local: bool = True
    size: int | None = None
    """Of the file at the path, if there is one."""
    part: str = "none"
    """The file beside it: ``none``, ``written`` (right now), ``other`` (written, but not what is wanted), ``whole``, ``stale``,
    or ``unknown`` (perhaps written)."""

    @property
    def active(self) -> bool:
        """Whether a dump is under way, whoever began it."""
        return bool(self.dump["status"] == "active")


class Move(NamedTuple):
    """What is to be done. Without steps and ``changed`` there is nothing to do; without steps alone it was begun before."""

    plan: Plan
    changed: bool
    warnings: List[str] = []


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal, ConnectError and its kin."""
    want = check(task.params)
    vm = task.connect()
    mark = vm.session.event_count
    found = look(vm, want)
    move = decide(found, want)
    if task.check_mode or not move.changed:
        known = {"size": found.size} if not move.changed else {"format": want.format}
        return _result(want, found, move, known)
    if move.plan.steps:
        _begin(vm, move.plan.steps[0], want, found)
    dump = _see_through(task, vm, want, mark) if found.part != "whole" else found.dump
    if found.local:
        part_file.move_into_place("path", want.path, replace=want.force)
        dump = {**dump, "size": os.stat(want.path).st_size}
    return _result(want, found, move, {"format": want.format, **dump})


def check(params: Dict[str, Any]) -> Want:
    """The parameters in their types. Raises Refusal for what is wrong whatever the VM is like."""
    part_file.check_absolute("path", params["path"])
    sizes = {name: _size(name, params[name]) for name in ("begin", "length")}
    if (sizes["begin"] is None) != (sizes["length"] is None):
        raise Refusal("begin, length: a part of the memory has both: give the other one, too")
    if sizes["length"] == 0:
        raise Refusal("length: 0 bytes are nothing to dump")
    extra = "paging" if params["paging"] else "begin, length" if sizes["begin"] is not None else ""
    if extra and params["format"] != "elf":
        raise Refusal(f"{extra}: only format=elf can do that, and format is {params['format']}")
    return Want(params["path"], params["format"], params["paging"], params["force"], sizes["begin"], sizes["length"])


def _size(name: str, value: Any) -> int | None:
    try:
        return None if value is None else human_size(value)
    except ValueError as exc:
        raise Refusal(f"{name}: {exc}") from exc


def look(vm: VM, want: Want) -> Found:
    """Read the VM and, where it is local, the files. Raises Refusal for what can't be written, and the session's errors."""
    dump = vm.ask("query-dump")
    found = Found(dump, vm.status, vm.ask("query-dump-guest-memory-capability")["formats"], vm.local)
    if not vm.local:
        return found
    there = part_file.existing("path", want.path)
    if there is not None and not want.force:
        return found._replace(size=there.st_size)
    if there is not None and there.st_size:
        _check_dump(want.path)
    part_file.check_directory("path", want.path)
    part = part_file.check_leftover("path", want.path)
    state = "none" if part is None else _state(vm, want, part, dump)
    return found._replace(size=None if there is None else there.st_size, part=state)


def _check_dump(path: str) -> None:
    """Raise Refusal for what is there and is not a dump: a disk's image, say."""
    try:
        with safe_open.regular(path, links=True) as file:
            if file.read(len(_FLAT)).startswith(_DUMPS):
                return
    except OSError as exc:
        raise Refusal(f"path: can't read {path}: {exc.strerror}") from exc
    raise Refusal(
        f"path: {path} is there and is not a dump: it is kept, with force, too; remove it, or give another path"
    )


def _state(vm: VM, want: Want, part: os.stat_result, dump: Dict[str, Any]) -> str:
    """What the file beside the path is worth. ``query-dump`` has no names, so that the files must tell."""
    path = part_file.part_path(want.path)
    if dump["status"] == "active":
        state = _open_by_someone(part)
        return "other" if state == "written" and not _as_wanted(vm, want, path, dump["total"]) else state
    whole = dump["status"] == "completed" and _whole(path, dump["total"])
    return "whole" if whole and _as_wanted(vm, want, path, dump["total"]) else "stale"


def _as_wanted(vm: VM, want: Want, path: str, total: int) -> bool:
    """Whether a dump is of the format and the part of the memory that are wanted, as far as that shows."""
    with safe_open.regular(path, links=True) as file:
        begins = file.read(len(_FLAT))
    if begins and (begins == _FLAT) is not want.format.startswith("kdump"):
        return False
    if want.length is not None:
        return total == want.length
    memory = vm.ask("query-memory-size-summary")
    return bool(total >= memory["base-memory"] + memory.get("plugged-memory", 0))


def _open_by_someone(part: os.stat_result) -> str:
    """Whether a process has the file open. All are asked: QEMU's monitor does not always tell which one it is."""
    answer = "stale"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), part):
                    return "written"
        except PermissionError:
            answer = "unknown"
        except OSError:  # it has just ended, or closed the file
            continue
    return answer


def _whole(path: str, total: int) -> bool:
    """Whether a file by itself shows that nothing of it is missing (kdump-raw and win-dmp can't)."""
    try:
        with safe_open.regular(path, links=True) as file:
            begins = file.read(len(_FLAT))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_FLAT_END)))
            return file.read() == _FLAT_END if begins == _FLAT else begins.startswith(b"\x7fELF") and size > total
    except OSError:
        return False


def decide(found: Found, want: Want) -> Move:
    """What leads to a whole dump at the path. Pure. Raises Refusal for what can't be done."""
    if found.local and found.size is not None and not want.force:
        warning = f"{want.path} is there already and was not touched: set force=true for a new dump in its place"
        return Move(Plan(), False, [warning])
    if found.active:
        return _join(found, want)
    if found.part == "whole":
        return Move(Plan(), True, [f"{want.path} is the dump that an earlier run began, and that was complete by now"])
    if found.status == "inmigrate":
        raise Refusal("the virtual machine waits for its incoming migration, and there is no memory to dump yet")
    if want.format not in found.formats:
        raise Refusal(
            f"format: this QEMU can't write {want.format!r}{suggestion(want.format, found.formats)}; "
            f"it has {', '.join(found.formats)}"
        )
    target = part_file.part_path(want.path) if found.local else want.path
    arguments: Dict[str, Any] = {"paging": want.paging, "protocol": f"file:{target}", "detach": True}
    arguments["format"] = want.format
    if want.begin is not None:
        arguments.update(begin=want.begin, length=want.length)
    return Move(Plan([Step("dump-guest-memory", arguments)]), True)


def _join(found: Found, want: Want) -> Move:
    """To a dump that is under way, if it can be this one. Raises Refusal if it can't."""
    if not found.local:
        return Move(Plan(), True, ["a dump was under way already, and was joined; QEMU does not tell its path"])
    if found.part == "written":
        return Move(Plan(), True)
    why = "it goes to another file"
    if found.part == "other":
        why = f"though it goes to {part_file.part_path(want.path)}, it is in another format or of another part of the memory"
    if found.part == "unknown":
        why = f"whether it goes to {part_file.part_path(want.path)} can't be told by the user that runs the task"
    raise Refusal(
        f"a dump is under way ({_figures(found.dump)}), and {why}. QEMU makes one at a time and can't cancel it: "
        "run the task again when it is over"
    )


def _begin(vm: VM, step: Step, want: Want, found: Found) -> None:
    """Send the command. Raises Refusal, with nothing left behind, when QEMU refuses it."""
    part = part_file.part_path(want.path)
    if found.local:
        part_file.remove(part)
    try:
        execute_step(step, vm, vm.deadline)
    except errors.CommandError as exc:
        if found.local:
            part_file.remove(part)  # QEMU opens it before it looks at the rest
        error = {"class": exc.error_class, "desc": exc.desc}
        raise Refusal(f"path: {want.path} could not be dumped to: {exc}", error=error) from exc


def _see_through(task: Task, vm: VM, want: Want, mark: int) -> Dict[str, Any]:
    """Wait until the dump is over and the guest goes on; returns ``query-dump``. Raises Refusal if it failed or lasts."""

    def one_look() -> Tuple[Dict[str, Any], bool, Progress]:
        dump = vm.ask("query-dump")
        over = dump["status"] != "active" and vm.status != _STOPPED
        return dump, over, Progress("dump", dump["status"], dump["completed"], dump["total"])

    try:
        dump = watch(vm, one_look, task.on_progress, _COMPLETED, "RESUME")
    except NotDoneInTime as exc:
        figures = f" ({_figures(exc.found)})" if exc.found else ""
        raise Refusal(
            f"the dump to {want.path} is not over after {task.params['timeout']:.4g} s and goes on{figures}. QEMU can't "
            "cancel it: run the task again to join it, with more timeout",
            dump={"path": want.path, **(exc.found or {})},
        ) from exc
    if dump["status"] != "completed":
        if vm.local:
            part_file.remove(part_file.part_path(want.path))
        reason = _reason(vm, mark)
        error = {"error": {"class": "GenericError", "desc": reason}} if reason else {}
        raise Refusal(
            f"the dump to {want.path} failed ({_figures(dump)}): {reason or 'QEMU does not say why'}",
            dump={"path": want.path, **dump},
            **error,
        )
    return dump


def _reason(vm: VM, mark: int) -> str:
    """Why the dump failed, in QEMU's words; only the event tells."""
    try:
        event = vm.session.wait_event(EventFilter(_COMPLETED), since=mark, timeout=_EVENT_SECONDS)
    except errors.CommandTimeout:
        return ""
    return str(event.data.get("error", ""))


def _figures(dump: Dict[str, Any]) -> str:
    return f"{dump['completed']} of {dump['total']} bytes"


def _result(want: Want, found: Found, move: Move, known: Dict[str, Any]) -> Dict[str, Any]:
    before: Dict[str, Any] = {"path": want.path, "state": "unknown"}  # behind TCP nobody can look
    if found.local:
        before["state"] = "absent" if found.size is None else "present"
    if found.size is not None:
        before["size"] = found.size
    written = {"path": want.path, "state": "present", "format": want.format}
    return {
        "changed": move.changed,
        "commands": move.plan.commands,
        "dump": {"path": want.path, **known},
        "diff": {"before": before, "after": written if move.changed else before},
        "warnings": move.warnings,
    }
