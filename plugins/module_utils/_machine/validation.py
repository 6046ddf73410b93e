# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A dictionary of options inside an option, checked as a module's own parameters are."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Dict, List

from .._core.errors import Refusal
from .._core.option import Option, argument_spec, suggestion

if TYPE_CHECKING:
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator


class Validator:
    """Checks dictionaries of the same options, each as Ansible checks a module's own parameters."""

    def __init__(self, options: Dict[str, Option], **constraints: Any) -> None:
        """``constraints`` are AnsibleModule's: ``required_if`` and so on."""
        self.options = options
        self.constraints = constraints

    def validate(self, place: str, written: Any) -> Dict[str, Any]:
        """Return what was written at ``place`` as Ansible makes parameters of it. Raise Refusal with Ansible's own words.

        What Ansible would leave as it is takes a shorter way, without Ansible's library, whose import costs more than a task that
        changes nothing.
        """
        if not self.constraints:
            with contextlib.suppress(_AskAnsible):
                return _completed(self.options, written)
        if not isinstance(written, dict):
            # the value itself may have a secret in it
            raise Refusal(f"{place}: this is not a dictionary of options, but of type {type(written).__name__}")
        try:
            checked = self._whole.validate(written)
        except TypeError:  # of options within what is not a dictionary, which Ansible says only where it looks for none
            checked = self._without_suboptions().validate(written)
            if not checked.error_messages:
                raise
        if checked.unsupported_parameters:
            paths = sorted([name] if isinstance(name, str) else list(name) for name in checked.unsupported_parameters)
            raise Refusal(f"{place}: {'; '.join(_unknown(self.options, path) for path in paths)}")
        if checked.error_messages:
            raise Refusal(f"{place}: {'; '.join(checked.error_messages)}")
        params: Dict[str, Any] = checked.validated_parameters
        return params

    @cached_property
    def _whole(self) -> ArgumentSpecValidator:
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

        return ArgumentSpecValidator(argument_spec(self.options), **self.constraints)

    def _without_suboptions(self) -> ArgumentSpecValidator:
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

        spec = argument_spec(self.options).items()
        return ArgumentSpecValidator(
            {name: {key: entry[key] for key in entry if key != "options"} for name, entry in spec}
        )


_TYPES: Dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "raw": object,
}


class _AskAnsible(Exception):
    """Only Ansible can tell what becomes of an option: it is missing, unknown, or of another type."""


def _completed(options: Dict[str, Option], written: Any) -> Dict[str, Any]:
    """Return the options with the defaults of those that are missing. Raise _AskAnsible where Ansible may change one, or refuse."""
    if not isinstance(written, dict) or not written.keys() <= options.keys():
        raise _AskAnsible
    whole = len(written) == len(options)
    return {
        name: _as_it_is(option, written[name], whole) if name in written else _default(option)
        for name, option in options.items()
    }


def _default(option: Option) -> Any:
    if option.fields.get("required"):
        raise _AskAnsible
    return option.fields.get("default")


def _as_it_is(option: Option, value: Any, whole: bool) -> Any:
    """Return the value, with what is missing in a dictionary. Raise _AskAnsible where Ansible may change it, or refuse.

    ``whole``: it is of a dictionary with all options. Ansible has completed that before, where there are choices with None.
    """
    fields, wanted = option.fields, _TYPES.get(option.kind)
    may_be_none = not fields.get("required") and fields.get("default") is None and (whole or "choices" not in fields)
    if value is None and may_be_none:
        return None
    if wanted is None or not isinstance(value, wanted) or value not in fields.get("choices", (value,)):
        raise _AskAnsible  # a path is expanded each time
    if option.kind == "list":
        members = {"options": fields["options"]} if "options" in fields else {}
        member = Option(fields.get("elements", "raw"), **members)
        if member.kind != "raw" and None in value:
            raise _AskAnsible
        return [_as_it_is(member, item, whole) for item in value]
    if option.kind == "dict" and "options" in fields:
        return _completed(fields["options"], value)
    return value


def _unknown(options: Dict[str, Option], path: List[str]) -> str:
    """Return what to say of an option that isn't there, or of one inside another."""
    for name in path[:-1]:
        options = options[name].fields["options"]
    instead = suggestion(path[-1], options) or f". There are: {', '.join(sorted(options))}"
    return f"unknown option {'.'.join(path)}{instead}"
