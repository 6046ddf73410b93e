# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What is between a device and its disk: the tray, whether a medium is in it, and how fast it may be."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Tuple

from .._core.errors import Refusal
from .._core.option import Option, Want, check_id
from .._core.step import Step
from . import drive_limits
from .blockdev_nodes import drive_of, held_by, nodes
from .kind import Change, Kind, State

if TYPE_CHECKING:
    from .._core.plan import Draft
    from .._core.vm import VM

OPTIONS = {
    "medium": Option("str", choices=["present", "absent"]),
    "tray": Option("str", choices=["open", "closed"]),
    "force": Option("bool"),
    "limits": Option("dict", options=drive_limits.OPTIONS),
    "limit_group": Option("str"),
}
_LIVE = frozenset(["medium", "tray", "limit_group", *(f"limits.{name}" for name in drive_limits.OPTIONS)])


class Drive(Kind):
    """The drive of a device, by the device's id."""

    name = "drive"
    options = {"id": Option("str", required=True), **OPTIONS}
    changeable_keys = _LIVE

    def check(self, want: Want) -> None:
        """Raise Refusal also for limits that are not numbers, and for a group's name that no QEMU takes."""
        super().check(want)
        drive_limits.parse(want.get("limits", {}))
        if "limit_group" in want:
            check_id("group", "limit_group", want["limit_group"])

    def read(self, vm: VM, want: Want) -> State | None:
        """Return tray, medium and limits, from ``query-block``. Raise Refusal for a device without what is asked for."""
        ident = self.ident(want)
        if ident not in vm.peripherals():
            return None
        drive = drive_of(vm, ident)
        if drive is None:
            raise Refusal(f"id: device {ident} ({vm.peripherals()[ident]}) is not a disk: give another id")
        have: State = {"id": ident, "removable": drive["removable"]}
        if "tray" in want and "tray_open" not in drive:
            _refuse_fixed(want, f"{ident} ({vm.peripherals()[ident]})")
        if drive["removable"]:
            if "tray_open" in drive:
                have["tray"] = "open" if drive["tray_open"] else "closed"
            have["locked"] = drive["locked"]
            have["medium"] = "present" if "inserted" in drive else "absent"
        elif want.get("medium") == "absent":
            _refuse_fixed(want, f"{ident} ({vm.peripherals()[ident]})")
        have.update({f"limits.{name}": value for name, value in drive_limits.told(drive).items()})
        have["limit_group"] = drive_limits.group_of(drive)
        return have

    def wanted(self, vm: VM, want: Want) -> State:
        """Return limits as numbers. That a medium is present is the device's matter, and its node's."""
        flat: State = {key: want[key] for key in ("id", "tray", "limit_group") if key in want}
        if want.get("medium") == "absent":
            flat["medium"] = "absent"
        return {**flat, **{f"limits.{name}": value for name, value in _named(want).items()}}

    def create(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the steps for the drive of a device that the same plan adds."""
        ident = self.ident(want)
        driver = draft.adding.get(("device", ident), {}).get("driver", "")
        moves = "tray" in want or want.get("medium") == "absent"
        if moves and not (driver.endswith("-cd") or (driver == "floppy" and "tray" not in want)):
            _refuse_fixed(want, f"{ident} ({driver or 'virtio-blk'})")
        qdev, steps = drive_limits.qdev(ident, driver or "virtio-blk"), []
        if want.get("tray") == "open":
            where = {"id": qdev}
            steps.append(Step("blockdev-open-tray", where, undo=[Step("blockdev-close-tray", where)]))
        return steps + self._limit(vm, want, {"qdev": qdev}, draft)

    def change(self, vm: VM, want: Want, have: State, changes: List[Change], draft: Draft) -> List[Step]:
        """Return the steps that take a medium out which no other part of the plan takes out, move the tray, and set limits."""
        from . import device_drive

        ident, keys = self.ident(want), {change.key for change in changes}
        drive = drive_of(vm, ident) or {}
        steps: List[Step] = []
        moved_or_new = {("medium", ident), ("device", ident)}  # whose tray is as it is wanted then
        if not draft.removing & moved_or_new:
            if "medium" in keys:
                steps = device_drive.take_out(vm, ident, want, draft)
                steps += device_drive.close(vm, ident, want) + device_drive.let_go(vm, ident, draft)
            elif want.get("tray") == "open" and "tray" in keys:
                steps = device_drive.open_tray(vm, ident, want)
            elif "tray" in keys:
                steps = device_drive.close(vm, ident, want)
        if keys & _LIVE - {"medium", "tray"}:
            added = draft.adding.get(("device", ident))  # in the place of one of another driver, say
            known = (
                drive if added is None else {**drive, "qdev": drive_limits.qdev(ident, str(added.get("driver", "")))}
            )
            steps += self._limit(vm, want, known, draft)
        return steps

    def unconditional_steps(self, vm: VM, want: Want, draft: Draft) -> List[Step]:
        """Return the steps that open the tray of a drive made anew, and let go of a medium that a stopped run has taken out."""
        ident = self.ident(want)
        held, drive = ("blockdev", held_by(ident)), drive_of(vm, ident) or {}
        if want.get("tray") == "open" and drive.get("tray_open") and ("device", ident) in draft.adding:
            where = {"id": drive["qdev"]}
            return [Step("blockdev-open-tray", where, undo=[Step("blockdev-close-tray", where)])]
        if want.get("medium") != "absent" or held[1] not in nodes(vm) or held in draft.removing:
            return []
        from . import blockdev_steps

        return [blockdev_steps.release(held[1])]

    def _limit(self, vm: VM, want: Want, drive: Dict[str, Any], draft: Draft) -> List[Step]:
        """Return the step that sets the limits of a drive. Raise Refusal for an empty one, of which QEMU takes none."""
        named, was = _named(want), drive_limits.told(drive)
        own, now = drive["qdev"], drive_limits.group_of(drive)
        # an empty one stays in its group, and QEMU does not tell
        hidden = "removable" in drive and "inserted" not in drive
        group = want.get("limit_group", own if hidden else "" if now == own else now)
        joins = group not in ("", now)
        before = drive_limits.of_group(vm, group) if joins else was
        after = drive_limits.merged(before if drive_limits.is_limited(before) else was, named)
        if after == was and not joins:
            return []
        limited = drive_limits.is_limited(after)
        self._check_limits(vm, want, limited, draft)
        _warn(vm, want, (group or own) if limited else "", after, draft)
        back = [drive_limits.arguments(own, was, "" if now == own else now)]
        if joins and drive_limits.is_limited(before) and before != after:
            back.insert(0, drive_limits.arguments(own, before, group))  # of the others in it
        undo = [Step("block_set_io_throttle", arguments) for arguments in back]
        return [Step("block_set_io_throttle", drive_limits.arguments(own, after, group), undo=undo)]

    def _check_limits(self, vm: VM, want: Want, limited: bool, draft: Draft) -> None:
        """Raise Refusal for a drive with nothing in it, and for a group that nothing would be limited by."""
        ident = self.ident(want)
        comes = ("medium", ident) in draft.adding or ("device", ident) in draft.adding
        empty = "inserted" not in (drive_of(vm, ident) or {}) and not comes
        if empty or want.get("medium") == "absent":
            raise Refusal(f"limits: drive {ident} has no medium, and QEMU takes limits only for a drive that has one")
        if "limit_group" in want and not limited:
            raise Refusal(
                f"limit_group: {want['limit_group']} has no limits yet, and a disk without limits is in no group: give limits"
            )


DRIVE = Drive()


def _named(want: Want) -> drive_limits.Limits:
    return drive_limits.parse(want.get("limits", {}))


def _refuse_fixed(want: Want, device: str) -> None:
    what, lacks = ("tray", "tray") if "tray" in want else ("medium", "medium that could be taken out")
    raise Refusal(f"{what}: device {device} has no {lacks}; a CD drive has (driver: scsi-cd, ide-cd)")


def _warn(vm: VM, want: Want, group: str, after: drive_limits.Limits, draft: Draft) -> None:
    """Warn of the disks that get other limits, too, since a group has one set of them; not of those that the task names."""
    others = []
    for drive in drive_limits.members(vm, group):
        parts = str(drive.get("qdev", "")).split("/")
        name = parts[3] if len(parts) > 3 else drive.get("qdev") or drive["device"]
        if drive_limits.told(drive) != after and name not in (want["id"], *want.get("mates", ())):
            others.append(name)
    if others:
        draft.warnings.append(f"limit_group: {', '.join(others)} of group {group} get the limits of {want['id']}, too")


def _agree(one: Want, other: Want) -> bool:
    """Tell whether two disks of one group can both have what they name. One that joins another's own group takes its limits."""
    joins = not ("limit_group" in one and "limit_group" in other) and not (one.get("limits") and other.get("limits"))
    return joins or _named(one) == _named(other)


def check_groups(wants: Iterable[Tuple[str, Want]]) -> None:
    """Raise Refusal where disks of one group shall have other limits, by their places in a document; note who is together."""
    groups: Dict[str, List[Tuple[str, Want]]] = {}
    for place, want in wants:
        own = drive_limits.qdev(want["id"], want.get("driver", "virtio-blk")) if want.get("limits") else None
        group = want.get("limit_group", own)
        if group is not None:
            groups.setdefault(group, []).append((place, want))
    for name, members in groups.items():
        first_place, first = members[0]
        for place, want in members:
            want["mates"] = [other["id"] for _place, other in members]
            if not _agree(first, want):
                raise Refusal(
                    f"{place}: limit_group: {name} has one set of limits for all its disks, and those of {first_place} differ"
                )
