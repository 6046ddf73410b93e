# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's NBD server: one for all NBD exports, and no query tells of it. Loaded for a change only.

It runs while there is an NBD export. Whether it runs without one, and whether it has TLS, is seen at its address.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core.errors import Refusal
from .._core.option import Want
from .._core.step import Step, Wait
from .._qmp import address, errors
from . import host_path, qemu_texts

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

_SECONDS = 1.0
_GREETING = struct.Struct(">8s8sH")
_LIST = struct.pack(">I8sII", 1, b"IHAVEOPT", 3, 0)
_REPLY = struct.Struct(">QIII")
_TLS_REQUIRED = 0x80000005
PLAIN, TLS, OTHER = "nbd", "nbd with TLS", "other"
"""What is at an address: an NBD server, one that asks for TLS, or something else."""


class _Started(Wait):
    """It runs. Where nobody could look, it may have been started by a run that was stopped then."""

    no_wait = True

    def __init__(self, looked: bool) -> None:
        self.looked = looked

    def classify(self, error: errors.CommandError) -> str:
        """Return "done" where it runs, and may do so at the address that was asked for."""
        return "done" if qemu_texts.is_nbd_server_running(error) and not self.looked else ""


class _Stopped(Wait):
    """It has ended, now or before."""

    no_wait = True

    def classify(self, error: errors.CommandError) -> str:
        """Return "done" where it does not run."""
        return "done" if qemu_texts.is_nbd_server_running(error) is False else ""


def exports(vm: VM) -> List[str]:
    """Return the ids of the NBD exports."""
    return [export["id"] for export in vm.ask("query-block-exports") if export["type"] == "nbd"]


def parse(listen: str, option: str = "listen") -> address.Address:
    """Return an address's parts. Raise Refusal for one that can't be listened at, or that means another place to QEMU."""
    try:
        parsed = address.parse(listen)
    except errors.ConnectError:
        parsed = None
    if parsed is None or (parsed.path is not None and not os.path.isabs(parsed.path)):
        raise Refusal(f"{option}: {listen!r} is not a valid address: write /path, HOST:PORT or [v6]:PORT")
    return parsed


def check_path(vm: VM, want: Want, draft: Draft, owner: Tuple[str, str]) -> None:
    """Raise Refusal where QEMU would take a UNIX socket's path away from what is there. ``owner``: kind and id of what listens."""
    host_path.check_socket(vm, "listen", parse(want["listen"]).path or "", owner, draft)


def start(vm: VM, want: Want, draft: Draft) -> List[Step]:
    """Return the ``nbd-server-start`` that a new export needs; none where the server runs.

    Raise Refusal where it runs at another address, or where its address is taken.
    """
    running = exports(vm)
    listen = want.get("listen")
    if listen is None and not running:
        raise Refusal("listen: there is no NBD export yet, so that the NBD server must be started: give its address")
    found = None if listen is None else _found(vm, listen)
    if running and found in ("", OTHER):
        raise Refusal(
            f"listen: QEMU has one NBD server, which serves {', '.join(running)} at another address than {listen}: "
            "give that one's, or leave it out"
        )
    if running or found in (PLAIN, TLS):
        _check_tls(want, found, draft)
        return []
    if parse(want["listen"]).path is not None:
        check_path(vm, want, draft, ("server", "NBD"))  # of all NBD exports
    elif found:
        raise Refusal(f"listen: somebody else listens at {listen}: give another address")
    arguments: Dict[str, Any] = {"addr": _addr(parse(want["listen"]))}
    if "tls_creds" in want:
        arguments["tls-creds"] = want["tls_creds"]
    return [Step("nbd-server-start", arguments, undo=[stop()], wait=_Started(found is not None), hint=_elsewhere)]


def _check_tls(want: Want, found: str | None, draft: Draft) -> None:
    """Raise Refusal where an export shall have TLS and the server that runs has none; warn where that can't be told."""
    if "tls_creds" not in want or found == TLS:
        return
    if found == PLAIN:
        raise Refusal(f"tls_creds: the NBD server at {want['listen']} runs already, without TLS: end its exports first")
    draft.warnings.append("tls_creds: the NBD server runs already, and whether it has TLS can't be told")


def stop() -> Step:
    """Return the ``nbd-server-stop`` for when no NBD export is left: it would end them all."""
    return Step(
        "nbd-server-stop",
        condition=lambda vm: not exports(vm),
        removes=True,
        still_needed=lambda vm: not exports(vm),
        wait=_Stopped(),
        last=True,
    )


def _addr(parsed: address.Address) -> Dict[str, Any]:
    """Return the old, nested form of an address, which is what ``nbd-server-start`` takes."""
    if parsed.path is not None:
        return {"type": "unix", "data": {"path": parsed.path}}
    return {"type": "inet", "data": {"host": parsed.host, "port": str(parsed.port)}}


def _found(vm: VM, listen: str) -> str | None:
    """Return what is at an address and may be this QEMU's; empty: nothing is. None where that can't be told."""
    path = parse(listen).path
    if path is None:
        return listening(vm, "listen", listen)
    told = host_path.ask(vm, "listen", path, _talk)
    return None if told is None or (told[0] in (PLAIN, TLS) and not told[1]) else told[0]


def listening(vm: VM, option: str, listen: str) -> str | None:
    """Return what is at an address, whoever's it is; empty: nothing is. None where that can't be told."""
    parsed = parse(listen)
    if parsed.path is not None:
        told = host_path.ask(vm, option, parsed.path, _talk)
        return None if told is None else told[0]
    if not vm.local:
        return None
    try:
        with socket.create_connection((parsed.host, parsed.port), _SECONDS) as client:
            return _talk(client)
    except ConnectionRefusedError:
        return ""
    except OSError:
        return None


def _talk(client: socket.socket) -> str:
    """Return what answers a client. An NBD server speaks first, and one with TLS then answers nothing but the wish for it."""
    try:
        client.settimeout(_SECONDS)
        said = client.recv(_GREETING.size, socket.MSG_WAITALL)
        if not said.startswith(b"NBDMAGICIHAVEOPT"):
            return OTHER
        client.sendall(_LIST)
        reply = client.recv(_REPLY.size, socket.MSG_WAITALL)
        return TLS if len(reply) == _REPLY.size and _REPLY.unpack(reply)[2] == _TLS_REQUIRED else PLAIN
    except OSError:
        return OTHER


def _elsewhere(error: errors.CommandError) -> str:
    if qemu_texts.is_nbd_server_running(error):
        return "it has no export, and listens at another address: end it first (qemu_command, nbd-server-stop)"
    return ""
