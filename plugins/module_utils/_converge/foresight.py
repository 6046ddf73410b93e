# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What is looked at before a plan's first step: that what it takes can be given back, and that nobody waits for a guest that
does not run. In check mode too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._converge.engine import Reading
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.step import Step
    from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM

# Whose arguments QEMU's schema knows. Of a device it knows none.
_ADDS = ("blockdev-add", "chardev-add", "netdev_add", "object-add")


def givable(steps: Sequence[Step], readings: Dict[Tuple[str, str], Reading], vm: VM) -> List[Step]:
    """The steps, that which nothing takes back last. Raises Refusal where there are two such, or it can't be the last.

    What takes a removal back was made of what QEMU tells, and has to be something that it takes.
    """
    for step in steps[:-1]:  # nothing follows the last that could fail
        _validate(step, vm)
    final = [step for step in steps if step.final]
    if not final or final == [steps[-1]]:
        return list(steps)
    step, reading = final[0], readings[final[0].about]
    follow = steps[steps.index(step) + 1 :]
    bound = {step.about} | reading.item.kind.stands_on(vm, reading.item.want)
    if len(final) > 1 or any(other.about in bound for other in follow):
        raise Refusal(
            f"{_named(step)}: {step.final}, and if a later step failed it would be lost: "
            "remove it (state=absent) in a task of its own first"
        )
    return [*(other for other in steps if other is not step), step]


def _validate(step: Step, vm: VM) -> None:
    """Bring what takes a removal back to the types that QEMU wants; what it does not take at all is no undo."""
    for back in step.undo if step.removes else ():
        if back.execute not in _ADDS:
            continue
        try:
            back.arguments = vm.schema.coerce(back.execute, back.arguments)
        except errors.SchemaMismatch as exc:
            step.undo, step.final = (), f"QEMU does not take back what it tells of it ({exc})"
            return


def needs_guest(step: Step) -> bool:
    """Whether the step ends when the guest has done its part."""
    return step.wait is not None and step.wait.of_guest and not step.wait.asks_only


def check_guest(steps: Sequence[Step], readings: Dict[Tuple[str, str], Reading], vm: VM, check_mode: bool) -> None:
    """Raise Refusal for a plan that waits for the guest while the VM does not run.

    A removal that comes first may be asked for all the same: the guest gives the thing back once it runs, and the next run
    finishes the job. Check mode foretells that, as pending.
    """
    waits = [step for step in steps if needs_guest(step)]
    if not waits or waits[0].wait is None:
        return
    reading = readings[waits[0].about]
    asks = waits[0].removes and not reading.again
    if (asks and not check_mode) or vm.status == "running":
        return
    if asks:
        raise waits[0].wait.overdue(vm)
    raise Refusal(
        f"{_named(waits[0])}: this takes a guest that answers, and the VM is {vm.status}: "
        "let it run first (qemu_power, state=running)"
    )


def _named(step: Step) -> str:
    """The thing that a step is about, with its place in a document."""
    kind, ident = step.about
    name = kind if ident == kind else f"{kind} {ident}"
    return f"{step.place}: {name}" if step.place not in ("", name) else name
