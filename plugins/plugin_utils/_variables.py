# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to the collection: may change without notice.
"""Options that a task leaves to variables of its host: what `qemu_vm` does with `variables_prefix`."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping

from ansible.errors import AnsibleActionFail

PREFIX = "variables_prefix"


def with_variables(
    args: Mapping[str, Any],
    options: Iterable[str],
    private: Iterable[str],
    variables: Mapping[str, Any],
    template: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Return a task's arguments, and for each of the options that it does not give the variable of that name.

    ``private``: options that are taken from a variable with two underscores before the prefix, which counts before the other.
    ``template``: Ansible's, for all of them at once: to compile a template for each takes longer than the rest of the task.
    Raise AnsibleActionFail where no variable has the prefix: a task that has it misspelt would make something else.
    """
    prefix = args.get(PREFIX)
    given = {key: value for key, value in args.items() if key != PREFIX}
    if prefix is None or prefix == "":
        return given
    names = {key: f"{prefix}{key}" for key in options} if isinstance(prefix, str) else {}
    names.update({key: f"__{prefix}{key}" for key in private if f"__{prefix}{key}" in variables})
    names = {key: name for key, name in names.items() if name in variables and name.isidentifier()}
    if not names:
        raise AnsibleActionFail(
            f"{PREFIX}: no variable of this host is {prefix!r} followed by the name of an option, as vm_memory is vm_ and memory"
        )
    omitted = variables.get("omit")
    wanted = {key: name for key, name in names.items() if key not in given}
    # before ansible-core 2.19 a template makes a dictionary of a text that looks like one: what it made of them stays
    found = {key: f"{{{{ {name} }}}}" if isinstance(omitted, str) else variables[name] for key, name in wanted.items()}
    return {**_without(template(found), omitted), **given}


def _without(value: Any, omitted: Any) -> Any:
    """Return a value without what is `omit`, as Ansible's arguments are. From ansible-core 2.19 on it has none in it any more."""
    if isinstance(value, dict):
        return {key: _without(item, omitted) for key, item in value.items() if not _is_omitted(item, omitted)}
    if isinstance(value, list):
        return [_without(item, omitted) for item in value if not _is_omitted(item, omitted)]
    return value


def _is_omitted(value: Any, omitted: Any) -> bool:
    return isinstance(omitted, str) and isinstance(value, str) and value == omitted
