# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Internal snapshots of a VM and its disks, as QEMU's snapshot jobs make, load and delete them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import datetime
import hashlib
import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .._core.option import Option
from .._core.plan import Plan
from .._core.step import Step
from .._kinds.blockdev_active import AWAY, migration, on_its_way
from .._kinds.blockdev_graph import children, is_held
from .._kinds.blockdev_nodes import inserted, node_named, nodes
from . import jobs
from .blocked import blocked_reasons

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params, Run

# QEMU cuts longer names off, and would never find them again.
_LONGEST = 255
_HOLD = ("qcow2", "rbd")
# These have nothing of their own: a snapshot goes to the node below.
_THROUGH = ("raw", "throttle", "copy-on-read")
_LEFT_STOPPED = "restore-vm"
# What a job's id calls its action, and the state that the action leads to. A load stops the VM: its id alone can tell
# a later run whether the VM had been running.
_ACTIONS = {"save": "present", "load-running": "loaded", "load-stopped": "loaded", "delete": "absent"}

Snapshot = Dict[str, Any]
"""One node's entry, as QEMU has it: ``{id, name, vm-state-size, date-sec, ...}``."""


class Disk(NamedTuple):
    """A writable top-level block node: no other node uses it."""

    node: str
    attached: bool
    """Whether a device has it."""
    holds: bool
    """Whether it can hold snapshots."""
    snapshots: List[Snapshot]
    bitmaps: Sequence[str] = ()

    def find(self, name: str) -> Snapshot | None:
        """Return its snapshot of that name; None where it has none."""
        return next((found for found in self.snapshots if found["name"] == name), None)


class Current(NamedTuple):
    """What was read."""

    disks: Dict[str, Disk]
    """By node: those that a snapshot of the whole VM is about, and those the user named."""
    status: str = "running"
    running: bool = True
    leftovers: Dict[str, jobs.Job] = {}
    """By action: the jobs that earlier runs began for the same snapshot."""
    named: List[str] = []
    """The nodes that the user named."""
    blocked: List[str] = []
    """Why the VM can't be saved."""
    migration: str = ""
    """The status of the migration that is under way."""

    @property
    def meant(self) -> List[str]:
        """The nodes that the task is about."""
        return self.named or [disk.node for disk in self.disks.values() if disk.holds]

    def holders(self, name: str) -> List[str]:
        """Return the nodes that have the snapshot."""
        return [disk.node for disk in self.disks.values() if disk.find(name)]


