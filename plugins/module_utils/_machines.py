# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Many VMs in one task: ``machines``, by name what the module takes for each, and what all share beside it.

Each is a run of its own, with its plan, deadline, session and undo. Eight go on side by side, in threads that wait for
QEMU most of the time; the main thread, which alone gets signals, waits for them and shows their progress.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Sequence, Tuple

from ._core.errors import Refusal
from ._core.failure import internal_error
from ._core.option import Option
from ._core.progress import Progress
from ._machine.validation import Validator
from ._qmp.address import parse
from ._qmp.deadline import HEARS_WITHIN, Stop
from ._qmp.errors import ConnectError

if TYPE_CHECKING:
    Params = Dict[str, Any]
    Result = Dict[str, Any]
    Run = Callable[[Params, Callable[[Progress], None], Stop], Result]

AT_A_TIME = 8
TOLD = 3
"""How many of the errors the message has."""
SILENT = 2.0
"""Seconds after which it is told how many are done."""
# Each VM has these for itself: what stands beside `machines` is not theirs, and no two may have the same.
_OWN = ("name", "socket")
_PATHS = ("directory", "disk")  # nor may these be the same


def with_machines(options: Dict[str, Option]) -> Dict[str, Option]:
    """Return a module's options with ``machines``, beside which none of them is required."""
    alone = {
        name: Option(option.kind, option.hidden_whole, **{**option.fields, "required": False})
        for name, option in options.items()
    }
    return {**alone, "machines": Option("dict")}


def of_one(params: Params, options: Dict[str, Option], constraints: Dict[str, Any]) -> Params:
    """Return the parameters of a task without ``machines``. Raise Refusal where they are not those of a whole one."""
    missing = [name for name, option in options.items() if option.fields.get("required") and params.get(name) is None]
    if missing:
        raise Refusal(f"missing required arguments: {', '.join(sorted(missing))}")
    own = {name: value for name, value in params.items() if name in options}
    return Validator(options, **constraints).validate("parameters", own) if constraints else own


def of_each(params: Params, options: Dict[str, Option], constraints: Dict[str, Any]) -> Dict[str, Params]:
    """Return each VM's parameters by its name. Raise Refusal, which names all that are wrong (the first few of many)."""
    shared = {name: value for name, value in params.items() if name in options and name not in _OWN}
    found: Dict[str, Params] = {}
    wrong: List[str] = []
    validator = Validator(options, **constraints)
    for name, own in params["machines"].items():
        try:
            found[name] = _of(name, own, shared, validator)
        except Refusal as exc:
            wrong.append(str(exc))
    wrong += _in_each_others_way(found)
    if wrong:
        raise Refusal(_first_few(wrong))
    return found


def _of(name: str, own: Any, shared: Params, validator: Validator) -> Params:
    own = {} if own is None else own
    if isinstance(own, dict):
        named = {"name": name} if "name" in validator.options else {}
        own = {key: value for key, value in {**shared, **named, **own}.items() if value is not None}
    return validator.validate(f"machines.{name}", own)


def _in_each_others_way(machines: Dict[str, Params]) -> Iterator[str]:
    """Yield a sentence for each VM that has a name, a monitor, a disk or the like which is another's too."""
    seen: Dict[Any, str] = {}
    for name, params in machines.items():
        for option, value, place in _own(params):
            first = seen.setdefault((option, place), name)
            if first != name:
                yield f"machines.{name}: {option} {value} is that of machines.{first}, too: each needs one of its own"


def _own(params: Params) -> Iterator[Tuple[str, Any, Any]]:
    """Yield what is for one VM alone: the option, its value, and the same for all ways to write that."""
    for option in (*_OWN, *_PATHS):
        value = params.get(option)
        if value is not None:
            yield (
                option,
                value,
                _place(value) if option == "socket" else os.path.realpath(value) if option in _PATHS else value,
            )
    for tap in params.get("taps") or []:
        yield "tap", tap["name"], tap["name"]


def _place(socket: str) -> Any:
    """Return the same for all ways to write one monitor's address."""
    try:
        address = parse(socket)
    except ConnectError:
        return socket
    path = address.path
    return (address.host, address.port) if path is None else path if path[0] == "@" else os.path.realpath(path)


def run_each(machines: Dict[str, Params], run: Run, on_progress: Callable[[Progress], None]) -> Dict[str, Result]:
    """Return the result of ``run(parameters, on_progress, stop)`` for each VM by its name, in their order.

    What is raised here (the task is told to stop) first ends what goes on: each takes back what it did.
    """
    results: Dict[str, Result] = {}
    begun = time.monotonic()
    with _Threads(machines, run) as threads:
        threads.start()
        while len(results) < len(machines):
            name, what = threads.next()
            if isinstance(what, Progress):
                on_progress(what._replace(what=f"{name}: {what.what}"))
                continue
            results[name] = what
            if time.monotonic() - begun > SILENT:
                on_progress(Progress("machines", f"{len(results)} of {len(machines)} done"))
    return {name: results[name] for name in machines}


class _Threads:
    """The threads, each of which takes one VM after the other. ``told``: what they tell, each time with the VM's name."""

    def __init__(self, machines: Dict[str, Params], run: Run) -> None:
        self.told: queue.SimpleQueue[Tuple[str, Any]] = queue.SimpleQueue()
        self._todo = deque(machines.items())
        self._run = run
        self._stop = Stop()
        self._threads: List[threading.Thread] = []

    def __enter__(self) -> _Threads:
        return self

    def start(self) -> None:
        """Begin the work."""
        for _number in range(min(AT_A_TIME, len(self._todo))):
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def next(self) -> Tuple[str, Any]:
        """Return what is told next."""
        while True:
            with suppress(queue.Empty):
                return self.told.get(timeout=HEARS_WITHIN)

    def __exit__(self, kind: object, *exc: object) -> None:
        """Wait for their end, which comes soon after something was raised."""
        if kind is not None:
            self._stop.call()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.called:
            try:
                name, params = self._todo.popleft()
            except IndexError:
                return
            try:
                result = self._run(params, partial(self._tell, name), self._stop)
            except Exception as exc:
                result = internal_error(f"machines.{name}", exc)
            self._tell(name, result)

    def _tell(self, name: str, what: Any) -> None:
        self.told.put((name, what))


def joined(results: Dict[str, Result]) -> Result:
    """Return the task's result. It takes ``diff`` and ``warnings`` out of those of each VM."""
    diffs = {name: result.pop("diff") for name, result in results.items() if "diff" in result}
    diffs = {name: diff for name, diff in diffs.items() if diff["before"] != diff["after"]}
    warnings = [_named(name, text) for name, result in results.items() for text in result.pop("warnings", [])]
    failed = [_named(name, result["msg"]) for name, result in results.items() if result.get("failed")]
    changed = [bool(result.get("changed")) for result in results.values() if not result.get("failed")]
    words = f"{sum(changed)} changed, {len(changed) - sum(changed)} unchanged"
    return {
        "changed": any(result.get("changed") for result in results.values()),
        "machines": results,
        "warnings": warnings,
        "diff": {side: {name: diff[side] for name, diff in diffs.items()} for side in ("before", "after")},
        "msg": f"{words}, {len(failed)} failed: {_first_few(failed)}" if failed else words,
        **({"failed": True} if failed else {}),
    }


def _named(name: str, text: str) -> str:
    """Return a text that begins with the VM's name, as some do already."""
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


def _first_few(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - TOLD} more"] if len(texts) > TOLD else []
    return "; ".join([*texts[:TOLD], *more])
