# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A program in a guest, run by its agent, with what it printed."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import NotDoneInTime, OperationFailed, Refusal
from .._core.option import Option
from .._core.step import REDACTED
from .._qmp import errors
from .._qmp.guest import KEPT, LONGEST_INPUT, LONGEST_WORD, OutcomeUnknown, environment
from .._qmp.guest import run as run_program
from . import guest_agent

if TYPE_CHECKING:
    from .._core.task import Task
    from .._qmp.agent import Agent
    from .._qmp.guest import Ended

OPTIONS = {
    **guest_agent.OPTIONS,
    "argv": Option("list", elements="str"),
    "cmd": Option("str"),
    "chdir": Option("str"),
    "creates": Option("str"),
    "removes": Option("str"),
    "stdin": Option("str", hidden_whole=True),
    "stdin_add_newline": Option("bool", default=True),
    "environment": Option("dict", hidden_whole=True),
    "secrets": Option("list", elements="str", no_log=True),
}
_CHDIR = 'cd -- "$1" || exit 125; shift; exec "$@"'
# Patterns are the shell's, as ansible.builtin.command has them.
_EXISTS = (
    '[ -z "$1" ] || cd -- "$1" || exit 125; IFS=; for f in $2; do [ -e "$f" ] || [ -L "$f" ] && exit 0; done; exit 1'
)


def run(task: Task) -> Dict[str, Any]:
    """Run the program, and return ``{changed, commands, rc, stdout, stderr, ...}``; in check mode look only whether it would run.

    Raise Refusal, OperationFailed for a program that failed or printed too much, and NotDoneInTime where its end is not known.
    """
    argv, given, stdin = _program(task.params), _environment(task.params), _stdin(task.params)
    command = {"execute": "guest-exec", "arguments": _public(task.params, argv), "socket": task.params["socket"]}
    with guest_agent.open_agent(task) as agent:
        try:
            why_not = _why_not(agent, task)
            if why_not or task.check_mode:
                told = {"changed": not why_not, "commands": [] if why_not else [command], "rc": 0 if why_not else None}
                return {**told, **_printed("", ""), **({"msg": why_not} if why_not else {})}
            env = {**environment(agent, task.deadline), **given}
        except OutcomeUnknown as exc:
            raise NotDoneInTime(
                f"the program was not started: the guest does not tell in time what it needs: {exc}"
            ) from exc
        except errors.CommandError as exc:
            raise _refused(agent, exc, task) from exc
        return {"changed": True, "commands": [command], **_run(agent, task, command, argv, stdin, env)}


def _run(
    agent: Agent, task: Task, command: Dict[str, Any], argv: List[str], stdin: bytes | None, env: Dict[str, str]
) -> Dict[str, Any]:
    """Run the program, and return how it ended. Raise OperationFailed and NotDoneInTime."""
    task.account.add(command, command)
    try:
        return _result(run_program(agent, argv, task.deadline, stdin, env), argv[0])
    except OutcomeUnknown as exc:
        raise NotDoneInTime(str(exc), outcome_unknown=True, **({"pid": exc.pid} if exc.pid else {})) from exc
    except errors.CommandError as exc:
        task.account.drop(command)
        raise _refused(agent, exc, task) from exc
    except errors.CommandTimeout:  # before it was sent whole
        task.account.drop(command)
        raise


def _refused(agent: Agent, exc: errors.CommandError, task: Task) -> OperationFailed:
    error = {"class": exc.error_class, "desc": exc.desc}
    return OperationFailed(agent.explain(exc, task.deadline), error=error)


def _program(params: Dict[str, Any]) -> List[str]:
    """Return what the agent shall start. Raise Refusal for what Linux does not take."""
    if params["cmd"] is not None:
        words = {"cmd": params["cmd"]}
        argv = ["/bin/sh", "-c", params["cmd"]]
    else:
        argv = list(params["argv"])
        words = {f"argv[{place}]": word for place, word in enumerate(argv)}
        if not argv or not argv[0]:
            raise Refusal("argv: it is empty, or its first word is, which names the program")
    for name in ("chdir", "creates", "removes"):
        words[name] = params[name] or ""
    for where, word in words.items():
        _check_word(where, word)
    return ["/bin/sh", "-c", _CHDIR, "sh", params["chdir"], *argv] if params["chdir"] else argv