class Snapshots(jobs.JobOperation):
    """Make, load or delete a snapshot of the VM and its disks."""

    options = {
        "name": Option("str", required=True),
        "state": Option("str", choices=["present", "absent", "loaded"], default="present"),
        "vmstate": Option("str"),
        "devices": Option("list", elements="str"),
    }

    def check(self, params: Params) -> Params:
        """Raise Refusal for a name that QEMU would cut or mistake, and for an empty list of disks."""
        name = params["name"]
        if not name or len(name.encode()) > _LONGEST:
            raise Refusal(
                f"name: {name!r} has {len(name.encode())} bytes: a snapshot's name has 1 to {_LONGEST} of them"
            )
        if params["state"] == "present" and name.isdigit():
            raise Refusal(f"name: {name}: a number could be taken for another snapshot's id; begin with a letter")
        if params["devices"] is not None and not params["devices"]:
            raise Refusal("devices: the list is empty; leave it out for all disks that can hold snapshots")
        return params

    def read(self, vm: VM, params: Params) -> Current:
        """Return the disks with their snapshots, and the jobs of earlier runs. Raise Refusal for disks that can't be meant."""
        if not vm.has_command("snapshot-save"):
            raise Refusal(
                "this QEMU can't make, load or delete snapshots as jobs (snapshot-save): QEMU 6.0 and later can"
            )
        known = nodes(vm)
        named = [node_named(vm, "devices", name) for name in dict.fromkeys(params["devices"] or [])]
        attached = inserted(vm)
        free = sorted(node for node in known if not is_held(vm, node))
        wanted = [*named, *(node for node in [*attached, *free] if not known[node]["ro"])]
        disks = {
            node: Disk(
                node,
                node in attached,
                known[_holder(vm, node)]["drv"] in _HOLD,
                known[node]["image"].get("snapshots") or [],
                [told["name"] for told in known[_holder(vm, node)].get("dirty-bitmaps", []) if told.get("name")],
            )
            for node in wanted
        }
        for node in named:
            if known[node]["ro"]:
                raise Refusal(f"devices: {node} is read-only, and can neither take a snapshot nor go back to one")
        found, idents = jobs.jobs(vm), {action: job_id(action, params["name"]) for action in _ACTIONS}
        leftovers = {action: found[ident] for action, ident in idents.items() if ident in found}
        blocked = blocked_reasons(vm) if params["state"] == "present" else []
        return Current(disks, vm.status, vm.ask("query-status")["running"], leftovers, named, blocked, migration(vm))

    def plan(self, current: Current, params: Params) -> jobs.JobPlan:
        """Return what leads to the state: what earlier runs left is cleared away, and a job begun or joined."""
        name, state = params["name"], params["state"]
        going = {action: job for action, job in current.leftovers.items() if not jobs.has_concluded(job)}
        for action, job in going.items():
            if _ACTIONS[action] != state:
                raise Refusal(f"name: {name}: an earlier run's {job['type']} goes on; run again when that is over")
        begin, warnings, ran = _clear(current, name)
        clears = bool(begin or going)
        ident, then = next((str(job["id"]) for job in going.values()), ""), []
        start = None if going else {"present": _save, "absent": _delete, "loaded": _load}[state](current, params)
        if start is not None:
            if current.migration:
                raise on_its_way(f"name: {name}", current.migration, "QEMU refuses that")
            if current.status in AWAY:
                raise Refusal(f"name: {name}: no snapshot can be taken, loaded or deleted now: {AWAY[current.status]}")
            if state == "loaded":
                warnings += _left_alone(current, name, start, ran)
                if ran and not any(step.execute == "cont" for step in begin):
                    then = [Step("cont")]
            loads = "load-running" if current.running or ran else "load-stopped"
            ident = job_id({"present": "save", "absent": "delete"}.get(state, loads), name)
            begin.append(start.replace(arguments={"job-id": ident, **start.arguments}))
        before, after = _diff(current, params, bool(ident), clears)
        return jobs.JobPlan(
            f"snapshot {name}",
            ident,
            begin,
            until=jobs.CONCLUDED if ident else (),
            dismisses=bool(ident),
            then=then,
            before=before,
            after=after,
            warnings=warnings,
            on_failure=["cont"],
        )

    def follow(self, run: Run, current: Current, params: Params) -> Current:
        """Begin or join the job, follow it to its end, and return what there is then."""
        super().follow(run, current, params)
        return self.read(run.vm, {**params, "devices": None})

    def after_failure(self, run: Run, current: Current, params: Params, job: jobs.Job) -> str:
        """Let a VM run again that a failed load has stopped, and return what became of it.

        Not where disks may be in the past already while memory is not: running on would ruin them.
        """
        vm, name = run.vm, params["name"]
        if vm.status != _LEFT_STOPPED:
            return super().after_failure(run, current, params, job)
        stopped = f"the virtual machine is stopped ({_LEFT_STOPPED})"
        if job["id"] != job_id("load-running", name):
            return stopped
        now = self.read(vm, params)
        if not _unloadable(now, name, now.meant):
            return (
                f"{stopped}: its disks may have gone back and its memory not, so load a snapshot that fits, or reset it"
            )
        run.send(Step("cont"))
        return f"the virtual machine was continued, and is {vm.status}"

    def describe(self, current: Current, params: Params, plan: Plan, end: Current | None) -> Dict[str, Any]:
        """Return ``snapshots``: all that are there in the end, or in check mode now."""
        return {"snapshots": _listed(end or current)}


def _holder(vm: VM, node: str) -> str:
    """Return the node that a snapshot of another goes to."""
    known = nodes(vm)
    while known[node]["drv"] in _THROUGH and children(vm, node).get("file") in known:
        node = children(vm, node)["file"]
    return node


def job_id(action: str, name: str) -> str:
    """Return the id of the job for a snapshot, the same in every run, so that the next one finds it."""
    fit = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if fit != name:
        fit += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"ansible-snapshot-{action}-{fit}"


# -- planning -----------------------------------------------------------------


