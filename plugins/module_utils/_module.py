# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""From a task's parameters to its result: what every module shares, and the two ways in.

``Module.run`` is a function of parameters, check mode and a way to open a session; ``Module.main`` wraps it for Ansible's
module process. An action plugin can call ``Module.run`` in the controller's own process.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Set

from ._core.errors import Refusal, TaskError
from ._core.failure import failure, internal_error, plan_failure
from ._core.interrupt import interruptible
from ._core.option import Option, argument_spec, check_texts
from ._core.plan import NotReadBack, PlanFailed
from ._core.secrets import dictionaries, hidden_values, redact, url_passwords, without_contents
from ._core.task import CONNECTION, Task
from ._qmp import errors
from ._qmp.session import QMPSession

if TYPE_CHECKING:
    from ._core.progress import Progress
    from ._core.task import OpenSession
    from ._qmp.deadline import Stop


class Module:
    """A module: its options and what it does."""

    def __init__(
        self,
        options: Dict[str, Option],
        work: Callable[[Task], Dict[str, Any]],
        secrets: Callable[[Dict[str, Any]], List[str]] = lambda params: [],
        monitor: bool = True,
        agent: bool = False,
        many: bool = False,
        prepare: Callable[[Dict[str, Any]], Dict[str, Any]] = lambda params: {},
        **constraints: Any,
    ) -> None:
        """``work`` takes a Task and returns the result. ``constraints`` are AnsibleModule's: ``required_if`` and so on.

        ``monitor``: whether it speaks to one, and has the options for that. ``agent``: whether its ``socket`` is that of a guest's
        agent, which the environment does not name. ``many``: whether it takes ``machines``, too.

        ``prepare`` gives of validated parameters those that another host than the managed one can make ready for it.
        ``secrets`` gives the values in the parameters, not validated yet perhaps, that nothing may show.
        """
        self.prepare = prepare
        self._of_one = {**CONNECTION, **options} if monitor else options
        self._constraints = constraints
        self.agent = agent
        self._many = many
        self._secrets = secrets
        self._work = work
        self.options, self.constraints = self._of_one, constraints
        if many:  # what is required, and goes together, depends on whether there are machines
            from ._machines import with_machines

            self.options, self.constraints = with_machines(self._of_one), {}

    @property
    def argument_spec(self) -> Dict[str, Any]:
        """Ansible's argument specification."""
        from ansible.module_utils.basic import env_fallback

        spec = argument_spec(self.options)
        if "socket" in spec and not self.agent:
            spec["socket"]["fallback"] = (env_fallback, ["QEMU_QMP_SOCKET"])
        return spec

    def run(
        self,
        params: Dict[str, Any],
        check_mode: bool = False,
        diff_mode: bool = False,
        open_session: OpenSession = QMPSession.connect,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Dict[str, Any]:
        """Return the task's result for validated parameters, with ``failed`` and ``msg`` where it failed. Raise nothing."""

        def run(
            params: Dict[str, Any], on_progress: Callable[[Progress], None], stop: Stop | None = None
        ) -> Dict[str, Any]:
            def start() -> Task:
                check_texts(params, self._of_one)
                return Task(params, check_mode, open_session, on_progress, stop)

            result = self._run(start)
            if not diff_mode:
                result.pop("diff", None)
            return self._without_secrets(result, params)

        if not self._many:
            return run(params, on_progress)
        from ._machines import joined, of_each, of_one, run_each

        try:
            if params.get("machines") is None:
                return run(of_one(params, self._of_one, self._constraints), on_progress)
            machines = of_each(params, self._of_one, self._constraints)
        except Refusal as exc:
            return self._without_secrets(failure(exc, None), params)
        return joined(run_each(machines, run, on_progress))

    def _run(self, start: Callable[[], Task]) -> Dict[str, Any]:
        """Return the result of one VM's task."""
        task: Task | None = None
        try:
            task = start()
            result = self._work(task)
        except PlanFailed as exc:
            result = plan_failure(exc, task)
        except NotReadBack as exc:
            result = failure(exc.cause, task)
            result["msg"] = f"all was done, but the result could not be read back: {result['msg']}"
        except (TaskError, errors.QMPError) as exc:
            result = failure(exc, task)
        finally:
            if task is not None:
                task.close()
        return result

    def secrets(self, params: Dict[str, Any]) -> List[str]:
        """Return the values in the parameters, not validated yet perhaps, that nothing may show."""
        found = [*self._secrets(params), *url_passwords(params)]
        for own in dictionaries(params.get("machines")) if self._many else ():
            found += [*self._secrets(own), *hidden_values(own, self._of_one)]
        return found

    def hidden(self, params: Dict[str, Any], no_log: Iterable[str]) -> Set[str]:
        """Return the values that nothing may show, of which Ansible knows ``no_log``."""
        return {*no_log, *self.secrets(params)}

    def shown(self, params: Dict[str, Any]) -> Dict[str, Any]:
        """Return the parameters as a result shows them."""
        machines = params.get("machines") if self._many else None
        if isinstance(machines, dict):
            own = {
                name: without_contents(entry, self._of_one) if isinstance(entry, dict) else entry
                for name, entry in machines.items()
            }
            params = {**params, "machines": own}
        return without_contents(params, self.options)

    def _without_secrets(self, result: Dict[str, Any], params: Dict[str, Any]) -> Dict[str, Any]:
        secrets = self.secrets(params)
        return redact(result, secrets) if secrets else result

    def main(self) -> None:
        """Run as a module's process on the managed host."""
        module = _secret_keeper(self)(argument_spec=self.argument_spec, supports_check_mode=True, **self.constraints)
        params = dict(module.params)
        module.no_log_values = self.hidden(params, module.no_log_values)
        module.params = self.shown(params)
        try:
            with interruptible():
                result = self.run(params, module.check_mode, module._diff)
        except Exception as exc:
            result = internal_error(module._name, exc)
        for warning in result.pop("warnings", []):
            module.warn(warning)
        if result.pop("failed", False):
            module.fail_json(**result)
        module.exit_json(**result)


def _secret_keeper(task_module: Module) -> Any:
    """Return Ansible's class of a module's process, made to show none of this module's secrets."""
    from ansible.module_utils.basic import AnsibleModule

    secrets, shown = task_module.secrets, task_module.shown

    class SecretKeeper(AnsibleModule):
        """One that knows the secrets in free-form options before it says or logs anything, be it of wrong parameters."""

        params: Dict[str, Any]

        def _log_invocation(self) -> None:
            given = self.params
            self._keep_secrets()
            super()._log_invocation()
            self.params = given

        def _keep_secrets(self) -> None:
            found = secrets(self.params)
            self.no_log_values.update(found)
            try:  # ansible-core 2.22 asks nobody else
                from ansible.module_utils.secrets import register_secrets
            except ImportError:
                pass
            else:
                register_secrets(found)
            self.params = shown(self.params)

        def add_path_info(self, kwargs: Dict[str, Any]) -> Dict[str, Any]:
            return kwargs  # a result is the same wherever it comes from: nothing is added because it has a path

        def fail_json(self, msg: str, **kwargs: Any) -> None:
            self._keep_secrets()
            super().fail_json(msg, **kwargs)

    return SecretKeeper
