# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""How fast a drive may be: the limits that ``block_set_io_throttle`` sets, all at once, and that ``query-block`` tells."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import Refusal
from .._core.option import Option
from .._core.step import Step
from .._core.vm import PERIPHERAL
from .._qmp.values import human_size
from .blockdev_nodes import drive_of

if TYPE_CHECKING:
    from .._core.vm import VM

Limits = Dict[str, int]
"""All limits by their names; 0 is none, but for a burst's length, which is at least 1 second."""

RATES = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
OPTIONS = {
    **{name: Option("str") for rate in RATES for name in (rate, f"{rate}_max")},
    **{f"{rate}_max_length": Option("int") for rate in RATES},
    "iops_size": Option("str"),
}
_NONE: Limits = {name: int(name.endswith("_length")) for name in OPTIONS}
_MOST = 10**15


def parse(written: Dict[str, Any]) -> Limits:
    """Return what a task names as numbers. Raise Refusal for what is not a number that QEMU takes."""
    found = {}
    for name, value in written.items():
        try:
            found[name] = human_size(value)
        except ValueError as exc:
            raise Refusal(f"limits: {name}: {exc}") from exc
        least, most = _NONE[name], 2**32 - 1 if name.endswith("_length") else _MOST
        if not least <= found[name] <= most:
            raise Refusal(f"limits: {name}: {value} is not between {least} and {most}")
    return found


def told(drive: Dict[str, Any]) -> Limits:
    """Return the limits of an entry of ``query-block``; none of an empty drive, of which QEMU does not tell."""
    inserted = drive.get("inserted", {})
    return {name: inserted.get(name, none) for name, none in _NONE.items()}


def group_of(drive: Dict[str, Any]) -> str:
    """Return the group that a drive with limits is in; by default that is its own."""
    return str(drive.get("inserted", {}).get("group", ""))


def members(vm: VM, group: str) -> List[Dict[str, Any]]:
    """Return the entries of ``query-block`` whose drives are in a group."""
    return [drive for drive in vm.ask("query-block") if group and group_of(drive) == group]


def of_group(vm: VM, group: str) -> Limits:
    """Return the limits of a group, which all members have: by its object, else by a member; none where it is not there."""
    limits = vm.prop(f"/objects/{group}", "limits")
    if isinstance(limits, dict):
        words = {"read": "rd", "write": "wr"}
        names = {
            "_".join(words.get(part, part) for part in name.split("-") if part != "total"): name for name in limits
        }
        return {name: limits[names[name]] for name in _NONE}
    return told(next(iter(members(vm, group)), {}))


def merged(have: Limits, named: Limits) -> Limits:
    """Return the limits of a drive when those that a task names are set. Raise Refusal for what QEMU does not take together.

    What is not named stays; the burst of a rate that is set to none goes with it, since QEMU takes none alone.
    """
    both = {**have, **named}
    for rate in RATES:
        if named.get(rate) == 0:
            both.update({name: _NONE[name] for name in (f"{rate}_max", f"{rate}_max_length") if name not in named})
        if named.get(f"{rate}_max") == 0 and f"{rate}_max_length" not in named:
            both[f"{rate}_max_length"] = 1
    if not any(both[rate] for rate in RATES[3:]) and "iops_size" not in named:
        both["iops_size"] = 0
    _check(both)
    return both


def _check(limits: Limits) -> None:
    """Raise Refusal for limits that QEMU does not take together."""
    for total in ("bps", "iops", "bps_max", "iops_max"):
        unit, _under, burst = total.partition("_")
        for way in ("rd", "wr"):
            part = f"{unit}_{way}{'_' + burst if burst else ''}"
            if limits[total] and limits[part]:
                raise Refusal(
                    f"limits: {total} is {limits[total]} and {part} is {limits[part]}, and QEMU takes either a limit of "
                    "both directions or limits of each: set one of them to 0"
                )
    for rate in RATES:
        most, length = limits[f"{rate}_max"], limits[f"{rate}_max_length"]
        if most and most < max(limits[rate], 1):
            raise Refusal(f"limits: {rate}_max: {most} is lower than {rate} ({limits[rate]})")
        if most and not limits[rate]:
            raise Refusal(f"limits: {rate}_max: a burst needs a limit {rate}, which is not set: give {rate} too")
        if length > 1 and not most:
            raise Refusal(f"limits: {rate}_max_length: a burst's length needs {rate}_max: give that too")
        if most * length > _MOST:
            raise Refusal(f"limits: {rate}_max_length: {length} seconds at {most} are more than {_MOST} in all")
    if limits["iops_size"] and not any(limits[rate] for rate in RATES[3:]):
        raise Refusal("limits: iops_size: it needs a limit of operations: give one of iops, iops_rd, iops_wr")


def arguments(qdev: str, limits: Limits, group: str) -> Dict[str, Any]:
    """Return those of ``block_set_io_throttle``, which takes all rates always, and the rest where there is any."""
    given: Dict[str, Any] = {"id": qdev, **{rate: limits[rate] for rate in RATES}}
    for rate in RATES:
        if limits[f"{rate}_max"]:
            given.update({name: limits[name] for name in (f"{rate}_max", f"{rate}_max_length")})
    if limits["iops_size"]:
        given["iops_size"] = limits["iops_size"]
    return {**given, **({"group": group} if group else {})}


def is_limited(limits: Limits) -> bool:
    """Tell whether there is any limit. Where there is none, the drive is in no group."""
    return any(limits[rate] for rate in RATES)


def qdev(ident: str, driver: str) -> str:
    """Return the name by which QEMU knows the drive of a device that is not there yet; ``query-block`` tells it of the others."""
    if driver.startswith("virtio-blk"):
        return f"{PERIPHERAL}/{ident}/virtio-backend"
    return f"{PERIPHERAL}/{ident}/{ident}.0/legacy[0]" if driver == "usb-storage" else ident


def again(vm: VM, ident: str, driver: str) -> List[Step]:
    """Return the step that gives a device's limits to the one that is made in its place; none where it has no limits."""
    drive = drive_of(vm, ident) or {}
    limits = told(drive)
    if not is_limited(limits):
        return []
    name, group = qdev(ident, driver), group_of(drive)
    return [Step("block_set_io_throttle", arguments(name, limits, "" if group == drive["qdev"] else group))]
