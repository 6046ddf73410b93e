# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a plan, all that chance decides about one example, to a VM in a lab and a document for it; and what always holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.documents import SECTIONS, Wish, wish
from support.generators import SLOTS, build, variants
from support.lab import Lab
from support.modules import ModuleFailed
from support.state import State
from support.vm_states import KEY_OF, SECTION_OF, Gene, Item, Part, Thing

# Where the story of an example goes, which a failure prints.
Note = Callable[[str], None]


class Plan(NamedTuple):
    """Genes of the VM that is and of the one that is wanted; and how the document is written, as `wish` has it."""

    have: dict[str, Gene]
    want: dict[str, Gene]
    halves: set[str]
    keep: set[str]
    purge: set[str] | None
    split: bool
    minimal: bool
    alike: bool


def draw(chance: random.Random, slots: tuple[str, ...] = SLOTS) -> Plan:
    """A VM that has much of the wanted one."""

    def genes() -> dict[str, Gene]:
        return {
            slot: Gene(chance.randint(0, variants(slot[0])), chance.randrange(8), chance.randrange(8)) for slot in slots
        }

    def some(among: tuple[str, ...], most: int) -> set[str]:
        return set(chance.sample(among, chance.randint(0, min(most, len(among)))))

    have, fresh, new = genes(), genes(), some(slots, len(slots))
    want = {slot: fresh[slot] if slot in new else have[slot] for slot in slots}
    halves = some(tuple(slot for slot in slots if slot[0] == "d"), 2)
    purge = some(SECTIONS, len(SECTIONS)) if chance.random() < 0.7 else None
    how = [chance.random() < 0.5 for _choice in range(3)]
    return Plan(have, want, halves, some(slots, len(slots)), purge, *how)


def half(thing: Thing) -> Thing:
    """The backend alone."""
    backend = thing.parts[0]
    table, name = backend.item
    return Thing(SECTION_OF[table], {KEY_OF[table]: name}, (backend,))


def prepare(lab: Lab, plan: Plan, note: Note) -> Wish:
    """Make the VM that is; the document for the one that is wanted."""
    lab.reset()
    have = build(plan.have, lab.directory, plan.alike)
    want = build(plan.want, lab.directory, plan.alike)
    for number, thing in enumerate(have.things):
        if len(thing.parts) > 1 and have.slots[thing.parts[0].item] in plan.halves:
            have.things[number] = half(thing)
    have.things = list(_without_devices_that_get_another_disk(have.things, want.parts))
    keep = {item for item in have.parts if have.slots[item] in plan.keep}
    made = wish(have, want, keep, plan.purge, plan.split, plan.minimal)
    note("made before: " + json.dumps([[part.command, part.arguments] for part in have.parts.values()]))
    lab.make(have.parts.values())
    note("document: " + json.dumps(made.document))
    return made


def _without_devices_that_get_another_disk(things: list[Thing], wanted: Mapping[Item, Part]) -> Iterator[Thing]:
    """Of these only the disks: no document gives a device another node in one go, since a mirror may have left that one."""
    for thing in things:
        *backends, last = thing.parts
        if last.item[0] == "device" and last.item in wanted and _drive(last) not in (set(), _drive(wanted[last.item])):
            if backends:
                yield half(thing)
            continue
        yield thing


def _drive(part: Part) -> set[Item]:
    return {need for need in part.needs if need[0] == "blockdev"}


def resumable(plan: Plan) -> Plan:
    """With all lists in a purge: the backend of a disk that went is nobody's, and only its own list tells that it may go."""
    return plan if plan.purge is None else plan._replace(purge=set(SECTIONS))


def foretell(lab: Lab, document: dict[str, Any], before: State) -> dict[str, Any]:
    """Check mode, which alters nothing. What differs is what would be done, but for what goes and comes with something else."""
    foretold = lab.run(document, check=True)
    planned = {(one["kind"], one["id"], one["action"]) for one in foretold["plan"]}
    along = {(one["kind"], one["id"], "change") for one in foretold["plan"] if one["changes"].keys() == {"recreated"}}
    told = lab.differences(document)
    assert (told - planned, planned - along - told) == (set(), set())
    after = lab.state()
    changed = [item for item in before.keys() | after.keys() if before.get(item) != after.get(item)]
    assert not changed, f"check mode altered the VM: {changed}"
    return foretold


def as_foretold(done: dict[str, Any], foretold: dict[str, Any]) -> None:
    """A run is what check mode said of it."""
    for key in ("changed", "commands", "plan", "summary", "diff", "msg"):
        assert done[key] == foretold[key], key


