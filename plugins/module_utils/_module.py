# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""From a task's parameters to its result: what every module shares, and the two ways in.

``Module.run`` is a function of parameters, check mode and a way to open a session; ``Module.main`` wraps it for Ansible's
module process. An action plugin can call ``Module.run`` in the controller's own process.
"""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List

from ._core.errors import TaskError
from ._core.failure import failure, internal_error, plan_failure
from ._core.interrupt import interruptible
from ._core.option import Option, argument_spec
from ._core.plan import NotReadBack, PlanFailed
from ._core.secrets import redact, url_passwords
from ._core.task import CONNECTION, Task
from ._qmp import errors
from ._qmp.session import QMPSession

if TYPE_CHECKING:
    from ._core.progress import Progress
    from ._core.task import OpenSession


class Module:
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
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Dict[str, Any]:
        """Return the task's result for validated parameters, with ``failed`` and ``msg`` where it failed. Raise nothing."""
        task: Task | None = None
        try:
            task = Task(params, check_mode, open_session, on_progress)
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
        if not diff_mode:
            result.pop("diff", None)
        secrets = self.secrets(params)
        if secrets:
            result = redact(result, secrets)
        return result

    def main(self) -> None:
        """Run as a module's process on the managed host."""
        from ansible.module_utils.basic import AnsibleModule

        secrets = self.secrets

        class SecretKeeper(AnsibleModule):
            """One that knows the secrets in free-form options before it says or logs anything, be it of wrong parameters."""

            def _log_invocation(self) -> None:
                self.no_log_values.update(secrets(self.params))
                super()._log_invocation()

            def add_path_info(self, kwargs: Dict[str, Any]) -> Dict[str, Any]:
                return kwargs  # a result is the same wherever it comes from: nothing is added because it has a path

            def fail_json(self, msg: str, **kwargs: Any) -> None:
                self.no_log_values.update(secrets(self.params))
                super().fail_json(msg, **kwargs)

        module = SecretKeeper(argument_spec=self.argument_spec, supports_check_mode=True, **self.constraints)
        try:
            with interruptible():
                result = self.run(module.params, module.check_mode, module._diff)
        except Exception as exc:
            result = internal_error(module._name, exc)
        for warning in result.pop("warnings", []):
            module.warn(warning)
        if result.pop("failed", False):
            module.fail_json(**result)
        module.exit_json(**result)
