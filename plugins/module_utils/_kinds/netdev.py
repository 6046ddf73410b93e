# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Network backends: ``netdev_add``, and the little that QEMU tells of them afterwards.

No QMP query lists netdevs. Existence is asked of ``query-rx-filter``, whose refusals tell a netdev from an unknown name
(both with class GenericError, so here the text decides); wiring and settings come from ``info network``.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want
from .._core.step import Descriptor, Step, pass_descriptors
from .._qmp import errors
from .._qmp.address import PORT_HIGHEST, is_port_too_high
from . import host_path, qemu_texts, references
from .kind import Kind, State, properties
from .netdev_forward import forwards, same_rules

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

VHOST_NET = "/dev/vhost-net"
_USER_NET = "10.0.2.0"
_FORWARDS = "hostfwd"
_LISTS = (_FORWARDS, "guestfwd", "dnssearch")
_ADDRESSES = ("listen", "connect", "mcast", "localaddr", "udp")
"""Where a netdev of type socket has a host and a port as a text."""
_RESTORABLE = frozenset(["user", "tap", "bridge", "vhost-user", "hubport"])


class Line(NamedTuple):
    """One netdev of ``info network``: its settings as printed, its queues, and the NIC it is wired to (or None).

    ``loose``: it stands by itself too. With a NIC as well, that NIC holds the ghost of a netdev of this name that was removed.
    """

    info: Dict[str, str]
    queues: int
    nic: str | None
    loose: bool


_UNKNOWN = Line({}, 1, None, False)


