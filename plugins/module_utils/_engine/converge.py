# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The one pipeline: read what is, compare it with what was asked for, plan, apply or undo, read again.

The engine knows kinds by their interface alone. A task over one resource, over a disk's two halves, or over a whole VM
differs only in the list of items.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.plan import Draft, NotReadBack, Plan
from .._kinds.kind import MANY, Change, nest
from .._qmp import errors
from . import foresight
from .comparison import Comparison, Item, Named

if TYPE_CHECKING:
    from .._core.step import Step
    from .._core.vm import VM


class Outcome(NamedTuple):
    """What a converged list of items comes to; ``states`` are what each kind tells of each item, by kind and id.

    ``pending``: something that was to go was asked to, without waiting, and is still there.
    ``comparisons``: each item, with what was found and what is to be done about it.
    """

    plan: Plan
    diff: Dict[str, Any]
    unverifiable: List[str]
    warnings: List[str]
    states: Dict[str, Dict[str, Any]]
    pending: bool
    comparisons: List[Comparison]


def converge(
    vm: VM, items: Sequence[Item], *, recreate: bool, check_mode: bool, last: Sequence[Step] = (), runs: bool = False
) -> Outcome:
    """Make the items so. Backends come before their frontends in ``items``; they are removed the other way round.

    Each has passed its kind's ``check``. ``last`` are steps that follow when all is there. If they let the guest run
    (``runs``), they come before the first step that needs it to run. Raise Refusal for what reading tells can't be
    done, PlanFailed for a step that failed (and was undone), and the session's errors.
    """
    read_many(items, vm)
    comparisons = [read(item, vm) for item in items]
    draft = Draft()
    _settle(comparisons, vm, recreate, draft)
    plan = _plan(comparisons, vm, draft, check_mode, last, runs)
    diff = _diff(comparisons)
    if not check_mode and plan.steps:
        from .apply import apply

        apply(plan, vm)
    unverifiable = [key for comparison in comparisons for key in comparison.unverifiable]
    warnings = [text for item in items if item.present for text in item.kind.warnings(item.want)]
    warnings += [step.uncertain for step in plan.steps if check_mode and step.uncertain]
    warnings += draft.warnings
    try:
        if not check_mode and plan.steps:
            vm.forget()
            read_many(items, vm)
        return Outcome(
            plan,
            diff,
            unverifiable,
            warnings,
            _states(comparisons, vm, check_mode),
            _pending(comparisons, vm, check_mode),
            comparisons,
        )
    except errors.QMPError as exc:
        if check_mode or not plan.steps:
            raise
        raise NotReadBack(plan, exc) from exc


def _plan(
    comparisons: List[Comparison], vm: VM, draft: Draft, check_mode: bool, last: Sequence[Step], runs: bool
) -> Plan:
    """Return all steps in their order. Raise Refusal for what can be told not to work out."""
    steps = _steps(comparisons, vm, draft)
    if steps:
        about = {comparison.name: comparison for comparison in comparisons}
        steps = foresight.givable(steps, about, vm)
        if not runs:
            foresight.check_guest(steps, about, vm, check_mode)
    waits = (number for number, step in enumerate(steps) if runs and foresight.waits_for_guest(step))
    place = next(waits, len(steps))
    return Plan([*steps[:place], *last, *steps[place:]])


def read_many(items: Sequence[Item], vm: VM) -> None:
    """Read many devices at once."""
    if sum(item.kind.bulk_read for item in items) >= MANY:
        from .._kinds.device_qtree import read_devices

        read_devices(vm)


def read(item: Item, vm: VM) -> Comparison:
    """Return an item beside what is. Raise Refusal, which names it."""
    with Named(item):
        return Comparison(item, vm)


def _settle(comparisons: List[Comparison], vm: VM, recreate: bool, draft: Draft) -> None:
    """Decide what must be removed and added again: what has changes that are not live, and what stands on such a thing."""
    _check_stays(comparisons)
    for comparison in comparisons:
        not_changeable = comparison.not_changeable(vm)
        if not_changeable:
            with Named(comparison.item):
                _check_recreate(comparison, vm, not_changeable, recreate)
        comparison.recreated = bool(not_changeable)
    for comparison in comparisons:
        stays = draft.removing and comparison.have is not None and comparison.item.present
        if stays and draft.removing & _below(comparison, vm):
            with Named(comparison.item):
                _check_recreate(comparison, vm, [], True)
            comparison.recreated = True
        if comparison.is_removed:
            draft.removing |= comparison.names


def _check_stays(comparisons: List[Comparison]) -> None:
    """Raise Refusal for what shall be there, and needs what shall not."""
    gone = {name for comparison in comparisons if not comparison.item.present for name in comparison.names}
    for comparison in comparisons if gone else ():
        kind, want = comparison.item.kind, comparison.item.want
        for sort, ident in sorted(gone & kind.wanted_dependencies(want)) if comparison.item.present else ():
            with Named(comparison.item):
                raise Refusal(f"it needs {sort} {ident}, which shall be absent: keep both, or remove both")


def _check_recreate(comparison: Comparison, vm: VM, not_changeable: List[Change], recreate: bool) -> None:
    """Raise Refusal for a thing that must not be removed and added again, or was not said to be allowed to."""
    kind, ident = comparison.name
    differs = [f"{change.key} is {_shown(change.before)}, wanted {_shown(change.after)}" for change in not_changeable]
    why = comparison.item.kind.recreate_refusal(vm, comparison.item.want, comparison.have or {}, not_changeable)
    if why:
        raise Refusal(f"{kind} {ident}: {'; '.join([*differs, 'it would have to be removed and added again'])}: {why}")
    if not recreate:
        raise Refusal(
            f"{kind} {ident}: {'; '.join(differs)}: QEMU can't change that while it is there; "
            "set recreate=true to remove it and add it again"
        )


