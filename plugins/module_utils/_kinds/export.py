# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Block exports: ``block-export-add``, and the little that ``query-block-exports`` reads back.

Of an export QEMU tells its type and node, and whether it is about to go. All else can't be read back.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Set

from .._core.errors import Pending, Refusal
from .._core.option import Option, Want
from .._core.step import Step, Wait
from . import qemu_texts
from .blockdev_nodes import nodes, unknown_node
from .kind import Kind, State, flatten

if TYPE_CHECKING:
    from .._core.plan import Draft, Thing
    from .._core.vm import VM
    from .._qmp.errors import CommandError
    from .._qmp.events import Event

_NBD = "nbd"
# The options that belong to some types only.
_OF_TYPE = {_NBD: ("listen", "name", "bitmaps", "tls_creds"), "vhost-user-blk": ("listen",), "fuse": ("mountpoint",)}


class Export(Kind):
    """A block node that others can use: NBD clients, a vhost-user frontend, or whoever opens a file (FUSE)."""

    name = "export"
    kept_for_removal = ("force",)
    reserved_options = frozenset(["id", "type", "node-name", "writable", "name", "bitmaps", "addr", "mountpoint"])
    options = {
        "id": Option("str", required=True),
        "node": Option("str"),
        "device": Option("str"),
        "type": Option("str", choices=list(_OF_TYPE)),
        "name": Option("str"),
        "writable": Option("bool"),
        "bitmaps": Option("list", elements="str"),
        "listen": Option("str"),
        "tls_creds": Option("str"),
        "mountpoint": Option("str"),
        "options": Option("dict"),
        "force": Option("bool"),
    }

    def check(self, want: Want) -> None:
        """Raise Refusal also for two names of one thing, and for options that exports of this type don't have."""
        super().check(want)
        if "node" in want and "device" in want:
            raise Refusal("node and device say the same thing: give one of them")
        kind = want.get("type", _NBD)
        idle = {name for names in _OF_TYPE.values() for name in names}.difference(_OF_TYPE[kind])
        for name in sorted(idle & want.keys()):
            raise Refusal(f"{name}: an export of type {kind} has no such option: leave it out, or name its type")

    def resolve_name(self, vm: VM, want: Want) -> Want:
        """Return it with the node that a device, a drive or its own name stands for."""
        named = want.get("device", want.get("node"))
        if named is None or (named == want.get("node") and named in nodes(vm)):
            return want
        from . import blockdev_graph

        node = (blockdev_graph.image(vm, named) if "device" in want else "") or blockdev_graph.meant(vm, named)
        if not node:
            raise unknown_node("device" if "device" in want else "node", named, nodes(vm))
        return {**{key: value for key, value in want.items() if key != "device"}, "node": node}

    def read(self, vm: VM, want: Want) -> State | None:
        """Return its type and its node. Raise Refusal for one that is about to go, and shall be there."""
        export = _told(vm, want["id"])
        if not export:
            return None
        if export["shutting-down"] and "node" in want:
            raise Refusal(
                f"export {want['id']} is being removed, since another client has asked for it: wait until it has gone"
            )
        return {"id": export["id"], "type": export["type"], "node": export["node-name"]}

    def wanted(self, vm: VM, want: Want) -> State:
        """Return it without what is about its removal."""
        return {key: value for key, value in flatten(want).items() if key != "force"}

    def wanted_dependencies(self, want: Want) -> Set[Thing]:
        """Return its node, and its credentials."""
        named = (("blockdev", want.get("node")), ("object", want.get("tls_creds")))
        return {(kind, name) for kind, name in named if name}

    def current_dependencies(self, vm: VM, want: Want) -> Set[Thing]:
        """Return its node."""
        have = _told(vm, want["id"])
        return {("blockdev", have["node-name"])} if have else set()

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-export-add``, and for the first NBD export the ``nbd-server-start``."""
        from . import export_checks, export_server

        if "node" not in want:
            raise Refusal(
                f"node: export {want['id']} does not exist yet, and to add it its node or device must be named"
            )
        kind = want.get("type", _NBD)
        export_checks.check(vm, {**want, "type": kind}, draft)
        made: Dict[str, Any] = {"type": kind, "id": want["id"], "node-name": want["node"], **want.get("options", {})}
        made.update({key: want[key] for key in ("name", "writable", "bitmaps", "mountpoint") if key in want})
        if kind == "vhost-user-blk":
            made["addr"] = {"type": "unix", "path": export_server.parse(want["listen"]).path}
        before = export_server.start(vm, want, draft) if kind == _NBD else []
        adding = Step("block-export-add", vm.schema.coerce("block-export-add", made), hint=_no_server)
        return [*before, adding.replace(undo=[removing(want["id"], True)])]

    def remove(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the ``block-export-del``, and after the last NBD export the ``nbd-server-stop``.

        An NBD export that is to be made again is given back as a read-only one under the node's name if that fails: nothing
        tells how it was made.
        """
        from . import export_server

        have = _told(vm, want["id"])
        step = removing(want["id"], want.get("force", False))
        if have["type"] != _NBD:
            return [step]
        if ("node" in want or "type" in want) and want.get("type", _NBD) == _NBD:
            again = {"type": _NBD, "id": want["id"], "node-name": have["node-name"]}
            return [step.replace(undo=[Step("block-export-add", again)])]
        return [step, export_server.stop()] if export_server.exports(vm) == [want["id"]] else [step]


class _Gone(Wait):
    """The export has gone: QEMU refuses that while it has NBD clients, and is asked again until they have left."""

    resend_every = 0.5

    def __init__(self, ident: str) -> None:
        self.ident = ident

    def is_end(self, event: Event) -> bool:
        """Tell whether it is the event of this one."""
        return event.name == "BLOCK_EXPORT_DELETED" and event.data.get("id") == self.ident

    def is_done(self, vm: VM) -> bool:
        """Tell whether it is not listed any more."""
        return not _told(vm, self.ident)

    def classify(self, error: CommandError) -> str:
        """Return what QEMU's refusal means."""
        return qemu_texts.export_state(error)

    def timeout_error(self, vm: VM) -> Exception:
        """Return what to do about its clients."""
        if _told(vm, self.ident).get("shutting-down"):
            return Pending(f"export {self.ident} is being removed, and has not gone in time: run this task again")
        return Pending(
            f"export {self.ident} is still there: it has clients that are connected. Let them go, and run this task again; "
            "or set force=true, which ends their connections"
        )


def removing(ident: str, force: bool) -> Step:
    """Return the step that ends an export. ``force``: it does not wait until its clients have left."""
    return Step(
        "block-export-del",
        {"id": ident, **({"mode": "hard"} if force else {})},
        wait=_Gone(ident),
        removes=True,
        still_needed=lambda vm: bool(_told(vm, ident)),
    )


def _told(vm: VM, ident: str) -> Dict[str, Any]:
    """Return what QEMU tells of an export; empty where there is none."""
    return next((export for export in vm.ask("query-block-exports") if export["id"] == ident), {})


def _no_server(error: CommandError) -> str:
    if qemu_texts.is_nbd_server_running(error) is False:
        return "listen: the NBD server at this address is another program's: give another address"
    return ""


EXPORT = Export()
