# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Block jobs: mirror, backup, commit and stream, begun, joined, followed to their end, or cancelled."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

from .._core.errors import Refusal
from .._core.option import Option, check_id
from .._core.plan import Plan
from .._core.step import Step
from .._kinds.blockdev_active import check_active, check_staying
from .._kinds.blockdev_graph import attached, chain_from, job_roles, users
from .._kinds.blockdev_nodes import inserted, node_meant, nodes, unknown_node
from .._qmp.values import human_size, parse_bool
from . import jobs

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._engine.operation import Params

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
# The roles of a job that ends only when it is told to, and then gives the device its target.
_PIVOTS = {"source", "target", "main node"}
_MOST = (1 << 63) - 1


class Current(NamedTuple):
    """What was read: the job, or where there is none the nodes that one would work on."""

    job: jobs.Job | None = None
    pivots: bool = False
    """Whether the job waits to be completed when it is ready: mirrors, and commits of the active layer."""
    nodes: Dict[str, Dict[str, Any]] = {}
    """All block nodes by name."""
    source: str | None = None
    """The node that ``device`` means."""
    chain: Sequence[str] = ()
    """The source and the nodes that its content comes from, from the top one down."""
    tops: FrozenSet[str] = frozenset()
    """The top nodes of what devices have."""
    attached: FrozenSet[str] = frozenset()
    """Which of the source and ``top_node`` a device has, be it through nodes above."""
    target_users: Sequence[str] = ()
    """Who uses the target: ``device d0``."""
    keeps: bool = True
    """Whether QEMU keeps the job when it is over. Else the chain tells that it is done, and its last event why not."""
    coerce: Callable[[str, Dict[str, Any]], Dict[str, Any]] = lambda command, arguments: arguments
    """Gives a command's arguments the types that this QEMU wants."""


class BlockJob(jobs.JobOperation):
    """Copy or merge a disk's data while the VM runs."""

    options = {
        "id": Option("str", required=True),
        "operation": Option("str", choices=["mirror", "backup", "commit", "stream"]),
        "state": Option("str", choices=["finished", "running", "paused", "cancelled"], default="finished"),
        "device": Option("str", aliases=["node"]),
        "target": Option("str"),
        "base_node": Option("str"),
        "top_node": Option("str"),
        "sync": Option("str"),
        "speed": Option("str"),
        "complete": Option("str", default="pivot"),
        "options": Option("dict", default={}),
    }

    def check(self, params: Params) -> Params:
        """Return the parameters, ``speed`` as a number, ``complete`` as "pivot", "copy" or "false".

        Raise Refusal for options that mean nothing for the operation.
        """
        check_id("job", "id", params["id"])
        operation, speed, complete = params["operation"], params["speed"], _completion(params["complete"])
        if speed is not None:
            try:
                speed = human_size(speed)
            except ValueError as exc:
                raise Refusal(f"speed: {exc}") from exc
            if speed > _MOST:
                raise Refusal(f"speed: {speed} bytes a second is more than QEMU can count")
        for name, takers in _TAKERS.items():
            if operation and params[name] is not None and operation not in takers:
                raise Refusal(f"{name}: means nothing for {operation}; it is for {' and '.join(takers)}")
        if complete == "copy" and operation:
            _check_copies(operation)
        for name in params["options"]:
            if not isinstance(name, str):
                raise Refusal(f"options: {name!r} is not a valid name of an option")
            if name.replace("_", "-") in _OWN:
                own = name.replace("-", "_")
                why = f"has an option of its own: {own}" if own in self.options else "is set by the module"
                raise Refusal(f"options: {name} {why}")
        return {**params, "speed": speed, "complete": complete}

    def read(self, vm: VM, params: Params) -> Current:
        """Return the job or, where one is to begin, the nodes. Raise Refusal where the disk is not this QEMU's to write to."""
        job = jobs.find(vm, params["id"])
        if job is not None:
            ends = params["state"] == "finished" and not jobs.has_concluded(job)
            pivots = ends and job_roles(vm, params["id"]) >= _PIVOTS
            if pivots:
                check_staying(vm, f"state: finishing {params['id']}, which gives its device another image")
            return Current(job, pivots=pivots)
        if params["state"] == "cancelled" or _missing(params):
            return Current()
        source, target = node_meant(vm, params["device"]), params["target"]
        current = Current(
            nodes=nodes(vm),
            source=source,
            chain=chain_from(vm, source or ""),
            tops=frozenset(inserted(vm)),
            attached=frozenset(node for node in (source, params["top_node"]) if node and attached(vm, node)),
            keeps=vm.may_keep(params["operation"]),
            target_users=[f"{kind} {name}" for kind, name in users(vm, target) if kind != "export"] if target else [],
        )
        if source is None or _is_done(current, params):
            return current
        check_active(vm, f"device: a {params['operation']} of {source}", source)
        check_staying(vm, f"device: a {params['operation']} of {source}", "the job would make that fail, or lose data")
        # the schema is large: asked only where something is begun
        return current._replace(coerce=vm.schema.coerce)

    def plan(self, current: Current, params: Params) -> Plan:
        """Return what leads to the state. Raise Refusal for what QEMU would refuse."""
        job, ident, finishes = current.job, params["id"], params["state"] == "finished"
        if job is None:
            return _unchanged("absent") if params["state"] == "cancelled" else _begin(current, params)
        _check_same(job, params)
        what = f"{job['type']} {ident}"
        if not jobs.has_concluded(job):
            return _join(current, job, what, params)
        stage = {"status": "concluded"}
        if params["state"] == "cancelled":
            return jobs.JobPlan(what, ident, may_fail=True, before=stage, after={"status": "absent"})
        if not finishes and "error" not in job:
            return _unchanged("concluded")
        return jobs.JobPlan(what, ident, before=stage, after={"status": "finished"})

    def describe(self, current: Current, params: Params, plan: Plan, end: jobs.Job | None) -> Dict[str, Any]:
        """Return ``job`` as it was seen last. In check mode raise OperationFailed for one that failed while nobody watched."""
        job = current.job if end is None else end
        if end is None and isinstance(plan, jobs.JobPlan) and job and "error" in job and not plan.may_fail:
            raise jobs.job_failed(plan, job, changed=True, commands=plan.commands)
        return {"job": jobs.job_result(job)}


