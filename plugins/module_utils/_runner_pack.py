# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""A pack: the collection's code on the managed host, in one file. This text is sent with each task, beside ``_runner_stub.py``.

``_runner_install.py`` makes it, of what is marshalled: the code of ``_runner_ask.py``; a dictionary ``{module: (is it a package,
where its code begins, its length, its checksum)}``; and the code of all. Of that a task reads what it imports.
"""
# Private to the collection: may change without notice.

import binascii
import marshal
import os
import time
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable, Dict, Tuple

_DAY = 86400
_PLACE = "ansible_collections.vmm.qemu.plugins.module_utils."


class Pack:
    """Imports the modules of a pack."""

    def __init__(
        self, index: "Dict[str, Tuple[bool, int, int, int]]", read: "Callable[[int, int], bytes]", descriptor: int = -1
    ) -> None:
        """``index``: the file's dictionary. ``read`` gives so many bytes of what follows, from a place on."""
        self.descriptor = descriptor
        self._index = index
        self._read = read

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Return how to import a module, or None where the pack lacks it."""
        if name in self._index:
            return ModuleSpec(name, self, origin=name, is_package=self._index[name][0])  # type: ignore[arg-type]
        return None

    def create_module(self, spec: "Any") -> None:
        """Leave it to Python to make the module."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run a module's code."""
        module.__file__ = module.__name__.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
        exec(marshal.loads(self._content(module.__name__)), module.__dict__)

    def sources(self) -> "Dict[str, Tuple[bool, str]]":
        """Return what the pack was made of: {module: (is it a package, its text)}."""
        import json
        import zlib

        found = json.loads(zlib.decompress(self._content("")).decode())  # type: Dict[str, Tuple[bool, str]]
        return found

    def _content(self, name: str) -> bytes:
        """Return what is kept under a name. Raise EOFError where that is broken."""
        _package, place, length, checksum = self._index[name]
        data = self._read(place, length)
        if binascii.crc32(data) != checksum:
            raise EOFError("the pack is broken")
        return data


def load(descriptor: int, index: "bytes | None") -> "Any":
    """Return the pack in a file, which stays open and has been read as far as its index, or None where that is broken."""
    if not index:
        return None
    found = os.fstat(descriptor)
    if time.time() - found.st_mtime > _DAY:
        try:
            os.utime(descriptor)  # it is in use: see sweep()
        except OSError:
            pass
    begin = os.lseek(descriptor, 0, os.SEEK_CUR)
    return Pack(marshal.loads(index), lambda place, length: os.pread(descriptor, length, begin + place), descriptor)


def make(path: str, name: str, bundle: bytes, open_directory: "Callable[[], int]") -> None:
    """Make a pack of a bundle, and its directory, which is opened, and so looked at, then. Raise OSError."""
    import json
    import zlib

    sources = json.loads(zlib.decompress(bundle).decode())  # type: Dict[str, Any]
    umask = os.umask(0o077)  # the directories above it, too, are nobody else's to change
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    os.umask(umask)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    namespace = {}  # type: Dict[str, Any]
    exec(sources[_PLACE + "_runner_install"][1], namespace)
    namespace["install"](open_directory(), name, sources, bundle, Pack)