class Netdev(Kind):
    """A network backend of any type; TAPs can be opened here and handed over as descriptors."""

    reserved_options = frozenset(["id", "type"])
    name = "netdev"
    section = "netdevs"
    own_names = r"hub\d+port\d+"
    options = {
        "id": Option("str", required=True),
        "type": Option("str"),
        "ifname": Option("str"),
        "script": Option("raw"),
        "downscript": Option("raw"),
        "bridge": Option("str"),
        "queues": Option("int"),
        "vhost": Option("bool"),
        "chardev": Option("str"),
        "pass_fds": Option("bool", no_log=False),
        "fds": Option("list", elements="path"),
        "vhostfds": Option("list", elements="path"),
        "options": Option("dict"),
    }
    alternatives = ((("ifname",), ("bridge",), ("chardev",)),)

    def check(self, want: Want) -> None:
        """Raise Refusal also for descriptors from two places, or beside what they replace."""
        super().check(want)
        if want.get("pass_fds") and ("fds" in want or "vhostfds" in want):
            raise Refusal("pass_fds opens the descriptors itself: leave out fds and vhostfds")
        if want.get("pass_fds") and "ifname" not in want:
            raise Refusal("pass_fds: name the TAP interface with ifname")
        if len(want.get("ifname", "")) > 15:
            raise Refusal(f"ifname: {want['ifname']!r} has more than 15 characters; the kernel would cut it")
        if want.get("queues", 1) < 1:
            raise Refusal(f"queues: {want['queues']} is not at least 1")
        for name in _ADDRESSES if want.get("type") == "socket" else ():
            address = want.get("options", {}).get(name, "")
            if is_port_too_high(str(address).rpartition(":")[2]):
                raise Refusal(f"options: {name}: the port of {address!r} is too high: the highest is {PORT_HIGHEST}")

    def read(self, vm: VM, want: Want) -> State | None:
        """Return type and what ``info network`` prints for it; everything else of a netdev can't be read back."""
        ident = self.ident(want)
        if not exists(vm, ident):
            return None
        line = wiring(vm).get(ident, _UNKNOWN)
        info = line.info
        have: State = {"id": ident, "queues": line.queues}
        # A bridge prints itself as a TAP with a helper.
        printed = "bridge" if info.get("type") == "tap" and "br" in info else info.get("type")
        have.update({key: value for key, value in (("type", printed), ("bridge", info.get("br"))) if value})
        for key in ("ifname", "script", "downscript", "chardev"):
            if key in info:
                have[key] = info[key]
        for name in want.get("options", {}):
            if name in info:
                have[f"options.{name}"] = info[name]
        if have.get("type") == "user" and _FORWARDS in want.get("options", {}):
            have[f"options.{_FORWARDS}"] = forwards(vm, ident)
        if want.get("pass_fds") or "fds" in want:
            have.pop("ifname", None)
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it with type ``tap`` where a TAP's options are given; ``no`` for a script is QEMU's word ``no``."""
        full = {key: value for key, value in _complete(want).items() if key != "options"}
        full.update({f"options.{name}": value for name, value in _complete(want).get("options", {}).items()})
        return full

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Compare with printed text: ``info network`` has booleans as words, and a network without its mask."""
        if have in ("on", "off"):
            return coercion.same(have == "on", want)
        if key == f"options.{_FORWARDS}":
            return same_rules(have, [item.get("str") if isinstance(item, dict) else item for item in want])
        if key == "options.net":
            import ipaddress  # only where one was given

            try:
                want = ipaddress.ip_network(str(want), strict=False).network_address
            except ValueError:
                return False
        return str(have) == str(want)

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return the character device of a vhost-user netdev, and what its options name: the netdev in a hub's port."""
        below = {("chardev", want["chardev"])} if "chardev" in want else set()
        return below | references.named(want.get("options", {}))

    def current_dependencies(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """Return the same of what it has."""
        info = wiring(vm).get(self.ident(want), _UNKNOWN).info
        return references.named({name: info[name] for name in ("chardev", "netdev") if name in info})

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``netdev_add``, after a ``getfd`` for each descriptor that goes with it."""
        full = _complete(want)
        ident = full["id"]
        if "type" not in full:
            raise Refusal(f"type: netdev {ident} does not exist yet, and to add it its type must be named")
        arguments = _arguments(full)
        taps, vhosts = _descriptors(full)
        if taps:
            for replaced in ("ifname", "script", "downscript", "queues"):
                arguments.pop(replaced, None)
        arguments.update(full.get("options", {}))
        steps: List[Step] = []
        for key, what, descriptors in (("fds", "tap", taps), ("vhostfds", "vhost", vhosts)):
            if descriptors:
                passing, arguments[key] = pass_descriptors(ident, what, descriptors)
                steps += passing
        if vhosts:
            arguments["vhost"] = True
        if steps and not vm.local:
            raise Refusal(
                "descriptors can only be handed over through a UNIX socket, and this monitor is reached by TCP"
            )
        self._check_host(arguments, taps + vhosts)
        undo = [Step("netdev_del", {"id": ident}, removes=True)]
        step = Step("netdev_add", vm.schema.coerce("netdev_add", arguments), undo=undo)
        _check_sockets(vm, step.arguments, draft)
        return [*steps, step]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``netdev_del``. Raise Refusal while a NIC uses it: QEMU itself would pull it from under the NIC."""
        ident = self.ident(want)
        self.check_unused(vm, want, draft)
        return [
            Step(
                "netdev_del",
                {"id": ident},
                undo=self._recreate_steps(vm, ident),
                removes=True,
                still_needed=lambda vm: ident in wiring(vm),
            )
        ]

    def list(self, vm: VM) -> List[Want]:
        """Return the ids."""
        return [{"id": ident} for ident in wiring(vm)]

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return who holds it: a NIC, a port of a hub, filters. QEMU takes the last along without a word."""
        from .object import holders  # only for a change

        ident = self.ident(want)
        nic = nic_of(vm, ident)
        held = [("device", nic)] if nic else []
        held += [("netdev", name) for name, line in wiring(vm).items() if line.info.get("netdev") == ident]
        return held + holders(vm, "netdev", ident)

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with its type, and of a type that reads back whole its settings."""
        kind = have.get("type")
        if want.get("type", kind) != kind:
            return want
        if want.get("pass_fds") or "fds" in want:
            return {"type": kind, **want}
        options: Dict[str, Any] = _user_options(vm, self.ident(want)) if kind == "user" else {}
        if kind == "hubport":
            info = wiring(vm)[self.ident(want)].info
            options = {name: info[name] for name in ("hubid", "netdev") if name in info}
        told = {key: value for key, value in have.items() if not key.startswith("options.")}
        return super().complete(vm, want, {**told, **({"options": options} if options else {})})

    def _recreate_steps(self, vm: VM, ident: str) -> List[Step]:
        """Return the ``netdev_add`` that makes it as it was, where everything it was made of can be read."""
        have = self.read(vm, {"id": ident}) or {}
        info = wiring(vm).get(ident, _UNKNOWN).info
        if have.get("type") not in _RESTORABLE or "fd" in info or (have["type"] == "tap" and "helper" in info):
            return []
        arguments = _arguments(have)
        if have["type"] == "hubport":
            arguments.update({"hubid": int(info["hubid"]), **({"netdev": info["netdev"]} if "netdev" in info else {})})
        if have["type"] == "user":
            if info.get("net", _USER_NET) != _USER_NET:
                return []  # its mask is not printed
            arguments.update(_user_options(vm, ident))
        return [Step("netdev_add", arguments)]

    def _check_host(self, arguments: Dict[str, Any], descriptors: List[Descriptor]) -> None:
        """Raise Refusal for a device file that isn't there. QEMU 7.2 aborts, and the VM with it, without vhost-net."""
        if arguments.get("vhost") and "vhostfds" not in arguments and not os.path.exists(VHOST_NET):
            raise Refusal(
                f"vhost: {VHOST_NET} does not exist on this host: load the vhost_net module, or set vhost to false"
            )
        for descriptor in descriptors:
            if not os.path.exists(descriptor.path):
                raise Refusal(f"cannot open {descriptor.path} to pass it to QEMU: it does not exist")


def _arguments(want: Want) -> Dict[str, Any]:
    """Return the options under the names that ``netdev_add`` has for them."""
    names = {name: name for name in ("id", "type", "ifname", "script", "downscript", "chardev", "vhost")}
    several = {"queues": "queues"} if want.get("queues", 1) > 1 else {}
    return properties(want, {**names, "bridge": "br", **several})


def _check_sockets(vm: VM, arguments: Dict[str, Any], draft: Draft) -> None:
    """Raise Refusal where QEMU would delete what is at the path of a UNIX socket that it makes, or take it over."""
    made = {"stream": "addr" if arguments.get("server") else "", "dgram": "local"}.get(arguments["type"], "")
    addr = arguments.get(made, {})
    if addr.get("type") == "unix" and not addr.get("abstract"):
        owner = ("netdev", arguments["id"])
        host_path.check_socket(vm, f"options: {made}", addr["path"], owner, draft, leaves=owner in draft.removing)


def exists(vm: VM, ident: str) -> bool:
    """Tell whether the id is taken by a netdev. A NIC can have that name too, and hide the netdev from the query."""
    try:
        vm.ask("query-rx-filter", name=ident)
    except errors.CommandError as exc:
        found = qemu_texts.is_netdev_without_nic(exc)
        if found is not None:
            return found
    return ident in wiring(vm)


def check_free(vm: VM, ident: str, device: str, draft: Draft) -> None:
    """Raise Refusal when a NIC that wants this netdev could not have it."""
    if ("netdev", ident) in draft.adding:
        return
    if not exists(vm, ident):
        raise Refusal(f"netdev: there is no netdev {ident!r}")
    nic = nic_of(vm, ident)
    if nic and nic != device and ("device", nic) not in draft.removing:
        raise Refusal(f"netdev: {ident} is in use by device {nic}")


def nic_of(vm: VM, ident: str) -> str | None:
    """Return the id of the NIC that uses the netdev, or None."""
    line = wiring(vm).get(ident)
    return line.nic if line else None


def wired(vm: VM, ident: str, nic: str) -> bool:
    """Tell whether the NIC really has the netdev that its property names: QEMU lets a netdev go while a NIC uses it."""
    line = wiring(vm).get(ident)
    return exists(vm, ident) and line is not None and line.nic == nic and not line.loose


def wiring(vm: VM) -> Dict[str, Line]:
    """Return every netdev in ``info network``, by id: its own line, or its lines below the NIC (or hub) that it is wired to."""
    found: Dict[str, Line] = {}
    nic: str | None = None
    hub = ""
    for text in vm.monitor("info network").splitlines():
        below = text.startswith(" \\ ")
        name, colon, settings = text.lstrip(" \\").strip().partition(": ")
        if text.startswith("  "):  # a filter: an object, and read as one
            continue
        if not below:
            nic = name if "type=nic" in settings else None
            hub = name[len("hub ") :] if not colon and name.startswith("hub ") else ""
            if nic or not colon:
                continue
        if hub:
            _plug(found, name.rstrip(":"), hub, settings)
            continue
        before = found.get(name)
        queues = before.queues + 1 if before else 1
        loose = not below or bool(before and before.loose)
        found[name] = Line(_settings(settings), queues, nic if below else before and before.nic, loose)
    return found


def _plug(found: Dict[str, Line], port: str, hub: str, peer: str) -> None:
    """Take in a hub's port, printed as ``port: netdev: settings`` or as its name alone. A NIC can be its peer as well."""
    found[port] = Line({"type": "hubport", "hubid": hub}, 1, None, False)
    name, colon, settings = peer.partition(": ")
    if not colon:
        return
    if "type=nic" in settings:
        found[port] = found[port]._replace(nic=name)
    else:
        found[port].info["netdev"] = name
        found[name] = Line(_settings(settings), 1, None, False)


def _settings(text: str) -> Dict[str, str]:
    """Parse ``index=0,type=user,net=10.0.2.0,restrict=off``; ``vhost-user0 to c0`` names the chardev."""
    info = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    wired = re.search(r"vhost-user\d+ to (\S+)", text)
    if wired:
        info["chardev"] = wired.group(1)
    return info


def _user_options(vm: VM, ident: str) -> Dict[str, Any]:
    """Return what QEMU tells of a user network, as options that make it so."""
    rules = forwards(vm, ident)
    told: Dict[str, Any] = {"restrict": wiring(vm).get(ident, _UNKNOWN).info.get("restrict") == "on"}
    return {**told, _FORWARDS: [{"str": rule} for rule in rules]} if rules else told


def _texts(name: str, value: Any) -> Any:
    """Return a list of texts as QEMU takes it, structures with a ``str`` each, where a text or several were given."""
    if name not in _LISTS:
        return value
    return [
        {"str": item} if isinstance(item, str) else item for item in (value if isinstance(value, list) else [value])
    ]


def _complete(want: Want) -> Want:
    """Return what was asked for with what it implies."""
    full = dict(want)
    if "type" not in full and (full.get("pass_fds") or "ifname" in full or "fds" in full):
        full["type"] = "tap"
    for option, only in (("bridge", "bridge"), ("chardev", "vhost-user")):
        if option in full:
            full.setdefault("type", only)
    for script in ("script", "downscript"):
        if script in full:
            full[script] = "no" if str(full[script]).lower() in ("no", "false") else str(full[script])
    if "options" in full:
        full["options"] = {name: _texts(name, value) for name, value in full["options"].items()}
    return full


def _descriptors(full: Want) -> tuple[List[Descriptor], List[Descriptor]]:
    """Return what is opened here and passed: one TAP descriptor a queue, and as many for vhost where it is wanted."""
    if not full.get("pass_fds"):
        return [Descriptor(path) for path in full.get("fds", [])], [
            Descriptor(path) for path in full.get("vhostfds", [])
        ]
    from .netdev_tap import tap_descriptor

    queues = full.get("queues", 1)
    taps = [tap_descriptor(full["ifname"], multi_queue=queues > 1) for _queue in range(queues)]
    return taps, [Descriptor(VHOST_NET) for _queue in range(queues)] if full.get("vhost") else []


NETDEV = Netdev()
