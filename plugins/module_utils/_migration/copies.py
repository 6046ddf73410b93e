# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks that go along with their guest: which, where to, and the steps that copy them and clear up. Loaded for those only.

The destination exports its disks by NBD; the source has each as a node, to which a mirror copies all that the guest has and
writes. Nodes, mirrors and exports are called after their disk, so that a later task finds what an earlier one has left.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import ipaddress
import zlib
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Sequence

from .._core.errors import Refusal
from .._core.plan import Draft
from .._core.step import Step
from .._kinds import export_server
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.export import EXPORT, removing
from .._operations import job_end
from .._operations.disk_snapshot_disks import Disk, all_disks
from .._operations.jobs import dismiss, has_concluded, jobs
from .._qmp.values import human_size
from . import opened

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params

OPTION = "copy_disks"
PREFIX = "vmm-migrate-"
CLEARS = ("block-job-cancel", "yank", "job-dismiss", "blockdev-del")
"""The commands that clear up what a copy consists of."""
_NODE_LONGEST = 31
_CREDENTIALS = "tls-creds-"


class Copy(NamedTuple):
    """A disk that goes along."""

    disk: str
    ident: str
    """What its export, its node for the target and its mirror are called."""
    node: str
    """The image that the guest writes to."""
    size: int
    begin: List[Step]
    """What begins the copy, each with what takes it back."""
    end: Step
    """What ends a mirror that is ready, when it has brought its target up to date."""
    clear: List[Step]
    """What is done away with when the guest has left."""
    cut: Step
    """What cuts its line, past a main loop that does not answer."""
    bitmaps: Sequence[str] = ()
    """Its dirty bitmaps that go along."""
    behind: Sequence[str] = ()
    """Those that can't."""


def ident_of(disk: str) -> str:
    """Return what the things are called that copy a disk."""
    whole = PREFIX + disk
    return whole if len(whole) <= _NODE_LONGEST else f"{whole[:22]}-{zlib.crc32(disk.encode()):08x}"


