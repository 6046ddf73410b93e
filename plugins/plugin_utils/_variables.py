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
    of_roles: Iterable[str],
    variables: Mapping[str, Any],
    template: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Return a task's arguments, and for each of the options that it does not give the variable of that name.

    ``of_roles``: options for which a variable with two underscores before the prefix counts before the other one, unless it is
    null.
    ``template``: Ansible's, for all of them at once: to compile a template for each takes longer than the rest of the task.
    Raise AnsibleActionFail where there is no such variable at all: the prefix is misspelt, and the task would make something else.
    """
    prefix = args.get(PREFIX)
    given = {key: value for key, value in args.items() if key != PREFIX}
    if prefix is None or prefix == "":
        return given
    names = {}
    if isinstance(prefix, str):
        names = {key: f"{prefix}{key}" for key in options}
        of_role = {key: f"__{prefix}{key}" for key in of_roles}
        names.update({key: name for key, name in of_role.items() if variables.get(name) is not None})
    names = {key: name for key, name in names.items() if name in variables and name.isidentifier()}
    if not names:
        raise AnsibleActionFail(
            f"{PREFIX}: this host has no variable that is named {prefix!r} and an option, as vm_memory is vm_ and memory"
        )
    wanted = {key: name for key, name in names.items() if key not in given}
    omitted = variables.get("omit")
    if not isinstance(omitted, str):
        return {**template({key: variables[name] for key, name in wanted.items()}), **given}
    # before ansible-core 2.19 a template makes a dictionary of a text that looks like one, and leaves what is to be omitted
    found = template({key: f"{{{{ {name} }}}}" for key, name in wanted.items()})
    return {**_without(found, omitted), **given}


def _without(value: Any, omitted: str) -> Any:
    """Return a value without what is to be omitted, as Ansible leaves it out of arguments."""
    if isinstance(value, dict):
        return {key: _without(item, omitted) for key, item in value.items() if item != omitted}
    if isinstance(value, list):
        return [_without(item, omitted) for item in value if item != omitted]
    return value
