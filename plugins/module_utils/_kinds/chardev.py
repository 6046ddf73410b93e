# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Character devices: ``chardev-add``, and what QOM and ``query-chardev`` tell of them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Step
from .._core.vm import EVENTS
from .._qmp.address import PORT_HIGHEST, is_port_too_high
from . import host_path, qemu_texts, references
from .kind import Kind, State, flatten

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM
    from .._qmp.errors import CommandError

CHARDEVS = "/chardevs"
# Where ``path`` goes, by type.
_PATHS = {"file": "out", "pipe": "device", "serial": "device", "parallel": "device", "pty": "path"}
_ADDRESSED = {"socket": ("path", "host", "port", "server", "reconnect"), "udp": ("host", "port")}
_ALIASES = {"tty": "serial", "parport": "parallel"}
_ANY_HOST = ("", "*", "0.0.0.0", "::")


class Chardev(Kind):
    """A character device of any type."""

    name = "chardev"
    section = "chardevs"
    # and the one of the monitor for events, on which there may be none yet
    own_names = rf"(?:(?:serial|parallel|compat_monitor)\d+|gdb|debugcon|braille)(?:-base)?|{EVENTS}"
    options = {
        "id": Option("str", required=True),
        "type": Option("str"),
        "path": Option("str"),
        "host": Option("str"),
        "port": Option("str"),
        "server": Option("bool"),
        "wait": Option("bool"),
        "reconnect": Option("int"),
        "options": Option("dict"),
    }
    alternatives = ((("path",), ("host", "port")),)

    def check(self, want: Want) -> None:
        """Raise Refusal also for two addresses, and for a server that would make QEMU wait."""
        super().check(want)
        data = {**want, **want.get("options", {})}
        server = coercion.same(True, data.get("server", False))
        if coercion.same(True, data.get("wait", False)):
            raise Refusal(
                f"wait: QEMU would stop, all its monitors with it, until a client connects to chardev {want['id']}: leave wait off"
                if server
                else f"wait: chardev {want['id']} is not a server, and only a server waits for its client: leave wait off"
            )
        if "path" in want and ("host" in want or "port" in want):
            raise Refusal("path and host are two addresses: give one of them")
        if is_port_too_high(data.get("port")):
            raise Refusal(f"port: {data['port']} is not a valid port: the highest is {PORT_HIGHEST}")
        if server and "reconnect" in want:
            raise Refusal("reconnect: only a client connects again; leave it out for a server")

    def read(self, vm: VM, want: Want) -> State | None:
        """Return type, and of a socket address and side; of a pty its path. Nothing else of a chardev can be read back."""
        ident = self.ident(want)
        kind = chardevs(vm).get(ident)
        if kind is None:
            return None
        have: State = {"id": ident, "type": kind}
        if kind == "socket":
            addr = vm.prop(f"{CHARDEVS}/{ident}", "addr", {})
            have.update({key: addr[key] for key in ("path", "host", "port") if key in addr})
            # A path may itself have a comma, so what follows it tells.
            printed = _printed(vm, ident)
            have["server"] = ",server" in (printed.rpartition(addr["path"])[2] if "path" in addr else printed)
        if kind == "pty":
            have["path"] = _printed(vm, ident).partition(":")[2]
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it without ``wait``, which is about making it, and without port 0, which is any; ``reconnect`` is a client's."""
        full = {**want, "server": False} if "reconnect" in want else want
        return {
            key: value for key, value in flatten(full).items() if key != "wait" and (key, str(value)) != ("port", "0")
        }

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Tell whether they are the same: a type has two names, a host several; the path of a pty may be a link to it."""
        if key == "type":
            return bool(have == _ALIASES.get(want, want))
        if key == "host" and have != want:
            return have in _ANY_HOST if want in _ANY_HOST else have in _addresses(want)
        if key == "path" and have.startswith("/dev/pts/"):
            return bool(os.path.realpath(want) == have)
        return super().same(key, have, want)

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with its type, and a socket's address and side. What else there is of it, nobody can tell."""
        if not self.same("type", have["type"], want.get("type", have["type"])):
            return want
        told = have if have["type"] == "socket" else {"type": have["type"]}
        return super().complete(vm, want, {**told, **({"server": False} if "reconnect" in want else {})})

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return the chardev below a multiplexer, and credentials."""
        return references.named(want.get("options", {}))

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``chardev-add``. Raise Refusal for a path that QEMU must not make or write to."""
        step = self._adding(vm, want)
        _check_paths(vm, self.ident(want), step.arguments["backend"], draft)
        return [step]

    def _adding(self, vm: VM, want: Want) -> Step:
        ident = self.ident(want)
        if "type" not in want:
            raise Refusal(f"type: chardev {ident} does not exist yet, and to add it its type must be named")
        kind = str(_ALIASES.get(want["type"], want["type"]))
        backend = {"type": kind, "data": {**_data(vm, want, kind), **want.get("options", {})}}
        arguments = vm.schema.coerce("chardev-add", {"id": ident, "backend": backend})
        return Step("chardev-add", arguments, undo=[_remove(ident)], hint=_hint)

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``chardev-remove``. Raise Refusal while something uses it that does not go before it."""
        ident = self.ident(want)
        self.check_unused(vm, want, draft)
        return [_remove(ident).replace(capture_undo=lambda vm: self._recreate_steps(vm, want))]

    def list(self, vm: VM) -> List[Want]:
        """Return the ids."""
        return [{"id": ident} for ident in chardevs(vm)]

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return who holds it. Whether its frontend is open says nothing of that."""
        # only on the way to a change
        from . import netdev
        from .object import holders

        ident = self.ident(want)
        held = [("device", os.path.basename(path)) for path in vm.devices() if vm.prop(path, "chardev") == ident]
        held += [("netdev", name) for name, line in netdev.wiring(vm).items() if line.info.get("chardev") == ident]
        return held + holders(vm, "chardev", ident)

    def _recreate_steps(self, vm: VM, want: Want) -> List[Step]:
        """Return the ``chardev-add`` that makes it as it is, where that can be read. Whether a TCP socket has TLS can't."""
        ident = self.ident(want)
        have = self.read(vm, {"id": ident}) or {}
        if have.get("type") == "socket" and "path" in have:
            if not have["server"] and ("reconnect" in want or _printed(vm, ident).startswith("disconnected:")):
                have["reconnect"] = want.get("reconnect", 1)  # else a client that nobody answers can't be made again
            return [self._adding(vm, have)]
        return [self._adding(vm, {"id": ident, "type": have["type"]})] if have.get("type") in ("pty", "null") else []


