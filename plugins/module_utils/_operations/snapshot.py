# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Internal snapshots of a VM and its disks, as QEMU's snapshot jobs make, load and delete them."""

from __future__ import annotations

import datetime
import hashlib
import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_active import AWAY
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import nodes
from ansible_collections.vmm.qemu.plugins.module_utils._operations import jobs
from ansible_collections.vmm.qemu.plugins.module_utils._operations.blocked import check_savable

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

SNAPSHOT = {
    "name": Option("str", required=True),
    "state": Option("str", choices=["present", "absent", "loaded"], default="present"),
    "vmstate": Option("str"),
    "devices": Option("list", elements="str"),
}
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
    """A writable node that stands on no other one's feet."""

    node: str
    attached: bool
    """Whether a device has it."""
    holds: bool
    """Whether it can hold snapshots."""
    snapshots: List[Snapshot]

    def find(self, name: str) -> Snapshot | None:
        """Its snapshot of that name."""
        return next((found for found in self.snapshots if found["name"] == name), None)


class Now(NamedTuple):
    """What was read."""

    disks: Dict[str, Disk]
    """By node: those that a snapshot of the whole VM is about, and those the user named."""
    status: str
    runs: bool
    leftovers: Dict[str, jobs.Job]
    """By action: the jobs that earlier runs began for the same snapshot."""
    named: List[str]
    """The nodes that the user named."""

    @property
    def meant(self) -> List[str]:
        """The nodes that the task is about."""
        return self.named or [disk.node for disk in self.disks.values() if disk.holds]

    def holders(self, name: str) -> List[str]:
        """The nodes that have the snapshot."""
        return [disk.node for disk in self.disks.values() if disk.find(name)]


class Move(NamedTuple):
    """What is to be done."""

    first: List[Step]
    """What an earlier run left behind is cleared away."""
    start: Step | None
    """Starts the job."""
    ident: str
    """The job to see through; empty when there is none."""
    last: List[Step]
    warnings: List[str]

    @property
    def plan(self) -> Plan:
        """All its steps."""
        return Plan([*self.first, *([self.start] if self.start else []), *self.last])


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal for what reading tells can't be done, and for a job that failed."""
    params = task.params
    _check(params)
    vm = task.connect()
    if not vm.has_command("snapshot-save"):
        raise Refusal("this QEMU can't make, load or delete snapshots as jobs (snapshot-save): QEMU 6.0 and later can")
    now = _read(vm, params)
    move = decide(now, params)
    check_savable(vm, move.start)
    result = _result(now, move, params)
    if task.check_mode or not move.plan.steps:
        return {**result, "snapshots": _shown(now)}
    _carry_out(vm, task, move, jobs.Sender(vm))
    return {**result, "snapshots": _shown(_read(vm, {**params, "devices": None}))}


def _check(params: Dict[str, Any]) -> None:
    name = params["name"]
    if not name or len(name.encode()) > _LONGEST:
        raise Refusal(f"name: {name!r} has {len(name.encode())} bytes: a snapshot's name has 1 to {_LONGEST} of them")
    if params["state"] == "present" and name.isdigit():
        raise Refusal(f"name: {name}: a number could be taken for another snapshot's id; begin with a letter")
    if params["devices"] is not None and not params["devices"]:
        raise Refusal("devices: the list is empty; leave it out for all disks that can hold snapshots")


# -- reading ------------------------------------------------------------------


def _read(vm: VM, params: Dict[str, Any]) -> Now:
    known = nodes(vm)
    named = [jobs.node_named(vm, "devices", name) for name in dict.fromkeys(params["devices"] or [])]
    attached = [drive["inserted"]["node-name"] for drive in vm.ask("query-block") if "inserted" in drive]
    graph = vm.ask("x-debug-query-block-graph")
    names = {item["id"]: item["name"] for item in graph["nodes"] if item["type"] == "block-driver"}
    edges = [edge for edge in graph["edges"] if edge["child"] in names]
    used = {names[edge["child"]] for edge in edges}
    below = {names[e["parent"]]: names[e["child"]] for e in edges if e["parent"] in names and e["name"] == "file"}
    free = sorted(node for node in known if node not in used)
    wanted = [*named, *(node for node in [*attached, *free] if not known[node]["ro"])]
    disks = {
        node: Disk(node, node in attached, _holds(node, known, below), known[node]["image"].get("snapshots") or [])
        for node in wanted
    }
    for node in named:
        if known[node]["ro"]:
            raise Refusal(f"devices: {node} is read-only, and can neither take a snapshot nor go back to one")
    status = vm.ask("query-status")
    jobs = {action: jobs.jobs(vm).get(job_id(action, params["name"])) for action in _ACTIONS}
    leftovers = {action: job for action, job in jobs.items() if job is not None}
    return Now(disks, status["status"], status["running"], leftovers, named)


def _holds(node: str, known: Dict[str, Any], below: Dict[str, str]) -> bool:
    while known[node]["drv"] in _THROUGH and below.get(node) in known:
        node = below[node]
    return known[node]["drv"] in _HOLD


