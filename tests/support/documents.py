# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the world that is and the one that is wanted to a document, and to what must be there when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from support.state import Item, State
from support.vm_states import KEY_OF, SECTION_OF, Part, World

SECTIONS = (*SECTION_OF.values(), "disks", "nics", "devices")
# What nobody can make again from what QEMU tells of it.
_LOST = ("file", "ringbuf", "udp")


@dataclass(frozen=True)
class Wish:
    """A document, and what it means for each thing."""

    document: dict[str, Any]
    wanted: Mapping[Item, Part]
    gone: frozenset[Item]
    same: frozenset[Item]
    """Those that are wanted as they are, with all that they stand on."""
    places: Mapping[Item, str]
    lost: frozenset[Item]
    """What goes, if only to be made again, and can't be given back, with what stands on it."""

    def verify(self, before: State, after: State) -> None:
        """Raise AssertionError unless `after` is what the document asks for."""
        wanted = (before.keys() - self.gone) | self.wanted.keys()
        assert after.keys() == wanted, f"too much: {after.keys() - wanted}; missing: {wanted - after.keys()}"
        for item in after:
            if item in self.wanted:
                _holds(item, self.wanted[item].expects, after[item])
            if item in self.same or item not in self.wanted:
                changed = set(differing(before[item], after[item])) - {"wired"}  # that says who stands on it
                assert not changed, f"{item} was not to change: {changed}"

    def verify_undone(self, before: State, after: State, not_rolled_back: list[str]) -> None:
        """Raise AssertionError unless `after` is as before, but for what nobody can give back, which is then named."""
        grown = {text.split()[1] for text in not_rolled_back if text.startswith("block_resize ")}
        for item in before.keys() | after.keys():
            changed = set(differing(before.get(item, {}), after.get(item, {})))
            if item[0] == "blockdev" and grown & set(_files(after, item[1])):
                changed -= {"size"}
            if item in self.lost and changed:
                assert any(item[1] in text for text in not_rolled_back), f"{item} is lost, and nobody says so"
            assert item in self.lost or not changed, f"{item} was not taken back: {changed}"


def _files(state: State, node: str) -> Iterator[str]:
    """The names of a block node and of those that it passes on, as a filter does: their size is its own."""
    while ("blockdev", node) in state:
        yield node
        node = state["blockdev", node]["below"].get("file", "")


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what is not the same in both."""
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


def _holds(item: Item, expects: Mapping[str, Any], have: Mapping[str, Any]) -> None:
    for name, value in expects.items():
        found = have.get(name)
        if isinstance(value, dict) and isinstance(found, dict):
            found = {key: found.get(key) for key in value}
        if name == "file" and isinstance(found, dict):  # QEMU prints a tree where options matter for the content
            found = found.get("filename") or found.get("file", {}).get("filename")
        assert found == value, f"{item}: {name} is {found!r}, wanted {value!r}"


def users(parts: Mapping[Item, Part], item: Item) -> set[Item]:
    return {other for other, part in parts.items() if item in part.needs}


def closed(parts: Mapping[Item, Part], item: Item) -> set[Item]:
    """The item and all that it stands on."""
    return {item}.union(*(closed(parts, below) for below in parts[item].needs if below in parts))


def wish(have: World, want: World, keep: set[Item], purge: set[str] | None, split: bool, minimal: bool) -> Wish:
    """The document that turns `have` into `want`.

    `keep`: what shall be left unnamed, where that is possible; `purge`: the sections that are listed at any rate, with
    purge; `split`: whether the halves of what goes are named apart; `minimal`: whether what is as it is wanted is only named by
    its id.
    """
    there, wanted = have.parts, want.parts
    same = frozenset(
        item
        for item in wanted
        # a size is of a document alone: images are made smaller
        if all(there.get(part) == wanted[part] and not _grows(wanted[part]) for part in closed(wanted, item))
    )
    kept = _kept(there, wanted, same, keep, want.taken)
    document: dict[str, Any] = {}
    places: dict[Item, str] = {}

    def name(section: str, entry: dict[str, Any], items: set[Item]) -> None:
        entries = document.setdefault(section, [])
        ident = entry.get("id") or entry["node_name"]
        places.update({item: f"{section}[{len(entries)}] {ident}" for item in items})
        entries.append(entry)

    for thing in want.things:
        items = {part.item for part in thing.parts}
        entry = dict(thing.entry)
        if minimal and items <= same and thing.section not in ("disks", "nics"):
            entry = {key: value for key, value in entry.items() if key in ("id", "node_name")}
        name(thing.section, entry, items)
    going = there.keys() - wanted.keys() - kept
    for thing in have.things:
        left = {part.item for part in thing.parts} & going
        if len(left) == len(thing.parts) and not split:
            key = KEY_OF.get(thing.section, "id")
            name(thing.section, {key: thing.entry[key], "state": "absent"}, left)
            continue
        for item in sorted(left):
            table, ident = item
            section = SECTION_OF.get(table, "devices")
            key = KEY_OF[table]
            name(section, {key: ident, "state": "absent"}, {item})
    if purge is not None:
        for section in purge:
            document.setdefault(section, [])
        document["purge"] = True
        purged = _purged(have, wanted, kept, set(document))
        places.update(dict.fromkeys(purged, "purge of "))
        going |= purged
    again = {item for item in wanted if item in there and item not in same}
    lost = {item for item in going | again if there[item].expects.get("type") in _LOST}
    lost |= {item for item in there if closed(there, item) & lost}
    document["recreate"] = True
    return Wish(document, wanted, frozenset(going), same, places, frozenset(lost))


def _grows(part: Part) -> bool:
    return part.item[0] == "blockdev" and "size" in part.expects and "size" not in part.arguments


def _kept(
    there: Mapping[Item, Part], wanted: Mapping[Item, Part], same: frozenset[Item], keep: set[Item], taken: set[Any]
) -> set[Item]:
    """Of `keep` what can be left alone: with all that it stands on, in a place that nothing else shall have."""
    kept = {item for item in there if item in keep and item not in wanted}
    kept -= {
        item for item in kept if taken & (there[item].claims | {need for need in there[item].needs if need in taken})
    }
    while True:
        stable = {item for item in kept if all(below in kept or below in same for below in there[item].needs)}
        if stable == kept:
            return kept
        kept = stable


def _section(have: World, item: Item) -> str:
    """The list that a thing belongs to by what it is, whatever list it was made by."""
    table, _name = item
    if table != "device":
        return SECTION_OF[table]
    needs = {kind for kind, _name in have.parts[item].needs}
    if have.parts[item].expects.get("driver") == "pc-dimm":
        return "memory"
    return "disks" if "blockdev" in needs else "nics" if "netdev" in needs else "devices"


def _purged(have: World, wanted: Mapping[Item, Part], kept: set[Item], listed: set[str]) -> set[Item]:
    """Of what is kept what goes all the same: what is of a listed kind, and used by nothing that stays."""
    there = have.parts
    purged: set[Item] = set()
    while True:
        more = {
            item
            for item in kept - purged
            if (_section(have, item) in listed or _half(have, item, purged))
            and all(
                user in purged
                or (user in wanted and item not in wanted[user].needs)
                or user not in kept | wanted.keys()
                for user in users(there, item)
            )
        }
        if not more:
            return purged
        purged |= more


def _half(have: World, item: Item, purged: set[Item]) -> bool:
    """Whether it is the backend of a disk, a NIC or a memory module that goes."""
    return item[0] in ("blockdev", "netdev", "object") and any(
        user in purged and _section(have, user) in ("disks", "nics", "memory") for user in users(have.parts, item)
    )
