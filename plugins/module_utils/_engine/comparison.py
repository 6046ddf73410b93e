# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What was asked for beside what is."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, List, NamedTuple

from .._core.errors import TaskError
from .._core.option import Want
from .._kinds.kind import Change, Kind, State
from .._qmp import errors

if TYPE_CHECKING:
    from .._core.step import Step
    from .._core.vm import VM


class Item(NamedTuple):
    """One thing that shall be there, or not."""

    kind: Kind
    want: Want
    present: bool = True
    place: str = ""
    """Where a document says so (``disks[3] data``): errors begin with it."""


class Named:
    """Puts the place of an item of a document before each Refusal out of a ``with`` block.

    A class and not a generator, which costs more: a document of 100 disks has a thousand of them.
    """

    __slots__ = ("_place",)

    def __init__(self, item: Item) -> None:
        self._place = item.place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, (TaskError, errors.SchemaMismatch)) and not str(exc).startswith(self._place):
            exc.args = (f"{self._place}: {exc}",)


class Comparison:
    """An item beside what is: what differs, and what is to be done about it."""

    def __init__(self, asked: Item, vm: VM) -> None:
        self.asked = asked
        self.item = item = asked._replace(want=asked.kind.resolve_name(vm, asked.want))
        self.have: State | None = item.kind.read(vm, item.want)
        self.want: State = item.kind.wanted(vm, item.want) if item.present else {}
        self.changes: List[Change] = []
        self.unverifiable: List[str] = []
        self.recreated = False  # removed and added again
        self.complete_want = item.want
        self.steps: List[Step] = []
        if item.present and self.have is not None:
            self.changes, self.unverifiable = item.kind.compare(self.have, self.want)

    @property
    def name(self) -> tuple[str, str]:
        """Kind and id."""
        return self.item.kind.name, self.item.kind.ident(self.item.want)

    @property
    def names(self) -> set[tuple[str, str]]:
        """What others may know it by: kind and id, and where it shares its ids with another kind, that kind and id."""
        return {self.name, self.item.kind.thing(self.item.want)}

    @property
    def is_removed(self) -> bool:
        """Whether it is removed, for good or to be added again."""
        return self.have is not None and (not self.item.present or self.recreated)

    @property
    def is_added(self) -> bool:
        """Whether it is added."""
        return self.item.present and (self.have is None or self.recreated)

    def not_changeable(self, vm: VM) -> List[Change]:
        """Return the changes that can't be made while the thing is there."""
        asked = [change for change in self.changes if change.key not in self.item.kind.changeable_keys]
        if not asked or self.have is None:
            return []
        live = self.item.kind.changeable(vm, self.have)
        return [change for change in asked if change.key not in live]