def nothing_left(lab: Lab, document: dict[str, Any], after: State) -> None:
    """A second run, which plans nothing and does nothing."""
    for check in (True, False):
        again = lab.run(document, check=check)
        assert (again["changed"], again["commands"], again["plan"]) == (False, [], [])
        assert again["diff"]["before"] == again["diff"]["after"]
    assert lab.differences(document) == set()
    assert lab.state() == after


# Entries that can't be: the section, the entry (with the VM's directory for {}), and whether reading tells.
BAD: tuple[tuple[str, str, bool], ...] = (
    ("objects", '{"id": "bad", "qom_type": "no-such"}', True),
    ("objects", '{"id": "bad", "qom_type": "secret", "options": {"dat": "x"}}', True),
    ("objects", '{"id": "bad", "qom_type": "throttle-group", "options": {"limits": {"iops-total": 1, "iops-read": 1}}}', False),
    ("objects", '{"id": "bad", "qom_type": "memory-backend-file", "options": {"size": "2M", "mem-path": "/no/such"}}', False),
    ("objects", '{"id": "bad", "qom_type": "rng-egd", "options": {"chardev": "none"}}', False),
    ("chardevs", '{"id": "bad", "type": "file", "path": "{}/none/log"}', False),
    ("chardevs", '{"id": "bad", "type": "ringbuf", "options": {"size": "yes"}}', True),
    ("chardevs", '{"id": "9bad", "type": "null"}', True),
    ("netdevs", '{"id": "bad", "type": "user", "options": {"hostfwd": [{"str": "tcp:1.2.3.4:1-:22"}]}}', False),
    ("netdevs", '{"id": "bad", "type": "user", "options": {"restrikt": true}}', True),
    ("blockdevs", '{"node_name": "bad", "filename": "{}/none.raw"}', True),
    ("blockdevs", '{"node_name": "bad", "driver": "no-such", "filename": "{}/b0.0.raw"}', True),
    ("blockdevs", '{"node_name": "bad", "driver": "qcow2", "filename": "{}/bad.raw"}', False),
    ("blockdevs", '{"node_name": "bad", "driver": "null-co", "options": {"bogus": 1}}', True),
    ("blockdevs", '{"node_name": "bad", "driver": "raw", "options": {"file": "none"}}', False),
    ("disks", '{"id": "bad", "filename": "{}/bad.raw", "driver": "scsi-hd", "bus": "scsi0.0", "scsi_id": 60, "lun": 0}', False),
    ("disks", '{"id": "bad", "filename": "{}/bad.raw", "driver": "virtio-blk-pci", "bus": "rp0"}', True),
    ("disks", '{"id": "bad", "filename": "{}/bad.raw", "bogus": 1}', True),
    ("nics", '{"id": "bad", "driver": "usb-net", "bus": "usb0.0"}', True),
    ("nics", '{"id": "bad", "driver": "usb-net", "bus": "usb9.0", "netdev": {"type": "user"}}', True),
    ("devices", '{"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "options": {"drive": "none"}}', True),
    ("devices", '{"id": "bad", "driver": "scsi-hd", "bus": "scsi0.0", "options": {"drive": "cold0"}}', True),
    ("devices", '{"id": "bad", "driver": "virtserialport", "bus": "vs0.0", "options": {"nr": 0}}', False),
    ("devices", '{"id": "cold0", "state": "absent", "bus": 3, "bogus": 1}', True),
    ("devices", '{"id": "bad", "driver": "usb-kbd", "bus": "bad.0"}', True),
)  # fmt: skip


def spoil(lab: Lab, made: Wish, bad: tuple[str, str, bool], place: float, note: Note) -> str:
    """Put such an entry among the good ones. Gives its place in the document, as messages begin with it."""
    section, text, _told = bad
    Path(lab.directory, "bad.raw").write_bytes(bytes(4096))
    entries = made.document.setdefault(section, [])
    number = int(place * (len(entries) + 1))
    entry = json.loads(text.replace("{}", lab.directory))
    entries.insert(number, entry)
    note(f"bad: {section}[{number}] {entry}")
    return f"{section}[{number}] {entry.get('id') or entry['node_name']}"


def refused(lab: Lab, made: Wish, place: str, told: bool, note: Note) -> None:
    """A run that fails at that place of the document, and leaves the VM as it was; in check mode too if reading tells."""
    before = lab.state()
    for check in (True, False) if told else (False,):
        with pytest.raises(ModuleFailed) as failed:
            lab.run(made.document, check=check)
        result = failed.value.result
        note(f"result: {result}")
        assert result["msg"].startswith(place)
        assert not told or "rolled_back" not in result
        made.verify_undone(before, lab.state(), result.get("not_rolled_back", []))
