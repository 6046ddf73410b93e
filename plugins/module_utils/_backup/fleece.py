# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Disks as they were at one moment, while the guest writes on: what a write would replace goes to a scratch image first.

A filter (``copy-before-write``) between the device and its disk does that, and a node beside it (``snapshot-access``) shows the
disk as it was when the filter was put in. Where the scratch image fails, that view breaks, and not the guest's write.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .._core.step import Step, Wait
from .._host import overlay_file, part_file
from .._kinds.blockdev_graph import children
from .._kinds.blockdev_nodes import nodes
from .._kinds.blockdev_steps import delete_node
from .._kinds.qemu_texts import drive_hint
from .._operations.disk_snapshot_disks import Disk, all_disks
from . import place
from .disks import Source, check_same, disk_of, is_scratch, job_id, moved, node_name, under

if TYPE_CHECKING:
    from .._core.vm import VM

_SECONDS = 30
"""How long a write of the guest waits for the scratch image; after that the view breaks."""


class Names(NamedTuple):
    """What is made for a disk."""

    scratch: str
    view_filter: str
    access: str


def names(name: str, disk: str) -> Names:
    """Return the names of the nodes."""
    return Names(*(node_name(name, disk, what) for what in ("scratch", "filter", "access")))


def mark(name: str) -> str:
    """Return the name of the node that says that the guest was stopped to put filters in, and is to run."""
    return node_name(name, "", "mark")


def scratch_path(vm: VM, directory: str, name: str, disk: Disk) -> str:
    """Return the path of a disk's scratch image, which is not that of another virtual machine with backups of that name."""
    whose = json.dumps([place.identity(vm) or disk.layers[0].source], sort_keys=True)
    return os.path.join(directory, f"{job_id(name, disk.name)}-{hashlib.sha256(whose.encode()).hexdigest()[:12]}.qcow2")


def check(vm: VM, option: str, directory: str) -> None:
    """Raise Refusal where this QEMU has no such filters, or the directory can't have scratch images."""
    if not vm.schema.has("blockdev-add", "driver=snapshot-access"):
        raise Refusal(f"{option}: this QEMU has no views of a disk as it was (snapshot-access): 7.2 and later have")
    if not directory.startswith("/"):
        raise Refusal(f"{option}: {directory!r} is not an absolute path")
    part_file.check_directory(option, os.path.join(directory, "scratch"))


def prepare(vm: VM, directory: str, name: str, source: Source, user: int, binary: str) -> List[Step]:
    """Return the steps that make a disk's scratch image, and the filter that writes to it."""
    own, path = names(name, source.name), scratch_path(vm, directory, name, source.disk)
    image = overlay_file.make_step(path, (), source.top.size, user, binary, lambda vm: own.scratch not in nodes(vm))
    file = {"driver": "file", "filename": path}
    scratch = {"node-name": own.scratch, "driver": "qcow2", "discard": "unmap", "file": file}
    view = {
        "node-name": own.view_filter,
        "driver": "copy-before-write",
        "file": source.under,
        "target": own.scratch,
        "on-cbw-error": "break-snapshot",
        "cbw-timeout": _SECONDS,
    }
    return [
        image,
        Step("blockdev-add", scratch, undo=[delete_node(own.scratch)]),
        Step("blockdev-add", view, undo=[delete_node(own.view_filter)]),
    ]


def put_in(vm: VM, name: str, sources: Sequence[Source], at_once: Sequence[Step]) -> List[Step]:
    """Return the steps that put filters in, all at one moment, and show the disks as they are then.

    ``at_once`` comes before that moment: a bitmap that is begun there has all that is not in the view.
    """
    steps: List[Step] = []
    stands = len(sources) > 1 and vm.ask("query-status")["running"]
    look_before, look_after = _looks(vm, sources)
    if stands:
        made = {"node-name": mark(name), "driver": "null-co", "read-only": True}
        go_on = Step("cont", removes=True, still_needed=_may_go_on)
        # somebody may have stopped it, or migrated it away, since it was looked at: then it is not to run afterwards
        marked = Step("blockdev-add", made, undo=[delete_node(mark(name))], condition=lambda vm: vm.status == "running")
        steps += [marked, Step("stop", undo=[go_on], condition=lambda vm: mark(name) in nodes(vm))]
    steps += [look_before, *at_once]
    steps += [_switch(source.disk, names(name, source.name).view_filter, source.under) for source in sources]
    # what an overlay took before this moment is in no bitmap; one that comes from now on does no harm
    steps.append(look_after)
    if stands:
        nothing = Step("stop", removes=True, still_needed=lambda vm: False)
        steps += [
            Step("cont", undo=[nothing], condition=lambda vm: mark(name) in nodes(vm) and _may_go_on(vm)),
            delete_node(mark(name)).replace(undo=[nothing], condition=lambda vm: mark(name) in nodes(vm)),
        ]
    for source in sources:
        own = names(name, source.name)
        made = {"node-name": own.access, "driver": "snapshot-access", "file": own.view_filter}
        steps.append(Step("blockdev-add", made, undo=[delete_node(own.access)]))
    return steps


