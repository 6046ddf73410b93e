# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What is looked at before a plan's first step, in check mode too.

What it takes can be given back, and nobody waits for a guest that does not run.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

from .._core.errors import Refusal
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.step import Step
    from .._core.vm import VM
    from .comparison import Comparison

# Whose arguments QEMU's schema knows. Of a device it knows none.
_ADDS = ("blockdev-add", "chardev-add", "netdev_add", "object-add")


def givable(steps: Sequence[Step], comparisons: Dict[Tuple[str, str], Comparison], vm: VM) -> List[Step]:
    """Return the steps with the one that nothing takes back last. Raise Refusal for two such, or where it can't be the last.

    What takes a removal back was made of what QEMU tells, and has to be something that it takes.
    """
    steps = [*(_validated(step, vm) for step in steps[:-1]), steps[-1]]  # nothing follows the last that could fail
    final = [step for step in steps if step.irreversible]
    if not final or final == [steps[-1]]:
        return list(steps)
    step, comparison = final[0], comparisons[final[0].about]
    follow = steps[steps.index(step) + 1 :]
    bound = {step.about} | comparison.item.kind.current_dependencies(vm, comparison.item.want)
    if len(final) > 1 or any(other.about in bound for other in follow):
        raise Refusal(
            f"{_named(step)}: {step.irreversible}, and if a later step failed it would be lost: "
            "remove it (state=absent) in a task of its own first"
        )
    return [*(other for other in steps if other is not step), step]


def _validated(step: Step, vm: VM) -> Step:
    """Bring what takes a removal back to the types that QEMU wants; what it does not take at all is not an undo."""
    if not step.removes:
        return step
    try:
        return step.replace(undo=tuple(_coerced(back, vm) for back in step.undo))
    except errors.SchemaMismatch as exc:
        return step.replace(undo=(), irreversible=f"QEMU does not take back what it tells of it ({exc})")


def _coerced(back: Step, vm: VM) -> Step:
    if back.execute not in _ADDS:
        return back
    return back.replace(arguments=vm.schema.coerce(back.execute, back.arguments))


def waits_for_guest(step: Step) -> bool:
    """Tell whether the step ends when the guest has done its part."""
    return step.wait is not None and step.wait.needs_guest and not step.wait.no_wait


def check_guest(
    steps: Sequence[Step], comparisons: Dict[Tuple[str, str], Comparison], vm: VM, check_mode: bool
) -> None:
    """Raise Refusal for a plan that waits for the guest while the VM does not run.

    A removal that comes first may be asked for all the same: the guest gives the thing back once it runs, and the next run
    finishes the job. Check mode foretells that, as pending.
    """
    waits = [step for step in steps if waits_for_guest(step)]
    if not waits or waits[0].wait is None:
        return
    comparison = comparisons[waits[0].about]
    asks = waits[0].removes and not comparison.recreated
    if (asks and not check_mode) or vm.status == "running":
        return
    if asks:
        raise waits[0].wait.timeout_error(vm)
    raise Refusal(
        f"{_named(waits[0])}: this takes a guest that answers, and the VM is {vm.status}: "
        "let it run first (qemu_power, state=running)"
    )


def _named(step: Step) -> str:
    """Return the thing that a step is about, with its place in a document."""
    kind, ident = step.about
    name = kind if ident == kind else f"{kind} {ident}"
    return f"{step.place}: {name}" if step.place not in ("", name) else name
