# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A dictionary of options inside an option, checked as a module's own parameters are."""
# Private to the collection: may change without notice.

from __future__ import annotations

from typing import Any, Dict, List

from .._core.errors import Refusal
from .._core.option import Option, argument_spec, suggestion


def validate_options(place: str, options: Dict[str, Option], written: Any, **constraints: Any) -> Dict[str, Any]:
    """Return what was written at ``place`` as Ansible makes a module's parameters of it. Raise Refusal with Ansible's own words.

    ``constraints`` are AnsibleModule's: ``required_if`` and so on.
    """
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    if not isinstance(written, dict):
        # the value itself may have a secret in it
        raise Refusal(f"{place}: this is not a dictionary of options, but of type {type(written).__name__}")
    checked = ArgumentSpecValidator(argument_spec(options), **constraints).validate(written)
    if checked.unsupported_parameters:
        paths = sorted([name] if isinstance(name, str) else list(name) for name in checked.unsupported_parameters)
        raise Refusal(f"{place}: {'; '.join(_unknown(options, path) for path in paths)}")
    if checked.error_messages:
        raise Refusal(f"{place}: {'; '.join(checked.error_messages)}")
    params: Dict[str, Any] = checked.validated_parameters
    return params


def _unknown(options: Dict[str, Option], path: List[str]) -> str:
    """Return what to say of an option that isn't there, or of one inside another."""
    for name in path[:-1]:
        options = options[name].fields["options"]
    instead = suggestion(path[-1], options) or f". There are: {', '.join(sorted(options))}"
    return f"unknown option {'.'.join(path)}{instead}"
