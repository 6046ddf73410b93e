# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""What both sides of a migration share: its settings, by the names that this QEMU has, and where it stands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, Set, Tuple

from ansible_collections.vmm.qemu.plugins.module_utils._core import coercion
from ansible_collections.vmm.qemu.plugins.module_utils._core.errors import Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._core.option import suggestion
from ansible_collections.vmm.qemu.plugins.module_utils._core.progress import Progress
from ansible_collections.vmm.qemu.plugins.module_utils._core.step import Step
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.host_path import check_output
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import UNIX_LONGEST
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.values import human_size, parse_bool

if TYPE_CHECKING:
    from ansible_collections.vmm.qemu.plugins.module_utils._core.vm import VM

RUNNING = frozenset(
    "setup active cancelling pre-switchover device wait-unplug colo "
    "postcopy-active postcopy-recover postcopy-recover-setup".split()
)
"""Under way, by ``query-migrate``."""
HERE, LEFT, UNKNOWN = "here", "left", "unknown"
"""Where the guest is, as results say it."""
_ONE_WAY = ("exec:", "file:", "fd:")
_LIVE = frozenset(
    "max-bandwidth avail-switchover-bandwidth downtime-limit max-postcopy-bandwidth max-cpu-throttle cpu-throttle-initial "
    "cpu-throttle-increment cpu-throttle-tailslow throttle-trigger-threshold x-vcpu-dirty-limit-period vcpu-dirty-limit".split()
)
"""The parameters that a migration which runs already takes up."""


def check_uri(uri: str) -> None:
    """Raise Refusal for what is no migration address at all; which protocols there are, QEMU knows."""
    protocol, colon, rest = uri.partition(":")
    if not (protocol and colon and rest):
        raise Refusal(
            f"uri: {uri!r} is not a valid migration address: write tcp:HOST:PORT, unix:/path, exec:COMMAND, file:/path or fd:NAME"
        )
    if protocol == "unix" and len(os.fsencode(rest)) > UNIX_LONGEST:
        raise Refusal(f"uri: {rest} is longer than the {UNIX_LONGEST} bytes that a UNIX socket's path may have")


def check_file(vm: VM, uri: str) -> None:
    """Raise Refusal where a migration into a file would overwrite one. Beyond an ``offset``, what lies before it is kept."""
    protocol, _colon, rest = uri.partition(":")
    if protocol == "file":
        path, _comma, offset = rest.partition(",offset=")
        keeps = offset.strip("0x") != ""
        check_output(vm, "uri", path, ("migration", uri), keeps, "remove it, or name another file")


def two_way(uri: str) -> bool:
    """Whether the destination can answer on it; a return path over anything else makes QEMU hang."""
    return not uri.startswith(_ONE_WAY)


def leaving(state: str, run_state: str) -> bool:
    """Whether all of the guest may have been sent, so that it may run at the destination: QEMU waits for its word only.

    QEMU 10.0 calls that ``device``; before, a migration stays ``active``, and the run state alone tells.
    """
    return state == "device" or (run_state == "finish-migrate" and state in ("active", "cancelling", "wait-unplug"))


def joining(vm: VM, params: Dict[str, Any]) -> Tuple[List[Step], List[str]]:
    """The steps and the warnings of a task that finds its migration running: what can still be set is, the rest is told."""
    steps, late = _parameters(vm, params["parameters"] or {}), []
    late += [name for step in steps for name in sorted(set(step.arguments) - _LIVE)]
    steps = [_only_live(step).replace(undo=tuple(map(_only_live, step.undo))) for step in steps]
    late += [
        entry["capability"]
        for step in _capabilities(vm, params["capabilities"] or {}, {})
        for entry in step.arguments["capabilities"]
    ]
    warnings = (
        [f"the migration runs already, and {', '.join(late)} can't be changed any more: it goes on without"]
        if late
        else []
    )
    return [step for step in steps if step.arguments], warnings


def _only_live(step: Step) -> Step:
    return step.replace(arguments={name: value for name, value in step.arguments.items() if name in _LIVE})


