# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""Block jobs: mirror, backup, commit and stream, begun, joined, seen through to their end, or cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import NotDoneInTime, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import Option, check_id
from ansible_collections.vmm.qemu.plugins.module_utils._core.plan import Plan
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_active import check_active
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_graph import attached, children, users
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.blockdev_nodes import nodes
from ansible_collections.vmm.qemu.plugins.module_utils._operations import jobs
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.task import Task
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

BLOCK_JOB = {
    "id": Option("str", required=True),
    "operation": Option("str", choices=["mirror", "backup", "commit", "stream"]),
    "state": Option("str", choices=["finished", "running", "cancelled"], default="finished"),
    "device": Option("str", aliases=["node"]),
    "target": Option("str"),
    "base_node": Option("str"),
    "top_node": Option("str"),
    "sync": Option("str"),
    "speed": Option("str"),
    "complete": Option("bool", default=True),
    "options": Option("dict", default={}),
}
_COMMANDS = {
    "mirror": "blockdev-mirror",
    "backup": "blockdev-backup",
    "commit": "block-commit",
    "stream": "block-stream",
}
_COPIES = ("mirror", "backup")
# The options that only some operations take.
_TAKERS = {"target": _COPIES, "sync": _COPIES, "base_node": ("commit", "stream"), "top_node": ("commit",)}
_OWN = ("job-id", "device", "target", "sync", "speed", "base-node", "top-node", "auto-dismiss", "auto-finalize")
# QEMU must not keep it once it is over: versions up to 10.0 at least crash when they list their block nodes beside such a
# job. Whether it is done is read from the chain, and why it failed from the event that ends it.
_FORGOTTEN = ("stream",)
# The roles that a job plays which ends only when it is told to, and then gives the device its target.
_PIVOTS = ("source", "target")
_MOST = (1 << 63) - 1


class Move(NamedTuple):
    """What is to be done."""

    start: List[Step]
    """Starts the job, or changes its speed, or cancels it."""
    complete: Step | None
    """For a job that is ready."""
    last: List[Step]
    """Once it has concluded."""
    until: str
    """What is waited for: ``started``, ``ready``, ``concluded``, or empty for nothing."""
    before: Dict[str, Any]
    after: Dict[str, Any]

    @property
    def plan(self) -> Plan:
        """All its steps."""
        return Plan([*self.start, *([self.complete] if self.complete else []), *self.last])


def work(task: Task) -> Dict[str, Any]:
    """The result of a task. Raises Refusal for what reading tells can't be done, and for a job that failed."""
    params = dict(task.params)
    _check(params)
    vm = task.connect()
    job = jobs.find(vm, params["id"])
    _fits(params, job)
    move = _cancel(params, job) if params["state"] == "cancelled" else _decide(vm, params, job)
    result = {
        "changed": bool(move.plan.steps),
        "commands": move.plan.commands,
        "diff": {"before": move.before, "after": move.after},
    }
    if task.check_mode:
        _check_failed(params, job, move)
    elif move.until:
        job = _carry_out(vm, task, params, move)
    return {**result, "job": jobs.job_result(job)}


# -- what was asked for ---------------------------------------------------------


def _check(params: Dict[str, Any]) -> None:
    """Raise Refusal for what is wrong whatever the VM is like; make ``speed`` a number."""
    check_id("job", "id", params["id"])
    operation = params["operation"]
    if params["speed"] is not None:
        try:
            params["speed"] = human_size(params["speed"])
        except ValueError as exc:
            raise Refusal(f"speed: {exc}") from exc
        if params["speed"] > _MOST:
            raise Refusal(f"speed: {params['speed']} bytes a second is more than QEMU can count")
    for name, takers in _TAKERS.items():
        if operation and params[name] is not None and operation not in takers:
            raise Refusal(f"{name}: means nothing for {operation}; it is for {' and '.join(takers)}")
    for name in params["options"]:
        if not isinstance(name, str):
            raise Refusal(f"options: {name!r} is not a valid name of an option")
        if name.replace("_", "-") in _OWN:
            own = name.replace("-", "_")
            why = f"has an option of its own: {own}" if own in BLOCK_JOB else "is set by the module"
            raise Refusal(f"options: {name} {why}")


def _fits(params: Dict[str, Any], job: jobs.Job | None) -> None:
    """Whether a job that is there can be the one that is meant. Raises Refusal; else its type is the operation."""
    if job is None:
        return
    ident, kind, wanted = params["id"], job["type"], params["operation"]
    if kind not in _COMMANDS or (wanted and kind != wanted):
        raise Refusal(
            f"id: there is a job {ident} already, and it is a {kind}, not {'a ' + wanted if wanted else 'a block job'} "
            f"({jobs.progress_text(job)}); take another id, or end that one first"
        )
    params["operation"] = kind


# -- deciding -------------------------------------------------------------------


def _cancel(params: Dict[str, Any], job: jobs.Job | None) -> Move:
    if job is None:
        return _nothing("absent")
    ident = params["id"]
    cancels = [] if jobs.has_concluded(job) else [Step("job-cancel", {"id": ident})]
    return Move(cancels, None, _dismissal(job), "concluded", _stage(job), {"status": "absent"})


