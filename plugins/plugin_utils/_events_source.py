# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""The event source: all virtual machines on one loop, found anew every few seconds, and their events to the rules in turn."""

from __future__ import annotations

import asyncio
import glob
import logging
import resource
from fnmatch import fnmatchcase
from typing import Any, Awaitable, Callable, Dict, List, Mapping, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._monitors import find
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse

from ._events_machine import Event, Machine, machine_name

_LOG = logging.getLogger(__name__)
_FROM_RULEBOOK = "eda_feedback_queue"
"""What ansible-rulebook puts among the arguments itself."""


class Options(NamedTuple):
    """The source's arguments, as its documentation has them."""

    sockets: List[str]
    vms: List[str]
    events: List[str]
    connect_timeout: float
    rescan: float


DEFAULTS = Options(["/var/lib/vmm-qemu/*/run/events"], [], [], 10.0, 10.0)


def read_options(args: Mapping[str, Any]) -> Options:
    """Return the arguments of a rulebook with their defaults. Raise ValueError for what is not valid."""
    given = {name: value for name, value in args.items() if name != _FROM_RULEBOOK and value is not None}
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        raise ValueError(
            f"vmm.qemu.qmp_events: there is no argument {unknown[0]}; there are {', '.join(Options._fields)}"
        )
    found = DEFAULTS._asdict()
    for name, value in given.items():
        found[name] = _seconds(name, value) if isinstance(found[name], float) else _strings(name, value)
    options = Options(**found)
    for address in options.sockets:
        try:
            parse(address.replace("~", "/", 1) if address.startswith("~") else address)
        except errors.ConnectError as exc:
            raise ValueError(f"vmm.qemu.qmp_events: sockets: {exc}") from None
    return options


def _strings(name: str, value: Any) -> List[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
        raise ValueError(f"vmm.qemu.qmp_events: {name}: {value!r} is not a list of strings")
    return values


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds < 1e6:
        raise ValueError(f"vmm.qemu.qmp_events: {name}: {value!r} is not a number of seconds above 0")
    return seconds


class Source:
    """Watches until it is cancelled. Whatever a virtual machine does, it does not end."""

    def __init__(self, options: Options, put: Callable[[Event], Awaitable[None]]) -> None:
        """``put`` gives an event to the rules, and returns when they have room for the next one."""
        self._options = options
        self._put = put
        self._watches: Dict[str, asyncio.Task[None]] = {}
        self._ready: asyncio.Queue[Machine] = asyncio.Queue()
        patterns = options.sockets
        self._named = set(find([one for one in patterns if not glob.has_magic(one)])[0])

    async def run(self) -> None:
        """Watch all that is there and all that comes."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        forward = asyncio.create_task(self._forward())
        try:
            while True:
                self._look(await asyncio.to_thread(find, self._options.sockets))
                await asyncio.sleep(self._options.rescan)
        finally:
            tasks = [forward, *self._watches.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, found: Any) -> None:
        """Begin to watch what is new."""
        self._watches = {address: task for address, task in self._watches.items() if not task.done()}
        for address in found[0]:
            if address not in self._watches and self._is_wanted(machine_name(address)):
                machine = Machine(address, self._options.events, self._options.connect_timeout, self._ready.put_nowait)
                self._watches[address] = asyncio.create_task(machine.watch(stays=address in self._named))

    def _is_wanted(self, name: str) -> bool:
        return not self._options.vms or any(fnmatchcase(name, pattern) for pattern in self._options.vms)

    async def _forward(self) -> None:
        """Give the rules one event of each machine in turn: none that says much keeps the others waiting."""
        while True:
            event = (await self._ready.get()).take()
            try:
                await self._put(event)
            except Exception:  # a filter of the rulebook
                _LOG.exception("%s: its event %s is lost", event["vm"], event["event"])
