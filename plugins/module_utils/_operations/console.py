# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for what a guest's console shows, and typing answers."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from .._core.coercion import parse_bool
from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.interrupt import pause
from .._core.option import Option
from .._core.progress import Progress
from .._core.secrets import dictionaries, quoted_forms
from .._core.step import REDACTED
from .._core.task import CONNECTION
from .._qmp import errors
from .._qmp.deadline import Deadline
from .console_keys import chords, typed
from .console_screen import Screen
from .console_source import Log, Serial
from .console_text import Wanted, hide, hide_part

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .console_source import Source

Params = Dict[str, Any]
OPTIONS = {
    **CONNECTION,
    "socket": Option("str"),
    "from": Option("str", required=True, choices=["log", "serial", "screen"]),
    "path": Option("path"),
    "offset": Option("int", default=0),
    "expect": Option(
        "list",
        elements="dict",
        options={
            "text": Option("str"),
            "regex": Option("str"),
            "answer": Option("str"),
            "keys": Option("list", elements="str", no_log=False),
            "secret": Option("bool", default=False),
            "timeout": Option("float"),
            "optional": Option("bool", default=False),
        },
        nul=True,
        mutually_exclusive=[("text", "regex")],
        required_one_of=[("text", "regex")],
    ),
    "fail_on": Option("list", nul=True, elements="str"),
    "keys": Option("list", elements="str", no_log=False),
    "text": Option("str", nul=True),
    "pace": Option("float", default=0.1),
    "stable": Option("float"),
    "unless": Option("str", nul=True),
}
LOOK_EVERY = 0.25
_LONGEST = 200


class Sending(NamedTuple):
    """What is typed at one time: keys that QEMU presses, or bytes for the serial line."""

    commands: Sequence[Dict[str, Any]]
    """As the result shows them."""
    keys: Sequence[List[str]] = ()
    data: bytes = b""
    secret: str = ""
    """What of it nothing may show."""


class Entry(NamedTuple):
    """One thing that is expected, and what is typed then."""

    wanted: Wanted
    sends: Sequence[Sending]
    seconds: float | None
    optional: bool


class Script(NamedTuple):
    """What a task does, ready to be done."""

    begins: Sequence[Sending]
    entries: Sequence[Entry]
    fails: Sequence[Wanted]
    unless: Sequence[Wanted]

    @property
    def commands(self) -> List[Any]:
        """What is typed if all comes as expected."""
        sends = [*self.begins, *(one for entry in self.entries for one in entry.sends)]
        return [command for one in sends for command in one.commands]


def secrets(params: Params) -> List[str]:
    """Return the answers that nothing may show, of parameters that are not validated yet perhaps."""
    found: List[str] = []
    for entry in dictionaries(params.get("expect")):
        with contextlib.suppress(ValueError):
            if not parse_bool(entry.get("secret") or False):
                continue
        found += quoted_forms(entry.get("answer"))
    return found


def run(task: Task) -> Dict[str, Any]:
    """Type and wait as told, and return ``{changed, commands, seen, matched, offset?}``; in check mode look only at what shows now.

    Raise Refusal, OperationFailed and NotDoneInTime, and the session's errors.
    """
    _check(task.params)
    script = _script(task)
    try:
        return _do(task, script)
    except errors.ConnectError as exc:
        if not (task.check_mode and exc.nobody):  # what would start it has not run
            raise
        return {"changed": bool(script.commands), "commands": script.commands, "seen": [], "matched": []}


def _do(task: Task, script: Script) -> Dict[str, Any]:
    """Return what ``run`` does, once it is known what to do."""
    if script.unless:
        with _source(task) as source:  # by itself, since what was searched is not searched again
            if source.find_now(script.unless) is not None:
                return {"changed": False, "commands": [], **_Talk(task, source, script).told()}
            if task.deadline.expired:
                raise NotDoneInTime(
                    f"unless: {source.name} was not read to its end within {task.deadline.seconds:.4g} s"
                )
    with _source(task) as source:
        talk = _Talk(task, source, script)
        try:
            (talk.foresee if task.check_mode else talk.run)()
        finally:
            task.details.update(talk.told())
        commands = script.commands if task.check_mode else task.account.commands
        return {"changed": bool(commands), "commands": commands, **talk.told()}