def _decide(vm: VM, params: Dict[str, Any], job: jobs.Job | None) -> Move:
    """What leads to ``finished`` or ``running``. Raises Refusal for what QEMU would refuse or fail."""
    if job is None:
        return _begin(vm, params)
    finishes = params["state"] == "finished"
    if jobs.has_concluded(job):
        if not finishes and "error" not in job:
            return _nothing(jobs.CONCLUDED)
        return Move([], None, _dismissal(job), "concluded", _stage(job), {"status": "finished"})
    start, before, after = [], _stage(job), _stage(job)
    if params["speed"] is not None and params["speed"] != job.get("speed"):
        start.append(Step("block-job-set-speed", {"device": params["id"], "speed": params["speed"]}))
        before, after = {**before, "speed": job.get("speed")}, {**after, "speed": params["speed"]}
    if not finishes:
        return Move(start, None, [], "started" if start else "", before, after)
    pivots = _pivots(vm, params["id"])
    if pivots and not params["complete"]:
        wait = bool(start) or job["status"] != "ready"
        return Move(start, None, [], "ready" if wait else "", before, after)
    return _ending(
        Move(start, None, _dismissal(job), "concluded", before, {**after, "status": "finished"}), params, pivots
    )


def _begin(vm: VM, params: Dict[str, Any]) -> Move:
    operation, finishes = params["operation"], params["state"] == "finished"
    if operation is None:
        raise Refusal(
            f"operation: there is no job {params['id']} to join, and to begin one its operation must be given"
        )
    if params["device"] is None:
        raise Refusal(f"device: to begin a {operation}, the device or node that it works on must be given")
    if operation in _COPIES and params["target"] is None:
        raise Refusal(f"target: to begin a {operation}, the node that it copies to must be given")
    if _done(vm, params):
        return _nothing("finished" if finishes else "not needed")
    steps = [Step(_COMMANDS[operation], _arguments(vm, params))]
    before = {"status": "absent"}
    pivots = operation == "mirror" or (operation == "commit" and params["top_node"] in (None, params["device"]))
    if not finishes:
        return Move(steps, None, [], "started", before, {"status": "running"})
    if pivots and not params["complete"]:
        return Move(steps, None, [], "ready", before, {"status": "running"})
    last = [] if operation in _FORGOTTEN else [jobs.dismiss(params["id"])]
    return _ending(Move(steps, None, last, "concluded", before, {"status": "finished"}), params, pivots)


def _ending(move: Move, params: Dict[str, Any], pivots: bool) -> Move:
    return move._replace(complete=Step("job-complete", {"id": params["id"]})) if pivots else move


def _nothing(status: str) -> Move:
    return Move([], None, [], "", {"status": status}, {"status": status})


def _stage(job: jobs.Job) -> Dict[str, Any]:
    """A job's status for the diff, where what a moving job happens to be at does not matter."""
    return {"status": jobs.CONCLUDED if jobs.has_concluded(job) else "running"}


def _dismissal(job: jobs.Job) -> List[Step]:
    """None for a job that somebody began who let it dismiss itself."""
    return [] if job.get("auto-dismiss") and not jobs.has_concluded(job) else [jobs.dismiss(job["id"])]


def _pivots(vm: VM, ident: str) -> bool:
    """Whether a job waits to be completed when it is ready: mirrors, and commits of the active layer."""
    graph = vm.ask("x-debug-query-block-graph")
    mine = {item["id"] for item in graph["nodes"] if item["type"] == "block-job" and item["name"] == ident}
    roles = {edge["name"] for edge in graph["edges"] if edge["parent"] in mine}
    return all(role in roles for role in _PIVOTS) and "main node" in roles


# -- reading the graph ------------------------------------------------------------


def _done(vm: VM, params: Dict[str, Any]) -> bool:
    """Whether nothing is left to do by what can be read. A backup is always another one."""
    operation, device = params["operation"], params["device"]
    roots = {drive["inserted"]["node-name"] for drive in vm.ask("query-block") if "inserted" in drive}
    end = params["target"] if operation == "mirror" else params["base_node"]
    if operation == "backup":
        return False
    if operation != "stream" and params["top_node"] in (None, device) and end in roots and device not in nodes(vm):
        # the source has gone with its device's change to the target, or it is the device that is named
        return not _exists(vm, device) or jobs.node_named(vm, "device", device) == end
    source = jobs.node_named(vm, "device", device)
    if operation == "mirror":
        return not attached(vm, source) and end in roots and source != end
    chain = _chain(vm, source)
    if end is not None and end not in chain:
        _known(vm, "base_node", end)
        raise Refusal(f"base_node: {end} is not below {device}: that stands on {', '.join(chain[1:]) or 'nothing'}")
    if operation == "stream":
        return len(chain) == 1 or (end is not None and chain[1] == end)
    if params["top_node"] not in (None, device, source):
        return params["top_node"] not in chain and not attached(vm, params["top_node"])
    below = end or chain[-1]
    return below == source or (not attached(vm, source) and below in roots)


