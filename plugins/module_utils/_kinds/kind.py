# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What every kind of thing has in common: its options, how wanted and current state are compared, and what it returns.

A kind reads the VM and returns Steps; it never sends anything that changes the VM.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List, NamedTuple, Sequence, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want, check_id

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.step import Step
    from .._core.vm import VM

MANY = 4
"""As many devices as it takes for one long answer to cost less than many short ones."""
State = Dict[str, Any]
"""A resource as it is, flat: ``cache.direct`` stands for ``direct`` inside ``cache``; only what can be read is there."""


class Change(NamedTuple):
    """A property that differs."""

    key: str
    before: Any
    after: Any


class Kind:
    """One kind of thing that a VM is made of. Subclasses fill in the rest."""

    reserved_options: FrozenSet[str] = frozenset()
    """Names, as QEMU has them, that ``options`` must not hold, since they have options of their own."""
    name = ""
    """As results and plans call it: ``blockdev``."""
    namespace = ""
    """The kind whose ids it shares, where that is not its own: all devices share theirs."""
    keys: Tuple[str, ...] = ("id",)
    """The options that tell one from another, each an id; none where there is one in a VM."""
    kept_for_removal: Tuple[str, ...] = ()
    """The further options that a removal goes by."""
    options: Dict[str, Option] = {}
    section = ""
    """As a document of the whole machine calls the list of them: ``blockdevs``; ``sections`` has all that are in one."""
    own_names = ""
    """A regular expression of the names that QEMU gives to what it makes by itself."""
    returned = True
    """Whether the task returns its state, under ``name``."""
    bulk_read = False
    """Whether ``device_qtree`` reads many of them at once."""
    changeable_keys: FrozenSet[str] = frozenset()
    """What can change while the thing is there, whatever it is like, as ``read`` names it; see also ``changeable``."""
    alternatives: Sequence[Sequence[Sequence[str]]] = ()
    """Options (as ``read`` names them) that say one thing in several ways, one of which is there: for each such thing its
    ways, each the options that belong to it: ``[[["path"], ["host", "port"]]]``."""

    def ident(self, want: Want) -> str:
        """Return which one is meant, as one text: the values of ``keys``, or ``name`` where there is only one."""
        if len(self.keys) == 1:  # nearly all kinds, and asked some 25 times of each thing
            return str(want[self.keys[0]]) or self.name
        return "/".join(str(want[key]) for key in self.keys) or self.name

    def thing(self, want: Want) -> Thing:
        """Return what QEMU knows it by, as ``(kind, id)``: no two things of a VM have the same."""
        return self.namespace or self.name, self.ident(want)

    def identity(self, want: Want) -> Want:
        """Return what of ``want`` a removal needs."""
        return {name: want[name] for name in (*self.keys, *self.kept_for_removal) if name in want}

    def check_ident(self, want: Want) -> None:
        """Raise Refusal for a value of ``keys`` that is not a valid id."""
        for key in self.keys:
            check_id(self.name, key, str(want[key]))

    def check(self, want: Want) -> None:
        """Raise Refusal for a request that is wrong whatever the VM looks like."""
        self.check_ident(want)
        for name in want.get("options", {}):
            if not isinstance(name, str):
                raise Refusal(f"options: {name!r} is not the name of an option")
            if name in self.reserved_options or name.replace("_", "-") in self.reserved_options:
                raise Refusal(f"options: {name} has an option of its own: {name.replace('-', '_')}")

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return ``want`` with the name that QEMU has for what the user named in another way. Queries only."""
        return want

    def read(self, vm: VM, want: Want) -> State | None:
        """Return its current state as far as ``want`` names it, or None when it isn't there. Queries only."""
        raise NotImplementedError

    def wanted(self, vm: VM, want: Want) -> State:
        """Return ``want`` in the form that ``read`` returns, so that the two can be compared key by key."""
        return flatten(want)

    def same(self, key: str, have: Any, want: Any) -> bool:
        """Tell whether a current and a wanted value mean the same, whatever YAML made of the latter."""
        return coercion.same(have, want)

    def compare(self, have: State, want: State) -> Tuple[List[Change], List[str]]:
        """Return what differs, and the names of what was asked for but can't be read back.

        What is there in another of its ``alternatives`` differs; the change tells that one as a dictionary.
        """
        changes: List[Change] = []
        untold: List[str] = []
        for key, value in want.items():
            instead = {} if key in have else {other: have[other] for other in self._rivals(key) if other in have}
            if instead:
                changes.append(Change(key, instead, value))
            elif key not in have and key not in self.keys:
                untold.append(key)
            elif key in have and not self.same(key, have[key], value):
                changes.append(Change(key, have[key], value))
        return changes, untold

    def _rivals(self, key: str) -> List[str]:
        """Return the options that say in other ways what this one says."""
        ways = [ways for ways in self.alternatives if any(key in way for way in ways)]
        return [other for group in ways for way in group if key not in way for other in way]

    def changeable(self, vm: VM, have: State) -> FrozenSet[str]:
        """Return the keys that this QEMU can change without removing the thing, where ``changeable_keys`` are not all of them."""
        return self.changeable_keys

    def recreate_refusal(self, vm: VM, want: Want, have: State, changes: List[Change]) -> str:
        """Return why it must not be removed and added again to bring such changes about; an empty text where it may be."""
        return ""

    def complete(self, vm: VM, want: Want, have: State) -> Want:
        """Return what a thing that is made again is made of: ``want``, and what was read of each option that it does not name.

        Of ``alternatives``, not the other way of a thing that ``want`` names.
        """
        others = {other for key in flatten(want) for other in self._rivals(key)}
        read = nest({key: value for key, value in have.items() if key not in others})
        full = {name: read[name] for name in self.options if name in read}
        for name, value in want.items():
            full[name] = {**full[name], **value} if isinstance(value, dict) and name in full else value
        return full

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the steps that make it. Raise Refusal for what reading can tell will fail."""
        raise NotImplementedError

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps for these changes, all of them live ones. Raise Refusal (a disk is never shrunk, say)."""
        return []

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return steps for what was asked for and can't be compared, sent whenever it was asked for. Rare."""
        return []

    def warnings(self, want: Want) -> List[str]:
        """Return what a user should know about what was asked for."""
        return []

    def secrets(self, want: Want) -> List[str]:
        """Return the values in it that nobody may see."""
        return []

    def wanted_dependencies(self, want: Want) -> Set[Tuple[str, str]]:
        """Return what it stands on, as ``(kind, id)``: removing that means removing this first."""
        return set()

    def current_dependencies(self, vm: VM, want: Want) -> Set[Tuple[str, str]]:
        """Return what it stands on as it is, as ``(kind, id)``, whatever ``want`` says: that can only be removed after it."""
        return set()

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the steps that remove it, each with the undo that makes it again. Raise Refusal naming who still uses it."""
        raise NotImplementedError

    def list(self, vm: VM) -> Sequence[Want]:
        """Return the ``keys`` of each one that is there, but for those that QEMU itself can't do without. Queries only."""
        raise NotImplementedError

    def users(self, vm: VM, want: Want) -> Sequence[Thing]:
        """Return who uses it, as ``(kind, id)``. Queries only."""
        return []

    def check_unused(self, vm: VM, want: Want, draft: Draft) -> None:
        """Raise Refusal where something uses it that does not go before it."""
        used = ", ".join(
            f"{kind} {ident}" for kind, ident in self.users(vm, want) if (kind, ident) not in draft.removing
        )
        if used:
            raise Refusal(f"{self.name} {self.ident(want)} is in use by {used}: remove that first")

    def describe(self, vm: VM, want: Want) -> Any:
        """Return what the task returns for it: its state, nested as the options are; empty when it isn't there."""
        have = self.read(vm, want)
        return {} if have is None else nest(have)


class Part(NamedTuple):
    """One of the things that a composite, such as a disk, is made of."""

    kind: Kind
    want: Want
    present: bool = True
    """Whether it is there when the whole is: the medium of a drive that is wanted empty is not."""

    def item(self, present: bool) -> Tuple[Kind, Want, bool]:
        """Return kind, options and whether it is to be there, of a whole that is to be there or not."""
        present = present and self.present
        return self.kind, self.want if present else self.kind.identity(self.want), present


def properties(want: Want, names: Dict[str, str]) -> Dict[str, Any]:
    """Return the options that stand for properties, under the properties' names."""
    return {qemu: want[option] for option, qemu in names.items() if option in want}


def flatten(tree: Dict[str, Any], prefix: str = "") -> State:
    """Return nested dictionaries as one, their keys joined with dots."""
    flat: State = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: State) -> Dict[str, Any]:
    """Return the inverse of ``flatten``. ``{"a.b": 1}`` gives ``{"a": {"b": 1}}``."""
    tree: Dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