def job_id(action: str, name: str) -> str:
    """The id of the job for a snapshot, the same in every run, so that the next one finds it."""
    fit = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if fit != name:
        fit += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"ansible-snapshot-{action}-{fit}"


def decide(now: Now, params: Dict[str, Any]) -> Move:
    """What leads from ``now`` to ``params["state"]``. Pure: the same in check mode. Raises Refusal."""
    name, state = params["name"], params["state"]
    going = {action: job for action, job in now.leftovers.items() if not jobs.has_concluded(job)}
    for action, job in going.items():
        if _ACTIONS[action] != state:
            raise Refusal(f"name: {name}: an earlier run's {job['type']} goes on; run again when that is over")
    first, warnings, ran = _clear(now, name)
    if going:
        ident = next(iter(going.values()))["id"]
        return Move(first, None, ident, [jobs.dismiss(ident)], warnings)
    start = {"present": _save, "absent": _delete, "loaded": _load}[state](now, params, warnings)
    if start is None:
        return Move(first, None, "", [], warnings)
    if now.status in AWAY:
        raise Refusal(f"name: {name}: no snapshot can be taken, loaded or deleted now: {AWAY[now.status]}")
    loads = "load-running" if now.runs or ran else "load-stopped"
    ident = job_id({"present": "save", "absent": "delete"}.get(state, loads), name)
    start = Step(start.execute, {"job-id": ident, **start.arguments})
    last = [jobs.dismiss(ident)]
    if state == "loaded" and ran and not any(step.execute == "cont" for step in first):
        last.append(Step("cont"))
    elif state == "loaded" and now.status == _LEFT_STOPPED and not ran:
        warnings.append(f"the virtual machine was stopped by a load that failed ({_LEFT_STOPPED}), and stays stopped")
    return Move(first, start, ident, last, warnings)


def _clear(now: Now, name: str) -> tuple[List[Step], List[str], bool]:
    """The steps for what earlier runs left behind, what to tell of it, and whether the VM is stopped but had been running."""
    first, warnings, ran = [], [], False
    for action, job in now.leftovers.items():
        if not jobs.has_concluded(job):
            continue
        first.append(jobs.dismiss(job["id"]))
        if "error" not in job:
            continue
        warnings.append(f"an earlier run's {job['type']} of {name} had failed: {job['error']}")
        if action == "load-running" and now.status == _LEFT_STOPPED:
            ran = True
            if _unloadable(now, name, now.meant):
                first.append(Step("cont"))
            else:
                warnings.append(f"that left the virtual machine stopped ({_LEFT_STOPPED})")
    return first, warnings, ran


def _devices(now: Now) -> List[str]:
    """The nodes that the task is about.

    Raises Refusal where a writable disk would be left out that the user has not left out, as QEMU's own savevm does.
    """
    for node in now.named:
        if not now.disks[node].holds:
            raise Refusal(f"devices: {node} can't hold snapshots: it is no qcow2 image")
    if now.named:
        return now.named
    left_out = ", ".join(disk.node for disk in now.disks.values() if disk.attached and not disk.holds)
    if not now.meant:
        raise Refusal(
            "devices: the virtual machine has no writable disk that can hold a snapshot (a qcow2 image)"
            + (f"; {left_out} can't" if left_out else "")
        )
    if left_out:
        raise Refusal(
            f"devices: {left_out} can't hold a snapshot (a qcow2 image can), and the guest can write to it. When memory goes back "
            "in time and such a disk does not, its file systems are ruined. Make it read-only or a qcow2 image; or, if the "
            f"guest does not use it, name the others: devices={now.meant}"
        )
    return now.meant


def _vmstate(params: Dict[str, Any], devices: List[str], default: str) -> str:
    node = params["vmstate"] or default
    if node not in devices:
        raise Refusal(f"vmstate: {node} is not one of the devices: {', '.join(devices)}")
    return str(node)


def _save(now: Now, params: Dict[str, Any], warnings: List[str]) -> Step | None:
    name, holders = params["name"], now.holders(params["name"])
    devices = _devices(now)
    vmstate = _vmstate(params, devices, devices[0])
    if not holders:
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
    state = _state_of(now, name, holders)
    if not state or (params["vmstate"] and params["vmstate"] not in state):
        what = f"its machine state is on {state[0]}, not on {params['vmstate']}" if state else "it has no machine state"
        raise Refusal(f"name: snapshot {name} is there, but {what}; {clear}")
    return None


def _delete(now: Now, params: Dict[str, Any], warnings: List[str]) -> Step | None:
    holders = [node for node in now.holders(params["name"]) if not now.named or node in now.named]
    return Step("snapshot-delete", {"tag": params["name"], "devices": holders}) if holders else None


