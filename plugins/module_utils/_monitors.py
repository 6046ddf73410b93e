# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""All monitors of a host, and what each tells of its virtual machine: what the inventory asks each hypervisor.

It runs on the host, in the controller's process or by the runner. What it returns is what was said, for the controller to judge.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import glob
import os
import re
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Dict, List, Set, Tuple

from ._qmp import errors
from ._qmp.deadline import Deadline
from ._qmp.session import QMPSession

if TYPE_CHECKING:
    from ._qmp.deadline import Stop

    Machine = Dict[str, Any]

BUSY, UNREACHABLE = "busy", "unreachable"
"""The states of a monitor that does not tell its VM's own."""
AT_A_TIME = 32
"""How many are asked at a time, with those that don't answer."""
_QUICK = 2
"""How many of those may have answered only a moment ago: Python's threads hold each other up when all have something to do."""
_MOMENT = 0.005
"""Seconds. Most monitors take a millisecond for all; one that takes longer waits for a busy QEMU, an agent or a network."""
_MAX_REPLY = 4 << 20
"""Bytes: some hundred character devices have room, and a broken monitor can't fill the memory."""
_AGENT = "org.qemu.guest_agent.0"
_PERIPHERALS = ("/machine/peripheral", "/machine/peripheral-anon")
_LISTENS = re.compile(r"(?:disconnected:)?unix:(/.+),server(?:=on)?(?: <-> .*)?")
"""What ``query-chardev`` calls a socket at which QEMU listens."""
_GENERAL = {"run", "qmp", "monitor", "mon", "sock", "socket", "events"}
_SUFFIX = re.compile(r"\.(qmp|sock|socket|monitor|mon|events)$")
_NO_UUID = "00000000-0000-0000-0000-000000000000"
_MOST = 64
"""Interfaces of a guest, addresses of an interface, and characters of its name."""


def read_all(request: Dict[str, Any], stop: Stop | None = None) -> Dict[str, Any]:
    """Return ``machines``, a dictionary for each monitor, and the globs that match none as ``unmatched``.

    ``request``: ``sockets``, which are addresses and globs, ``connect_timeout``, ``timeout`` for all of it (seconds), and
    ``guest_agent``, whether agents are asked for the guests' interfaces. ``stop`` ends it early.
    """
    addresses, unmatched = find(request["sockets"])
    deadline = Deadline(request["timeout"], stop)
    turns, since = threading.Semaphore(_QUICK), {}

    def read(address: str) -> Machine:
        turns.acquire()
        since[address] = time.monotonic()
        try:
            return {"socket": address, **_read(address, request, deadline)}
        finally:
            give_way(address)

    def give_way(address: str) -> None:
        if since.pop(address, None) is not None:
            turns.release()

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures = [pool.submit(read, address) for address in addresses]
        try:
            for future in futures:
                while not future.done():
                    wait([future], _MOMENT)
                    for address, begun in list(since.items()):
                        if begun < time.monotonic() - _MOMENT:
                            give_way(address)
        finally:
            for future in futures:
                future.cancel()
        machines = [future.result() for future in futures]
    return {"machines": machines, "unmatched": unmatched}


def find(patterns: List[str]) -> Tuple[List[str], List[str]]:
    """Return the monitors' addresses, each once, and the globs that match no socket.

    A path without a wildcard is the address of a monitor whether or not there is a socket.
    """
    found: List[str] = []
    unmatched: List[str] = []
    seen: Set[Any] = set()
    for pattern in patterns:
        path = os.path.expanduser(pattern[5:] if pattern.startswith("unix:/") else pattern)
        paths = [path]
        if path.startswith("/") and glob.has_magic(path):
            paths = sorted(one for one in glob.iglob(path) if _socket(one))
            unmatched += [] if paths else [pattern]
        for one in paths:
            identity = _socket(one) or one  # two names of one socket would find each other there
            if identity not in seen:
                found.append(one)
            seen.add(identity)
    return found, unmatched


def path_name(address: str) -> str:
    """Return the part of a monitor's address that tells it from others: ``vm1`` of ``/run/vm1.qmp`` and ``/run/vm1/qmp``."""
    parts = [_SUFFIX.sub("", part) for part in address.split("/") if part]
    return next((part for part in reversed(parts) if part not in _GENERAL), address)


