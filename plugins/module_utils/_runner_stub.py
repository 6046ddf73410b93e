# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""What a host is sent with each task, as text on stdin: it finds the pack with the collection's code, and runs the task.

A pack is one file, which ``_runner_install.py`` makes: a marshalled dictionary ``{module: (is it a package, where its code
begins, its length)}``, and then the code of all, marshalled, too. Of that a task reads what it imports.
It is used only where it and its directory are this user's and nobody else has any rights there.
"""
# Private to the collection: may change without notice. Python 3.6 can read it, so that an old one can say what it is.

import gc
import json
import marshal
import os
import stat
import sys
import time
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable, Dict, NoReturn, Tuple

_DAY = 86400
_PLACE = "ansible_collections.vmm.qemu.plugins.module_utils."


class Odd(Exception):
    """Why the task can't be run this way, though perhaps as a module. Nothing of it was begun."""


class Pack:
    """Imports the modules of a pack."""

    def __init__(self, index: "Dict[str, Tuple[bool, int, int]]", read: "Callable[[int, int], bytes]") -> None:
        """``index``: the file's dictionary. ``read`` gives so many bytes of what follows, from a place on."""
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
        exec(marshal.loads(self._read(*self._index[module.__name__][1:])), module.__dict__)

    def sources(self) -> "Dict[str, Tuple[bool, str]]":
        """Return what the pack was made of: {module: (is it a package, its text)}."""
        import zlib

        found = json.loads(zlib.decompress(self._read(*self._index[""][1:])).decode())  # type: Dict[str, Tuple[bool, str]]
        return found


def directory(remote_tmp: str) -> str:
    """Return where packs are kept: in this user's own home, which HOME need not be after a change of user."""
    path = os.path.expanduser(os.path.expandvars(remote_tmp))
    if remote_tmp.startswith("~/") and os.stat(os.path.expanduser("~")).st_uid != os.geteuid():
        import pwd

        path = pwd.getpwuid(os.geteuid()).pw_dir + remote_tmp[1:]
    return os.path.join(path, f"vmm.qemu-{os.geteuid()}")


def open_own(path: str, flags: int, is_type: "Callable[[int], bool]", dir_fd: "Any" = None) -> int:
    """Return a descriptor of a file or directory. Raise Odd where it is not this user's alone, and OSError."""
    descriptor = os.open(path, flags | os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    found = os.fstat(descriptor)
    if not is_type(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise Odd(f"{path} is somebody else's, or others have rights there")
    return descriptor


def load(name: str, folder: int) -> "Any":
    """Return a pack, whose file stays open, or None for one that is broken. Raise Odd and OSError."""
    descriptor = open_own(name, 0, stat.S_ISREG, folder)
    found = os.fstat(descriptor)
    if time.time() - found.st_mtime > _DAY:
        try:
            os.utime(descriptor)  # it is in use: see sweep()
        except OSError:
            pass
    with open(descriptor, "rb", closefd=False) as file:
        try:
            index = marshal.load(file)
            begin = file.tell()
            whole = found.st_size - begin == max(place + length for _package, place, length in index.values())
        except (EOFError, ValueError, TypeError, AttributeError):
            whole = False
    return Pack(index, lambda place, length: os.pread(descriptor, length, begin + place)) if whole else None


def find(path: str, pack: str, bundle: bytes) -> "Any":
    """Return a pack, made of the bundle if there is one, else None where it is not there."""
    name = f"{pack}.{sys.implementation.cache_tag}-{sys.hexversion:x}"
    sources = {}  # type: Dict[str, Any]
    if bundle:
        import zlib

        sources = json.loads(zlib.decompress(bundle).decode())
        umask = os.umask(0o077)  # the directories above it, too, are nobody else's to change
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.umask(umask)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # open_own() looks at what it is
    try:
        folder = open_own(path, os.O_DIRECTORY, stat.S_ISDIR)
        if bundle:
            namespace = {}  # type: Dict[str, Any]
            exec(sources[_PLACE + "_runner_install"][1], namespace)
            namespace["install"](folder, name, sources, bundle, Pack)
        return load(name, folder)
    except FileNotFoundError:
        return None


def main() -> "NoReturn":
    """Say one of: absent, old or odd (and why), begun and then the result. The controller knows them by the mark."""
    request = json.loads(sys.stdin.buffer.readline().decode())

    def say(word: str, value: "Any" = None) -> None:
        sys.stdout.write(f"\n{request['mark']} {word} {json.dumps(value)}\n")
        sys.stdout.flush()

    if sys.hexversion < 0x3080000:
        version = sys.version.split()[0]
        say("old", f"vmm.qemu needs Python 3.8 or later on the managed host, and {sys.executable} there is {version}")
        os._exit(0)
    gc.disable()  # nothing that is imported is garbage
    try:
        pack = find(directory(request["remote_tmp"]), request["pack"], sys.stdin.buffer.read())
        task = None
        if pack is not None:
            sys.meta_path.insert(0, pack)
            task = __import__(_PLACE + "_runner", fromlist=["prepare"]).prepare(request["task"])
    except Exception as exc:
        say("odd", f"{type(exc).__name__}: {exc}")
        os._exit(0)
    if task is None:
        say("absent")
        os._exit(0)
    gc.enable()
    say("begun")
    try:
        say("result", task())
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(130)  # above 127, as a signal would: never what a shell or sudo ends with that did not begin it
    os._exit(0)


if __name__ == "__main__":
    main()
