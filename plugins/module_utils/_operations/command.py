# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QMP commands as a user writes them: read, checked against what this QEMU takes, sent one after the other."""
# Private to the collection: may change without notice.

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence

from .._core.errors import OperationFailed, Refusal, TaskError
from .._core.option import Option
from .._core.step import REDACTED
from .._engine.apply import may_have_run
from .._qmp import errors
from .._qmp.queries import is_query

if TYPE_CHECKING:
    from .._core.task import Task
    from .._core.vm import VM
    from .._qmp.schema import Schema

OPTIONS = {
    "commands": Option("list", nul=True, elements="raw", required=True),
    "validate": Option("bool", default=True),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_FORM = "write a command's name, or a dictionary of execute and arguments"
_SECRET_KEYS = frozenset(("password", "passwd", "passphrase", "secret"))
_SECRET_PROPERTIES = _SECRET_KEYS | {"data"}
_SECRET_WORDS = re.compile(r"passw|secret|passphrase", re.IGNORECASE)


class Command(NamedTuple):
    """One command. ``oob``: to be executed out of band."""

    name: str
    arguments: Dict[str, Any]
    oob: bool = False

    @property
    def query(self) -> bool:
        """Tell whether it only looks."""
        return is_query(self.name, self.arguments)

    @property
    def ends(self) -> bool:
        """Tell whether a connection that ends is its success."""
        line = str(self.arguments.get("command-line", "")).strip()
        return self.name == "quit" or (self.name == "human-monitor-command" and line in ("q", "quit"))

    def public(self) -> Dict[str, Any]:
        """Return ``{execute, arguments}`` without secrets."""
        return {"exec-oob" if self.oob else "execute": self.name, "arguments": redacted(self.name, self.arguments)}


def run(task: Task) -> Dict[str, Any]:
    """Send the commands, and return ``{changed, commands, responses, warnings}``.

    Raise Refusal, with nothing sent, for commands that are wrong, and OperationFailed for the first that fails.
    """
    commands = read(task.params["commands"])
    vm = task.connect()
    if task.params["validate"] and commands:
        commands = validated(vm.schema, commands, vm.session.oob)
    responses: List[Any] = []
    warnings: List[str] = []
    task.details.update(responses=responses, warnings=warnings)
    for place, command in enumerate(commands):
        if not command.query:
            task.account.add(command, command.public())
        try:
            responses.append(None if task.check_mode and not command.query else _send(vm, command))
        except (TaskError, errors.QMPError) as exc:
            if not may_have_run(exc):
                task.account.drop(command)
            if not (task.check_mode and task.account.commands and isinstance(exc, errors.CommandError)):
                raise _failed(exc, place, command) from exc
            # it may look for what a command that was left out would have made
            responses.append(None)
            warnings.append(f"commands[{place}]: {exc}: check mode has left out what comes before it")
    return {"changed": bool(task.account.commands), "commands": task.account.commands, **task.details}


def _send(vm: VM, command: Command) -> Any:
    """Send one command and return its response. Raise the session's errors."""
    vm.check_harmless(command.name, command.arguments.get("command-line"))
    try:
        response = vm.session.execute(command.name, command.arguments, deadline=vm.deadline, oob=command.oob)
    except errors.Disconnected as exc:
        if not (command.ends and exc.outcome_unknown):
            raise
        response = {}
    if not command.query:
        vm.may_crash = True  # it may have begun one
    secret = command.name == "qom-get" and command.arguments.get("property") in _SECRET_PROPERTIES
    return REDACTED if secret else response


def _failed(exc: Exception, place: int, command: Command) -> OperationFailed:
    """Return the error that says which of the commands failed."""
    name = "" if command.name in str(exc) else f"{command.name}: "
    error = {"class": exc.error_class, "desc": exc.desc} if isinstance(exc, errors.CommandError) else None
    return OperationFailed(f"commands[{place}]: {name}{exc}", **({"error": error} if error else {}))


def read(entries: Sequence[Any]) -> List[Command]:
    """Return the commands that a task lists. Raise Refusal with everything that is wrong with them."""
    commands: List[Command] = []
    problems: List[str] = []
    for place, entry in enumerate(entries):
        try:
            commands.append(_read(entry))
        except ValueError as exc:
            problems.append(f"commands[{place}]: {exc}")
    if problems:
        raise Refusal("; ".join(problems))
    return commands


def _read(entry: Any) -> Command:
    """Return one command from ``name``, ``{execute, arguments}`` or ``{exec-oob, arguments}``. Raise ValueError."""
    if isinstance(entry, str):
        return Command(_name(entry), {})
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is not a valid command: {_FORM}")
    unknown = sorted(str(key) for key in entry if key not in ("execute", "exec-oob", "arguments"))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such key; {_FORM}")
    if ("execute" in entry) == ("exec-oob" in entry):
        raise ValueError(f"it needs one of execute and exec-oob: {_FORM}")
    arguments = entry.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments: {arguments!r} is not a dictionary")
    return Command(_name(entry.get("execute", entry.get("exec-oob"))), dict(arguments), "exec-oob" in entry)


def _name(text: Any) -> str:
    if isinstance(text, str) and _NAME.match(text):
        return text
    hint = _FORM
    if isinstance(text, str) and text.lstrip().startswith(("{", "[")):
        hint = f"this is JSON text; {_FORM}, as YAML"
    elif isinstance(text, str) and " " in text.strip():
        hint = f"{_FORM}; a line for the human monitor goes into human-monitor-command, as its command-line"
    raise ValueError(f"{text!r} is not a command's name: {hint}")


def validated(schema: Schema, commands: Sequence[Command], oob: bool) -> List[Command]:
    """Return the commands with their arguments in the types that this QEMU wants.

    ``oob``: whether this monitor executes out of band. Raise Refusal with everything that QEMU would not take.
    """
    done: List[Command] = []
    problems: List[str] = []
    for place, command in enumerate(commands):
        entry = schema.command(command.name)
        if entry is None:
            problems.append(
                f"commands[{place}]: this QEMU has no command {command.name!r}{_near(command.name, schema)}"
            )
            continue
        if command.oob and not (oob and entry.get("allow-oob")):
            what = f"{command.name} can't be executed" if oob else "this monitor executes nothing"
            problems.append(f"commands[{place}]: {what} out of band")
        try:
            done.append(command._replace(arguments=schema.coerce(command.name, command.arguments)))
        except errors.SchemaMismatch as exc:
            problems += [f"commands[{place}]: {problem}" for problem in exc.problems]
    if problems:
        raise Refusal("; ".join(problems))
    return done


def _near(name: str, schema: Schema) -> str:
    near = difflib.get_close_matches(name, sorted(schema.commands), n=3)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def redacted(name: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Return ``arguments`` of the command ``name`` as they may be shown."""
    line = _secret_line(name, arguments)
    if line:
        return {**arguments, "command-line": f"{line.split()[0]} {REDACTED}"}
    shown: Dict[str, Any] = _hide(arguments, _secret_keys(name, arguments))
    return shown


def secrets(params: Dict[str, Any]) -> List[str]:
    """Return the values in the commands, not validated yet perhaps, that nothing may show."""
    found: List[Any] = []
    commands = params.get("commands")
    for entry in commands if isinstance(commands, list) else []:
        arguments = entry.get("arguments") if isinstance(entry, dict) else None
        if not isinstance(arguments, dict):
            continue
        name = str(entry.get("execute", entry.get("exec-oob")))
        found += _secret_values(arguments, _secret_keys(name, arguments))
        found += _secret_line(name, arguments).split(None, 1)[1:]
    if not found:
        return []
    from .._core.secrets import quoted_forms

    return list(quoted_forms(found))


def _secret_line(name: str, arguments: Dict[str, Any]) -> str:
    """Return the command line for the human monitor if there is a secret in it, else nothing."""
    line = str(arguments.get("command-line", "")) if name == "human-monitor-command" else ""
    return line if _SECRET_WORDS.search(line) and not is_query(name, arguments) else ""


def _secret_keys(name: str, arguments: Dict[str, Any]) -> set[str]:
    """Return the members whose values are secret, at any depth."""
    secret = set(_SECRET_KEYS)
    if name == "object-add" and str(arguments.get("qom-type", "")).startswith("secret"):
        secret.add("data")
    if name == "change":  # of QEMU 5.2: a VNC password
        secret.add("arg")
    if name == "qom-set" and str(arguments.get("property", "")) in _SECRET_PROPERTIES:
        secret.add("value")
    return secret


def _hide(value: Any, secret: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: REDACTED if key in secret else _hide(item, secret) for key, item in value.items()}
    return [_hide(item, secret) for item in value] if isinstance(value, list) else value


def _secret_values(value: Any, secret: set[str]) -> Iterator[Any]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in secret:
            yield item
        else:
            yield from _secret_values(item, secret)
