# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""The one pipeline: read what is, compare it with what was asked for, plan, apply or undo, read again.

The engine knows kinds by their interface alone. A task over one resource, over a disk's two halves, or over a whole VM
differs only in the list of items.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._converge import foresight
from ansible_collections.vmm.qemu.plugins.module_utils._converge.diff import before_after
from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import NotReadBack, Plan
from ansible_collections.vmm.qemu.plugins.module_utils._kinds import typed
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import Change, Kind, State, Want
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM

# As many devices as it takes for one long answer to cost less than many short ones.
_MANY = 4


class Item(NamedTuple):
    """One thing that shall be there, or not."""

    kind: Kind
    want: Want
    present: bool = True
    place: str = ""
    """Where a document says so (``disks[3] data``): errors begin with it."""


@contextmanager
def named(item: Item) -> Iterator[None]:
    """A Refusal out of here says which item of a document it is about."""
    try:
        yield
    except (Refusal, errors.SchemaMismatch) as exc:
        if item.place and not str(exc).startswith(item.place):
            exc.args = (f"{item.place}: {exc}",)
        raise


class Reading:
    """An item beside what is: what differs, and what is to be done about it."""

    def __init__(self, asked: Item, vm: VM) -> None:
        self.asked = asked
        self.item = item = asked._replace(want=asked.kind.meant(vm, asked.want))
        self.have: State | None = item.kind.read(vm, item.want)
        self.want: State = item.kind.wanted(vm, item.want) if item.present else {}
        self.changes: List[Change] = []
        self.unverifiable: List[str] = []
        self.again = False  # removed and added again
        self.full = item.want
        self.steps: List[Step] = []
        if item.present and self.have is not None:
            self.changes, self.unverifiable = item.kind.compare(self.have, self.want)

    @property
    def name(self) -> tuple[str, str]:
        """Kind and id."""
        return self.item.kind.name, self.item.kind.ident(self.item.want)

    @property
    def goes(self) -> bool:
        """Whether it is removed, for good or to be added again."""
        return self.have is not None and (not self.item.present or self.again)

    @property
    def comes(self) -> bool:
        """Whether it is added."""
        return self.item.present and (self.have is None or self.again)

    def cold(self, vm: VM) -> List[Change]:
        """The changes that can't be made while the thing is there."""
        if not self.changes or self.have is None:
            return []
        live = self.item.kind.live(vm, self.have)
        return [change for change in self.changes if change.key not in live]


class Outcome(NamedTuple):
    """What a converged list of items comes to; ``states`` are what each kind tells of each item, by kind and id.

    ``pending``: something that was to go was asked to, without waiting, and is still there.
    ``readings``: each item, with what was found and what is to be done about it.
    """

    plan: Plan
    diff: Dict[str, Any]
    unverifiable: List[str]
    warnings: List[str]
    states: Dict[str, Dict[str, Any]]
    pending: bool
    readings: List[Reading]


def converge(
    vm: VM, items: Sequence[Item], *, recreate: bool, check_mode: bool, last: Sequence[Step] = (), runs: bool = False
) -> Outcome:
    """Make the items so. Backends come before their frontends in ``items``; they are removed the other way round.

    Each has passed its kind's ``check``. ``last`` are steps that follow when all is there. If they let the guest run
    (``runs``), they come before the first step that needs it to run. Raises Refusal for what reading tells can't be
    done, PlanFailed for a step that failed (and was undone), and the session's errors.
    """
    _survey(items, vm)
    readings = [_read(item, vm) for item in items]
    _settle(readings, vm, recreate)
    plan = _plan(readings, vm, check_mode, last, runs)
    diff = before_after(readings)
    if not check_mode and plan.steps:
        from ansible_collections.vmm.qemu.plugins.module_utils._converge.apply import apply  # most runs change nothing

        apply(plan, vm)
    unverifiable = [key for reading in readings for key in reading.unverifiable]
    warnings = [text for item in items if item.present for text in item.kind.warnings(item.want)]
    warnings += [step.doubt for step in plan.steps if check_mode and step.doubt]
    warnings += vm.warnings
    try:
        if not check_mode and plan.steps:
            vm.forget()
            _survey(items, vm)
        return Outcome(
            plan,
            diff,
            unverifiable,
            warnings,
            _states(readings, vm, check_mode),
            _pending(readings, vm, check_mode),
            readings,
        )
    except errors.QMPError as exc:
        if check_mode or not plan.steps:
            raise
        raise NotReadBack(plan, exc) from exc


def _plan(readings: List[Reading], vm: VM, check_mode: bool, last: Sequence[Step], runs: bool) -> Plan:
    """All steps in their order. Raises Refusal for what can be told not to work out."""
    steps = _steps(readings, vm)
    if steps:
        about = {reading.name: reading for reading in readings}
        steps = foresight.givable(steps, about, vm)
        if not runs:
            foresight.check_guest(steps, about, vm, check_mode)
    waits = (number for number, step in enumerate(steps) if runs and foresight.needs_guest(step))
    place = next(waits, len(steps))
    return Plan([*steps[:place], *last, *steps[place:]])