class _Talk:
    """A script under way."""

    def __init__(self, task: Task, source: Source, script: Script) -> None:
        self.task = task
        self.source = source
        self.script = script
        self.matched: List[Dict[str, Any]] = []
        self._secrets: List[str] = []

    def told(self) -> Dict[str, Any]:
        """Return the result's own keys so far."""
        offset = self.source.offset
        return {
            "seen": self._hide(self.source.lines),
            "matched": self.matched,
            **({} if offset is None else {"offset": offset}),
        }

    def run(self) -> None:
        """Do all of it. Raise as ``run`` of the module does."""
        self._send(self.script.begins)
        at = 0
        while at < len(self.script.entries):
            at += 1 + self._wait(self.script.entries[at:])
            self._send(self.script.entries[at - 1].sends)
        if self.task.params["stable"] is not None:
            self._settle(self.task.params["stable"])

    def foresee(self) -> None:
        """Note what matches already."""
        for number, entry in enumerate(self.script.entries):
            found = self.source.find([entry.wanted]) or self.source.find_now([entry.wanted])
            if found is None and not entry.optional:
                return
            if found is not None:
                self._note(number, found[1])

    def _wait(self, entries: Sequence[Entry]) -> int:
        """Wait for the first entry, or one behind those that need not come, and return how many were left out."""
        count = next((number for number, entry in enumerate(entries) if not entry.optional), len(entries) - 1) + 1
        wanted = [entry.wanted for entry in entries[:count]]
        last = entries[count - 1]
        deadline = self._deadline(last.seconds)
        while True:
            found = self.source.find([*self.script.fails, *wanted])
            if found is not None:
                number = found[0] - len(self.script.fails)
                if number < 0:
                    self._failed_on(found)
                self._note(len(self.script.entries) - len(entries) + number, found[1])
                return number
            self._go_on(deadline, f"{last.wanted.name} did not show")

    def _settle(self, seconds: float) -> None:
        """Wait until nothing has changed for so long."""
        mark, since = self.source.mark, time.monotonic()
        while time.monotonic() - since < seconds:
            found = self.source.find(self.script.fails)
            if found is not None:
                self._failed_on(found)
            self._go_on(self.task.deadline, f"stable: it did not stay the same for {seconds:.4g} s")
            now = self.source.mark
            if now != mark:
                mark, since = now, time.monotonic()

    def _go_on(self, deadline: Deadline, failure: str) -> None:
        """Look once more. Raise NotDoneInTime at the deadline, OperationFailed where nothing more will come."""
        if self.source.ended:
            raise OperationFailed(f"{failure} on {self.source.name}: {self.source.ended}{self._last()}")
        if deadline.expired:
            within = f"within {deadline.seconds:.4g} s{self.source.hint}"
            raise NotDoneInTime(f"{failure} on {self.source.name} {within}{self._last()}")
        self.source.look(min(LOOK_EVERY, deadline.remaining() or 0.0))
        last = self.source.last(self._hide)
        if last:
            self.task.on_progress(Progress("console", last[-1][:_LONGEST]))

    def _failed_on(self, found: Tuple[int, Any]) -> None:
        text, place = found[1].string, found[1].start()
        line = text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0]
        shown = self._hide([line])[0][:_LONGEST]
        raise OperationFailed(f"{self.script.fails[found[0]].name} shows on {self.source.name}: {shown}")

    def _hide(self, lines: List[str]) -> List[str]:
        return hide(lines, self._secrets) if self._secrets else lines

    def _last(self) -> str:
        lines = self.source.last(self._hide)
        return "; its last lines: " + " / ".join(line[:_LONGEST] for line in lines) if lines else "; nothing was seen"

    def _deadline(self, seconds: float | None) -> Deadline:
        left = self.task.deadline.remaining() or 0.0
        whole = self.task.deadline
        return whole if seconds is None or seconds >= left else Deadline(seconds, whole.stop)

    def _note(self, number: int, match: Any) -> None:
        """Note that an entry has come."""
        groups = [hide_part(group, self._secrets) for group in match.groups()]
        named = {name: groups[place - 1] for name, place in match.re.groupindex.items()}
        found = {"match": hide_part(match.group(), self._secrets), "groups": groups, "groupdict": named}
        self.matched.append({"entry": number, **found})

    def _send(self, sends: Sequence[Sending]) -> None:
        """Type it. What is entered in the account is what has been begun."""
        for one in sends:
            if one.secret:
                self._secrets.append(one.secret)
            self.task.account.add(one, *one.commands)
            if one.data:
                self.source.write(one.data, self.task.deadline)
            else:
                self._press(one)

    def _press(self, one: Sending) -> None:
        pace = self.task.params["pace"]
        for number, names in enumerate(one.keys):
            try:
                vm = self.task.connect()
                vm.session.execute("send-key", _arguments(names, pace), deadline=vm.deadline)
            except errors.CommandError:
                if not number:
                    self.task.account.drop(one)
                raise
            if self.task.deadline.expired:
                raise NotDoneInTime(f"the time was up after {number + 1} of {len(one.keys)} keys")
            pause(min(pace, self.task.deadline.remaining() or 0.0))


def _arguments(names: Sequence[str], pace: float) -> Dict[str, Any]:
    """Return the command's arguments. The keys are held for half of the time until the next."""
    return {"keys": [{"type": "qcode", "data": name} for name in names], "hold-time": max(1, int(pace * 500))}


