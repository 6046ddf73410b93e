# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Options, declared once, and the values that a task gives for them."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import Any, Dict

from . import coercion
from .errors import Refusal

Want = Dict[str, Any]
"""A resource as the user wrote it: option name to value, without the options that were not given."""


# QEMU's own rule (id_wellformed), which since 9.2 it no longer applies to device ids.
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*\Z")


class Option:
    """One option of a kind, declared once: Ansible's argument specification is made from it."""

    def __init__(self, kind: str = "str", hidden_whole: bool = False, nul: bool = False, **spec: Any) -> None:
        """``kind`` is Ansible's type; ``spec`` are further keys of the argument specification, ``options`` being Options.

        ``hidden_whole``: a file's content, in which there may be secrets. It is never shown; a word in it, which can be any
        name or number, is not a secret elsewhere. ``nul``: it can have a NUL character, since it is typed, or QEMU judges.
        """
        self.kind = kind
        self.nul = nul
        self.hidden_whole = hidden_whole
        # Ansible would hide each word of it, in a path say; since 2.22 everywhere, and for the rest of the run
        self.fields = {**spec, "no_log": False} if hidden_whole else spec

    def fit(self, where: str, value: Any) -> Any:
        """Return ``value``, out of a free-form dictionary, as Ansible would have passed it. Raise Refusal, naming ``where``."""
        if self.kind == "dict":
            if isinstance(value, dict):
                return self._fit_members(where, value)
        elif self.kind == "bool":
            try:
                return coercion.parse_bool(value)
            except ValueError:
                pass
        elif not isinstance(value, (dict, list)):
            text = coercion.to_text(value)
            if text in self.fields.get("choices", [text]):
                return text
        choices = self.fields.get("choices")
        wanted = f"one of {', '.join(choices)}" if choices else f"a valid {self.kind}"
        raise Refusal(f"{where}: {value!r} is not {wanted}")

    def _fit_members(self, where: str, value: Dict[str, Any]) -> Dict[str, Any]:
        declared = self.fields.get("options")
        if declared is None:
            return value
        members = {}
        for key, item in value.items():
            name = str(key).replace("-", "_")
            if name not in declared:
                raise Refusal(f"{where}: there is no {key!r}, only {', '.join(declared)}")
            if item is not None:
                members[name] = declared[name].fit(f"{where}.{key}", item)
        return members

    def spec(self) -> Dict[str, Any]:
        """Return the entry of Ansible's argument specification."""
        entry: Dict[str, Any] = {"type": self.kind, **self.fields}
        if "options" in entry:
            entry["options"] = argument_spec(entry["options"])
        return entry


def argument_spec(options: Dict[str, Option]) -> Dict[str, Any]:
    """Ansible's argument specification for these options."""
    return {name: option.spec() for name, option in options.items()}


def check_texts(params: Dict[str, Any], options: Dict[str, Option]) -> None:
    """Raise Refusal for a text in the parameters that neither QEMU nor the system takes, except in the contents of files."""
    for name, value in params.items():
        option = options.get(name)
        if option is None or not option.hidden_whole:
            _check_text(name, value, option is not None and option.nul)


def _check_text(place: str, value: Any, nul: bool) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(place, key, nul)
            _check_text(f"{place}.{key}", item, nul)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _check_text(f"{place}[{number}]", item, nul)
    elif isinstance(value, str) and not value.isascii() and not _is_unicode(value):
        raise Refusal(f"{ascii(place)[1:-1]}: it is not text in UTF-8")
    elif isinstance(value, str) and "\0" in value and not nul:
        raise Refusal(f"{ascii(place)[1:-1]}: it has a NUL character, and no name or path can have one")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_id(kind: str, option: str, value: str) -> None:
    """Raise Refusal for an id that some QEMU refuses (versions differ: the strictest rule is kept everywhere)."""
    if not _ID.match(value):
        raise Refusal(
            f"{option}: {value!r} is not a valid id for a {kind}: it must start with a letter, "
            "followed by letters, digits, '-', '.' or '_'"
        )


def suggestion(name: str, known: Any) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def given(params: Dict[str, Any], options: Dict[str, Option]) -> Want:
    """Return the parameters that belong to ``options`` and were given, sub-options included."""
    return {name: _given(params[name], options[name]) for name in options if params.get(name) is not None}


def _given(value: Any, option: Option) -> Any:
    """Return a value without the sub-options that were not given, which Ansible fills in.

    In a free-form dictionary null is a value (backing: null).
    """
    declared = option.fields.get("options")
    return given(value, declared) if declared and isinstance(value, dict) else value