def _clear(current: Current, name: str) -> Tuple[List[Step], List[str], bool]:
    """Return the steps for what earlier runs left, what to tell of it, and whether the VM ran before a load stopped it."""
    first, warnings, ran = [], [], False
    for action, job in current.leftovers.items():
        if not jobs.has_concluded(job):
            continue
        first.append(jobs.dismiss(job["id"]))
        if "error" not in job:
            continue
        warnings.append(f"an earlier run's {job['type']} of {name} had failed: {job['error']}")
        if action == "load-running" and current.status == _LEFT_STOPPED:
            ran = True
            if _unloadable(current, name, current.meant):
                first.append(Step("cont"))
            else:
                warnings.append(f"that left the virtual machine stopped ({_LEFT_STOPPED})")
    return first, warnings, ran


def _left_alone(current: Current, name: str, start: Step, ran: bool) -> List[str]:
    """Return what to warn of where a snapshot is loaded: disks that stay as they are, and a VM that stays stopped."""
    devices, warnings = start.arguments["devices"], []
    left = [
        disk.node for disk in current.disks.values() if disk.node not in devices and (disk.attached or disk.find(name))
    ]
    if left:
        warnings.append(f"{', '.join(left)} does not go back in time with the others: devices does not name it")
    if current.status == _LEFT_STOPPED and not ran:
        warnings.append(f"the virtual machine was stopped by a load that failed ({_LEFT_STOPPED}), and stays stopped")
    return warnings


def _devices(current: Current) -> List[str]:
    """Return the nodes that the task is about.

    Raise Refusal where a writable disk would be left out that the user has not left out, as QEMU's own savevm does.
    """
    for node in current.named:
        if not current.disks[node].holds:
            raise Refusal(f"devices: {node} can't hold snapshots: it is not a qcow2 image")
    if current.named:
        return current.named
    left_out = ", ".join(disk.node for disk in current.disks.values() if disk.attached and not disk.holds)
    if not current.meant:
        raise Refusal(
            "devices: the virtual machine has no writable disk that can hold a snapshot (a qcow2 image)"
            + (f"; {left_out} can't" if left_out else "")
        )
    if left_out:
        raise Refusal(
            f"devices: {left_out} can't hold a snapshot (a qcow2 image can), and the guest can write to it. When memory goes back "
            "in time and such a disk does not, its file systems are ruined. Make it read-only or a qcow2 image; or, if the "
            f"guest does not use it, name the others: devices={current.meant}"
        )
    return current.meant


def _vmstate(params: Params, devices: List[str], default: str) -> str:
    node = params["vmstate"] or default
    if node not in devices:
        raise Refusal(f"vmstate: {node} is not one of the devices: {', '.join(devices)}")
    return str(node)


def _save(current: Current, params: Params) -> Step | None:
    name, holders = params["name"], current.holders(params["name"])
    devices = _devices(current)
    vmstate = _vmstate(params, devices, devices[0])
    if not holders:
        if current.blocked:
            raise Refusal(f"a snapshot of the virtual machine can't be saved: {'; '.join(current.blocked)}")
        return Step("snapshot-save", {"tag": name, "vmstate": vmstate, "devices": devices})
    clear = "state=absent removes it everywhere, and then it can be made again"
    if set(holders) != set(devices):
        missing = [node for node in devices if node not in holders]
        more = [node for node in holders if node not in devices]
        parts = [f"not on {', '.join(missing)}"] * bool(missing) + [f"also on {', '.join(more)}"] * bool(more)
        raise Refusal(
            f"name: snapshot {name} is on {', '.join(holders)}, {' and '.join(parts)}: "
            f"it was made for other disks, or never finished; {clear}"
        )
    state = _state_of(current, name, holders)
    if not state or (params["vmstate"] and params["vmstate"] not in state):
        what = f"its machine state is on {state[0]}, not on {params['vmstate']}" if state else "it has no machine state"
        raise Refusal(f"name: snapshot {name} is there, but {what}; {clear}")
    return None


def _delete(current: Current, params: Params) -> Step | None:
    holders = [node for node in current.holders(params["name"]) if not current.named or node in current.named]
    return Step("snapshot-delete", {"tag": params["name"], "devices": holders}) if holders else None


