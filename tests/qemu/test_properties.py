# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every document and every VM: random ones, on real QEMU, judged over the second monitor.

The examples are the same in every run. `PROPERTY_EXAMPLES=2000` draws so many in each test, at random, and makes what fails as
small as it can; with `--hypothesis-seed=N` the same ones again. A failure prints how the VM was made, the document, the step,
and a decorator that draws this one alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from support.lab import Killed, Lab, Refuse, Stop, item_of
from support.modules import ModuleFailed
from support.state import State
from support.things import SLOTS, build, variants
from support.wishes import SECTIONS, Wish, wish
from support.worlds import SECTION_OF, Gene, Thing

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "0"))


def examples(usual: int) -> settings:
    """The same in every run, unless more are asked for. Without a deadline: a QEMU has none, least of all on a loaded host."""
    phases = [Phase.explicit, Phase.generate]
    if EXAMPLES:
        phases.append(Phase.shrink)  # minutes, with a QEMU for each try
    return settings(
        max_examples=EXAMPLES or usual,
        derandomize=not EXAMPLES,
        phases=phases,
        deadline=None,
        database=None,
        print_blob=True,
    )


@pytest.fixture(scope="module")
def lab(qemu_version: str) -> Iterator[Lab]:
    lab = Lab(qemu_version)
    yield lab
    lab.close()


def gene(slot: str) -> st.SearchStrategy[Gene]:
    return st.builds(Gene, st.integers(0, variants(slot[0])), st.integers(0, 7), st.integers(0, 7))


PLACE = st.floats(0, 1, exclude_max=True)
GENES = st.fixed_dictionaries({slot: gene(slot) for slot in SLOTS})


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


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A VM that has much of the wanted one."""
    have = draw(GENES)
    new = draw(st.sets(st.sampled_from(SLOTS)))
    fresh = draw(GENES)
    want = {slot: fresh[slot] if slot in new else have[slot] for slot in SLOTS}
    halves = draw(st.sets(st.sampled_from([slot for slot in SLOTS if slot[0] == "d"]), max_size=2))
    keep = draw(st.sets(st.sampled_from(SLOTS)))
    purge = draw(st.none() | st.sets(st.sampled_from(SECTIONS)))
    return Plan(have, want, halves, keep, purge, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))


def half(thing: Thing) -> Thing:
    """The backend alone."""
    backend = thing.parts[0]
    table, name = backend.item
    return Thing(SECTION_OF[table], {"node_name" if table == "blockdev" else "id": name}, (backend,))


def prepare(lab: Lab, plan: Plan) -> Wish:
    """Make the VM that is; the document for the one that is wanted."""
    lab.reset()
    have = build(plan.have, lab.directory, plan.alike)
    want = build(plan.want, lab.directory, plan.alike)
    for number, thing in enumerate(have.things):
        if len(thing.parts) > 1 and have.slots[thing.parts[0].item] in plan.halves:
            have.things[number] = half(thing)
    keep = {item for item in have.parts if have.slots[item] in plan.keep}
    made = wish(have, want, keep, plan.purge, plan.split, plan.minimal)
    note("made before: " + json.dumps([[part.command, part.arguments] for part in have.parts.values()]))
    lab.make(have.parts.values())
    note("document: " + json.dumps(made.document))
    return made


def resumable(plan: Plan) -> Plan:
    """With all lists in a purge: the backend of a disk that went is nobody's, and only its own list tells that it may go."""
    return plan if plan.purge is None else plan._replace(purge=set(SECTIONS))


def foretell(lab: Lab, document: dict[str, Any], before: State) -> dict[str, Any]:
    """Check mode, which alters nothing."""
    foretold = lab.run(document, check=True)
    assert lab.state() == before, "check mode altered the VM"
    return foretold


def nothing_left(lab: Lab, document: dict[str, Any], after: State) -> None:
    """A second run, which plans nothing and does nothing."""
    for check in (True, False):
        again = lab.run(document, check=check)
        assert (again["changed"], again["commands"], again["plan"]) == (False, [], [])
        assert again["diff"]["before"] == again["diff"]["after"]
    assert lab.state() == after


