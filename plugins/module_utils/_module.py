# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
# Private to the collection: may change without notice.
"""From a task's parameters to its result: what every module shares, and the two ways in.

``Face.run`` is a function of parameters, check mode and a way to open a session; ``Face.main`` wraps it for Ansible's
module process. An action plugin can call ``Face.run`` in the controller's own process.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List

from ansible_collections.vmm.qemu.plugins.module_utils._converge.engine import Item, converge
from ansible_collections.vmm.qemu.plugins.module_utils._converge.plan import NotReadBack, PlanFailed
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.account import Account
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.errors import Pending, Refusal
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.kind import (
    Kind,
    Option,
    Part,
    Want,
    argument_spec,
    check_id,
)
from ansible_collections.vmm.qemu.plugins.module_utils._kinds.vm import VM
from ansible_collections.vmm.qemu.plugins.module_utils._qmp import errors
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.address import parse
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.deadline import Deadline
from ansible_collections.vmm.qemu.plugins.module_utils._qmp.session import QMPSession
from ansible_collections.vmm.qemu.plugins.module_utils._secrets import hide, url_passwords

if TYPE_CHECKING:
    from typing import Protocol

    from ansible_collections.vmm.qemu.plugins.module_utils._progress import Progress

    class OpenSession(Protocol):
        """How a task gets its session: ``QMPSession.connect``, or something a test puts in its place."""

        def __call__(self, address: str, *, timeout: float, tls: Dict[str, Any] | None, read_only: bool) -> QMPSession:
            """Raise what ``QMPSession.connect`` raises."""


CONNECTION = {
    "socket": Option("str", required=True),
    "connect_timeout": Option("float", default=10.0),
    "timeout": Option("float", default=60.0),
    "tls": Option(
        "dict",
        options={
            "ca_path": Option("path"),
            "cert_path": Option("path"),
            "key_path": Option("path"),
            "server_name": Option("str"),
        },
    ),
}
RESOURCE = {
    "state": Option("str", choices=["present", "absent"], default="present"),
    "recreate": Option("bool", default=False),
}
_OLDEST = (5, 2)
# A task is over this many seconds after its timeout at the latest, whatever the peer does: what rolling back leaves of
# them is for the reply to a command under way, which would else reach the monitor's next client.
_OVERTIME = 1.8


class Task:
    """One run of a module: its parameters, its deadline, and its session once it asks for one."""

    def __init__(
        self, params: Dict[str, Any], check_mode: bool, open_session: OpenSession, tell: Callable[[Progress], None]
    ) -> None:
        """``tell`` is called with how far long work is, as often as it is looked at.

        ``account``: what was sent or done so far. ``details``: what else the result has if the task fails.
        """
        self.tell = tell
        self.params = params
        self.check_mode = check_mode
        for name in ("timeout", "connect_timeout"):
            if not params.get(name, 1.0) > 0:  # "not >": nan, too
                raise Refusal(f"{name}: {params[name]} is not a positive number of seconds")
        self.deadline = Deadline(params.get("timeout", 60.0))
        self.account = Account()
        self.details: Dict[str, Any] = {}
        self._open = open_session
        self._vm: VM | None = None

    def connect(self) -> VM:
        """The VM, through a session that refuses everything but queries in check mode.

        Raises ConnectError and its kin, and Refusal for a QEMU that is too old.
        """
        if self._vm is None:
            address = parse(self.params["socket"])
            session = self._session(self.params["connect_timeout"])
            if session.version[:2] < _OLDEST:
                session.close()
                found = ".".join(str(number) for number in session.version[:3])
                raise Refusal(f"this virtual machine runs on QEMU {found}: 5.2 is the oldest that is supported")
            local = address.path is not None
            self._vm = VM(session, self.deadline, local=local, reopen=self._session, account=self.account)
        return self._vm

    def connect_to(self, address: str) -> VM:
        """Another VM that the task has to do with, at a monitor of its own; the caller closes its session."""
        left = min(self.params["connect_timeout"], max(self.deadline.remaining() or 0.0, 0.1))
        session = self._open(address, timeout=left, tls=self.params.get("tls"), read_only=self.check_mode)
        return VM(session, self.deadline, local=False, reopen=lambda seconds: session, account=self.account)

    def _session(self, seconds: float) -> QMPSession:
        left = self.deadline.remaining() or 0.0
        return self._open(
            self.params["socket"],
            timeout=min(seconds, max(left, 0.1)),
            tls=self.params.get("tls"),
            read_only=self.check_mode,
        )

    def close(self) -> None:
        """End the session, if there is one."""
        if self._vm is not None:
            over = time.monotonic() - (self.deadline.end or 0.0)
            self._vm.session.close(grace=min(_OVERTIME, max(0.1, _OVERTIME - over)))


class Face:
    """A module: its options and what it does."""

    def __init__(
        self,
        options: Dict[str, Option],
        work: Callable[[Task], Dict[str, Any]],
        secrets: Callable[[Dict[str, Any]], List[str]] = lambda params: [],
        monitor: bool = True,
        **constraints: Any,
    ) -> None:
        """``work`` takes a Task and returns the result. ``constraints`` are AnsibleModule's: ``required_if`` and so on.

        ``monitor``: whether it speaks to one, and has the options for that.

        ``secrets`` gives the values in the parameters, not validated yet perhaps, that nothing may show.
        """
        self.options = {**CONNECTION, **options} if monitor else options
        self.constraints = constraints
        self.secrets: Callable[[Dict[str, Any]], List[str]] = lambda params: [*secrets(params), *url_passwords(params)]
        self._work = work

    @property
    def argument_spec(self) -> Dict[str, Any]:
        """Ansible's argument specification."""
        from ansible.module_utils.basic import env_fallback

        spec = argument_spec(self.options)
        if "socket" in spec:
            spec["socket"]["fallback"] = (env_fallback, ["QEMU_QMP_SOCKET"])
        return spec

    def run(
        self,
        params: Dict[str, Any],
        check_mode: bool = False,
        diff_mode: bool = False,
        open_session: OpenSession = QMPSession.connect,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> Dict[str, Any]:
        """The task's result for validated parameters; ``failed`` and ``msg`` in it when it failed. Raises nothing of its own."""
        task: Task | None = None
        try:
            task = Task(params, check_mode, open_session, tell)
            result = self._work(task)
        except PlanFailed as exc:
            result = _plan_failure(exc, task)
        except NotReadBack as exc:
            result = _failure(exc.cause, task)
            result["msg"] = f"all was done, but the result could not be read back: {result['msg']}"
        except (Refusal, errors.QMPError) as exc:
            result = _failure(exc, task)
        finally:
            if task is not None:
                task.close()
        if not diff_mode:
            result.pop("diff", None)
        secrets = self.secrets(params)
        if secrets:
            result = hide(result, secrets)
        return result

    def main(self) -> None:
        """What Ansible runs on the managed host."""
        from ansible.module_utils.basic import AnsibleModule

        secrets = self.secrets

        class Module(AnsibleModule):
            """One that knows the secrets in free-form options before it says or logs anything, be it of wrong parameters."""

            def _log_invocation(self) -> None:
                self.no_log_values.update(secrets(self.params))
                super()._log_invocation()

            def add_path_info(self, kwargs: Dict[str, Any]) -> Dict[str, Any]:
                return kwargs  # a result is the same wherever it comes from: nothing is added because it has a path

            def fail_json(self, msg: str, **kwargs: Any) -> None:
                self.no_log_values.update(secrets(self.params))
                super().fail_json(msg, **kwargs)

        module = Module(argument_spec=self.argument_spec, supports_check_mode=True, **self.constraints)
        try:
            with told_to_stop():
                result = self.run(module.params, module.check_mode, module._diff)
        except Exception as exc:
            result = unexpected(module._name, exc)
        for warning in result.pop("warnings", []):
            module.warn(warning)
        if result.pop("failed", False):
            module.fail_json(**result)
        module.exit_json(**result)


@contextmanager
def told_to_stop() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in here, so that what was begun is taken back; then they take their course.

    Later ones count for nothing: after a Ctrl-C Ansible sends its workers SIGTERM at once, and taking back has an end of
    its own. Does nothing outside of the main thread, nor to a signal that is ignored.
    """
    came: List[int] = []

    def stop(number: int, frame: Any) -> None:
        if came:
            return
        came.append(number)
        signal.alarm(0)  # nor does a task's "timeout" cut that short
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def unexpected(name: str, exc: Exception) -> Dict[str, Any]:
    """The result of a fault of the collection's own, which the user shall see as a sentence too."""
    import traceback

    message = f"unexpected {type(exc).__name__} in {name}: {exc}. This is a bug of the collection"
    return {"failed": True, "msg": message, "exception": traceback.format_exc()}


def resource(kind: Kind) -> Face:
    """The face of one kind."""
    return composite(kind.options, lambda want, present: [Part(kind, want)], secrets=kind.secrets)


def composite(options: Dict[str, Option], parts: Callable[[Want, bool], List[Part]], **constraints: Any) -> Face:
    """The face of several kinds in one task. ``parts(want, present)`` names them, backends before frontends."""

    def work(task: Task) -> Dict[str, Any]:
        want = given(task.params, options)
        if "id" in options:  # before the ids made of it, so that the message names what the user wrote
            check_id("device", "id", want["id"])
        present = task.params["state"] == "present"
        return _made(task, parts(want, present), present, task.params["recreate"])

    return Face({**RESOURCE, **options}, work, **constraints)


def setting(options: Dict[str, Option], parts: Callable[[Want], List[Part]], **constraints: Any) -> Face:
    """The face of what is always there and only takes another value (a balloon): nothing to add, remove or recreate."""

    def work(task: Task) -> Dict[str, Any]:
        return _made(task, parts(given(task.params, options)), True, False)

    return Face(options, work, **constraints)


def _made(task: Task, parts: List[Part], present: bool, recreate: bool) -> Dict[str, Any]:
    """Converge and tell: the result of every resource."""
    items = [Item(part.kind, part.want if present else part.kind.identity(part.want), present) for part in parts]
    for item in items:
        item.kind.check(item.want)
    outcome = converge(task.connect(), items, recreate=recreate, check_mode=task.check_mode)
    return {
        **({"pending": True} if outcome.pending else {}),
        "changed": bool(outcome.plan.steps),
        "commands": outcome.plan.commands,
        "diff": outcome.diff,
        "unverifiable": outcome.unverifiable,
        "warnings": outcome.warnings,
        # one of each kind
        **{kind: state for kind, states in outcome.states.items() for state in states.values()},
    }


def given(params: Dict[str, Any], options: Dict[str, Option]) -> Want:
    """The parameters that belong to ``options`` and were given, sub-options included."""
    return {name: _given(params[name], options[name]) for name in options if params.get(name) is not None}


def _given(value: Any, option: Option) -> Any:
    """Ansible fills what was not given into declared sub-options; in a free-form dictionary null is a value (backing: null)."""
    declared = option.fields.get("options")
    return given(value, declared) if declared and isinstance(value, dict) else value


def _failure(exc: Exception, task: Task | None) -> Dict[str, Any]:
    """A failed task's result: ``commands`` are those that were sent, or done on the host, and not taken back.

    QEMU's own words go into ``error``.
    """
    commands = task.account.commands if task is not None else []
    result: Dict[str, Any] = {"failed": True, "msg": str(exc), "changed": bool(commands), "commands": commands}
    if task is not None:
        result.update(task.details)
    if isinstance(exc, errors.Disconnected):
        result["msg"] = f"lost QEMU: {exc}. Has the virtual machine ended?"
    if isinstance(exc, errors.CommandError):
        result["error"] = {"class": exc.error_class, "desc": exc.desc}
    if isinstance(exc, Pending):
        result["pending"] = True
    result.update(getattr(exc, "details", {}))
    return result


def _plan_failure(exc: PlanFailed, task: Task | None) -> Dict[str, Any]:
    """A failed plan's result: the first error, what was undone, and what could not be."""
    result = _failure(exc.cause, task)
    if isinstance(exc.cause, errors.Disconnected) and exc.cause.command != exc.step.execute:
        result["msg"] = f"{exc.step.execute}: {result['msg']}"
    parts = [f"{exc.step.place}: {result['msg']}" if exc.step.place else result["msg"]]
    if isinstance(exc.cause, errors.CommandError) and exc.step.hint:
        parts.append(exc.step.hint(exc.cause))
    if exc.rolled_back:
        result["rolled_back"] = exc.rolled_back
        parts.append("taken back: " + ", ".join(step["execute"] for step in exc.rolled_back))
        if any(step["execute"].endswith(("_add", "-add")) for step in exc.rolled_back):
            parts.append(
                "what QEMU can't tell of a thing (discard, aio, a user network's settings) was not given back to it"
            )
    if exc.stuck:
        result["not_rolled_back"] = exc.stuck
        parts.append("could not be taken back: " + ", ".join(exc.stuck))
    result["msg"] = "; ".join(part for part in parts if part)
    return result