def _missing(params: Params) -> str:
    """Return what a job can't be begun without and the task does not give; empty where it gives all."""
    operation = params["operation"]
    if operation is None:
        return f"operation: there is no job {params['id']} to join, and to begin one its operation must be given"
    if params["device"] is None:
        return f"device: to begin a {operation}, the device or node that it works on must be given"
    if operation in _COPIES and params["target"] is None:
        return f"target: to begin a {operation}, the node that it copies to must be given"
    return ""


def _check_same(job: jobs.Job, params: Params) -> None:
    """Raise Refusal where the job that is there can't be the one that is meant."""
    ident, kind, wanted = params["id"], job["type"], params["operation"]
    if kind not in _COMMANDS or (wanted and kind != wanted):
        raise Refusal(
            f"id: there is a job {ident} already, and it is a {kind}, not {'a ' + wanted if wanted else 'a block job'} "
            f"({jobs.progress_text(job)}); take another id, or end that one first"
        )
    if params["complete"] == "copy":
        _check_copies(kind)


def _join(current: Current, job: jobs.Job, what: str, params: Params) -> Plan:
    """Return the plan that pauses, resumes, hurries, ends or cancels a job that goes on, or only watches it."""
    ident, state, paused = params["id"], params["state"], job["status"] in jobs.PAUSED
    before: Dict[str, Any] = {"status": "paused" if paused else "running"}
    # none for a job that somebody began who let it dismiss itself
    dismisses = not job.get("auto-dismiss")
    if state == "cancelled":
        cancel = [Step("job-cancel", {"id": ident})]
        after: Dict[str, Any] = {"status": "absent"}
        return jobs.JobPlan(what, ident, cancel, dismisses=dismisses, may_fail=True, before=before, after=after)
    begin, after = _changes(job, params), {"status": {"finished": "running"}.get(state, state)}
    if params["speed"] is not None:
        before["speed"], after["speed"] = job.get("speed"), params["speed"]
    if state != "finished" or (current.pivots and params["complete"] == "false"):
        waits = bool(begin) or (state == "finished" and job["status"] not in jobs.READY)
        until = _until(params, resumed=paused) if waits else ()
        return jobs.JobPlan(what, ident, begin, until=until, dismisses=False, before=before, after=after)
    return jobs.JobPlan(
        what,
        ident,
        begin,
        completed_by=_ending(ident, params) if current.pivots else (),
        dismisses=dismisses,
        before=before,
        after={**after, "status": "finished"},
    )


def _completion(given: str) -> str:
    """Return what is done with a job that is ready: "pivot", "copy" or "false". Raise Refusal."""
    text = given.lower()
    if text in ("pivot", "copy"):
        return text
    try:
        return "pivot" if parse_bool(text) else "false"
    except ValueError:
        raise Refusal(f"complete: {given!r} is not one of pivot, copy, false") from None


def _check_copies(operation: str) -> None:
    """Raise Refusal for an operation that leaves no copy when it is ended."""
    if operation != "mirror":
        raise Refusal(f"complete: copy means nothing for {operation}; it is for mirror")


def _ending(ident: str, params: Params) -> List[Step]:
    """Return what ends a job that is ready. Without force, ``block-job-cancel`` first brings the target up to date."""
    return [Step("block-job-cancel", {"device": ident}) if params["complete"] == "copy" else jobs.complete(ident)]


