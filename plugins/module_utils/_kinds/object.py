# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""User-creatable objects: ``object-add``, and the properties that QOM reads back. Secrets are compared, never shown."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want, suggestion
from .._core.secrets import dictionaries, quoted_forms
from .._core.step import REDACTED, Step
from .._qmp import errors
from . import host_path, qemu_texts, references
from .blockdev_nodes import layers, nodes
from .kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM

OBJECTS = "/objects"
SECRET = frozenset(["data", "password", "passphrase"])
_SHOWN_OF_SECRETS = frozenset(["file", "format", "iv", "keyid", "loaded"])
# What qom-set changes while the object is in use, by the type's beginning.
_LIVE = {
    "iothread": frozenset(
        ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-min", "thread-pool-max"]
    ),
    "throttle-group": frozenset(["limits"]),
    "filter-": frozenset(["status"]),
    "authz-": frozenset(["policy", "rules"]),
}
_RESTORABLE = (
    *("memory-backend-", "iothread", "rng-", "secret", "tls-creds-", "throttle-group", "authz-"),
    *("filter-buffer", "filter-mirror", "filter-redirector", "filter-rewriter", "filter-replay"),
)
# To list a type's properties QEMU makes an object of it and throws that away, half made. Of these it dies (5.2, 7.2, 10.0)
# or, of a filter-dump, closes its descriptor 0, which by the second time is a client's connection or a disk.
_FATAL = {
    "colo-compare": {
        **dict.fromkeys(("primary_in", "secondary_in", "outdev", "notify_dev", "iothread"), "string"),
        **dict.fromkeys(("compare_timeout", "expired_scan_cycle", "max_queue_size"), "uint64"),
        "vnet_hdr_support": "bool",
    },
    "filter-dump": {
        **dict.fromkeys(("netdev", "queue", "status", "insert", "position", "file"), "string"),
        "maxlen": "uint32",
    },
    "x-remote-object": {"fd": "string", "devid": "string"},
    "x-vfio-user-server": {"device": "string", "socket": "SocketAddress"},
}
# Of these the properties only say that the object is complete; newer versions have dropped them.
_SPENT = ("type", "loaded", "opened")
_MONITOR = "monitor-"