def _below(comparison: Comparison, vm: VM) -> Set[Tuple[str, str]]:
    """Return its dependencies, wanted and current ones."""
    return comparison.item.kind.wanted_dependencies(comparison.item.want) | comparison.item.kind.current_dependencies(
        vm, comparison.item.want
    )


def _steps(comparisons: List[Comparison], vm: VM, draft: Draft) -> List[Step]:
    steps: List[Step] = []
    for comparison in _downwards(comparisons, vm):
        with Named(comparison.item):
            if comparison.recreated:  # what was not named stays as it is
                comparison.complete_want = comparison.item.kind.complete(
                    vm, comparison.item.want, comparison.have or {}
                )
            steps += _placed(comparison, comparison.item.kind.remove(vm, comparison.item.want, draft))
    for comparison in _upwards(comparisons):
        with Named(comparison.item):
            steps += _placed(comparison, _made(comparison, vm, draft))
    return [step for step in steps if not step.last] + [step for step in steps if step.last]


def _downwards(comparisons: List[Comparison], vm: VM) -> List[Comparison]:
    """Return what goes, each before what it stands on now (which is not what was asked for), else backwards."""
    going = [comparison for comparison in reversed(comparisons) if comparison.is_removed]
    above: Dict[Tuple[str, str], List[Comparison]] = {}
    for comparison in going:
        for below in comparison.item.kind.current_dependencies(vm, comparison.item.want):
            above.setdefault(below, []).append(comparison)
    result: List[Comparison] = []
    seen: Set[int] = set()

    def put(comparison: Comparison) -> None:
        if id(comparison) not in seen:
            seen.add(id(comparison))
            for other in above.get(comparison.name, []):
                put(other)
            result.append(comparison)

    for comparison in going:
        put(comparison)
    return result


def _upwards(comparisons: List[Comparison]) -> List[Comparison]:
    """Return what is made, each after what it shall stand on, else in order, and first what is made again as it was.

    That has its place again, a slot or a port's number, before something new, or of another driver, is given it by QEMU.
    """
    by_name = {name: comparison for comparison in reversed(comparisons) for name in comparison.names}
    result: List[Comparison] = []
    seen: Set[int] = set()

    def put(comparison: Comparison) -> None:
        if id(comparison) not in seen:
            seen.add(id(comparison))
            for name in sorted(comparison.item.kind.wanted_dependencies(comparison.complete_want)):
                if name in by_name:
                    put(by_name[name])
            result.append(comparison)

    again = [one for one in comparisons if one.recreated]
    for comparison in [*(one for one in again if one.complete_want != one.item.want), *again, *comparisons]:
        put(comparison)
    return result


def _made(comparison: Comparison, vm: VM, draft: Draft) -> List[Step]:
    """Return the steps that add or change it."""
    kind, want = comparison.item.kind, comparison.item.want
    steps: List[Step] = []
    if comparison.is_added:
        steps += kind.create(vm, comparison.complete_want, draft)
        draft.add(comparison.names, comparison.complete_want)
    elif comparison.changes and comparison.have is not None:
        steps += kind.change(vm, want, comparison.have, comparison.changes, draft)
    if comparison.item.present:
        steps += kind.unconditional_steps(vm, want, draft)
    return steps


def _placed(comparison: Comparison, steps: List[Step]) -> List[Step]:
    """Return the steps with what the engine knows of them: which item they are for, and what that stands on."""
    if not steps:
        return steps
    needs = frozenset(comparison.item.kind.wanted_dependencies(comparison.complete_want))
    placed = [step.replace(place=comparison.item.place, about=comparison.name, needs=needs) for step in steps]
    comparison.steps += placed
    return placed


def _diff(comparisons: Sequence[Comparison]) -> Dict[str, Any]:
    """Return Ansible's ``{before, after}``, each ``{kind: {id: state}}``, by the plan, so that check mode foretells it.

    What was not asked for and does not change is left out.
    """
    before: Dict[str, Any] = {}
    after: Dict[str, Any] = {}
    for comparison in comparisons:
        kind, ident = comparison.name
        have = dict(comparison.have or {})
        if comparison.item.present:
            have = {key: value for key, value in have.items() if key in comparison.want}
        if comparison.have is not None:
            before.setdefault(kind, {})[ident] = nest(have)
        if comparison.is_added:
            after.setdefault(kind, {})[ident] = nest(comparison.want)
        elif comparison.item.present:
            changed = {change.key: change.after for change in comparison.changes}
            after.setdefault(kind, {})[ident] = nest({**have, **changed})
    return {"before": before, "after": after}


def _states(comparisons: List[Comparison], vm: VM, check_mode: bool) -> Dict[str, Dict[str, Any]]:
    """Return every item as it is now, by kind and id; in check mode as it would be."""
    states: Dict[str, Dict[str, Any]] = {}
    for comparison in comparisons:
        kind, want = comparison.item.kind, comparison.item.want
        foretold = check_mode and (comparison.is_added or comparison.is_removed)
        if not kind.returned:
            continue
        state = (nest(comparison.want) if comparison.is_added else {}) if foretold else kind.describe(vm, want)
        states.setdefault(kind.name, {})[kind.ident(want)] = state
    return states


def _pending(comparisons: List[Comparison], vm: VM, check_mode: bool) -> bool:
    """Tell whether something that was to go is still there, since the task did not wait for it."""
    gone = [comparison.item for comparison in comparisons if comparison.is_removed and not comparison.item.present]
    return not check_mode and any(item.kind.read(vm, item.want) is not None for item in gone)


def _shown(value: Any) -> str:
    return coercion.without_password(repr(value) if isinstance(value, str) else str(value))
