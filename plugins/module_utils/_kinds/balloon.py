# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The balloon: how much memory the guest has left to itself."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from .._core.errors import NotDoneInTime, Refusal
from .._core.option import Option, Want
from .._core.step import Step, Wait
from .._qmp import errors
from .._qmp.values import human_size
from .kind import Change, Kind, Part, State

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

FLOOR = 64 << 20
"""Below this a Linux guest has been seen to die; QEMU itself has no floor."""

_TOLERANCE = "1M"


class Reached(Wait):
    """The guest has given back, or taken, what was asked. Events are limited to one a second, so the balloon is looked at."""

    needs_guest = True

    def __init__(self, size: int, tolerance: int) -> None:
        self.size = size
        self.tolerance = tolerance

    def is_done(self, vm: VM) -> bool:
        """Tell whether the balloon is there, within the tolerance."""
        return bool(abs(vm.ask("query-balloon")["actual"] - self.size) <= self.tolerance)

    def timeout_error(self, vm: VM) -> Exception:
        """Return how far the guest has got."""
        actual, status = vm.ask("query-balloon")["actual"], vm.status
        why = (
            "the guest gave no more within the timeout, or has no balloon driver"
            if status == "running"
            else f"the VM is {status}"
        )
        return NotDoneInTime(f"size: {self.size} bytes were asked for, the guest stands at {actual}: {why}")


class Balloon(Kind):
    """The one balloon of a VM."""

    name = "balloon"
    keys = ()
    options = {
        "size": Option("str", required=True),
        "wait": Option("bool", default=True),
        "tolerance": Option("str", default=_TOLERANCE),
        "force": Option("bool", default=False),
    }
    changeable_keys = frozenset(["size"])

    def check(self, want: Want) -> None:
        """Raise Refusal for what is not a size, and for none at all."""
        for option in ("size", "tolerance"):
            try:
                human_size(want.get(option, 0))
            except ValueError as exc:
                raise Refusal(f"{option}: {exc}") from exc
        if human_size(want["size"]) < 1:
            raise Refusal("size: the guest can't be left with nothing")

    def read(self, vm: VM, want: Want) -> State | None:
        """Return how many bytes the guest has."""
        try:
            return {"size": vm.ask("query-balloon")["actual"]}
        except errors.DeviceNotActive as exc:
            raise Refusal(
                "balloon: this VM has no balloon device; add one (driver virtio-balloon-pci) with qemu_device"
            ) from exc

    def compare(self, have: State, want: State) -> Tuple[List[Change], List[str]]:
        """Return no change within the tolerance."""
        near = abs(have["size"] - want["size"]) <= want["tolerance"]
        return [] if near else [Change("size", have["size"], want["size"])], []

    def wanted(self, vm: VM, want: Want) -> State:
        """Return size and tolerance in bytes."""
        return {"size": human_size(want["size"]), "tolerance": _tolerance(want)}

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the ``balloon`` command. QEMU takes more than the VM has without a word, and never gets there."""
        size = changes[0].after
        most = _most(vm, draft)
        if size > most:
            raise Refusal(f"size: {size} is more than the {most} bytes that this VM has")
        if size < min(FLOOR, have["size"]) and not want.get("force"):
            raise Refusal(_too_little(want["size"], size))
        end = Reached(size, _tolerance(want)) if want.get("wait", True) else None
        return [Step("balloon", {"value": size}, wait=end, undo=[Step("balloon", {"value": have["size"]})])]

    def describe(self, vm: VM, want: Want) -> Dict[str, Any]:
        """Return what the guest has, and what the task asks for. QEMU does not tell what it was asked before."""
        return {"actual": vm.ask("query-balloon")["actual"], "target": human_size(want["size"])}


BALLOON = Balloon()


def _too_little(written: Any, size: int) -> str:
    unit = f". A number without a unit is bytes: {written} MiB are {written}M" if str(written).strip().isdigit() else ""
    return (
        f"size: {written} would leave the guest with {size} bytes, and one with less than 64 MiB may run out of memory and "
        f"crash; if that is meant, use qemu_balloon with force=true{unit}"
    )


def _tolerance(want: Want) -> int:
    return human_size(want.get("tolerance", _TOLERANCE))


def balloon(want: Want) -> List[Part]:
    """Return the one part, the balloon."""
    return [Part(BALLOON, want)]


def _most(vm: VM, draft: Draft) -> int:
    """Return the bytes that the VM has, with what the same plan brings and without what it takes away."""
    memory = vm.ask("query-memory-size-summary")
    most = int(memory["base-memory"] + memory.get("plugged-memory", 0))
    most += sum(other.get("size", 0) for (kind, _ident), other in draft.adding.items() if kind == "memory_device")
    leaving = {ident for kind, ident in draft.removing if kind == "memory_device"}
    modules = [entry["data"] for entry in vm.ask("query-memory-devices")] if leaving else []
    return int(most - sum(module.get("size", 0) for module in modules if module.get("id") in leaving))