def _looks(vm: VM, sources: Sequence[Source]) -> Tuple[Step, Step]:
    """Return the steps before the first filter and after the last, which fail where another tool has come in between."""
    begun = 0

    def before(_deadline: Any) -> None:
        nonlocal begun
        begun = vm.session.event_count
        check_same(vm, sources)

    def after(_deadline: Any) -> None:
        check_same(vm, sources)
        if len(sources) > 1 and any(event.name == "RESUME" for event in vm.session.events_since(begun)):
            raise Refusal(
                "disks: another tool let the guest run before all disks had their filters: run the task again"
            )

    return Step(do=before, hidden=True), Step(do=after, hidden=True)


def _may_go_on(vm: VM) -> bool:
    """Tell whether a guest that was stopped here still is, for that alone. A reset turns ``paused`` into ``prelaunch``."""
    return vm.status in ("paused", "prelaunch")


def _switch(disk: Disk, view: str, without: str) -> Step:
    """Return the step that puts a filter in. Its undo takes it out, and does nothing where it is not in."""
    given = {"path": disk.qom, "property": "drive"}

    def is_there(vm: VM) -> bool:
        known = all_disks(vm).get(disk.name)
        if known is None or known.top != without:  # QEMU crashes if it has none, or has the filter already
            raise moved(disk.name, without)
        return True

    undo = [_take_out(disk, view, without)]
    return Step("qom-set", {**given, "value": view}, condition=is_there, undo=undo, hint=drive_hint)


class _Below(Wait):
    """Looks for what is below a filter right before that is taken out: an overlay of another tool's may have come there."""

    no_wait = True

    def __init__(self, view: str, arguments: Dict[str, Any]) -> None:
        self._view, self._arguments = view, arguments

    def begin(self, vm: VM) -> None:
        """Give the device that."""
        self._arguments["value"] = children(vm, self._view).get("file", self._arguments["value"])


def _take_out(disk: Disk, view: str, without: str) -> Step:
    arguments = {"path": disk.qom, "property": "drive", "value": without}
    # given what it has already, a device ends QEMU; one with a -drive names that as what it has
    return Step(
        "qom-set",
        arguments,
        removes=True,
        wait=_Below(view, arguments),
        still_needed=lambda vm: any(known.top == view for known in all_disks(vm).values()),
    )


def take_out(vm: VM, name: str, disks: Sequence[Disk], there: Dict[str, Any] | None = None) -> List[Step]:
    """Return the steps that take the filters out, and remove what was made for them.

    ``there``: the nodes that are there, where only those are removed.
    """
    steps: List[Step] = []
    for disk in disks:
        own = names(name, disk.name)
        wanted = [node for node in own if there is None or node in there]
        steps += [delete_node(own.access)] if own.access in wanted else []
        if own.view_filter in wanted and (there is None or disk.top == own.view_filter):
            steps.append(_take_out(disk, own.view_filter, under(vm, disk, name)))
        steps += [delete_node(own.view_filter)] if own.view_filter in wanted else []
        steps += [delete_node(own.scratch)] if own.scratch in wanted else []
    return steps


def unplugged(vm: VM, name: str) -> List[str]:
    """Return the disks that have gone while they were shown, by what is left of them: exports and scratch images."""
    files = [os.path.basename(str(told.get("file", ""))) for told in nodes(vm).values()]
    idents = [file.rpartition("-")[0] for file in files if is_scratch(file)]
    idents += [export["id"] for export in vm.ask("query-block-exports")]
    found = {disk_of(name, ident) for ident in idents} - {""} - set(all_disks(vm))
    return sorted(disk for disk in found if set(names(name, disk)) & set(nodes(vm)))


def clear(vm: VM, name: str, directories: Sequence[str | None]) -> List[Step]:
    """Return the steps that remove what a killed run has left, be it only a scratch image in one of the directories."""
    there, disks, paths = nodes(vm), list(all_disks(vm).values()), []
    gone = [names(name, disk) for disk in unplugged(vm, name)]
    for own in [*(names(name, disk.name) for disk in disks), *gone]:
        if own.scratch in there:
            file = there.get(children(vm, own.scratch).get("file", ""), {})
            paths.append(str(file.get("file", "")))
    for disk in disks:
        own_paths = [scratch_path(vm, directory, name, disk) for directory in directories if directory]
        paths += [path for path in own_paths if os.path.lexists(path)]
    steps = take_out(vm, name, disks, there)
    for own in gone:
        steps += [delete_node(node) for node in (own.access, own.view_filter, own.scratch) if node in there]
    steps += [place.remove_file(vm, path) for path in dict.fromkeys(paths) if path]
    if mark(name) in there:
        # of a guest that runs it was left a moment before the stop, or after the end of it: who stops it now means that
        goes_on = Step("cont", removes=True, still_needed=_may_go_on)
        steps += [*([goes_on] if _may_go_on(vm) else []), delete_node(mark(name))]
    return steps