def settings(vm: VM, params: Dict[str, Any], usual: Dict[str, bool]) -> List[Step]:
    """The steps to the capabilities and parameters that were asked for, each undone by what was set before.

    ``usual``: the capabilities to set unless the task says otherwise or this QEMU has none of that name.
    Raises Refusal for a name that this QEMU does not know, and for a value of another type.
    """
    return [*_capabilities(vm, params["capabilities"] or {}, usual), *_parameters(vm, params["parameters"] or {})]


def set_by(step: Step) -> Set[str]:
    """The names of what a step of `settings` sets."""
    if step.execute == "migrate-set-parameters":
        return set(step.arguments)
    return {entry["capability"] for entry in step.arguments.get("capabilities", [])}


def capabilities(vm: VM) -> Dict[str, bool]:
    """All that this QEMU has, and whether they are on."""
    return {item["capability"]: item["state"] for item in vm.ask("query-migrate-capabilities")}


def _capabilities(vm: VM, asked: Dict[str, Any], usual: Dict[str, bool]) -> List[Step]:
    have = capabilities(vm)
    wanted = {name: state for name, state in usual.items() if name in have}
    for name, value in asked.items():
        known = _known("capabilities", name, have)
        try:
            wanted[known] = parse_bool(value)
        except ValueError as exc:
            raise Refusal(f"capabilities: {name}: {exc}") from exc
    changed = [name for name in sorted(wanted) if wanted[name] != have[name]]
    return [_set_capabilities(changed, wanted, [_set_capabilities(changed, have, [])])] if changed else []


def _set_capabilities(names: List[str], states: Dict[str, bool], undo: List[Step]) -> Step:
    entries = [{"capability": name, "state": states[name]} for name in names]
    return Step("migrate-set-capabilities", {"capabilities": entries}, undo=undo)


def _parameters(vm: VM, asked: Dict[str, Any]) -> List[Step]:
    if not asked:
        return []
    have: Dict[str, Any] = vm.ask("query-migrate-parameters")
    settable = set(vm.schema.members("migrate-set-parameters"))
    wanted = {}
    for name, value in asked.items():
        known = _known("parameters", name, settable)
        value = _fitting(name, value, have.get(known))
        if value != have.get(known):
            wanted[known] = value
    if not wanted:
        return []
    arguments = vm.schema.coerce("migrate-set-parameters", wanted)
    before = {name: have[name] for name in wanted if name in have}
    return [Step("migrate-set-parameters", arguments, undo=[Step("migrate-set-parameters", before)] if before else [])]


def _fitting(name: str, value: Any, have: Any) -> Any:
    """A value in the type of the one that there is; numbers may be written as sizes (``max-bandwidth: 1G``)."""
    try:
        if isinstance(have, bool):
            return parse_bool(value)
        if isinstance(have, int):
            return human_size(value)
    except ValueError as exc:
        raise Refusal(f"parameters: {name}: {exc}") from exc
    return coercion.to_text(value) if isinstance(have, str) else value


def _known(option: str, name: str, names: Any) -> str:
    real = str(name).replace("_", "-")
    if real not in names:
        raise Refusal(
            f"{option}: this QEMU knows no {name!r}{suggestion(real, names)}; it has {', '.join(sorted(names))}"
        )
    return real


def status(found: Dict[str, Any]) -> str:
    """Where a migration stands, by ``query-migrate``; ``none`` where there was none yet."""
    return str(found.get("status", "none"))


def progress(found: Dict[str, Any]) -> Progress:
    """How far it is."""
    ram = found.get("ram", {})
    total = ram.get("total", 0)
    rate = ram.get("mbps", 0.0) * 1e6 / 8
    left = total - ram.get("remaining", total)
    return Progress("migration", status(found), left, total, rate, int(found.get("expected-downtime", -1)))


def shape(value: Any) -> Any:
    """``query-migrate``'s answer with underscores in its names."""
    if isinstance(value, dict):
        return {key.replace("-", "_"): shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else value


def listens_at(found: Dict[str, Any], uri: str) -> bool:
    """Whether one of the addresses that a destination listens at is ``uri``'s. A host that means all fits any."""
    protocol, _colon, rest = uri.partition(":")
    for address in found.get("socket-address", []):
        if address["type"] == "unix" and protocol == "unix" and address["path"] == rest:
            return True
        if (
            address["type"] == "inet"
            and protocol == "tcp"
            and str(address["port"]) == rest.rpartition(":")[2].split(",")[0]
        ):
            return True
    return False