def _changes(job: jobs.Job, params: Params) -> List[Step]:
    """Return what gives a job that goes on the speed that it shall have, and pauses it or lets it go on."""
    ident, paused, pauses = params["id"], job["status"] in jobs.PAUSED, params["state"] == "paused"
    steps = []
    if params["speed"] is not None and params["speed"] != job.get("speed"):
        steps.append(Step("block-job-set-speed", {"device": ident, "speed": params["speed"]}))
    if pauses != paused:
        steps.append(Step("job-pause" if pauses else "job-resume", {"id": ident}))
    return steps


def _until(params: Params, resumed: bool = False) -> Tuple[str, ...]:
    """Return the statuses of a job that the task leaves to itself."""
    started = jobs.GOING if resumed else jobs.STARTED
    return {"finished": jobs.READY, "paused": jobs.PAUSED}.get(params["state"], started)


def _unchanged(status: str) -> Plan:
    return Plan(before={"status": status}, after={"status": status})


def _begin(current: Current, params: Params) -> Plan:
    """Return the plan that begins the job, unless nothing is left for it to do."""
    operation, ident, finishes = params["operation"], params["id"], params["state"] == "finished"
    missing = _missing(params)
    if missing:
        raise Refusal(missing)
    if _is_done(current, params):
        return _unchanged("finished" if finishes else "not needed")
    pivots = operation == "mirror" or (operation == "commit" and params["top_node"] in (None, params["device"]))
    stays = not finishes or (pivots and params["complete"] == "false")
    pauses = [Step("job-pause", {"id": ident})] if params["state"] == "paused" else []
    return jobs.JobPlan(
        f"{operation} {ident}",
        ident,
        [Step(_COMMANDS[operation], _arguments(current, params)), *pauses],
        until=_until(params) if stays else jobs.CONCLUDED,
        completed_by=_ending(ident, params) if pivots and not stays else (),
        dismisses=not stays and current.keeps,
        before={"status": "absent"},
        after={"status": "paused" if pauses else "running" if stays else "finished"},
    )


def _is_done(current: Current, params: Params) -> bool:
    """Tell whether nothing is left to do by what can be read. A backup or a copy is always another one."""
    operation, device, top = params["operation"], params["device"], params["top_node"]
    source, chain, tops = current.source, current.chain, current.tops
    end = params["target"] if operation == "mirror" else params["base_node"]
    at_top = operation in ("mirror", "commit") and top in (None, device)
    copies = operation == "backup" or params["complete"] == "copy"
    if at_top and end in tops and device not in current.nodes and not copies:
        # the source has gone with its device's change to the target, or it is the device that is named
        return source in (None, end)
    if source is None:
        raise unknown_node("device", device, current.nodes)
    if copies:
        return False
    if operation == "mirror":
        return source not in current.attached and end in tops and source != end
    if end is not None and end not in chain:
        if end not in current.nodes:
            raise unknown_node("base_node", end, current.nodes)
        raise Refusal(f"base_node: {end} is not below {device}: below that is {', '.join(chain[1:]) or 'nothing'}")
    if operation == "stream":
        return len(chain) == 1 or (end is not None and chain[1] == end)
    if top not in (None, device, source):
        return top not in chain and top not in current.attached
    below = end or chain[-1]
    return below == source or (source not in current.attached and below in tops)


def _arguments(current: Current, params: Params) -> Dict[str, Any]:
    """Return the command's arguments, in the types that this QEMU wants. Raise Refusal for a target that can't be one."""
    operation = params["operation"]
    made: Dict[str, Any] = {"job-id": params["id"], "device": current.source}
    if operation in _COPIES:
        _check_target(current, params)
        made.update({"target": params["target"], "sync": params["sync"] or "full"})
    for option in ("base_node", "top_node", "speed"):
        if params[option] is not None:
            made[option.replace("_", "-")] = params[option]
    made.update({name.replace("_", "-"): value for name, value in params["options"].items()})
    made["auto-dismiss"] = not current.keeps
    return current.coerce(_COMMANDS[operation], made)


def _check_target(current: Current, params: Params) -> None:
    """Raise Refusal for a target that QEMU would not write to, or that somebody uses."""
    operation, source, target = params["operation"], current.source, params["target"]
    if target not in current.nodes:
        raise unknown_node("target", target, current.nodes)
    if target == source:
        raise Refusal(f"target: {target} is the source itself")
    if current.nodes[target]["ro"]:
        raise Refusal(f"target: {target} is read-only")
    size, wanted = (current.nodes[str(node)]["image"]["virtual-size"] for node in (target, source))
    if size != wanted:
        raise Refusal(
            f"target: {target} has {size} bytes and the source {source} has {wanted}: "
            f"a {operation} needs a target of the same size"
        )
    if current.target_users:
        raise Refusal(
            f"target: {target} is in use by {', '.join(current.target_users)}, and the {operation} would overwrite it"
        )


BLOCK_JOB = BlockJob()
