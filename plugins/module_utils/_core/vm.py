# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The VM as kinds see it: what queries tell, each asked once until something changed."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, Tuple

from .._qmp import errors
from .errors import Refusal
from .host import Host

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline
    from .._qmp.schema import Schema
    from .._qmp.session import QMPSession
    from .account import Account

PERIPHERAL = "/machine/peripheral"
EVENTS = "vmm-events"
"""The monitor for whoever only watches, and its character device."""
NO_MACHINE = "none"
"""The run state where there is no machine that could run."""
_MACHINELESS = {
    "query-status": {"status": NO_MACHINE, "running": False},
    "human-monitor-command": "",
    "query-migrate": {},
}
_CONTAINERS = ("/objects", "/chardevs", PERIPHERAL, f"{PERIPHERAL}-anon")
_Question = Tuple[str, FrozenSet[Tuple[str, Any]]]
"""A query's name and arguments."""
_NODES = "query-named-block-nodes"
_BACKUPS_STAY = (7, 2)
"""The first QEMU seen that can keep backups which are over."""
# The human monitor's lines that end in the same query: all nodes, or one of them.
_NODES_LINE = re.compile(r"\s*info\s+block\s+\S")


class VM(Host):
    """Reads through a session, remembering answers until ``forget()``."""

    connect_to: Callable[[str], VM]
    """Set by the task: return the VM at another monitor, for a caller that closes its session."""

    def __init__(
        self,
        session: QMPSession,
        deadline: Deadline,
        *,
        local: bool,
        reopen: Callable[[float], QMPSession],
        account: Account | None = None,
    ) -> None:
        """``local``: QEMU runs on this host, so that a path means the same here and there.

        ``reopen(seconds)`` connects once more, for when the connection broke and what was done must be taken back.
        ``account``: where each step that is sent is entered.
        """
        super().__init__(deadline, account)
        self.session = session
        self.reopen = reopen
        self.local = local
        self._answers: Dict[_Question, Any] = {}
        self.properties: Dict[str, Dict[str, Any]] = {}
        """What is known of QOM objects without ``qom-get``: the properties by the object's path."""
        self._schema: Schema | None = None
        self.may_crash = True
        """Whether there may be jobs beside which QEMU can crash (see may_keep)."""

    def forget(self) -> None:
        """Drop what was read: the VM has changed since."""
        super().forget()
        self._answers.clear()
        self.properties.clear()
        self.may_crash = True  # others may have begun a job since, and left it

    def ask(self, query: str, **arguments: Any) -> Any:
        """Return the ``return`` of a query, asked at most once.

        Arguments are text, numbers and truth values, the underscores in whose names become hyphens.

        Raise the session's errors; a refusal (CommandError) is remembered too.
        """
        if query == "qom-get" and arguments["property"] in self.properties.get(arguments["path"], ()):
            return self.properties[arguments["path"]][arguments["property"]]
        key = _question(query, arguments)
        if key not in self._answers:
            self.check_harmless(query, arguments.get("command_line", ""))
            try:
                self._answers[key] = self.session.execute(query, _wire(arguments), deadline=self.deadline)
            except errors.CommandError as exc:
                self._answers[key] = _answer_for(query, arguments, exc)
        answer = self._answers[key]
        if isinstance(answer, errors.CommandError):
            raise answer
        return answer

    def check_harmless(self, query: str, line: Any = "") -> None:
        """Raise Refusal where the query (or the human monitor's ``line``) would end QEMU, guest and all.

        See may_keep. One query more, and again only while there is such a job, or when the VM has changed. One of somebody else's
        can still end between the two queries: nothing that only looks keeps it from that.
        """
        if self.may_crash and (query == _NODES or (isinstance(line, str) and _NODES_LINE.match(line))):
            jobs = self.session.execute("query-jobs", deadline=self.deadline)
            self.know(jobs, "query-jobs")
            risks = [job for job in jobs if not self.may_keep(job["type"])]
            self.may_crash = bool(risks)
            over = [job for job in risks if job["status"] == "concluded"]
            if over:
                ident, kind = over[0]["id"], over[0]["type"]
                raise Refusal(
                    f"job {ident}: this {kind} is over and has not been dismissed, and QEMU would crash if it were asked for "
                    f"its block nodes now: end it with qemu_block_job (id: {ident}, state: finished), then run this task again"
                )

    def may_keep(self, job_type: str) -> bool:
        """Tell whether QEMU may keep a job of this type when it is over, until somebody dismisses it.

        Beside some, it crashes when it lists its block nodes: seen with streams (7.2 and 10.0) and with backups (5.2, not
        7.2). Whoever begins one of those sets ``auto-dismiss``, and learns its end from its last event.
        """
        return job_type != "stream" and (job_type != "backup" or self.session.version[:2] >= _BACKUPS_STAY)

    def know(self, answer: Any, query: str, **arguments: Any) -> None:
        """Take an answer from elsewhere for that of a query, until ``forget()``."""
        self._answers[_question(query, arguments)] = answer

    def children(self, path: str) -> Dict[str, str]:
        """Names and types of what lies at a QOM path (``qom-list``); raises DeviceNotFound where there is no such path."""
        return {item["name"]: item["type"] for item in self.ask("qom-list", path=path)}

    def members(self, path: str) -> Dict[str, str]:
        """Return the types by name of the objects at a QOM path, without what else lies there."""
        return {name: kind[6:-1] for name, kind in self.children(path).items() if kind.startswith("child<")}

    def prop(self, path: str, name: str, default: Any = None) -> Any:
        """Return a QOM property's value, or ``default`` where it doesn't exist or can't be read."""
        try:
            return self.ask("qom-get", path=path, property=name)
        except errors.CommandError:
            return default

    def peripherals(self) -> Dict[str, str]:
        """Driver by id of every device that has an id: one command, whatever their number."""
        return self.table("peripherals", lambda: self.members(PERIPHERAL))

    def devices(self) -> Dict[str, str]:
        """Return the driver by QOM path of every device that was plugged, with an id or without."""
        parents = (PERIPHERAL, f"{PERIPHERAL}-anon")
        return {f"{parent}/{name}": driver for parent in parents for name, driver in self.members(parent).items()}

    def device_properties(self, driver: str) -> Dict[str, Dict[str, Any]]:
        """Return what ``device_add`` of this driver accepts, by name: ``{name, type, description?, default-value?}``.

        From ``device-list-properties``; raises CommandError for a driver that this QEMU does not have.
        """
        return {item["name"]: item for item in self.ask("device-list-properties", typename=driver)}

    def has_command(self, name: str) -> bool:
        """Tell whether this QEMU has the command (``query-commands``, a small answer; versions are not a guide)."""
        return any(item["name"] == name for item in self.ask("query-commands"))

    def monitor(self, line: str) -> str:
        """Return the text of an ``info`` line of the human monitor, for what no query tells."""
        return str(self.ask("human-monitor-command", command_line=line))

    @property
    def status(self) -> str:
        """The run state, as ``query-status`` names it."""
        return str(self.ask("query-status")["status"])

    @property
    def schema(self) -> Schema:
        """What this QEMU's commands accept (``query-qmp-schema``: some 200 kB, so asked only where something is made)."""
        if self._schema is None:
            from .._qmp.schema import Schema

            self._schema = Schema(self.session.execute("query-qmp-schema", deadline=self.deadline))
        return self._schema


def _answer_for(query: str, arguments: Dict[str, Any], refusal: errors.CommandError) -> Any:
    """Return the answer that a refusal stands for: a qemu-storage-daemon has no machine, and no empty container."""
    if isinstance(refusal, errors.CommandNotFound):
        return _MACHINELESS.get(query, refusal)
    absent = isinstance(refusal, errors.DeviceNotFound) and query == "qom-list" and arguments["path"] in _CONTAINERS
    return [] if absent else refusal


def _wire(arguments: Dict[str, Any]) -> Dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}


def _question(query: str, arguments: Dict[str, Any]) -> _Question:
    return query, frozenset(arguments.items())
