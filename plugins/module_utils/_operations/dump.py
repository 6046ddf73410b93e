# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The guest's memory into a file: begun, joined, seen through, and shown under its name only when it is whole."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Tuple

from .._core import safe_open
from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.option import Option, suggestion
from .._core.plan import Plan
from .._core.progress import Progress
from .._core.step import Step
from .._engine.operation import Operation, Params, Run
from .._host import part_file
from .._kinds.blockdev_active import migration, on_its_way
from .._qmp import errors
from .._qmp.events import EventFilter
from .._qmp.values import human_size

if TYPE_CHECKING:
    from .._core.vm import VM

_COMPLETED = "DUMP_COMPLETED"
# Stopped by QEMU for the dump; it goes on by itself a moment after the dump is complete.
_STOPPED = "save-vm"
_EVENT_SECONDS = 2.0
# How a flattened kdump file begins, and how only a whole one ends.
_FLAT, _FLAT_END = b"makedumpfile", b"\xff" * 16
# How files begin that QEMU writes: elf, kdump flattened and raw, win-dmp.
_DUMPS = (b"\x7fELF", _FLAT, b"KDUMP", b"PAGE")


class Current(NamedTuple):
    """What was read: ``query-dump``, and where the VM is local the files."""

    dump: Dict[str, Any]
    status: str
    formats: List[str]
    local: bool = True
    seen: int = 0
    """How many events the session had seen before."""
    size: int | None = None
    """Of the file at the path, if there is one."""
    part: str = "none"
    """The file beside it: ``none``, ``written`` (right now), ``other`` (written, but not what is wanted), ``whole``, ``stale``,
    or ``unknown`` (perhaps written)."""
    migration: str = ""
    """The status of the migration that is under way."""


class Dump(Operation):
    """Write the guest's memory to a file, or join the dump that an earlier task began."""

    options = {
        "path": Option("path", required=True),
        "format": Option("str", default="elf"),
        "paging": Option("bool", default=False),
        "begin": Option("str"),
        "length": Option("str"),
        "force": Option("bool", default=False),
    }

    def check(self, params: Params) -> Params:
        """Return the parameters, ``begin`` and ``length`` in bytes. Raise Refusal for what contradicts itself."""
        part_file.check_absolute("path", params["path"])
        begin, length = (_bytes(name, params[name]) for name in ("begin", "length"))
        if (begin is None) != (length is None):
            raise Refusal("begin, length: a part of the memory has both: give the other one, too")
        if length == 0:
            raise Refusal("length: 0 bytes are nothing to dump")
        extra = "paging" if params["paging"] else "begin, length" if begin is not None else ""
        if extra and params["format"] != "elf":
            raise Refusal(f"{extra}: only format=elf can do that, and format is {params['format']}")
        return {**params, "begin": begin, "length": length}

    def read(self, vm: VM, params: Params) -> Current:
        """Return how the last dump fares and, where the VM is local, the files. Raise Refusal for what can't be written."""
        path, seen, dump = params["path"], vm.session.event_count, vm.ask("query-dump")
        formats = vm.ask("query-dump-guest-memory-capability")["formats"]
        current = Current(dump, vm.status, formats, vm.local, seen, migration=migration(vm))
        if not vm.local:
            return current
        there = part_file.existing("path", path)
        if there is not None and not params["force"]:
            return current._replace(size=there.st_size)
        if there is not None and there.st_size:
            _check_dump(path)
        part_file.check_directory("path", path)
        part = part_file.check_leftover("path", path)
        state = "none" if part is None else _state(vm, params, part, dump)
        return current._replace(size=None if there is None else there.st_size, part=state)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what leads to a whole dump at the path. Raise Refusal for what can't be done."""
        path = params["path"]
        before: Dict[str, Any] = {"path": path, "state": "unknown"}  # behind TCP nobody can look
        if current.local:
            before["state"] = "absent" if current.size is None else "present"
        if current.size is not None:
            before["size"] = current.size
        after = {"path": path, "state": "present", "format": params["format"]}
        if current.local and current.size is not None and not params["force"]:
            warning = f"{path} is there already and was not touched: set force=true for a new dump in its place"
            return Plan(before=before, after=before, warnings=[warning])
        if current.dump["status"] == "active":
            return Plan(follows=True, changed=True, warnings=_join(current, path), before=before, after=after)
        if current.part == "whole":
            warning = f"{path} is the dump that an earlier run began, and that was complete by now"
            return Plan(follows=True, changed=True, warnings=[warning], before=before, after=after)
        return Plan(later=[_begin(current, params)], before=before, after=after)

    def follow(self, run: Run, current: Current, params: Params) -> Dict[str, Any]:
        """Begin or join the dump, wait for its end, and give the file its name. Return ``query-dump`` and the ``size``."""
        path, dump = params["path"], current.dump
        if run.plan.later:
            with part_file.written_by_qemu(path, current.local):
                super().follow(run, current, params)
        if current.part != "whole":
            dump = _wait(run, params)
        if dump["status"] != "completed":
            raise _failed(run.vm, path, dump, current.seen)
        if not current.local:
            return dump
        part_file.move_into_place("path", path, replace=params["force"])
        return {**dump, "size": os.stat(path).st_size}

    def describe(self, current: Current, params: Params, plan: Plan, end: Dict[str, Any] | None) -> Dict[str, Any]:
        """Return ``dump``: what is known of the file at the path."""
        known = {"format": params["format"], **(end or {})} if plan.changed else {"size": current.size}
        return {"dump": {"path": params["path"], **known}}


