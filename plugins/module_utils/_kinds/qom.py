# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Single properties of QEMU's object tree."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, Want, suggestion
from .._core.secrets import quoted_forms
from .._core.step import REDACTED, Step
from .._qmp import errors
from . import qemu_texts
from .blockdev_active import check_staying
from .kind import Change, Kind, State
from .object import SECRET, redacted_as

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM


class Qom(Kind):
    """One property, by path and name. It is always there; it is read, and set when a value is wanted."""

    name = "value"
    keys = ("path", "property")
    options = {
        "path": Option("str", required=True),
        "property": Option("str", required=True),
        "value": Option("raw"),
    }
    changeable_keys = frozenset(["value"])

    def check(self, want: Want) -> None:
        """Let every path pass: QEMU judges it."""

    def ident(self, want: Want) -> str:
        """Return path and property. A path has slashes of its own."""
        return f"{want['path']}.{want['property']}"

    def secrets(self, want: Want) -> List[str]:
        """Return the value of a property that is secret."""
        return list(quoted_forms(want.get("value"))) if want.get("property") in SECRET else []

    def read(self, vm: VM, want: Want) -> State | None:
        """Return its value, of a secret only whether it is the wanted one."""
        value = _value(vm, want)
        if want["property"] == "drive" and value != want.get("value", value):
            from . import blockdev_graph

            if (
                blockdev_graph.tops(vm).get(value) == want["value"]
            ):  # of a -drive; QEMU aborts when it is set to what it has
                value = want["value"]
        if want["property"] in SECRET:
            value = redacted_as(coercion.same(value, want.get("value", value)))
        return {"value": value}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return the value alone."""
        if "value" in want and want["property"] in SECRET:
            return {"value": redacted_as(True)}
        return {"value": want["value"]} if "value" in want else {}

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the ``qom-set``, the value in the type that the property has now."""
        where, now = {"path": want["path"], "property": want["property"]}, _value(vm, want)
        try:
            value = coercion.like(want["value"], now)
        except ValueError as exc:
            raise Refusal(f"value: {want['property']} of {want['path']} is {now!r} now, and {exc}") from exc
        if want["property"] == "drive":
            check_staying(vm, f"property: drive of {want['path']}")
        secret = ("value",) if want["property"] in SECRET else ()
        undo = [Step("qom-set", {**where, "value": now}, secret=secret)]
        return [Step("qom-set", {**where, "value": value}, undo=undo, secret=secret)]

    def describe(self, vm: VM, want: Want) -> Any:
        """Return the value itself."""
        value = _value(vm, want)
        return REDACTED if want["property"] in SECRET else value


def _value(vm: VM, want: Want) -> Any:
    """Return the property's value. Raise Refusal for a path or a property that isn't there."""
    path, name = want["path"], want["property"]
    try:
        return vm.ask("qom-get", path=path, property=name)
    except errors.DeviceNotFound as exc:
        raise Refusal(f"path: there is nothing at {path!r}") from exc
    except errors.CommandError as exc:
        near = suggestion(name, vm.children(path)) if qemu_texts.is_unknown_property(exc) else ""
        raise Refusal(f"property: {name!r} of {path} can't be read: {exc.desc}{near}") from exc


QOM = Qom()