def _load(now: Now, params: Dict[str, Any], warnings: List[str]) -> Step:
    name = params["name"]
    devices = _devices(now)
    trouble = _unloadable(now, name, devices)
    if trouble:
        raise Refusal(f"name: {trouble}")
    state = _state_of(now, name, devices)
    vmstate = _vmstate(params, devices, state[0])
    if vmstate not in state:
        raise Refusal(f"vmstate: {vmstate} does not have the machine state of snapshot {name}: it is on {state[0]}")
    left = [disk.node for disk in now.disks.values() if disk.node not in devices and (disk.attached or disk.find(name))]
    if left:
        warnings.append(f"{', '.join(left)} does not go back in time with the others: devices does not name it")
    return Step("snapshot-load", {"tag": name, "vmstate": vmstate, "devices": devices})


def _unloadable(now: Now, name: str, devices: List[str]) -> str:
    """Why QEMU would refuse to load it before it touches a disk; empty when it would not."""
    missing = [node for node in devices if not now.disks[node].find(name)]
    if missing or not devices:
        there = ", ".join(sorted({found["name"] for disk in now.disks.values() for found in disk.snapshots}))
        where = f" on {', '.join(missing)}" if devices else ""
        return f"there is no snapshot {name}{where}; there are: {there or 'none'}"
    if not _state_of(now, name, devices):
        return f"snapshot {name} has no machine state, only the disks'; it can be restored offline, by qemu-img"
    for node in devices:  # QEMU looks for an id first
        other = [one["name"] for one in now.disks[node].snapshots if one["id"] == name and one["name"] != name]
        if other:
            return f"{name} is also the id of snapshot {other[0]} on {node}, which QEMU would load instead"
    return ""


def _state_of(now: Now, name: str, devices: List[str]) -> List[str]:
    """The nodes that have the machine's own state of the snapshot: one, usually."""
    found = [(node, now.disks[node].find(name)) for node in devices]
    return [node for node, snapshot in found if snapshot and snapshot["vm-state-size"]]


def _carry_out(vm: VM, task: Task, move: Move, sender: jobs.Sender) -> None:
    name, ident = task.params["name"], move.ident
    what = f"snapshot {name}"
    try:
        for step in [*move.first, *([move.start] if move.start else [])]:
            sender.send(step)
        job = jobs.wait_for_job(vm, ident, what, task.on_progress) if ident else {}
        if ident:
            sender.send(jobs.dismiss(ident))
        if "error" in job:
            raise Refusal(
                f"{what}: {job['error']}{_after_failure(vm, task, ident, sender)}",
                error={"class": "GenericError", "desc": job["error"]},
            )
        for step in move.last[1:]:
            sender.send(step)
    except NotDoneInTime as exc:
        raise Refusal(
            f"{what}: not done within {task.params['timeout']:.4g} s ({jobs.progress_text(exc.found)}; QEMU does not answer "
            "while it copies memory); it goes on, and the next run joins it"
        ) from exc


def _after_failure(vm: VM, task: Task, ident: str, sender: jobs.Sender) -> str:
    """Let a VM run again that a failed load has stopped, and say what became of it; empty for other jobs.

    Not where disks may be in the past already while memory is not: running on would ruin them.
    """
    vm.forget()
    name = task.params["name"]
    if vm.status != _LEFT_STOPPED:
        return ""
    stopped = f"; the virtual machine is stopped ({_LEFT_STOPPED})"
    if ident != job_id("load-running", name):
        return stopped
    now = _read(vm, task.params)
    if not _unloadable(now, name, now.meant):
        return f"{stopped}: its disks may have gone back and its memory not, so load a snapshot that fits, or reset it"
    sender.send(Step("cont"))
    vm.forget()
    return f"; the virtual machine was continued, and is {vm.status}"


def _result(now: Now, move: Move, params: Dict[str, Any]) -> Dict[str, Any]:
    name = params["name"]
    names = sorted({found["name"] for disk in now.disks.values() for found in disk.snapshots})
    before: Dict[str, Any] = {"snapshots": {one: now.holders(one) for one in names}}
    aim: Dict[str, Any] = {"snapshots": dict(before["snapshots"])}
    if move.ident and params["state"] == "absent":
        gone = now.named or list(now.disks)
        aim["snapshots"][name] = [node for node in aim["snapshots"].pop(name, []) if node not in gone]
        if not aim["snapshots"][name]:
            del aim["snapshots"][name]
    elif move.ident and params["state"] == "present":
        aim["snapshots"][name] = now.meant
    elif move.ident:
        aim["loaded"] = name
    if move.first or (move.ident and not move.start):
        before["jobs"], aim["jobs"] = [job["id"] for job in now.leftovers.values()], []
    return {
        "changed": bool(move.plan.steps),
        "commands": move.plan.commands,
        "diff": {"before": before, "after": aim},
        "warnings": move.warnings,
    }


def _shown(now: Now) -> List[Dict[str, Any]]:
    """Each snapshot once, with the nodes that have it."""
    shown: Dict[str, Dict[str, Any]] = {}
    for disk in now.disks.values():
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