@given(plan=plans())
@examples(12)
def test_what_is_wanted_comes_to_be(lab: Lab, plan: Plan) -> None:
    made = prepare(lab, plan)
    before = lab.state()
    foretold = foretell(lab, made.document, before)
    done = lab.run(made.document)
    after = lab.state()
    made.verify(before, after)
    for key in ("changed", "commands", "plan", "summary", "diff", "msg"):
        assert done[key] == foretold[key], key
    nothing_left(lab, made.document, after)


@given(plan=plans(), place=PLACE, done=st.booleans())
@examples(8)
def test_a_task_that_was_stopped_is_completed(lab: Lab, plan: Plan, place: float, done: bool) -> None:
    made = prepare(lab, resumable(plan))
    before = lab.state()
    commands = foretell(lab, made.document, before)["commands"]
    if not commands:
        return
    step = int(place * len(commands))
    note(f"stopped at {step} {commands[step]}")
    with pytest.raises(Killed):
        lab.run(made.document, harm=Stop(step, done))
    lab.run(made.document)
    after = lab.state()
    made.verify(before, after)
    nothing_left(lab, made.document, after)


@given(plan=plans(), place=PLACE)
@examples(8)
def test_a_failure_is_taken_back(lab: Lab, plan: Plan, place: float) -> None:
    made = prepare(lab, plan)
    before = lab.state()
    commands = foretell(lab, made.document, before)["commands"]
    if not commands:
        return
    step = int(place * len(commands))
    note(f"fails at {step} {commands[step]}")
    with pytest.raises(ModuleFailed) as failed:
        lab.run(made.document, harm=Refuse(step))
    result = failed.value.result
    item = item_of(commands[step]["execute"], commands[step]["arguments"])
    assert result["msg"].startswith(made.places[item]), (item, made.places[item], result["msg"])
    note(f"result: {result}")
    made.verify_undone(before, lab.state(), result.get("not_rolled_back", []))


@given(plan=plans(), place=PLACE, sent=st.booleans())
@examples(4)
def test_a_process_that_was_killed(lab: Lab, plan: Plan, place: float, sent: bool) -> None:
    made = prepare(lab, resumable(plan))
    before = lab.state()
    commands = foretell(lab, made.document, before)["commands"]
    if not commands:
        return
    step = int(place * len(commands))
    note(f"killed at {step} {commands[step]}")
    assert lab.run_and_kill(made.document, step, sent=sent)
    lab.run(made.document)
    after = lab.state()
    made.verify(before, after)
    nothing_left(lab, made.document, after)


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


@given(plan=plans(), bad=st.sampled_from(BAD), place=PLACE)
@examples(8)
def test_one_bad_entry(lab: Lab, plan: Plan, bad: tuple[str, str, bool], place: float) -> None:
    """Among many good ones. Where reading tells, nothing is sent; else all is taken back."""
    section, text, told = bad
    made = prepare(lab, plan)
    Path(lab.directory, "bad.raw").write_bytes(bytes(4096))
    entries = made.document.setdefault(section, [])
    number = int(place * (len(entries) + 1))
    entry = json.loads(text.replace("{}", lab.directory))
    entries.insert(number, entry)
    note(f"bad: {section}[{number}] {entry}")
    refused(lab, made, f"{section}[{number}] {entry.get('id') or entry['node_name']}", told)


@given(plan=plans(), place=PLACE)
@examples(3)
def test_two_things_of_one_id(lab: Lab, plan: Plan, place: float) -> None:
    made = prepare(lab, plan)
    written = [(section, entry) for section in SECTIONS for entry in made.document.get(section, [])]
    if not written:
        return
    section, twice = written[int(place * len(written))]
    entries = made.document[section]
    entries.append(dict(twice))
    ident = twice.get("id") or twice["node_name"]
    refused(lab, made, f"{section}[{len(entries) - 1}] {ident}: there is a", True)


@given(plan=plans(), length=st.integers(2, 5))
@examples(2)
def test_a_circle(lab: Lab, plan: Plan, length: int) -> None:
    made = prepare(lab, plan)
    entries = made.document.setdefault("blockdevs", [])
    number = len(entries)
    for step in range(length):
        below = {"file": f"bad{(step + 1) % length}"}
        entries.append({"node_name": f"bad{step}", "driver": "raw", "options": below})
    refused(lab, made, f"blockdevs[{number}] bad0: it stands on itself", True)


def refused(lab: Lab, made: Wish, place: str, told: bool) -> None:
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
