# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What this QEMU takes, from ``query-qmp-schema``: feature tests, and arguments brought to the types it wants.

YAML and users write ``on``, ``"8"`` or ``2G``; QEMU is strict about types (ever more so with each version). Versions
are not asked: distributions backport. Type names in the schema change with each build and are never kept.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from . import errors
from .address import PORT_HIGHEST, is_port_too_high
from .values import human_size, parse_bool, parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping

    Entity = Mapping[str, Any]

# QEMU checks these itself, by the properties of a device or object: where the schema has no variants for them it
# lists only the members that all have.
_OPEN = ("device_add", "netdev_add", "object-add")
_NONE: Entity = {"meta-type": "builtin", "json-type": "null"}


class Schema:
    """One QEMU's schema. ``entities``: the list that ``query-qmp-schema`` returns."""

    def __init__(self, entities: Iterable[Entity]) -> None:
        self._entities = {entity["name"]: entity for entity in entities}
        self.commands = {name for name, entity in self._entities.items() if entity["meta-type"] == "command"}
        self.events = {name for name, entity in self._entities.items() if entity["meta-type"] == "event"}

    def command(self, name: str) -> Entity | None:
        """Return the schema's entry of a command; None if this QEMU does not have it."""
        return self._entities[name] if name in self.commands else None

    def has(self, command: str, *path: str) -> bool:
        """Tell whether this QEMU's ``command`` takes what ``path`` leads to.

        Steps of the path: a member (``"data"``), a choice of a variant (``"type=stream"``), at the end also a value of
        an enumeration. ``has("netdev_add", "type=stream", "reconnect-ms")``,
        ``has("chardev-add", "backend", "type=socket", "data", "reconnect-ms")``,
        ``has("migrate-set-capabilities", "capabilities", "capability", "events")``.
        """
        return self._find(command, path) is not None

    def features(self, command: str, *path: str) -> list[str]:
        """Return the features of a command, or of the member a path (as for `has`) leads to: ``deprecated`` and others."""
        found = self._find(command, path)
        return list(found.get("features", ())) if found is not None else []

    def members(self, command: str, *path: str) -> list[str]:
        """Return the names of the members (or enumeration values) at the end of a path (as for `has`), sorted."""
        found: list[str] = []
        for kind, choice in self._types(command, path):
            found.extend(self._values(kind) if kind["meta-type"] == "enum" else self._members(kind, choice))
        return sorted(set(found))

    # -- looking up --------------------------------------------------------------------------------------------

    def _find(self, command: str, path: Iterable[str]) -> Entity | None:
        """Return the command, member, or enumeration value at the end of ``path``."""
        found = self.command(command)
        steps = list(path)
        for index, step in enumerate(steps):
            found = None
            for kind, choice in self._types(command, steps[:index]):
                found = found or self._step(kind, choice, step)
            if found is None:
                return None
        return found

    def _types(self, command: str, path: Iterable[str]) -> list[tuple[Entity, dict[str, str]]]:
        """Return the types a path leads to (several behind an alternate), each with the variant chosen on the way."""
        entry = self.command(command)
        if entry is None:
            return []
        types = self._unfold(entry["arg-type"])
        for step in path:
            following: list[tuple[Entity, dict[str, str]]] = []
            for kind, choice in types:
                found = self._step(kind, choice, step)
                if found is None:
                    continue
                if "=" in step:
                    following.append((kind, {**choice, **dict([step.split("=", 1)])}))
                elif "type" in found:
                    following.extend(self._unfold(found["type"]))
            types = following
        return types

    def _unfold(self, name: str) -> list[tuple[Entity, dict[str, str]]]:
        """Return a type by name, looking through arrays and alternates."""
        kind = self._entities[name]
        if kind["meta-type"] == "array":
            return self._unfold(kind["element-type"])
        if kind["meta-type"] == "alternate":
            return [found for member in kind["members"] for found in self._unfold(member["type"])]
        return [(kind, {})]

    def _step(self, kind: Entity, choice: Mapping[str, str], step: str) -> Entity | None:
        if kind["meta-type"] == "enum":
            return self._values(kind).get(step)
        if kind["meta-type"] != "object":
            return None
        tag, equals, value = step.partition("=")
        member = self._members(kind, choice).get(tag)
        if not equals or member is None:
            return member
        return self._values(self._entities[member["type"]]).get(value)

    @staticmethod
    def _values(kind: Entity) -> dict[str, Entity]:
        """Return the values of an enumeration, with their features where the schema has them (QEMU 6.2 and later)."""
        if kind.get("members") and kind["meta-type"] == "enum":
            return {member["name"]: member for member in kind["members"]}
        return {value: {"name": value} for value in kind.get("values", ())}

    def _members(self, kind: Entity, choice: Mapping[str, Any]) -> dict[str, Entity]:
        """Return the members of an object, with those of the variant that ``choice`` (its members) selects."""
        found = {member["name"]: member for member in kind.get("members", ())}
        tag = kind.get("tag")
        if tag is not None and tag in choice:
            for variant in kind.get("variants", ()):
                if variant["case"] == choice[tag]:
                    found.update(self._members(self._entities[variant["type"]], choice))
        return found

    # -- coercing ----------------------------------------------------------------------------------------------

    def coerce(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``arguments`` with each value of the type this QEMU wants; the given ones are left as they are.

        A bool becomes "on" or "off" where a string is wanted, "8" and "0x5" an int, "yes" a bool, 5 a "5", "2G" an
        int in bytes. None stays. Raise `errors.SchemaMismatch` with everything that does not fit, and
        `errors.CommandNotFound` if this QEMU does not know the command.
        """
        entry = self.command(command)
        if entry is None:
            raise errors.CommandNotFound(command, "CommandNotFound", f"this QEMU has no command {command}")
        kind = self._entities[entry["arg-type"]]
        is_open = command in _OPEN and not kind.get("variants")
        work = _Coercion(self, command)
        done = work.members(kind, dict(arguments), "", is_open)
        if work.problems:
            raise errors.SchemaMismatch(work.problems)
        return done


class _Coercion:
    """One pass over one command's arguments, collecting what does not fit."""

    def __init__(self, schema: Schema, command: str) -> None:
        self.schema = schema
        self.command = command
        self.problems: list[str] = []

    def _problem(self, path: str, text: str) -> None:
        self.problems.append(f"{self.command}: {path + ' ' if path else ''}{text}")

    def value(self, name: str, value: Any, path: str) -> Any:
        """Return ``value`` as the type ``name``; at ``path`` (dotted) in the arguments."""
        kind = self.schema._entities[name]
        meta = kind["meta-type"]
        if value is None:
            return None
        if meta == "object":
            if isinstance(value, dict):
                return self.members(kind, value, path, False)
            self._problem(path, f"is {value!r}; it wants a dictionary")
        elif meta == "array":
            if isinstance(value, (list, tuple)):
                return [self.value(kind["element-type"], item, f"{path}[{i}]") for i, item in enumerate(value)]
            self._problem(path, f"is {value!r}; it wants a list")
        elif meta == "enum":
            return self._enum(kind, value, path)
        elif meta == "alternate":
            return self._alternate(kind, value, path)
        elif meta == "builtin":
            return self._builtin(kind["json-type"], value, path)
        return value

    def members(self, kind: Entity, value: dict[str, Any], path: str, is_open: bool) -> dict[str, Any]:
        """Return the members of an object: the tag first, since it says which others there are."""
        dot = path + "." if path else ""
        tag = kind.get("tag")
        done = dict(value)
        common = self.schema._members(kind, {})
        if tag in value and tag in common:
            done[tag] = self.value(common[tag]["type"], value[tag], dot + tag)
        known = self.schema._members(kind, done)
        of = f"{tag} {done[tag]}" if tag in done else (path or "the command")
        for name, item in value.items():
            if name not in known:
                if not is_open:
                    self._problem(
                        "", f"'{dot}{name}' is not known; {of} takes: {', '.join(sorted(known)) or 'nothing'}"
                    )
            elif name != tag:
                done[name] = self.value(known[name]["type"], item, dot + name)
        for name, member in known.items():
            if name not in value and "default" not in member:
                self._problem("", f"'{dot}{name}' is missing; {of} needs it")
        if {"host", "port"} <= known.keys() and is_port_too_high(done.get("port")):
            self._problem(f"{dot}port", f"is {done['port']!r}; the highest port is {PORT_HIGHEST}")
        return done

    def _enum(self, kind: Entity, value: Any, path: str) -> Any:
        values = self.schema._values(kind)
        texts = [str(value)]
        if isinstance(value, bool):
            texts = ["on", "yes", "true"] if value else ["off", "no", "false"]
        for text in texts:
            if text in values:
                return text
        self._problem(path, f"is {value!r}; accepted: {', '.join(sorted(values))}")
        return value

    def _builtin(self, want: str, value: Any, path: str) -> Any:
        scalar = isinstance(value, (str, bool, int, float))
        try:
            if want == "boolean":
                return parse_bool(value)
            if want == "int":
                return _whole(value)
            if want == "number":
                if isinstance(value, bool):
                    raise ValueError(f"{value!r} is not a number")
                return value if isinstance(value, (int, float)) else float(value)
            if want == "string" and scalar:
                return ("on" if value else "off") if isinstance(value, bool) else str(value)
        except (ValueError, TypeError, OverflowError):
            pass
        else:
            # what has no name here is a type of a newer QEMU, which judges it itself
            if want not in (*_NAMES, "object") or (want == "object" and isinstance(value, dict)):
                return value
        self._problem(path, f"is {value!r}; it wants {_NAMES.get(want, want)}")
        return value

    def _alternate(self, kind: Entity, value: Any, path: str) -> Any:
        """Return the first branch that is of the value's own JSON type, else the first that it can be turned into."""
        names = [member["type"] for member in kind["members"]]
        names.sort(key=lambda name: not self._natural(self.schema._entities[name], value))
        first: list[str] = []
        for name in names:
            trial = _Coercion(self.schema, self.command)
            done = trial.value(name, value, path)
            if not trial.problems:
                return done
            first = first or trial.problems
        self.problems.extend(first)
        return value

    def _natural(self, kind: Entity, value: Any) -> bool:
        meta = kind["meta-type"]
        if meta in ("object", "array"):
            return isinstance(value, dict if meta == "object" else (list, tuple))
        if isinstance(value, bool):
            return bool(meta == "builtin" and kind["json-type"] == "boolean")
        if isinstance(value, str):
            return meta == "enum" and value in self.schema._values(kind)
        return meta == "builtin" and kind["json-type"] in ("int", "number") and isinstance(value, (int, float))


_NAMES = {
    "int": "a whole number",
    "boolean": "true or false",
    "number": "a number",
    "string": "a string",
    "null": "null",
}


def _whole(value: Any) -> int:
    # The schema calls sizes "int" too, so a suffix is taken for any whole number.
    try:
        return parse_int(value)
    except ValueError:
        return human_size(value)
