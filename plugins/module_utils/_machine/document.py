# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A whole VM as a document: from what the user wrote to items that the engine converges, in the order that they need.

Every entry has exactly the options of the module that does one such thing alone, and is checked as that module's.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Set, Tuple

from .._core.errors import Refusal
from .._core.option import Option, check_id, given
from .._engine.comparison import Item, Named
from .._kinds.balloon import BALLOON
from .._kinds.cpu import VCPUS
from .._kinds.drive import DRIVE, check_groups
from .._kinds.kind import Part
from .._kinds.sections import SECTIONS
from .validation import Validator

_STATE = {"state": Option("str", choices=["present", "absent"], default="present")}


class Entry(NamedTuple):
    """One thing of the document, with the items that it is made of."""

    kind: str
    ident: str
    place: str
    items: List[Item]


def validated(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the document with its lists' entries as Ansible makes a module's parameters of them. Raise Refusal."""
    return {
        **params,
        **{
            name: _validated(name, listed) for name, listed in params.items() if name in SECTIONS and listed is not None
        },
    }


def _validated(name: str, listed: List[Any]) -> List[Dict[str, Any]]:
    validator = Validator({**SECTIONS[name].options, **_STATE})
    return [validator.validate(_place_of(name, number, entry), entry) for number, entry in enumerate(listed)]


def prepared(params: Dict[str, Any], lists: Mapping[str, str] | None = None) -> Dict[str, Any]:
    """Return a document's lists, validated as far as that is the same on every host, so that its own host need not do it.

    ``lists``: what the document calls them, and the sections' names, where these differ. What is wrong is left to the host to tell.
    """
    try:
        return {
            own: [
                entry if _has_path(SECTIONS[name].options, entry) else validated({name: [entry]})[name][0]
                for entry in params.get(own) or []
            ]
            for own, name in (lists or dict(zip(SECTIONS, SECTIONS))).items()
            if params.get(own)
        }
    except Refusal:
        return {}


def _has_path(options: Dict[str, Option], entry: Any) -> bool:
    """Tell whether there may be a path in an entry, or in a dictionary or list within: its own host expands that."""
    return not isinstance(entry, dict) or any(
        "path" in (option.kind, option.fields.get("elements"))
        or ("options" in option.fields and _has_path(option.fields["options"], entry[name]))
        for name, option in options.items()
        if entry.get(name) is not None
    )


def entries(params: Dict[str, Any]) -> List[Entry]:
    """Return the entries of a validated document, each checked alone and against the others.

    Raise Refusal, which names the place.
    """
    found = [
        _entry(name, number, written) for name in SECTIONS for number, written in enumerate(params.get(name) or [])
    ]
    if params.get("vcpus") is not None:
        found.append(_single("vcpus", Part(VCPUS, {"vcpus": params["vcpus"]})))
    if params.get("balloon") is not None:
        found.append(_single("balloon", Part(BALLOON, {"size": params["balloon"]})))
    for entry in found:
        for item in entry.items:
            with Named(item):
                item.kind.check(item.want)
    _check_unique(found)
    check_groups((item.place, item.want) for entry in found for item in entry.items if item.kind is DRIVE)
    return found


def _single(name: str, part: Part) -> Entry:
    return Entry(name, name, name, [Item(part.kind, part.want, True, name)])


def _place_of(name: str, number: int, written: Any) -> str:
    place = f"{name}[{number}]"
    if isinstance(written, dict):
        keys = map(written.get, SECTIONS[name].keys)
        place = " ".join([place, *(text for text in keys if isinstance(text, str) and text)])
    return place


def _entry(name: str, number: int, params: Dict[str, Any]) -> Entry:
    section, place = SECTIONS[name], _place_of(name, number, params)
    want = given(params, section.options)
    present = params.get("state") != "absent"
    try:
        for key in section.keys:
            check_id(section.name, key, want[key])
        parts = section.parts(want, present)
    except Refusal as exc:
        raise Refusal(f"{place}: {exc}") from exc
    items = [Item(*part.item(present), place) for part in parts]
    return Entry(section.name, "/".join(want[key] for key in section.keys), place, items)


def _check_unique(found: Iterable[Entry]) -> None:
    """Raise Refusal for two things of one id, of which the second would undo the first."""
    seen: Dict[Tuple[str, str], str] = {}
    for entry in found:
        for item in entry.items:
            name = item.kind.thing(item.want)
            if name in seen:
                raise Refusal(f"{item.place}: there is a {name[0]} {name[1]} already, at {seen[name]}")
            seen[name] = item.place


def ordered(items: List[Item]) -> List[Item]:
    """Return the items, each after what it stands on, else in the document's order. Raise Refusal for a circle, naming it."""
    by_name = {item.kind.thing(item.want): item for item in reversed(items)}
    result: List[Item] = []
    done: Set[int] = set()

    for item in items:
        trail: List[Item] = []
        _place(item, by_name, done, trail, result)
    return result


def _place(
    item: Item, by_name: Dict[Tuple[str, str], Item], done: Set[int], trail: List[Item], result: List[Item]
) -> None:
    """Put ``item`` behind what it stands on. ``trail``: who asked for it."""
    if id(item) in done:
        return
    if any(item is other for other in trail):
        circle = [*trail[next(number for number, other in enumerate(trail) if other is item) :], item]
        raise Refusal(f"{item.place}: it needs itself: {', which needs '.join(other.place for other in circle)}")
    trail.append(item)
    for name in sorted(item.kind.wanted_dependencies(item.want)):
        if name in by_name and name != item.kind.thing(item.want):
            _place(by_name[name], by_name, done, trail, result)
    trail.pop()
    done.add(id(item))
    result.append(item)
