# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What reading can tell will fail of a new export, or will do harm. Loaded for a change only."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.errors import Refusal
from .._core.option import Want
from . import blockdev_graph, export_server, host_path
from .blockdev_active import AWAY
from .blockdev_nodes import nodes

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

_CREDENTIALS = "tls-creds-"
_FUSE = "/dev/fuse"
_LONGEST_NAME = 4096


def check(vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal for an export that can't be, or must not."""
    if not vm.schema.has("block-export-add", f"type={want['type']}"):
        raise Refusal(f"type: this QEMU was built without exports of type {want['type']}, or is too old for them")
    if vm.status in AWAY and vm.status != "inmigrate":
        # an export takes the node back, which is the destination's by now
        raise Refusal(
            f"node: {want['node']} can't be exported now: the virtual machine is {vm.status}, {AWAY[vm.status]}"
        )
    if len(want.get("name", "").encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise Refusal(f"name: {want['name'][:40]}... has more than {_LONGEST_NAME} bytes, which NBD does not take")
    if want.get("writable"):
        _check_writable(vm, want, draft)
    for name in want.get("bitmaps", []):
        _check_bitmap(vm, want, name)
    if "tls_creds" in want:
        _check_credentials(vm, want["tls_creds"])
    if want["type"] == "vhost-user-blk":
        if "listen" not in want or export_server.parse(want["listen"]).path is None:
            raise Refusal("listen: an export of type vhost-user-blk listens at a UNIX socket: give its path")
        export_server.check_path(vm, want, draft, ("export", want["id"]))
    if want["type"] == "fuse":
        _check_mountpoint(vm, want, draft)


def _check_writable(vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal where QEMU lets no other writer in, and warn where there is one already."""
    node = want["node"]
    if nodes(vm)[node]["ro"]:
        raise Refusal(f"writable: block node {node} is read-only")
    for (kind, name), may, shares in blockdev_graph.holds(vm, node):
        if "write" not in shares:
            raise Refusal(
                f"writable: {kind} {name} has block node {node} and lets nobody else write to it: leave writable out, "
                "or let it go first (a device that was made with share-rw shares its disk)"
            )
        if "write" in may and kind == "device":
            draft.warnings.append(
                f"writable: the guest writes to block node {node} by device {name}, too: "
                "unless its file system is made to be shared, that destroys it"
            )


def _check_bitmap(vm: VM, want: Want, name: str) -> None:
    """Raise Refusal for a bitmap that can't be shown to clients."""
    chain = [nodes(vm)[node] for node in blockdev_graph.chain_from(vm, want["node"])]
    listed = [
        (node, bitmap) for node in chain for bitmap in node.get("dirty-bitmaps", []) if bitmap.get("name") == name
    ]
    if not listed:
        raise Refusal(f"bitmaps: block node {want['node']} has no bitmap {name!r}, nor has one below it")
    node, told = listed[0]
    if told["busy"] or told.get("inconsistent"):
        why = "is in use by a job or another export" if told["busy"] else "is inconsistent, and can only be removed"
        raise Refusal(f"bitmaps: {name} {why}")
    if told["recording"] and not want.get("writable") and not node["ro"]:
        raise Refusal(
            f"bitmaps: {name} records what is written, and would change under a read-only export: "
            "disable it first (qemu_bitmap, enabled=false)"
        )


def _check_credentials(vm: VM, ident: str) -> None:
    """Raise Refusal for credentials that are not there, or not a server's."""
    if not vm.members("/objects").get(ident, "").startswith(_CREDENTIALS):
        raise Refusal(
            f"tls_creds: there is no object {ident!r} of a type {_CREDENTIALS}...: make it with qemu_object first"
        )
    if vm.prop(f"/objects/{ident}", "endpoint") == "client":
        raise Refusal(
            f"tls_creds: object {ident} has credentials of a client: a server's are needed (endpoint: server)"
        )


def _check_mountpoint(vm: VM, want: Want, draft: Draft) -> None:
    """Raise Refusal where QEMU can't mount, or where there is not a file to mount over."""
    path = want.get("mountpoint")
    if path is None:
        raise Refusal("mountpoint: an export of type fuse needs a file that shows the disk: give its path")
    if host_path.exists(vm, "type", _FUSE) is False:
        raise Refusal(f"type: there is no {_FUSE} on this host, and exports of type fuse need it")
    # through a link the guest's disk would be mounted over any file of the host
    host_path.check_output(vm, "mountpoint", path, ("export", want["id"]), True, "", draft, follow=False)
    if host_path.exists(vm, "mountpoint", path) is False:
        raise Refusal(f"mountpoint: {path} does not exist: make an empty file there, over which the disk is shown")
