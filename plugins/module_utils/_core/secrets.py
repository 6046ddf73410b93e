# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Taking secrets out of results: whoever wrote the text, be it QEMU in an error."""
# Private to the collection: may change without notice.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, Sequence

from .step import REDACTED

if TYPE_CHECKING:
    from .option import Option

# What a user may write into the address of an image: https://user:password@host/image
_URL_PASSWORD = re.compile(r"\w://[^/@:\s\"]*:([^/@\s\"]+)@")


def url_passwords(value: Any) -> Iterator[str]:
    """Yield the passwords in the URLs of a JSON structure, as written there and as QEMU may print them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from url_passwords(item)
    elif isinstance(value, str) and "://" in value:
        from urllib.parse import unquote  # a tenth of what a task on a host imports, for few of them

        for found in _URL_PASSWORD.findall(value):
            yield from {found, unquote(found)}


def redact(value: Any, secrets: Sequence[str]) -> Any:
    """Return ``value``, a JSON structure, without the secrets: alone, or within a text, or as a number."""
    if isinstance(value, dict):
        return {key: redact(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, secrets) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return REDACTED if str(value) in secrets else value
    if isinstance(value, str) and value != REDACTED:
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, REDACTED)
    return value


def mask(value: Any, secrets: Sequence[str]) -> Any:
    """Return ``value``, a JSON structure, without the secrets, as a module's process writes it before ansible-core 2.22."""
    if isinstance(value, dict):
        return {key: mask(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item, secrets) for item in value]
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if text in secrets or (not isinstance(value, str) and any(secret in text for secret in secrets)):
        return REDACTED
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, "*" * 8)
    return value


def dictionaries(value: Any) -> Iterator[Dict[str, Any]]:
    """Yield each dictionary in a JSON structure, right or wrong, also of text that Ansible reads as one."""
    if isinstance(value, str):
        if "=" in value:
            yield _pairs(value)
        value = _literal(value) if value.lstrip().startswith(("{", "[")) else None
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from dictionaries(item)


def _literal(text: str) -> Any:
    """Return a structure that is written as JSON or as Python has it, or None."""
    import ast
    import json

    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return None


def _pairs(text: str) -> Dict[str, Any]:
    """Return ``one=1, other="2 3"`` as a dictionary, empty where the quotes are wrong."""
    import shlex

    words = shlex.shlex(text, posix=True)
    words.whitespace, words.whitespace_split, words.commenters = ", \t\n", True, ""
    try:
        return dict(word.split("=", 1) for word in words if "=" in word)
    except ValueError:
        return {}


def hidden_values(params: Dict[str, Any], options: Dict[str, Option]) -> Iterator[str]:
    """Yield the values of the options that are ``no_log``, and of those within others, in all their forms."""
    for name, option in options.items():
        value, within = params.get(name), option.fields.get("options")
        if option.hidden_whole:
            continue
        if option.fields.get("no_log"):
            yield from quoted_forms(value)
        elif within and isinstance(value, dict):
            yield from hidden_values(value, within)


def without_contents(params: Dict[str, Any], options: Dict[str, Option]) -> Dict[str, Any]:
    """Return the parameters to be shown: without what is hidden as a whole."""
    hidden = {name for name, option in options.items() if option.hidden_whole}
    return {name: REDACTED if name in hidden and value not in (None, "") else value for name, value in params.items()}


def quoted_forms(secret: Any) -> Iterator[str]:
    """Yield a secret as messages may quote it; of a structure, which no secret should be, all that is in it."""
    if isinstance(secret, dict):
        secret = list(secret.values())
    if isinstance(secret, (list, tuple)):
        for item in secret:
            yield from quoted_forms(item)
    elif secret not in (None, "") and not isinstance(secret, bool):
        import json

        text = str(secret)
        yield from {text, repr(text)[1:-1], json.dumps(text)[1:-1]}
