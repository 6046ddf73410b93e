# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random documents for random VMs, whose tasks are killed, told to stop, cut off from the monitor, or refused by QEMU.

Afterwards one run completes what is wanted, as check mode foretold, and the next one has nothing to do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.chaos import chance, fault, runs, suffer
from support.documents import Wish
from support.lab import Lab, LiveLab
from support.plans import BAD, as_foretold, draw, foretell, nothing_left, prepare, refused, resumable, spoil

Labs = Callable[..., Lab]


@pytest.fixture(scope="module")
def labs() -> Iterator[Labs]:
    """One lab of each sort for each QEMU, made when it is first asked for."""
    made: dict[tuple[type[Lab], str], Lab] = {}

    def lab(version: str, sort: type[Lab] = Lab) -> Lab:
        return made.setdefault((sort, version), sort(version))

    yield lab
    for one in made.values():
        one.close()


@pytest.mark.parametrize(("version", "number"), runs(14, of_ten=6))
def test_whatever_befalls_a_task_the_next_one_completes_it(labs: Labs, version: str, number: int) -> None:
    completed(labs(version), chance(number))


@pytest.mark.parametrize(("version", "number"), runs(2, of_ten=1))
def test_so_it_is_with_a_guest_that_has_to_give_things_back(labs: Labs, version: str, number: int) -> None:
    dice, lab = chance(number), labs(version, LiveLab)
    assert isinstance(lab, LiveLab)
    vcpus = dice.choice((None, 1, 2, 3))
    if version != "10.0":  # the others corrupt themselves when an emulated CPU goes, be it that a task is taken back
        vcpus = None
    completed(lab, dice, {"vcpus": vcpus} if vcpus else {})
    assert vcpus in (None, lab.vcpus())


def completed(lab: Lab, dice: random.Random, more: dict[str, Any] | None = None) -> None:
    """A task that something befalls, once or twice, and those after it. `more` is of the document, too."""
    made = prepare(lab, resumable(draw(dice, lab.slots)), print)
    made.document.update(more or {})
    begun = lab.state()
    for _turn in range(dice.choice((1, 1, 2))):
        strike(lab, made, fault(dice, lab, made.document))
    before = lab.state()
    foretold = foretell(lab, made.document, before)
    print("completed by:", json.dumps(foretold["commands"]))
    as_foretold(lab.run(made.document), foretold)
    after = lab.state()
    made.verify(begun, after)
    nothing_left(lab, made.document, after)


def strike(lab: Lab, made: Wish, what: Any) -> None:
    """One fault. What its result says of the VM is so."""
    print("fault:", what)
    before = lab.state()
    result = suffer(lab, made.document, what)
    print("result:", json.dumps(result))
    if result is None:
        return
    if not result.get("failed"):
        made.verify(before, lab.state())
        return
    assert bool(result["commands"]) == result["changed"]
    if "could not be read back" in result["msg"]:
        made.verify(before, lab.state())
    elif not result["changed"] or what.kind == "cut":
        made.verify_undone(before, lab.state(), result.get("not_rolled_back", []))


@pytest.mark.parametrize(("version", "number"), runs(4, of_ten=3))
def test_a_document_that_only_qemu_refuses_leaves_the_vm_as_it_was(labs: Labs, version: str, number: int) -> None:
    dice, lab = chance(number), labs(version)
    made = prepare(lab, draw(dice), print)
    bad = dice.choice([entry for entry in BAD if not entry[2]])
    refused(lab, made, spoil(lab, made, bad, dice.random(), print), False, print)
