# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every document and every VM: random ones, on real QEMU, judged over the second monitor.

The examples are the same in every run. `PROPERTY_EXAMPLES=2000` draws so many in each test, at random, and makes what fails as
small as it can; with `--hypothesis-seed=N` the same ones again. A failure prints how the VM was made, the document, the step,
and a decorator that draws this one alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from support.documents import SECTIONS
from support.generators import SLOTS, variants
from support.lab import Killed, Lab, Refuse, Stop, item_of
from support.modules import ModuleFailed
from support.plans import BAD, Plan, as_foretold, foretell, nothing_left, prepare, refused, resumable, spoil
from support.vm_states import Gene

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


@given(plan=plans())
@examples(12)
def test_what_is_wanted_comes_to_be(lab: Lab, plan: Plan) -> None:
    made = prepare(lab, plan, note)
    before = lab.state()
    foretold = foretell(lab, made.document, before)
    done = lab.run(made.document)
    after = lab.state()
    made.verify(before, after)
    as_foretold(done, foretold)
    nothing_left(lab, made.document, after)


@given(plan=plans(), place=PLACE, done=st.booleans())
@examples(8)
def test_a_task_that_was_stopped_is_completed(lab: Lab, plan: Plan, place: float, done: bool) -> None:
    made = prepare(lab, resumable(plan), note)
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
    made = prepare(lab, plan, note)
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
    made = prepare(lab, resumable(plan), note)
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


@given(plan=plans(), bad=st.sampled_from(BAD), place=PLACE)
@examples(8)
def test_one_bad_entry(lab: Lab, plan: Plan, bad: tuple[str, str, bool], place: float) -> None:
    """Among many good ones. Where reading tells, nothing is sent; else all is taken back."""
    made = prepare(lab, plan, note)
    refused(lab, made, spoil(lab, made, bad, place, note), bad[2], note)


@given(plan=plans(), place=PLACE)
@examples(3)
def test_two_things_of_one_id(lab: Lab, plan: Plan, place: float) -> None:
    made = prepare(lab, plan, note)
    written = [(section, entry) for section in SECTIONS for entry in made.document.get(section, [])]
    if not written:
        return
    section, twice = written[int(place * len(written))]
    entries = made.document[section]
    entries.append(dict(twice))
    ident = twice.get("id") or twice["node_name"]
    refused(lab, made, f"{section}[{len(entries) - 1}] {ident}: there is a", True, note)


@given(plan=plans(), length=st.integers(2, 5))
@examples(2)
def test_a_circle(lab: Lab, plan: Plan, length: int) -> None:
    made = prepare(lab, plan, note)
    entries = made.document.setdefault("blockdevs", [])
    number = len(entries)
    for step in range(length):
        below = {"file": f"bad{(step + 1) % length}"}
        entries.append({"node_name": f"bad{step}", "driver": "raw", "options": below})
    refused(lab, made, f"blockdevs[{number}] bad0: it needs itself", True, note)