def _socket(path: str) -> Tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _read(address: str, request: Dict[str, Any], deadline: Deadline) -> Machine:
    """Return what is known of the machine at a monitor; never raise: one VM is no reason to lose the others."""
    if deadline.expired:
        return {
            "status": UNREACHABLE,
            "reason": f"{address}: the {deadline.seconds:.4g} s for all monitors were over before its turn",
        }
    try:
        machine, agent, user = _ask(address, request, deadline)
    except errors.MonitorBusy as exc:
        state = UNREACHABLE if exc.taken else BUSY
        client = {"client": {"pid": exc.holder[0], "name": exc.holder[1]}} if exc.holder else {}
        return {"status": state, "reason": str(exc), **client}
    except errors.QMPError as exc:
        return {"status": UNREACHABLE, "reason": str(exc)}
    except Exception as exc:
        return {"status": UNREACHABLE, "reason": f"{address}: {type(exc).__name__}: {exc}"}
    if agent:
        machine.update(_ask_agent(agent, user, Deadline(min(request["connect_timeout"], deadline.remaining() or 0.0))))
    return machine


def _ask(address: str, request: Dict[str, Any], deadline: Deadline) -> Tuple[Machine, str, int | None]:
    """Return what the monitor tells, and where that is wanted the agent's socket; and whose monitor it is. Raise QMPError.

    One on TCP, whose paths may be those of another host, names no agent.
    """
    seconds = request["connect_timeout"]
    session = QMPSession.connect(
        address, timeout=seconds, deadline=deadline, read_only=True, max_reply=_MAX_REPLY, oob=False
    )
    try:
        session.default_timeout = seconds
        limit = Deadline(min(seconds, deadline.remaining() or 0.0))
        machine = {
            "status": _text(session.execute("query-status", deadline=limit), "status"),
            "name": _text(session.execute("query-name", deadline=limit), "name"),
            "uuid": _text(session.execute("query-uuid", deadline=limit), "UUID"),
            "version": ".".join(map(str, session.version)),
        }
        if not re.fullmatch("[a-z-]{1,40}", machine["status"]):
            raise errors.ProtocolError(f"{address}: query-status was not answered with a run state")
        user = session.user
        agent = _agent_socket(session, limit) if request["guest_agent"] and user is not None else ""
        told = {name: said for name, said in {**machine, "agent": agent}.items() if said not in ("", _NO_UUID)}
        return told, agent, user
    finally:
        session.close(grace=seconds)


def _text(reply: Any, member: str) -> str:
    """Return a member of a reply, empty where it is not there."""
    value = reply.get(member) if isinstance(reply, dict) else None
    return value if isinstance(value, str) else ""


def _agent_socket(session: QMPSession, limit: Deadline) -> str:
    """Return the path of the socket behind which the guest's agent is, by the port's name; empty where there is none."""

    def get(path: str, name: str) -> Any:
        return session.execute("qom-get", {"path": path, "property": name}, deadline=limit)

    try:
        for folder in _PERIPHERALS:
            for child in session.execute("qom-list", {"path": folder}, deadline=limit):
                path = f"{folder}/{child['name']}"
                if child["type"] == "child<virtserialport>" and get(path, "name") == _AGENT:
                    label = get(path, "chardev")
                    chardevs = session.execute("query-chardev", deadline=limit)
                    (name,) = (one["filename"] for one in chardevs if one["label"] == label)
                    found = _LISTENS.fullmatch(name)
                    return found[1] if found else ""
    except (errors.CommandError, LookupError, TypeError, ValueError):
        pass  # no virtio ports, or an answer that is none
    return ""


def _ask_agent(address: str, user: int | None, deadline: Deadline) -> Machine:
    """Return the guest's ``interfaces``, or ``agent_reason``, why it does not tell."""
    from ._qmp.agent import Agent

    try:
        with Agent(address, deadline, user=user) as agent:
            return {"interfaces": interfaces(agent.execute("guest-network-get-interfaces", deadline))}
    except errors.QMPError as exc:
        return {"agent_reason": str(exc)}


def interfaces(told: Any) -> List[Dict[str, Any]]:
    """Return a guest's interfaces: ``name``, ``mac``, ``addresses`` as ``10.0.0.5/24``. What is not valid is left out."""
    found = []
    for one in _dicts(told):
        addresses = [_address(address) for address in _dicts(one.get("ip-addresses"))]
        found.append(
            {
                "name": _text(one, "name")[:_MOST],
                "mac": _text(one, "hardware-address")[:_MOST],
                "addresses": [address for address in addresses if address],
            }
        )
    return found


def _dicts(told: Any) -> List[Dict[str, Any]]:
    return [one for one in told[:_MOST] if isinstance(one, dict)] if isinstance(told, list) else []


def _address(told: Dict[str, Any]) -> str:
    import ipaddress

    text = _text(told, "ip-address")
    try:
        # a scope is any text
        return "" if "%" in text else str(ipaddress.ip_interface(f"{text}/{told.get('prefix')}"))
    except ValueError:
        return ""