def _data(vm: VM, want: Want, kind: str) -> Dict[str, Any]:
    """Return the backend's own members. Raise Refusal for an option that chardevs of this type don't have."""
    usable = _ADDRESSED.get(kind, ("path",) if kind in _PATHS else ())
    idle = [name for name in ("path", "host", "port", "server", "reconnect") if want.get(name) and name not in usable]
    if idle:
        raise Refusal(f"{idle[0]}: chardev {want['id']} is of type {kind}, which has no such option: leave it out")
    data: Dict[str, Any] = {}
    options = want.get("options", {})
    if kind == "socket":
        if "addr" not in options:
            data["addr"] = _address(want)
        data["server"] = want.get("server", False)
        if coercion.same(True, options.get("server", data["server"])):
            data["wait"] = False
        elif "reconnect" in want:
            # Newer versions count in milliseconds, and mean to drop the member in seconds.
            fine = vm.schema.has("chardev-add", "backend", "type=socket", "data", "reconnect-ms")
            data["reconnect-ms" if fine else "reconnect"] = want["reconnect"] * (1000 if fine else 1)
    elif kind == "udp" and "remote" not in options:
        data["remote"] = _address(want)
    elif kind in _PATHS and "path" in want:
        data[_PATHS[kind]] = want["path"]
    return data


def chardevs(vm: VM) -> Dict[str, str]:
    """Return the type by id of every character device; one command, whatever their number."""
    return {name: kind[len("chardev-") :] for name, kind in vm.members(CHARDEVS).items()}


