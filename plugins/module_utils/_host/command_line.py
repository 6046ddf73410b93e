# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's command line as text: made from a task's options, compared with a running one, and shown without secrets."""
# Private to the collection: may change without notice.

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

from .._core.errors import Refusal
from .._core.step import REDACTED
from .._core.vm import EVENTS

if TYPE_CHECKING:
    from .._qmp.address import Address

CHARDEV = "vmm-qmp"
PEOPLE = "monitor"
"""The one for people, of a VM that is made as a whole."""
# What this module makes out of options of its own.
_OWN = {"daemonize": "", "name": "name", "pidfile": "pidfile"}
_LAST = "-daemonize"
_BEGINNING = ("-S", "--S", "-incoming", "--incoming")
_OURS = "|".join((CHARDEV, EVENTS, PEOPLE))
_MADE_BY = {
    "-mon": re.compile(rf"chardev=(?P<id>{_OURS}),mode=(?P<mode>control|readline)\Z"),
    "-object": re.compile(rf"monitor-(?P<mode>qmp|hmp),id=(?P<id>{_OURS}),chardev=(?P=id)\Z"),
}
_NAMED = re.compile(r"(?:^|,)id=([^,]*)")
_MODES = {"control": "-qmp", "qmp": "-qmp", "readline": "-monitor", "hmp": "-monitor"}
_MACHINE = ("-machine", "--machine", "-M", "--M")
# type=q35 anywhere, or the first word alone
_TYPE = re.compile(r"((?:^|,)type=|^(?=[^,=]+(?:,|$)))([^,=]+)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@: -]*\Z")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_ARCHITECTURES = {
    "amd64": "x86_64",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "ppc64le": "ppc64",
    "ppc64el": "ppc64",
    "arm64": "aarch64",
    "armel": "arm",
    "armhf": "arm",
    "loong64": "loongarch64",
}
_PROGRAM = re.compile(r"qemu-system-([a-z0-9_]+)\Z")
# Where distributions that ship one QEMU only, and not under its own name, have it.
_ELSEWHERE = ("/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm")
# on and off are no secrets: a display has a password then, and it is set later
_SECRET = re.compile(r"((?:^|,)password=)(?!(?:on|off)(?:,(?!,)|$))((?:,,|[^,])*)")
_LOGFILE = re.compile(r"(?:^|,)logfile=((?:,,|[^,])*)")
_SECRET_DATA = re.compile(r"((?:^|,)data=)((?:,,|[^,])*)")
_SECRET_JSON = re.compile(r'("(?:data|password)"\s*:\s*")(?:\\.|[^"\\])*')


def check_name(name: str) -> None:
    """Raise Refusal unless ``name`` can be a VM's name and part of a file's."""
    if not _NAME.match(name) or len(name) > 200:
        raise Refusal(
            f"{name!r} is not a valid name for a VM: letters, digits, and . _ + @ : - or a space after the first, at most 200"
        )


def architecture(binary: str | None) -> str:
    """Return what a QEMU emulates, as QEMU calls it: its program's name tells, or it is what this host is."""
    told = _PROGRAM.search(binary or "")
    name = told.group(1) if told else os.uname().machine
    return "arm" if name.startswith("armv") else _ARCHITECTURES.get(name, name)


def find_binary(given: str | None) -> str:
    """Return the absolute path of the QEMU to run; without ``given`` the one of this host's architecture. Raise Refusal."""
    names = [given] if given else [f"qemu-system-{architecture(None)}", *_ELSEWHERE]
    for name in names:
        found = shutil.which(name)
        if found:
            return os.path.abspath(found)
    if given is None:
        raise Refusal(f"there is no QEMU here (looked for {', '.join(names)}): install it, or name it with binary")
    if os.path.exists(given):
        raise Refusal(f"binary: {given} can't be run: it is a directory, or not executable for this user")
    raise Refusal(f"binary: there is no {given} here" + ("" if "/" in given else " in the search path"))


def monitor(address: Address, ident: str = CHARDEV) -> List[str]:
    """Return the options that make a QMP monitor at ``address``."""
    if address.path is None:
        where = {"host": address.host, "port": str(address.port)}
    elif address.path.startswith("@"):
        where = {"path": address.path[1:], "abstract": "on"}
    else:
        where = {"path": os.path.abspath(address.path)}
    chardev = {"id": ident, **where, "server": "on", "wait": "off"}
    text = ",".join(["socket", *(f"{key}={_escape(value)}" for key, value in chardev.items())])
    return ["-chardev", text, "-qmp", f"chardev:{ident}"]


def enclose(name: str, own: Sequence[str], arguments: Sequence[str]) -> List[str]:
    """Return all options in their order. The name comes first and -daemonize last, so that ``same`` finds both ends.

    Raise Refusal for two monitors of one name.
    """
    line = ["-name", name, *_monitors([*own, *arguments]), _LAST]
    _check_monitors(line)
    return line