def check(given: Dict[str, Any]) -> None:
    """Raise Refusal for an address that is not valid, and for one over which others could read and change the disks."""
    where = export_server.parse(given["address"], f"{OPTION}.address")
    if given["disks"] is not None and not given["disks"]:
        raise Refusal(f"{OPTION}.disks: the list is empty; leave it out for all writable disks")
    if where.path is None and not _is_loopback(where.host) and not given["tls_creds"] and not given["plain"]:
        raise Refusal(
            f"{OPTION}.address: {given['address']} is not on this host, and somebody on the network could read and change the "
            "disks: give tls_creds, or a UNIX socket that SSH forwards, or plain=true if you trust the network"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def disks(vm: VM, given: Dict[str, Any]) -> List[Disk]:
    """Return the disks that go along. Raise Refusal for one that is not there, or can't be written to."""
    known = {disk.name: disk for disk in all_disks(vm).values() if not disk.layers[0].read_only}
    missing = [name for name in given["disks"] or () if name not in known]
    if missing:
        raise Refusal(
            f"{OPTION}.disks: there is no writable disk {missing[0]!r}; there are: {', '.join(sorted(known)) or 'none'}"
        )
    if not known:
        raise Refusal(f"{OPTION}: the virtual machine has no writable disk: leave it out")
    return [known[name] for name in given["disks"] or known]


def read(vm: VM, given: Dict[str, Any]) -> List[Copy]:
    """Return the copies of the source's disks. Raise Refusal for what can't be copied."""
    found = [_with_bitmaps(vm, disk, copy_of(disk, given)) for disk in disks(vm, given)]
    for disk in disks(vm, given):
        others = [job for job in disk.jobs if job != ident_of(disk.name)]
        if others:
            raise Refusal(f"{OPTION}: block job {others[0]} works on {disk.name}: let it end first")
    return found


def _is_kept(disk: Disk, given: Dict[str, Any]) -> bool:
    """Tell whether what it stands on is not copied. One that stands alone is whole only where all of it is."""
    return given.get("chain") == "keep" and len(disk.layers) > 1


def check_kept(vm: VM, given: Dict[str, Any]) -> None:
    """Raise Refusal where a disk does not stand any more on what the destination's does.

    ``files``: the images that it had when that was proven. The same paths do not prove it where a file was replaced since.
    """
    for disk in disks(vm, given):
        if not _is_kept(disk, given):
            continue
        files = [layer.source for layer in disk.layers]
        known = (given.get("files") or {}).get(disk.name, files)
        if files != known:
            raise Refusal(
                f"{OPTION}.files: disk {disk.name} has the images {', '.join(files)} by now, and not {', '.join(known)}, as a "
                "snapshot makes it: look at the destination's again"
            )
        others = [path for path in opened.replaced(vm, disk) if path != disk.layers[0].path]
        if others:
            raise Refusal(
                f"{OPTION}.chain: {others[0]}, on which disk {disk.name} stands, is another file by now than QEMU has open, and "
                "the destination's can't be the same: with chain=flatten the contents as the guest sees them go over"
            )


def _with_bitmaps(vm: VM, disk: Disk, copy: Copy) -> Copy:
    """Return it with its bitmaps. Those of images below tell of the image above only what was written before that was there."""
    goes: List[str] = []
    stays: List[str] = []
    for layer in disk.layers:
        for told in nodes(vm)[layer.node].get("dirty-bitmaps", []):
            whole = layer.node == copy.node and not told["busy"] and not told.get("inconsistent")
            if told.get("name"):
                (goes if whole else stays).append(told["name"])
    return copy._replace(bitmaps=goes, behind=stays)


def carrying(found: Sequence[Copy], have: Dict[str, Any]) -> List[Step]:
    """Return the step that lets their dirty bitmaps go along, by the names that they have here. ``have``: the parameters."""
    name = "block-bitmap-mapping"
    mapping = [
        {
            "node-name": copy.node,
            "alias": copy.node,
            "bitmaps": [{"name": bitmap, "alias": bitmap} for bitmap in copy.bitmaps],
        }
        for copy in found
        if copy.bitmaps
    ]
    undo = Step("migrate-set-parameters", {name: have.get(name, [])})
    return [Step("migrate-set-parameters", {name: mapping}, undo=[undo])] if mapping else []


def left_behind(found: Sequence[Copy]) -> List[str]:
    """Return a warning of the bitmaps that don't go along."""
    return [
        f"bitmaps: {', '.join(copy.behind)} of disk {copy.disk} stays here: it is in use, inconsistent, or of an image below, so "
        "that the next backup there is a full one"
        for copy in found
        if copy.behind
    ]


def check_line(vm: VM, given: Dict[str, Any]) -> None:
    """Raise Refusal where the destination does not export its disks at the address, or where the credentials don't fit it.

    A QEMU that is told to connect to a host that does not answer answers nobody itself for minutes.
    """
    if not vm.has_command("yank"):
        raise Refusal(f"{OPTION}: this QEMU has no yank, and could not be freed from a network that falls silent")
    creds, where = given["tls_creds"], given["address"]
    if creds and not vm.members("/objects").get(creds, "").startswith(_CREDENTIALS):
        raise Refusal(f"{OPTION}.tls_creds: there is no object {creds!r} of a type {_CREDENTIALS}...")
    if creds and vm.prop(f"/objects/{creds}", "endpoint") == "server":
        raise Refusal(f"{OPTION}.tls_creds: object {creds} has a server's credentials: a client's are needed here")
    found = export_server.listening(vm, f"{OPTION}.address", where)
    if found is None and vm.local and export_server.parse(where).path is None:
        raise Refusal(f"{OPTION}.address: {where} does not answer")
    if found == "":
        raise Refusal(
            f"{OPTION}.address: nobody listens at {where}: give the destination's qemu_migrate_incoming {OPTION}, too"
        )
    if found == export_server.OTHER:
        raise Refusal(f"{OPTION}.address: what listens at {where} does not export disks (NBD)")
    if found is not None and bool(creds) != (found == export_server.TLS):
        has, give = ("no TLS", "leave tls_creds out") if creds else ("TLS", "give tls_creds")
        raise Refusal(f"{OPTION}.tls_creds: what listens at {where} has {has}: {give}, or change it there")


def exporting(vm: VM, given: Dict[str, Any]) -> List[Step]:
    """Return the steps by which a destination exports its disks to the source; none for those that are exported."""
    steps: List[Step] = []
    draft = Draft()
    for disk in disks(vm, given):
        want: Dict[str, Any] = {
            "id": ident_of(disk.name),
            "node": disk.layers[0].node,
            "type": "nbd",
            "name": disk.name,
        }
        want.update({"writable": True, "listen": given["address"]})
        want.update({"tls_creds": given["tls_creds"]} if given["tls_creds"] else {})
        EXPORT.check(want)
        if EXPORT.read(vm, want) is None:
            new = EXPORT.create(vm, want, draft)
            steps += new[-1:] if steps else new
    return steps


def ending_exports(ids: Iterable[str]) -> List[Step]:
    """Return the steps that end such exports, and the server where it has no others."""
    ends = [removing(ident, True) for ident in ids]
    return [*ends, export_server.stop()] if ends else []


def copy_of(disk: Disk, given: Dict[str, Any]) -> Copy:
    """Return a disk with its steps."""
    ident, layer = ident_of(disk.name), disk.layers[0]
    where = export_server.parse(given["address"])
    server = {"type": "unix", "path": where.path} if where.path else {"type": "inet", "host": where.host}
    node: Dict[str, Any] = {"driver": "nbd", "node-name": ident, "server": server, "export": disk.name}
    # what is zero stays a hole
    node.update({"discard": "unmap", "detect-zeroes": "unmap"})
    if not where.path:
        server["port"] = str(where.port)
    if given["tls_creds"]:
        node["tls-creds"] = given["tls_creds"]
    mirror = {"job-id": ident, "device": layer.node, "target": ident, "sync": "full", "auto-dismiss": False}
    if _is_kept(disk, given):  # what the images below have is there already
        mirror["sync"] = "top"
    if given.get("speed"):
        mirror["speed"] = human_size(given["speed"])
    begin = [
        Step("blockdev-add", node, undo=[delete_node(ident)], hint=_hint),
        Step("blockdev-mirror", mirror, undo=clearing(ident, node=False)),
    ]
    end = Step("block-job-cancel", {"device": ident})
    return Copy(disk.name, ident, layer.node, layer.size, begin, end, [dismiss(ident), delete_node(ident)], _cut(ident))


def _hint(error: Any) -> str:
    return "qemu_migrate_incoming exports the destination's disks, with the same copy_disks"


def _cut(ident: str) -> Step:
    return Step("yank", {"instances": [{"type": "block-node", "node-name": ident}]}, oob=True)


def clearing(ident: str, node: bool = True) -> List[Step]:
    """Return the steps that give a copy up, whatever is there of it. The line is cut, since it may have fallen silent."""
    return [
        _cut(ident),
        job_end.cancel(ident, Step("block-job-cancel", {"device": ident, "force": True})),
        dismiss(ident),
        *([delete_node(ident)] if node else []),
    ]


def leftovers(vm: VM) -> List[Step]:
    """Return the steps that do away with what an earlier task has left of copies."""
    mirrors = {name: job for name, job in jobs(vm).items() if name.startswith(PREFIX) and job["type"] == "mirror"}
    targets = {name for name, node in nodes(vm).items() if name.startswith(PREFIX) and node["drv"] == "nbd"}
    found: List[Step] = []
    for name in sorted({*mirrors, *targets}):
        yank, cancel, dismissal, deletion = clearing(name)
        found += [yank] if name in targets else []
        found += [cancel] if name in mirrors and not has_concluded(mirrors[name]) else []
        found += [dismissal] if name in mirrors else []
        found += [deletion] if name in targets else []
    return found


def check_params(params: Params) -> None:
    """Raise Refusal for options of qemu_migrate that don't go together with disks that are copied."""
    given = params[OPTION]
    check(given)
    if params["state"] != "migrated":
        raise Refusal(f"{OPTION}: is for state=migrated")
    if not params["wait"]:
        raise Refusal(f"{OPTION}: without wait, nobody is there to end the copies, and the guest would stand still")
    if params["on_timeout"] == "leave":
        raise Refusal(
            f"{OPTION}: with on_timeout=leave nobody is there to end the copies, and the guest would stand still"
        )
    if params["postcopy_after"] is not None:
        raise Refusal(f"{OPTION}: in postcopy the guest runs at the destination before its disks are there")
    if not given["switch_timeout"] > 0:
        raise Refusal(f"{OPTION}.switch_timeout: {given['switch_timeout']} is not a positive number of seconds")
    try:
        human_size(given["speed"] or 0)
    except ValueError as exc:
        raise Refusal(f"{OPTION}.speed: {exc}") from exc