def _load(current: Current, params: Params) -> Step:
    name = params["name"]
    devices = _devices(current)
    trouble = _unloadable(current, name, devices)
    if trouble:
        raise Refusal(f"name: {trouble}")
    for node in devices:  # QEMU notices when the VM is stopped, and other disks have gone back
        if current.disks[node].bitmaps:
            raise Refusal(
                f"devices: {node} has bitmap {current.disks[node].bitmaps[0]}, which would not tell what differs after "
                "that. Remove it first: qemu_bitmap does, and of all disks qemu_backup with state=absent, which keeps the "
                "backups; the next one is a full one"
            )
    state = _state_of(current, name, devices)
    vmstate = _vmstate(params, devices, state[0])
    if vmstate not in state:
        raise Refusal(f"vmstate: {vmstate} does not have the machine state of snapshot {name}: it is on {state[0]}")
    return Step("snapshot-load", {"tag": name, "vmstate": vmstate, "devices": devices})


def _unloadable(current: Current, name: str, devices: List[str]) -> str:
    """Return why QEMU would refuse to load it before it touches a disk; empty when it would not."""
    missing = [node for node in devices if not current.disks[node].find(name)]
    if missing or not devices:
        where = f" on {', '.join(missing)}" if devices else ""
        have = [node for node in devices if node not in missing]
        if have:
            return f"there is no snapshot {name}{where}; where the guest did not have that yet, name the others: devices={have}"
        there = ", ".join(sorted({found["name"] for disk in current.disks.values() for found in disk.snapshots}))
        return f"there is no snapshot {name}{where}; there are: {there or 'none'}"
    if not _state_of(current, name, devices):
        return f"snapshot {name} has no machine state, only the disks'; it can be restored offline, by qemu-img"
    for node in devices:  # QEMU looks for an id first
        other = [one["name"] for one in current.disks[node].snapshots if one["id"] == name and one["name"] != name]
        if other:
            return f"{name} is also the id of snapshot {other[0]} on {node}, which QEMU would load instead"
    return ""


def _state_of(current: Current, name: str, devices: List[str]) -> List[str]:
    """Return the nodes that have the machine's own state of the snapshot: one, usually."""
    found = [(node, current.disks[node].find(name)) for node in devices]
    return [node for node, snapshot in found if snapshot and snapshot["vm-state-size"]]


def _diff(current: Current, params: Params, runs: bool, clears: bool) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return both sides of the diff. ``runs``: whether a job is begun or joined; ``clears``: whether an earlier run's jobs go."""
    name, state = params["name"], params["state"]
    names = sorted({found["name"] for disk in current.disks.values() for found in disk.snapshots})
    before: Dict[str, Any] = {"snapshots": {one: current.holders(one) for one in names}}
    after: Dict[str, Any] = {"snapshots": dict(before["snapshots"])}
    if runs and state == "absent":
        gone = current.named or list(current.disks)
        left = [node for node in after["snapshots"].pop(name, []) if node not in gone]
        if left:
            after["snapshots"][name] = left
    elif runs and state == "present":
        after["snapshots"][name] = current.meant
    elif runs:
        after["loaded"] = name
    if clears:
        before["jobs"], after["jobs"] = [job["id"] for job in current.leftovers.values()], []
    return before, after


def _listed(current: Current) -> List[Dict[str, Any]]:
    """Return each snapshot once, with the nodes that have it."""
    shown: Dict[str, Dict[str, Any]] = {}
    for disk in current.disks.values():
        for found in disk.snapshots:
            one = shown.setdefault(found["name"], {"name": found["name"], "devices": [], "vmstate": None})
            one["devices"].append(disk.node)
            one.setdefault("ids", {})[disk.node] = found["id"]
            date = datetime.datetime.fromtimestamp(found["date-sec"], datetime.timezone.utc)
            one.setdefault("date", date.strftime("%Y-%m-%dT%H:%M:%SZ"))
            one.setdefault("vm_clock", found["vm-clock-sec"] + found["vm-clock-nsec"] / 1e9)
            if found["vm-state-size"]:
                one.update(vmstate=disk.node, vm_state_size=found["vm-state-size"])
    return sorted(shown.values(), key=lambda one: str(one["name"]))


SNAPSHOT = Snapshots()