def check_free(vm: VM, ident: str, device: str, draft: Draft) -> None:
    """Raise Refusal when a device that wants this character device could not have it."""
    if ("chardev", ident) in draft.adding:
        return
    if ident not in chardevs(vm):
        raise Refusal(f"chardev: there is no chardev {ident!r}")
    users = CHARDEV.users(vm, {"id": ident})
    others = [user for user in users if user != ("device", device) and user not in draft.removing]
    if others:
        raise Refusal(f"chardev: {ident} is in use by {others[0][0]} {others[0][1]}")


def _printed(vm: VM, ident: str) -> str:
    """Return what ``query-chardev`` calls its file name: ``disconnected:unix:/p,server=on``, ``pty:/dev/pts/0``."""
    return next((str(item["filename"]) for item in vm.ask("query-chardev") if item["label"] == ident), "")


def _address(want: Want) -> Dict[str, Any]:
    """Return the old, nested form of a socket's address, which is what ``chardev-add`` takes."""
    if "path" in want:
        return {"type": "unix", "data": {"path": want["path"]}}
    if "host" in want or "port" in want:
        return {"type": "inet", "data": {"host": want.get("host", "127.0.0.1"), "port": str(want.get("port", "0"))}}
    raise Refusal(f"path: chardev {want['id']} of type {want['type']} needs an address: path, or host and port")


def _addresses(host: str) -> List[str]:
    """Return what a host's name stands for here; nothing where it stands for nothing."""
    import socket  # only where names differ

    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return []


def _check_paths(vm: VM, ident: str, backend: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal where QEMU would delete, take over or empty what is at a path."""
    kind, data, owner = backend["type"], backend["data"], ("chardev", ident)
    if kind == "socket" and data.get("server", True) and data["addr"]["type"] == "unix":
        addr = data["addr"]["data"]
        if not addr.get("abstract"):
            _check_socket(vm, ident, addr["path"], draft)
    if kind == "file":
        cure = "set append in options to add to it, or remove it"
        host_path.check_output(vm, "path", data["out"], owner, data.get("append", False), cure, draft)
    if "logfile" in data:
        cure = "set logappend in options to add to it, or remove it"
        host_path.check_output(
            vm, "options: logfile", data["logfile"], owner, data.get("logappend", False), cure, draft
        )
    if kind == "pipe":  # both ends, or if one is missing one pipe for both
        ends = [f"{data['device']}.in", f"{data['device']}.out"]
        pair = all(host_path.exists(vm, "path", end) is not False for end in ends)
        for path in ends if pair else [data["device"]]:
            host_path.check_stream(vm, "path", path)
    if kind in ("serial", "parallel"):
        host_path.check_stream(vm, "path", data["device"])
    if kind == "pty" and "path" in data and host_path.exists(vm, "path", data["path"]):
        raise Refusal(f"path: {data['path']}, where QEMU would put a link to the terminal, is there: give another path")


def _check_socket(vm: VM, ident: str, path: str, draft: Draft) -> None:
    """Raise Refusal where another chardev of this VM, or anybody else, serves the path: QEMU would take it over without a word."""
    goes = False
    for other, kind in chardevs(vm).items():
        have = (CHARDEV.read(vm, {"id": other}) or {}) if kind == "socket" else {}
        if not (have.get("server") and have.get("path") == path):
            continue
        if ("chardev", other) not in draft.removing:
            raise Refusal(
                f"path: chardev {other} serves {path} already, and would lose it to {ident}: give another path"
            )
        goes = True
    host_path.check_socket(vm, "path", path, ("chardev", ident), draft, leaves=goes)


def _hint(error: CommandError) -> str:
    listens = "start what shall listen there first; with reconnect, QEMU tries until somebody does"
    return listens if qemu_texts.is_not_connected(error) else ""


def _remove(ident: str) -> Step:
    # It stays "busy" for a moment after its device has left the device tree.
    return Step(
        "chardev-remove",
        {"id": ident},
        retry=qemu_texts.is_busy,
        removes=True,
        still_needed=lambda vm: ident in chardevs(vm),
        hint=lambda error: "a monitor or a device of the machine itself uses it" if qemu_texts.is_busy(error) else "",
    )


CHARDEV = Chardev()