def _exists(vm: VM, device: str) -> bool:
    try:
        return bool(jobs.node_named(vm, "device", device))
    except Refusal:
        return False


def _chain(vm: VM, node: str) -> List[str]:
    """The node and those it stands on, down to the last."""
    chain = [node]
    while True:
        below = children(vm, chain[-1])
        following = below.get("backing")
        if (
            following is None
            and "file" in below
            and nodes(vm).get(chain[-1], {}).get("drv") in ("copy-on-read", "throttle")
        ):
            following = below["file"]
        if following is None:
            return chain
        chain.append(following)


def _known(vm: VM, option: str, node: str) -> Dict[str, Any]:
    """What is known of a node. Raises Refusal, listing those there are."""
    known = nodes(vm)
    if node not in known:
        names = ", ".join(sorted(name for name in known if not name.startswith("#")))
        raise Refusal(f"{option}: there is no block node {node!r}; there are: {names or 'none with a name'}")
    return known[node]


def _arguments(vm: VM, params: Dict[str, Any]) -> Dict[str, Any]:
    """The command's arguments, in the types that this QEMU wants. Raises Refusal for what it would refuse."""
    operation = params["operation"]
    source = jobs.node_named(vm, "device", params["device"])
    check_active(vm, f"device: a {operation} of {source}", source)
    made: Dict[str, Any] = {"job-id": params["id"], "device": source}
    if operation in _COPIES:
        _check_target(vm, operation, source, params["target"])
        made.update({"target": params["target"], "sync": params["sync"] or "full"})
    for option in ("base_node", "top_node"):
        if params[option] is not None:
            made[option.replace("_", "-")] = params[option]
    if params["speed"] is not None:
        made["speed"] = params["speed"]
    made.update({name.replace("_", "-"): value for name, value in params["options"].items()})
    made["auto-dismiss"] = operation in _FORGOTTEN
    return vm.schema.coerce(_COMMANDS[operation], made)


def _check_target(vm: VM, operation: str, source: str, target: str) -> None:
    """Raise Refusal for a target that QEMU would not write to."""
    to, size = _known(vm, "target", target), _known(vm, "device", source)["image"]["virtual-size"]
    if target == source:
        raise Refusal(f"target: {target} is the source itself")
    if to["ro"]:
        raise Refusal(f"target: {target} is read-only")
    if to["image"]["virtual-size"] != size:
        raise Refusal(
            f"target: {target} has {to['image']['virtual-size']} bytes and the source {source} has {size}: "
            f"a {operation} needs a target of the same size"
        )
    used = [f"{kind} {name}" for kind, name in users(vm, target) if kind in ("device", "blockdev", "block job")]
    if used:
        raise Refusal(f"target: {target} is in use by {', '.join(used)}, and the {operation} would overwrite it")


# -- doing ------------------------------------------------------------------------


def _check_failed(params: Dict[str, Any], job: jobs.Job | None, move: Move) -> None:
    """In check mode nothing is sent: raise Refusal for a job that failed while nobody watched, as the real run will."""
    if job is None or "error" not in job or not jobs.has_concluded(job) or params["state"] == "cancelled":
        return
    what, desc = f"{params['operation']} {params['id']}", job["error"]
    raise Refusal(
        f"{what}: {desc}; run the task again to begin anew",
        changed=True,
        commands=move.plan.commands,
        error={"class": "GenericError", "desc": desc},
        job=jobs.job_result(job),
    )


def _carry_out(vm: VM, task: Task, params: Dict[str, Any], move: Move) -> jobs.Job:
    ident, what = params["id"], f"{params['operation']} {params['id']}"
    sender = jobs.Sender(vm)
    job: jobs.Job | None = None
    until = {"started": ("running", "ready", "paused", "standby"), "ready": ("ready",)}.get(move.until, ())
    try:
        for step in move.start:
            sender.send(step)
        if move.complete:
            job = jobs.wait_for_job(vm, ident, what, task.on_progress, ("ready",))
            if job["status"] == "ready":
                sender.send(move.complete)
        job = jobs.wait_for_job(vm, ident, what, task.on_progress, until)
        cancelled = params["state"] == "cancelled"
        if move.last and (cancelled or jobs.has_concluded(job)):
            for step in move.last:
                sender.send(step)
    except NotDoneInTime as exc:
        raise Refusal(
            f"{what}: not {params['state']} within {params['timeout']:.4g} s ({jobs.progress_text(exc.found or job)}); "
            "it goes on, and the next run joins it",
            job=jobs.job_result(exc.found or job),
        ) from exc
    if "error" in job and not cancelled:
        _fail(vm, what, job, move, sender)
    return job


def _fail(vm: VM, what: str, job: jobs.Job, move: Move, sender: jobs.Sender) -> None:
    """Raise Refusal for a job that ended with an error; QEMU need not keep it, since its error is told here."""
    if not move.last and jobs.find(vm, job["id"]) is not None:
        sender.send(jobs.dismiss(job["id"]))
    raise Refusal(
        f"{what}: {job['error']}; run the task again to begin anew",
        error={"class": "GenericError", "desc": job["error"]},
        job=jobs.job_result(job),
    )