class Object(Kind):
    """An object of any type: memory backends, I/O threads, secrets, TLS credentials, throttle groups, filters."""

    name = "object"
    section = "objects"
    options = {
        "id": Option("str", required=True),
        "qom_type": Option("str"),
        "options": Option("dict"),
    }

    reserved_options = frozenset(["id", "qom-type"])

    def read(self, vm: VM, want: Want) -> State | None:
        """Return type, and of the properties those that ``want`` names; of a secret only whether it is the wanted one."""
        ident = self.ident(want)
        kind = objects(vm).get(ident)
        if kind is None:
            return None
        have: State = {"id": ident, "qom_type": kind}
        for name, value in want.get("options", {}).items():
            now = vm.prop(f"{OBJECTS}/{ident}", name)
            if now is None and want.get("qom_type", kind) == kind:
                now = vm.prop(f"{OBJECTS}/{ident}", _property(_known(vm, kind), kind, name))
            if now is not None:
                have[f"options.{name}"] = redacted_as(coercion.same(now, value)) if name in SECRET else now
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it with each property's value whole; of a secret only that it is there."""
        flat = {key: value for key, value in want.items() if key != "options"}
        for name, value in want.get("options", {}).items():
            flat[f"options.{name}"] = redacted_as(True) if name in SECRET else value
        return flat

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Compare as the property's own type; of a structure only the members that were named."""
        if isinstance(have, dict) and isinstance(want, dict):
            return all(coercion.same(have.get(name), value) for name, value in want.items())
        return coercion.same(have, want)

    def compare(self, have: State, want: State) -> Tuple[List[Change], List[str]]:
        """Return changes that lead to whole structures: what was named of one, with the rest as it is."""
        changes, unverifiable = super().compare(have, want)
        return [change._replace(after=_merged(change.before, change.after)) for change in changes], unverifiable

    def secrets(self, want: Want) -> List[str]:
        """Return the values of secret properties, also of options that Ansible has not parsed.

        Of a secret, also the text of those that it does not have: a misspelt ``data``.
        """
        options = want.get("options") or {}
        whole = [] if isinstance(options, dict) else [str(options)]
        misspelt = want.get("qom_type") == "secret"
        found = [
            value
            for within in dictionaries(options)
            for name, value in within.items()
            if name in SECRET or (misspelt and isinstance(value, str) and name not in _SHOWN_OF_SECRETS)
        ]
        return [*whole, *(text for value in found for text in quoted_forms(value))]

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return what ``qom-set`` changes in an object in use."""
        names = next((names for start, names in _LIVE.items() if have["qom_type"].startswith(start)), frozenset())
        return frozenset(f"options.{name}" for name in names) | {f"options.{name.replace('-', '_')}" for name in names}

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return it with its type and, where that reads back whole, its properties; nothing of an object of another type."""
        kind, named = have["qom_type"], want.get("options", {})
        if want.get("qom_type", kind) != kind:
            return want
        was = {name: value for step in _recreate_steps(vm, self.ident(want)) for name, value in step.arguments.items()}
        for name in ("id", "qom-type", *(name.replace("_", "-") for name in named), *named):
            was.pop(name, None)
        for one, other in (("data", "file"), ("file", "data")):  # a secret has one of both
            if one in named:
                was.pop(other, None)
        return {**want, "qom_type": kind, "options": {**was, **named}}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``object-add`` in the flat form, which every QEMU from 5.0 on takes."""
        ident = self.ident(want)
        if "qom_type" not in want:
            raise Refusal(f"qom_type: object {ident} does not exist yet, and to add it its qom_type must be named")
        kind, options = want["qom_type"], want.get("options", {})
        known = _known(vm, kind)
        arguments: Dict[str, Any] = {"qom-type": kind, "id": ident}
        for name, value in options.items():
            real = _property(known, kind, name)
            try:
                arguments[real] = coercion.coerce(value, known[real]["type"])
            except ValueError as exc:
                raise Refusal(f"options: {real} of {kind} is of type {known[real]['type']}: {exc}") from exc
        arguments = vm.schema.coerce("object-add", arguments)
        if kind == "filter-dump" and "file" in arguments:
            host_path.check_output(vm, "options: file", arguments["file"], ("object", ident), False, "remove it", draft)
        busy = qemu_texts.is_busy if self.wanted_dependencies(want) else None  # its device is just leaving
        return [Step("object-add", arguments, undo=[_delete(ident)], retry=busy, secret=tuple(SECRET))]

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return a ``qom-set`` for each property that differs."""
        path = f"{OBJECTS}/{self.ident(want)}"
        known = _known(vm, have["qom_type"])
        steps = []
        for change in changes:
            name = _property(known, have["qom_type"], change.key.partition(".")[2])
            try:
                value = coercion.like(change.after, change.before)
            except ValueError as exc:
                raise Refusal(f"{change.key}: it is {change.before} now, and {exc}") from exc
            if isinstance(value, dict):  # as a new one's: a throttle group's limits
                vm.schema.coerce("object-add", {"qom-type": have["qom_type"], "id": self.ident(want), name: value})
            undo = [Step("qom-set", {"path": path, "property": name, "value": change.before})]
            steps.append(Step("qom-set", {"path": path, "property": name, "value": value}, undo=undo))
        return steps

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return what its properties name: a filter's netdev, the chardev of a source of randomness."""
        return references.named(want.get("options", {}))

    def current_dependencies(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """Return the same of what it has."""
        return _below(vm, self.ident(want))

    def list(self, vm: VM) -> List[Want]:
        """Return the ids, but for monitors, which are objects since QEMU 11.1: without one the VM has lost its master."""
        return [{"id": ident} for ident, kind in objects(vm).items() if not kind.startswith(_MONITOR)]

    def users(self, vm: VM, want: Want) -> List[Thing]:
        """Return who holds it: devices by a link (those without an id by their place), block nodes, objects."""
        ident = self.ident(want)
        held = [("blockdev", name) for name in _nodes_on(vm, ident)]
        held += holders(vm, "object", ident)
        for path, driver in vm.devices().items():
            if any(ident in _named(vm.prop(path, link)) for link in _links(vm, driver)):
                held.append(("device", path.rpartition("/")[2]))
        return held + _exports_in(vm, ident)

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``object-del``. Raise Refusal while something uses it that does not go before it (QEMU guards few of them)."""
        ident = self.ident(want)
        exports = _exports_in(vm, ident)
        if exports:
            raise Refusal(
                f"object {ident} may be the iothread of block export {exports[0][1]}, which QEMU does not tell, and QEMU would "
                "crash: remove that export first"
            )
        self.check_unused(vm, want, draft)
        if objects(vm).get(ident, "").startswith(_MONITOR):
            _check_no_client(vm, ident)
        if vm.prop("/machine", "memory-backend") in (ident, f"{OBJECTS}/{ident}"):
            raise Refusal(f"object {ident} is the memory of this VM, and stays as long as it runs")
        return [_delete(ident).replace(capture_undo=lambda vm: _recreate_steps(vm, ident))]


def objects(vm: VM) -> Dict[str, str]:
    """Return the QOM type by id of every object; one command, whatever their number."""
    return vm.members(OBJECTS)


def _exports_in(vm: VM, ident: str) -> List[Thing]:
    """Return the block exports that may run in an iothread: QEMU tells of none in which it does, and ends when that one is gone."""
    if objects(vm).get(ident) != "iothread":
        return []
    return [("export", export["id"]) for export in vm.ask("query-block-exports")]


def _check_no_client(vm: VM, ident: str) -> None:
    """Raise Refusal for a monitor that somebody uses, as this task does its own."""
    chardev = vm.prop(f"{OBJECTS}/{ident}", "chardev")
    for told in vm.ask("query-chardev"):
        if told["label"] == chardev and not told["filename"].startswith("disconnected:"):
            raise Refusal(
                f"object {ident} is a monitor, and a client is connected to it ({told['filename']}), who would lose it: end that "
                "client first; the one that this task uses can't go"
            )


def holders(vm: VM, kind: str, ident: str) -> List[Tuple[str, str]]:
    """Return the objects that stand on a thing, as ``(kind, id)``. A monitor is told by that name."""
    return [
        ("monitor" if what.startswith(_MONITOR) else "object", name)
        for name, what in objects(vm).items()
        if (kind, ident) != ("object", name) and (kind, ident) in _below(vm, name)
    ]


def _below(vm: VM, ident: str) -> Set[Tuple[str, str]]:
    """Return what an object's properties name."""
    path = f"{OBJECTS}/{ident}"
    known = _known(vm, objects(vm)[ident])
    values = {name: vm.prop(path, name) for name in known if name.replace("_", "-") in references.PROPERTIES}
    named = {name: value for name, value in values.items() if isinstance(value, str)}
    return references.named({name: value.rpartition(f"{OBJECTS}/")[2] for name, value in named.items()})


def _nodes_on(vm: VM, ident: str) -> List[str]:
    """Return the block nodes that use an object themselves: QEMU tells of a node the layers of those below it, too."""
    held = [name for name, node in nodes(vm).items() if ("object", ident) in _layered(name, node)]
    if len(held) < 2:
        return held
    # a throttled chain is rare
    from .blockdev_graph import children

    def own(name: str, told: Dict[str, Any]) -> Dict[str, Any]:
        mine = dict(told)
        for role, below in children(vm, name).items():
            if role in mine and below.startswith("#"):
                mine[role] = own(below, mine[role]) if isinstance(mine[role], dict) else mine[role]
            else:
                mine.pop(role, None)
        return mine

    return [
        name for name in held if ("object", ident) in references.layered(own(name, layers(nodes(vm)[name]["file"])))
    ]


def _layered(name: str, node: Dict[str, Any]) -> Set[Tuple[str, str]]:
    return set() if name.startswith("#") else references.layered(layers(node.get("file", "")))


def _links(vm: VM, driver: str) -> List[str]:
    """Return the properties by which devices of this driver can hold an object."""
    try:
        known = vm.device_properties(driver)
    except errors.CommandError:
        return []
    return [name for name, entry in known.items() if entry["type"].startswith("link<") or name == "iothread-vq-mapping"]


def _named(link: Any) -> List[str]:
    """Return the objects that a link names: it reads as a path; a mapping of queues as a list of structures."""
    if isinstance(link, list):
        return [item["iothread"] for item in link]
    return [link[len(OBJECTS) + 1 :]] if isinstance(link, str) and link.startswith(f"{OBJECTS}/") else []


def redacted_as(same: bool) -> str:
    """Return what stands for a secret: that it is there, and where it is not the wanted one, that it is another."""
    return REDACTED if same else f"{REDACTED} (another)"


def _merged(before: Any, after: Any) -> Any:
    return {**before, **after} if isinstance(before, dict) and isinstance(after, dict) else after


def _known(vm: VM, kind: str) -> Dict[str, Dict[str, Any]]:
    """Return the type's properties by name. Raise Refusal for a type that this QEMU does not have."""
    if kind in _FATAL:
        return {name: {"name": name, "type": what} for name, what in _FATAL[kind].items()}
    try:
        return {item["name"]: item for item in vm.ask("qom-list-properties", typename=kind)}
    except errors.CommandError as exc:
        raise Refusal(f"qom_type: {kind!r} is not an object that this QEMU can make ({exc.desc})") from exc


def _property(known: Dict[str, Any], kind: str, name: str) -> str:
    for candidate in (name, name.replace("_", "-"), name.replace("-", "_")):
        if candidate in known and candidate != "type":
            return candidate
    raise Refusal(f"options: {kind} has no property {name!r}{suggestion(name, known)}")


def _recreate_steps(vm: VM, ident: str) -> List[Step]:
    """Return the ``object-add`` that makes it as it is, for the types that read back whole."""
    kind = objects(vm).get(ident, "")
    if not kind.startswith(_RESTORABLE):
        return []
    have: Dict[str, Any] = {"qom-type": kind, "id": ident}
    for name in _known(vm, kind):
        value = vm.prop(f"{OBJECTS}/{ident}", name)
        if name not in _SPENT and name[:2] != "x-" and value not in (None, "", []):
            have[name] = value
    return [Step("object-add", have, secret=tuple(SECRET))]


def _delete(ident: str) -> Step:
    # It stays "in use" for a moment after its device has left the device tree.
    return Step(
        "object-del",
        {"id": ident},
        retry=qemu_texts.is_busy,
        removes=True,
        still_needed=lambda vm: ident in objects(vm),
    )


OBJECT = Object()