def _survey(items: Sequence[Item], vm: VM) -> None:
    """Read many devices at once."""
    if sum(item.kind.surveyed for item in items) >= _MANY:
        from ansible_collections.vmm.qemu.plugins.module_utils._kinds.survey import survey  # few tasks have so many

        survey(vm)


def _read(item: Item, vm: VM) -> Reading:
    with named(item):
        return Reading(item, vm)


def _settle(readings: List[Reading], vm: VM, recreate: bool) -> None:
    """Decide what must be removed and added again: what has cold changes, and what stands on such a thing."""
    for reading in readings:
        cold = reading.cold(vm)
        if cold:
            with named(reading.item):
                _check_cold(reading, vm, cold, recreate)
        reading.again = bool(cold)
    below: Set[Tuple[str, str]] = set()
    for reading in readings:
        if below and reading.have is not None and reading.item.present and below & _below(reading, vm):
            with named(reading.item):
                _check_cold(reading, vm, [], True)
            reading.again = True
        if reading.goes:
            below.add(reading.name)
    vm.leaving.update(reading.name for reading in readings if reading.goes)


def _check_cold(reading: Reading, vm: VM, cold: List[Change], recreate: bool) -> None:
    """Raise Refusal for a thing that must not be removed and added again, or was not said to be allowed to."""
    kind, ident = reading.name
    differs = [f"{change.key} is {_shown(change.before)}, wanted {_shown(change.after)}" for change in cold]
    why = reading.item.kind.lasting(vm, reading.item.want, reading.have or {}, cold)
    if why:
        raise Refusal(f"{kind} {ident}: {'; '.join([*differs, 'it would have to be removed and added again'])}: {why}")
    if not recreate:
        raise Refusal(
            f"{kind} {ident}: {'; '.join(differs)}: QEMU can't change that while it is there; "
            "set recreate=true to remove it and add it again"
        )


def _below(reading: Reading, vm: VM) -> Set[Tuple[str, str]]:
    """What it shall stand on, and does."""
    return reading.item.kind.needs(reading.item.want) | reading.item.kind.stands_on(vm, reading.item.want)


def _steps(readings: List[Reading], vm: VM) -> List[Step]:
    steps: List[Step] = []
    for reading in _downwards(readings, vm):
        with named(reading.item):
            if reading.again:  # what was not named stays as it is
                reading.full = reading.item.kind.inherit(vm, reading.item.want, reading.have or {})
            steps += _placed(reading, reading.item.kind.remove(vm, reading.item.want))
    for reading in readings:
        with named(reading.item):
            steps += _placed(reading, _made(reading, vm))
    return [step for step in steps if not step.late] + [step for step in steps if step.late]


def _downwards(readings: List[Reading], vm: VM) -> List[Reading]:
    """What goes, each before what it stands on now (which is not what was asked for), else backwards."""
    going = [reading for reading in reversed(readings) if reading.goes]
    above: Dict[Tuple[str, str], List[Reading]] = {}
    for reading in going:
        for below in reading.item.kind.stands_on(vm, reading.item.want):
            above.setdefault(below, []).append(reading)
    result: List[Reading] = []
    seen: Set[int] = set()

    def put(reading: Reading) -> None:
        if id(reading) not in seen:
            seen.add(id(reading))
            for other in above.get(reading.name, []):
                put(other)
            result.append(reading)

    for reading in going:
        put(reading)
    return result


def _made(reading: Reading, vm: VM) -> List[Step]:
    """The steps that add or change it."""
    kind, want = reading.item.kind, reading.item.want
    steps: List[Step] = []
    if reading.comes:
        steps += kind.create(vm, reading.full)
        vm.coming[reading.name] = want
    elif reading.changes and reading.have is not None:
        steps += kind.change(vm, want, reading.have, reading.changes)
    if reading.item.present:
        steps += kind.always(vm, want)
    return steps


def _placed(reading: Reading, steps: List[Step]) -> List[Step]:
    needs = frozenset(reading.item.kind.needs(reading.full))
    for step in steps:
        step.place, step.about, step.needs = reading.item.place, reading.name, needs
    reading.steps += steps
    return steps


def _states(readings: List[Reading], vm: VM, check_mode: bool) -> Dict[str, Dict[str, Any]]:
    """Every item as it is now, by kind and id; in check mode as it would be."""
    states: Dict[str, Dict[str, Any]] = {}
    for reading in readings:
        kind, want = reading.item.kind, reading.item.want
        foretold = check_mode and (reading.comes or reading.goes)
        if not kind.returned:
            continue
        state = (want if reading.comes else {}) if foretold else kind.describe(vm, want)
        states.setdefault(kind.name, {})[kind.ident(want)] = state
    return states


def _pending(readings: List[Reading], vm: VM, check_mode: bool) -> bool:
    """Whether something that was to go is still there, since the task did not wait for it."""
    gone = [reading.item for reading in readings if reading.goes and not reading.item.present]
    return not check_mode and any(item.kind.read(vm, item.want) is not None for item in gone)


def _shown(value: Any) -> str:
    return typed.without_password(repr(value) if isinstance(value, str) else str(value))