def _bytes(name: str, value: Any) -> int | None:
    try:
        return None if value is None else human_size(value)
    except ValueError as exc:
        raise Refusal(f"{name}: {exc}") from exc


# -- the files ----------------------------------------------------------------


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


def _state(vm: VM, params: Params, part: os.stat_result, dump: Dict[str, Any]) -> str:
    """Return what the file beside the path is worth. ``query-dump`` has no names, so that the files must tell."""
    path = part_file.part_path(params["path"])
    if dump["status"] == "active":
        state = _open_by_someone(part)
        return "other" if state == "written" and not _as_wanted(vm, params, path, dump["total"]) else state
    whole = dump["status"] == "completed" and _whole(path, dump["total"])
    return "whole" if whole and _as_wanted(vm, params, path, dump["total"]) else "stale"


def _as_wanted(vm: VM, params: Params, path: str, total: int) -> bool:
    """Tell whether a dump is of the format and the part of the memory that are wanted, as far as that shows."""
    with safe_open.regular(path, links=True) as file:
        begins = file.read(len(_FLAT))
    if begins and (begins == _FLAT) is not params["format"].startswith("kdump"):
        return False
    if params["length"] is not None:
        return bool(total == params["length"])
    memory = vm.ask("query-memory-size-summary")
    return bool(total >= memory["base-memory"] + memory.get("plugged-memory", 0))


def _open_by_someone(part: os.stat_result) -> str:
    """Tell whether a process has the file open. All are asked: QEMU's monitor does not always tell which one it is."""
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
    """Tell whether a file by itself shows that nothing of it is missing (kdump-raw and win-dmp can't)."""
    try:
        with safe_open.regular(path, links=True) as file:
            begins = file.read(len(_FLAT))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_FLAT_END)))
            return file.read() == _FLAT_END if begins == _FLAT else begins.startswith(b"\x7fELF") and size > total
    except OSError:
        return False


# -- planning -----------------------------------------------------------------


def _begin(current: Current, params: Params) -> Step:
    """Return the step that begins a dump. Raise Refusal for what QEMU can't write."""
    if current.migration:
        raise on_its_way("path", current.migration, "QEMU refuses a dump")
    if current.status == "inmigrate":
        raise Refusal("the virtual machine waits for its incoming migration, and there is no memory to dump yet")
    if params["format"] not in current.formats:
        raise Refusal(
            f"format: this QEMU can't write {params['format']!r}{suggestion(params['format'], current.formats)}; "
            f"it has {', '.join(current.formats)}"
        )
    target = part_file.part_path(params["path"]) if current.local else params["path"]
    arguments = {"paging": params["paging"], "protocol": f"file:{target}", "detach": True, "format": params["format"]}
    if params["begin"] is not None:
        arguments.update(begin=params["begin"], length=params["length"])
    return Step("dump-guest-memory", arguments)


def _join(current: Current, path: str) -> List[str]:
    """Return what to warn of where a dump that is under way is joined. Raise Refusal if it can't be the wanted one."""
    if not current.local:
        return ["a dump was under way already, and was joined; QEMU does not tell its path"]
    if current.part == "written":
        return []
    part, why = part_file.part_path(path), "it goes to another file"
    if current.part == "other":
        why = f"though it goes to {part}, it is in another format or of another part of the memory"
    if current.part == "unknown":
        why = f"whether it goes to {part} can't be told by the user that runs the task"
    raise Refusal(
        f"a dump is under way ({_progress_text(current.dump)}), and {why}. QEMU makes one at a time and can't cancel it: "
        "run the task again when it is over"
    )


# -- following ----------------------------------------------------------------


def _wait(run: Run, params: Params) -> Dict[str, Any]:
    """Wait until the dump is over and the guest goes on, and return ``query-dump``. Raise NotDoneInTime if it lasts."""
    vm, path = run.vm, params["path"]

    def look() -> Tuple[Dict[str, Any], bool, Progress]:
        dump = vm.ask("query-dump")
        over = dump["status"] != "active" and vm.status != _STOPPED
        return dump, over, Progress("dump", dump["status"], dump["completed"], dump["total"])

    try:
        return run.watch(look, _COMPLETED, "RESUME")
    except NotDoneInTime as exc:
        how_far = f" ({_progress_text(exc.found)})" if exc.found else ""
        raise NotDoneInTime(
            f"the dump to {path} is not over after {params['timeout']:.4g} s and goes on{how_far}. QEMU can't "
            "cancel it: run the task again to join it, with more timeout",
            dump={"path": path, **(exc.found or {})},
        ) from exc


def _failed(vm: VM, path: str, dump: Dict[str, Any], since: int) -> OperationFailed:
    """Return the error of a dump that failed, whose reason only an event tells, and remove what there is of it."""
    if vm.local:
        part_file.remove(part_file.part_path(path))
    try:
        event = vm.session.wait_event(EventFilter(_COMPLETED), since=since, timeout=_EVENT_SECONDS)
        reason = str(event.data.get("error", ""))
    except errors.CommandTimeout:
        reason = ""
    return OperationFailed(
        f"the dump to {path} failed ({_progress_text(dump)}): {reason or 'QEMU does not say why'}",
        dump={"path": path, **dump},
        **({"error": {"class": "GenericError", "desc": reason}} if reason else {}),
    )


def _progress_text(dump: Dict[str, Any]) -> str:
    return f"{dump['completed']} of {dump['total']} bytes"


DUMP = Dump()