def _check(params: Params) -> None:
    """Raise Refusal for what is wrong whatever the VM is like."""
    if not (params["expect"] or params["keys"] or params["text"] or params["stable"]):
        raise Refusal("there is nothing to do: expect, keys, text and stable are empty")
    for name in ("pace", "stable"):
        _check_seconds(name, params[name])
    if params["offset"] and params["from"] != "log":
        raise Refusal(f"offset: {params['offset']} is a place in a log, and it is read from: {params['from']}")
    if params["offset"] < 0:
        raise Refusal(f"offset: {params['offset']} is less than 0, which is the log's beginning")
    if params["unless"] is not None and params["from"] == "serial":
        raise Refusal("unless: a serial socket does not tell what it has shown before: give the line's log (from: log)")
    for number, entry in enumerate(params["expect"] or ()):
        _check_seconds(f"expect[{number}].timeout", entry["timeout"])
        if entry["secret"] and entry["answer"] is None:
            raise Refusal(f"expect[{number}]: secret is for an answer, and there is none")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):  # "not": nan, too
        raise Refusal(f"{name}: {value} is not a positive number of seconds")


def _script(task: Task) -> Script:
    """Return what the task does. Raise Refusal for a text, an expression or a key that is not a valid one."""
    params = task.params
    entries = []
    for number, given in enumerate(params["expect"] or ()):
        where = f"expect[{number}]"
        is_regex = given["text"] is None
        wanted = _wanted(where, given["regex"] if is_regex else given["text"], is_regex)
        sends = _keys(task, f"{where}.keys", given["keys"])
        if given["answer"] is not None:
            sends += _text(task, f"{where}.answer", given["answer"] + "\n", given["secret"])
        entries.append(Entry(wanted, sends, given["timeout"], given["optional"]))
    begins = _keys(task, "keys", params["keys"]) + _text(task, "text", params["text"])
    fails = [_wanted(f"fail_on[{number}]", regex, True) for number, regex in enumerate(params["fail_on"] or ())]
    unless = [] if params["unless"] is None else [_wanted("unless", params["unless"], True)]
    return Script(begins, entries, fails, unless)


def _wanted(where: str, given: str, is_regex: bool) -> Wanted:
    kind = "regex" if is_regex else "text"
    if not given or (not is_regex and "\n" in given):
        raise Refusal(
            f"{where}: {kind} {given!r} is "
            + ("more than one line, and each is looked at by itself" if given else "empty")
        )
    try:
        pattern = re.compile(given if is_regex else re.escape(given), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as exc:
        raise Refusal(f"{where}: {given!r} is not a valid regular expression: {exc}") from exc
    return Wanted(f"{where}: {kind} {given!r}", pattern, is_regex)


def _keys(task: Task, where: str, keys: Sequence[str] | None) -> List[Sending]:
    if not keys:
        return []
    vm = _keyboard(task, where)
    known = vm.schema.members("send-key", "keys", "type=qcode", "data") if vm is not None else None
    pressed = chords(where, keys, known)
    return [Sending(_shown(pressed, task.params["pace"]), pressed)]


def _text(task: Task, where: str, text: str | None, secret: bool = False) -> List[Sending]:
    """Return how a text is typed: on the serial line that is read, or else on the keyboard."""
    if not text:
        return []
    hidden = text.rstrip("\n") if secret else ""
    if task.params["from"] == "serial":
        data = text.replace("\n", "\r")
        shown = {"path": task.params["path"], "action": "type", "text": REDACTED if secret else data}
        return [Sending([shown], data=data.encode(errors="surrogateescape"), secret=hidden)]
    _keyboard(task, where)
    keys = typed(where, text, secret)
    if not secret:
        return [Sending(_shown(keys, task.params["pace"]), keys)]
    return [Sending([{"execute": "send-key", "arguments": {"keys": REDACTED}}], keys, secret=hidden)]


def _shown(pressed: Sequence[List[str]], pace: float) -> List[Dict[str, Any]]:
    return [{"execute": "send-key", "arguments": _arguments(names, pace)} for names in pressed]


def _keyboard(task: Task, where: str) -> VM | None:
    """Return the VM whose keyboard is typed on, in check mode None where it is not there (yet).

    Raise Refusal where the task does not name its monitor.
    """
    if not task.params["socket"]:
        raise Refusal(f"{where}: keys are pressed by the virtual machine's monitor: give its socket")
    try:
        return task.connect()
    except errors.ConnectError as exc:
        if task.check_mode and exc.nobody:
            return None
        raise


@contextlib.contextmanager
def _source(task: Task) -> Iterator[Source]:
    """Yield what is read."""
    params = task.params
    if params["from"] == "screen":
        if not params["socket"]:
            raise Refusal("from: the screen is read by the virtual machine's monitor: give its socket")
        source: Source = Screen(task)
    elif params["from"] == "log":
        source = Log(task, params["path"], params["offset"])
    else:
        source = Serial(task, params["path"])
    with contextlib.closing(source):
        yield source
