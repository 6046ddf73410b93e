# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Where a monitor listens: the forms of an address."""
# Private to the collection: may change without notice.

from __future__ import annotations

import os
import stat

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNIX_LONGEST = 107
"""The bytes that a UNIX socket's path may have."""
PORT_HIGHEST = 65535
FORMS = "/path, unix:/path, unix:@abstract, HOST:PORT, tcp:HOST:PORT or [v6]:PORT"


class Address:
    """One parsed address. ``path`` for UNIX sockets ("@..." for abstract ones), else ``host`` and ``port``."""

    __slots__ = ("text", "path", "host", "port")

    def __init__(self, text: str, path: str | None, host: str = "", port: int = 0) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port

    @property
    def sun_path(self) -> bytes:
        """The path as the kernel wants it: abstract names start with a zero byte."""
        raw = os.fsencode(self.path or "")
        return b"\0" + raw[1:] if raw.startswith(b"@") else raw

    def __str__(self) -> str:
        return self.text

    def is_file(self, follow: bool = True) -> bool:
        """Tell whether something else than a socket has the path: connecting is refused there, too.

        ``follow``: whether what a symbolic link leads to counts, or the link itself.
        """
        try:
            name = self.sun_path
            return name[:1] not in (b"", b"\0") and not stat.S_ISSOCK(os.stat(name, follow_symlinks=follow).st_mode)
        except (OSError, ValueError):
            return False


def is_port_too_high(port: Any) -> bool:
    """Tell whether it is a number too high for a port. QEMU would take the port of its last 16 bits."""
    text = str(port)
    return text.isascii() and text.isdigit() and (len(text) > 9 or int(text) > PORT_HIGHEST)


def parse(address: Any) -> Address:
    """Return the `Address` of a string (or path object). Raise `errors.ConnectError` for anything else."""
    try:
        text = os.fspath(address)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise errors.ConnectError(f"{address!r} is not a valid monitor address; write {FORMS}")
    if text.startswith("unix:"):
        return _unix(text, text[5:])
    if text.startswith(("/", "./", "../", "@")):
        return _unix(text, text)
    return _tcp(text, text[4:] if text.startswith("tcp:") else text)


def _unix(text: str, path: str) -> Address:
    if path in ("", "@"):
        raise errors.ConnectError(f"{text!r} names no socket; write {FORMS}")
    if "\0" in path:
        raise errors.ConnectError(f"{text!r} holds a zero byte; write an abstract socket as unix:@name")
    return Address(text, path)


def _tcp(text: str, rest: str) -> Address:
    host, colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise errors.ConnectError(f"{text!r}: write an IPv6 address in brackets, [::1]:4444")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not colon or not host or not 0 < number <= PORT_HIGHEST:
        raise errors.ConnectError(f"{text!r} is not a valid monitor address; write {FORMS}")
    return Address(text, None, host, number)