def _check_word(where: str, word: str) -> None:
    if "\0" in word:
        raise Refusal(f"{where}: it holds a zero byte, which no program can be given")
    size = len(_encoded(where, word))
    if size > LONGEST_WORD:
        raise Refusal(
            f"{where}: it has {size} bytes, and Linux takes {LONGEST_WORD} as one word: give it to the program by stdin (with "
            "argv: [/bin/sh] a script)"
        )


def _encoded(where: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Refusal(f"{where}: it is not text in UTF-8") from None


def _environment(params: Dict[str, Any]) -> Dict[str, str]:
    given = {str(name): str(value) for name, value in (params["environment"] or {}).items()}
    for name, value in given.items():
        if not name or "=" in name:
            raise Refusal(f"environment: {name!r} is not a valid variable's name")
        _check_word(f"environment.{name}", f"{name}={value}")
    return given


def _stdin(params: Dict[str, Any]) -> bytes | None:
    """Return what the program reads; nothing where nothing was given, since the agent gives it an empty one then."""
    text = params["stdin"]
    if text is None:
        return None
    data = _encoded("stdin", text + "\n" * (params["stdin_add_newline"] and not text.endswith("\n")))
    if len(data) > LONGEST_INPUT:
        raise Refusal(f"stdin: it has {len(data)} bytes, and the agent takes {LONGEST_INPUT}")
    return data


def _public(params: Dict[str, Any], argv: List[str]) -> Dict[str, Any]:
    """Return the command's arguments as a result shows them."""
    hidden = {"input-data": params["stdin"], "env": params["environment"]}
    shown = {name: REDACTED for name, value in hidden.items() if value not in (None, {})}
    return {"path": argv[0], "arg": argv[1:], "capture-output": True, **shown}


def _why_not(agent: Agent, task: Task) -> str:
    """Return why the program need not run, by what is there in the guest; empty where it shall."""
    for option, there in (("creates", True), ("removes", False)):
        pattern = task.params[option]
        if pattern:
            looked = run_program(
                agent, ["/bin/sh", "-c", _EXISTS, "sh", task.params["chdir"] or "", pattern], task.deadline
            )
            if looked.rc not in (0, 1):
                raise OperationFailed(f"{option}: {pattern}: {looked.err.decode(errors='replace').strip()}")
            if (looked.rc == 0) == there:
                return f"skipped, since {pattern} {'exists' if there else 'does not exist'} in the guest"
    return ""


def _printed(out: str, err: str) -> Dict[str, Any]:
    return {"stdout": out, "stderr": err, "stdout_lines": out.splitlines(), "stderr_lines": err.splitlines()}


def _result(ended: Ended, program: str) -> Dict[str, Any]:
    """Return how the program ended. Raise OperationFailed where it failed, or not all that it printed is there."""
    out, err = (text.decode(errors="replace").rstrip("\r\n") for text in (ended.out, ended.err))
    result = {"rc": ended.rc, **({"signal": ended.signal} if ended.signal else {}), **_printed(out, err)}
    if ended.cut:
        streams = " and ".join(f"std{name}" for name in ended.cut)
        raise OperationFailed(
            f"{program} has ended with status {ended.rc}, and the rest of its {streams} is lost: the agent keeps {KEPT >> 20} MiB; "
            "let it write to a file",
            truncated=True,
            **result,
        )
    if ended.rc:
        how = f"was ended by signal {ended.signal}" if ended.signal else f"ended with status {ended.rc}"
        said = (err or out).splitlines()[-1:]
        raise OperationFailed(": ".join([f"{program} {how}", *said]), **result)
    return result