def same(wanted: Sequence[str], running: Sequence[str]) -> bool:
    """Tell whether a process that runs with ``running`` was started with the options ``wanted``.

    A wrapper may put options of its own before and behind; both ends of ``wanted`` are marks, so a part of a longer
    command line is not taken for all of it. How its guest began makes no other machine, nor does a monitor for events, nor by which
    option a monitor is made.
    """
    wanted, running = (_comparable(line) for line in (wanted, running))
    count = len(wanted)
    return any(running[at : at + count] == wanted for at in range(len(running) - count + 1))


def unlike(wanted: Sequence[str], running: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Return the options that only ``wanted`` has, and those that only ``running`` has, each with its value and without secrets."""
    ours, theirs = (_with_values(_comparable(redact(core(line)))) for line in (wanted, running))
    return _more(ours, theirs), _more(theirs, ours)


def _comparable(arguments: Sequence[str]) -> List[str]:
    """Return the options that make a machine what it is."""
    return without_beginning(_without_events(_monitors(arguments)))


def _with_values(arguments: Sequence[str]) -> List[str]:
    found: List[str] = []
    for text in arguments:
        if text.startswith("-") or not found:
            found.append(text)
        else:
            found[-1] += f" {text}"
    return found


def _more(these: Sequence[str], those: Sequence[str]) -> List[str]:
    """Return what there is more often in one than in the other."""
    found, left = [], list(those)
    for text in these:
        if text in left:
            left.remove(text)
        else:
            found.append(text)
    return found


def without_beginning(arguments: Sequence[str]) -> List[str]:
    """Return the options but for those by which a guest begins: stopped, or as one that comes from elsewhere."""
    return [
        text
        for before, text in zip(["", *arguments], arguments)
        if text not in _BEGINNING and before not in ("-incoming", "--incoming")
    ]


def _without_events(arguments: Sequence[str]) -> List[str]:
    """Return the options but for those of the monitor for events, which a VM may have been started without."""
    pairs = list(zip(["", *arguments], arguments))
    chardev = f"socket,id={EVENTS},"
    values = {
        at
        for at, (option, text) in enumerate(pairs)
        if (option, text) == ("-qmp", f"chardev:{EVENTS}") or (option == "-chardev" and text.startswith(chardev))
    }
    return [text for at, text in enumerate(arguments) if at not in values and at + 1 not in values]


def _monitors(arguments: Sequence[str]) -> List[str]:
    """Return the same command line with our monitors made by the one option of which no QEMU warns.

    ``-mon`` is deprecated since 11.1, and what takes its place there, an object, is not known before. By ``-qmp`` and ``-monitor``
    each QEMU makes what it makes by them, under the name of its character device: once for each.
    """
    made = list(arguments)
    names = set(_monitor_names(arguments))
    for at in range(len(arguments) - 1):
        pattern = _MADE_BY.get(arguments[at])
        found = pattern.match(arguments[at + 1]) if pattern else None
        if found and found["id"] not in names:
            names.add(found["id"])
            made[at : at + 2] = _MODES[found["mode"]], f"chardev:{found['id']}"
    return made


def _monitor_names(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the names that monitors have by ``-qmp`` and ``-monitor``."""
    for option, text in zip(arguments, arguments[1:]):
        if option in _MODES.values() and text.startswith("chardev:"):
            yield text[len("chardev:") :]


def _check_monitors(arguments: Sequence[str]) -> None:
    """Raise Refusal where a user's monitor has the name of one of ours: QEMU takes that for one that is there twice."""
    for option, text in zip(arguments, arguments[1:]):
        found = _NAMED.search(text) if option.lstrip("-") == "mon" else None
        if found and found[1] in _monitor_names(arguments):
            raise Refusal(f"arguments: -mon {text}: another monitor has the id {found[1]}: give this one another")


def machine_type(arguments: Sequence[str]) -> str | None:
    """Return the machine type that a command line names, be it an alias; None where it names none."""
    for option, text in zip(arguments, arguments[1:]):
        found = _TYPE.search(text) if option in _MACHINE else None
        if found:
            return found.group(2)
    return None


def with_machine_type(arguments: Sequence[str], kind: str) -> List[str]:
    """Return the same command line with another machine type, where it names one."""
    before = ["", *arguments]
    return [
        _TYPE.sub(rf"\g<1>{kind}", text, count=1) if option in _MACHINE else text
        for option, text in zip(before, arguments)
    ]


def core(running: Sequence[str]) -> List[str]:
    """Return the options of a running process that ``enclose`` made, or all of them if it was started in another way."""
    running = _monitors(running)
    last = len(running) - 1 - list(reversed(running)).index(_LAST) if _LAST in running else -1
    first = running.index("-name") if "-name" in running else len(running)
    return running[first : last + 1] or running[1:]


def guest_name(running: Sequence[str]) -> str | None:
    """Return the VM's name on a command line, None if it has none."""
    for option, value in zip(running, running[1:]):
        if option in ("-name", "--name"):
            for part in value.split(","):
                key, equals, text = part.partition("=")
                if not equals or key == "guest":
                    return text if equals else key
    return None


def logfiles(arguments: Sequence[str]) -> Iterator[str]:
    """Yield where character devices write down what they say: QEMU makes these files as the user that starts it."""
    for before, text in zip(["", *arguments], arguments):
        if before.lstrip("-") == "chardev":
            for path in _LOGFILE.findall(text):
                yield path.replace(",,", ",")


def redact(arguments: Sequence[str]) -> List[str]:
    """Return the same with passwords and the data of secret objects replaced."""
    shown = []
    for before, text in zip(["", *arguments], arguments):
        if before.lstrip("-") == "object" and "secret" in text:
            text = _SECRET_DATA.sub(rf"\1{REDACTED}", text)
        if text.startswith("{"):
            text = _SECRET_JSON.sub(rf"\1{REDACTED}", text)
        elif before.startswith("-"):
            text = _SECRET.sub(rf"\1{REDACTED}", text)
        shown.append(text)
    return shown


def secrets(arguments: Any) -> Iterator[str]:
    """Yield what ``redact`` hides in the user's ``arguments``, right or wrong ones, as QEMU's messages and Ansible quote it."""
    if isinstance(arguments, dict):
        is_secret = str(arguments.get("qom-type", "")).startswith("secret")
        for key, value in arguments.items():
            if key == "password" or (key == "data" and is_secret):
                yield from _spelled(value)
            else:
                yield from secrets(value)
    elif isinstance(arguments, list):
        for item in arguments:
            yield from secrets(item)
    elif isinstance(arguments, str) and arguments.startswith("{"):
        try:
            yield from secrets(json.loads(arguments))
        except ValueError:
            return
    elif isinstance(arguments, str):
        for pattern in (_SECRET, *([_SECRET_DATA] if "secret" in arguments else [])):
            for _name, value in pattern.findall(arguments):
                yield from _spelled(value.replace(",,", ","))


def _spelled(secret: Any) -> Iterator[str]:
    from .._core.secrets import quoted_forms

    for text in quoted_forms(secret):
        if text not in ("on", "off"):  # of a display's password, which is set later
            yield from {text, _escape(text)}


def expand(arguments: Any) -> List[str]:
    """Return the option strings of the user's ``arguments``: a list as it is, or a dict. Raise Refusal."""
    if arguments is None:
        return []
    if isinstance(arguments, dict):
        found = [text for name, value in arguments.items() for text in _option(str(name), value)]
    elif isinstance(arguments, list):
        found = [_scalar("an element", item, switch=False) for item in arguments]
    else:
        raise Refusal("arguments: write a list of strings, or a dict of options and their values")
    if any("\0" in text for text in found):
        raise Refusal("arguments: there is a zero byte in it")
    _check_own(found)
    return found


def _check_own(arguments: List[str]) -> None:
    for at, text in enumerate(arguments):
        option = text.lstrip("-") if text.startswith("-") else ""
        if option == "name" and guest_name(arguments[at : at + 2]) is None:
            continue  # debug-threads=on, say: QEMU adds that to the name
        if option in _OWN:
            instead = f": use the option {_OWN[option]}" if _OWN[option] else ""
            raise Refusal(f"arguments: {text} is what this module sets itself{instead}")


def _option(name: str, value: Any) -> Iterator[str]:
    """Yield one entry of a dict: a flag, an option with its value, or one option for each element."""
    plain = name.lstrip("-")
    if not _OPTION.match(plain):
        raise Refusal(f"arguments: {name!r} is not a valid name of a QEMU option")
    if value is False:
        return
    values = value if isinstance(value, list) else [value]
    for item in values:
        yield f"-{plain}"
        if isinstance(item, dict):
            yield ",".join(_pairs(plain, "", item))
        elif item is not None and item is not True:
            yield _scalar(plain, item, switch=True)


def _pairs(option: str, prefix: str, values: Dict[str, Any]) -> Iterator[str]:
    """Yield ``key=value`` of a dict; what is nested is written with dots, as QEMU reads it: ``file.driver=file``."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _pairs(option, f"{name}.", value)
        elif isinstance(value, list):
            yield from _pairs(option, f"{name}.", {str(number): item for number, item in enumerate(value)})
        elif value is not None:
            yield f"{name}={_escape(_scalar(f'{option}: {name}', value, switch=True))}"


def _scalar(where: str, value: Any, switch: bool) -> str:
    """Return ``value`` as text; a boolean is on or off where ``switch`` allows it. Raise Refusal."""
    if isinstance(value, bool) and switch:
        return "on" if value else "off"
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    hint = "; quote on, off, yes and no" if isinstance(value, bool) else ""
    raise Refusal(f"arguments: {where} is {value!r}, which is not a string{hint}")


def _escape(text: str) -> str:
    """QEMU ends a value at a comma, unless there are two."""
    return text.replace(",", ",,")
