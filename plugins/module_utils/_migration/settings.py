# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What both sides of a migration share: its address and its settings, by the names that this QEMU has."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Set, Tuple

from .._core import coercion
from .._core.errors import Refusal
from .._core.option import Option, suggestion
from .._core.step import Step
from .._kinds.host_path import check_output
from .._qmp.address import PORT_HIGHEST, UNIX_LONGEST, is_port_too_high
from .._qmp.values import human_size, parse_bool

if TYPE_CHECKING:
    from .._core.vm import VM
    from .._qmp.schema import Schema

_ONE_WAY = ("exec:", "file:", "fd:")
_LIVE = frozenset(
    "max-bandwidth avail-switchover-bandwidth downtime-limit max-postcopy-bandwidth max-cpu-throttle cpu-throttle-initial "
    "cpu-throttle-increment cpu-throttle-tailslow throttle-trigger-threshold x-vcpu-dirty-limit-period vcpu-dirty-limit".split()
)
"""The parameters that a migration which runs already takes up."""


COPY_DISKS = {
    "address": Option("str", required=True),
    "disks": Option("list", elements="str"),
    "tls_creds": Option("str"),
    "plain": Option("bool", default=False),
}
"""What both sides are told of disks that go along."""


class Settings(NamedTuple):
    """What a QEMU has set for migrations, and what it can set."""

    capabilities: Dict[str, bool] = {}
    parameters: Dict[str, Any] = {}
    schema: Schema | None = None
    """Only read where parameters are to be set."""


def check_uri(uri: str) -> None:
    """Raise Refusal for what is not a valid migration address; which protocols there are, QEMU knows."""
    protocol, colon, rest = uri.partition(":")
    if not (protocol and colon and rest):
        raise Refusal(
            f"uri: {uri!r} is not a valid migration address: write tcp:HOST:PORT, unix:/path, exec:COMMAND, file:/path or fd:NAME"
        )
    if protocol == "unix" and len(os.fsencode(rest)) > UNIX_LONGEST:
        raise Refusal(f"uri: {rest} is longer than the {UNIX_LONGEST} bytes that a UNIX socket's path may have")
    port = rest.partition(",")[0].rpartition(":")[2]
    if protocol == "tcp" and is_port_too_high(port):
        raise Refusal(f"uri: {port} is not a valid port: the highest is {PORT_HIGHEST}")


def check_file(vm: VM, uri: str) -> None:
    """Raise Refusal where a migration into a file would overwrite one. Beyond an ``offset``, what lies before it is kept."""
    protocol, _colon, rest = uri.partition(":")
    if protocol == "file":
        path, _comma, offset = rest.partition(",offset=")
        keeps = offset.strip("0x") != ""
        check_output(vm, "uri", path, ("migration", uri), keeps, "remove it, or name another file")


def two_way(uri: str) -> bool:
    """Tell whether the destination can answer on it; a return path over anything else makes QEMU hang."""
    return not uri.startswith(_ONE_WAY)


def read_settings(vm: VM, asked: Dict[str, Any] | None) -> Settings:
    """Read what is set. ``asked``: the parameters that are to be set."""
    return Settings(capabilities(vm), vm.ask("query-migrate-parameters"), vm.schema if asked else None)


def capabilities(vm: VM) -> Dict[str, bool]:
    """Return all capabilities that this QEMU has, and whether they are on."""
    return {item["capability"]: item["state"] for item in vm.ask("query-migrate-capabilities")}


def hangs_up(have: Settings) -> bool:
    """Tell whether this QEMU hangs up whatever a migration fails of, as each since 8.2 does, by a parameter that is as new.

    Of an older one a thread may stay that hears the destination. Where another migration has begun, it crashes QEMU when it ends.
    """
    return "avail-switchover-bandwidth" in have.parameters


def joining(have: Settings, params: Dict[str, Any]) -> Tuple[List[Step], List[str]]:
    """Return the steps and warnings of a task that finds its migration running: what can still be set is, the rest is told."""
    steps, late = _parameters(have, params["parameters"] or {}), []
    late += [name for step in steps for name in sorted(set(step.arguments) - _LIVE)]
    steps = [_only_live(step).replace(undo=tuple(map(_only_live, step.undo))) for step in steps]
    late += [
        entry["capability"]
        for step in _capabilities(have.capabilities, params["capabilities"] or {}, {})
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


def setting_steps(have: Settings, params: Dict[str, Any], usual: Dict[str, bool]) -> List[Step]:
    """Return the steps to the capabilities and parameters that were asked for, each undone by what was set before.

    ``usual``: the capabilities to set unless the task says otherwise or this QEMU has none of that name.
    Raise Refusal for a name that this QEMU does not know, and for a value of another type.
    """
    steps = _capabilities(have.capabilities, params["capabilities"] or {}, usual)
    return [*steps, *_parameters(have, params["parameters"] or {})]


def set_by(step: Step) -> Set[str]:
    """Return the names of what a step of `setting_steps` sets."""
    if step.execute == "migrate-set-parameters":
        return set(step.arguments)
    return {entry["capability"] for entry in step.arguments.get("capabilities", [])}


def _capabilities(have: Dict[str, bool], asked: Dict[str, Any], usual: Dict[str, bool]) -> List[Step]:
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


def _parameters(settings: Settings, asked: Dict[str, Any]) -> List[Step]:
    have, schema = settings.parameters, settings.schema
    if not asked or schema is None:
        return []
    settable = set(schema.members("migrate-set-parameters"))
    wanted = {}
    for name, value in asked.items():
        known = _known("parameters", name, settable)
        value = _fitting(name, value, have.get(known))
        if value != have.get(known):
            wanted[known] = value
    if not wanted:
        return []
    arguments = schema.coerce("migrate-set-parameters", wanted)
    before = {name: have[name] for name in wanted if name in have}
    return [Step("migrate-set-parameters", arguments, undo=[Step("migrate-set-parameters", before)] if before else [])]


def _fitting(name: str, value: Any, have: Any) -> Any:
    """Return a value in the type of the one that there is; numbers may be written as sizes (``max-bandwidth: 1G``)."""
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


def listens_at(migration: Dict[str, Any], uri: str) -> bool:
    """Tell whether one of the addresses that a destination listens at is ``uri``'s. A host that means all fits any."""
    protocol, _colon, rest = uri.partition(":")
    for address in migration.get("socket-address", []):
        if address["type"] == "unix" and protocol == "unix" and address["path"] == rest:
            return True
        if (
            address["type"] == "inet"
            and protocol == "tcp"
            and str(address["port"]) == rest.rpartition(":")[2].split(",")[0]
        ):
            return True
    return False
