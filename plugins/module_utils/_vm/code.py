# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""The collection's own code on the host, for what systemd runs: a copy of it where only root can write."""
# Private to the collection: may change without notice.

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import threading
from typing import TYPE_CHECKING, Dict, Iterator, List, Set, Tuple

from .._core import safe_open
from .._core.errors import OperationFailed, Refusal
from .._core.step import Step

if TYPE_CHECKING:
    from .._qmp.deadline import Deadline

_PACKAGE = "ansible_collections.vmm.qemu.plugins.module_utils"
_WHERE = _PACKAGE.replace(".", "/")
_ONE_AT_A_TIME = threading.Lock()
_MAIN = f"from {_PACKAGE}._vm.boot import main\n\nmain()\n"


def place(base: str, current: str | None) -> Tuple[str, Dict[str, bytes], bool]:
    """Return the directory that has the code of this process, its files, and whether they are there.

    ``base``: the directory of such directories. ``current``: the one that is used so far. Raise Refusal where others than
    root could write to it.
    """
    _check_only_root(base)
    wanted = _sources()
    if current and os.path.dirname(current) == base and _holds(current, wanted):
        return current, wanted, True
    path = f"{base}/{_digest(wanted)}"
    return path, wanted, _holds(path, wanted)


def command(path: str, verb: str, directory: str) -> List[str]:
    """Return the command line that starts or stops the VM in a directory."""
    return [sys.executable, "-I", path, verb, directory]


def install_step(path: str, files: Dict[str, bytes], there: bool) -> Step:
    """Return the step that writes the code, byte-compiled, and takes the place when it is whole.

    ``there``: it was when looked at. Another VM's end may have swept it away since.
    """

    def install(deadline: Deadline) -> None:
        import compileall

        part = f"{path}.{os.getpid()}"
        try:
            if _holds(path, files):  # by another thread's hand
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), 0o755)
            for name, content in files.items():
                _write(part, name, content)
            compileall.compile_dir(part, quiet=2, stripdir=part, prependdir=path)
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, f"{part}.old")  # one that does not hold what it should
                shutil.rmtree(f"{part}.old")
            os.rename(part, path)
        except OSError as exc:
            raise OperationFailed(f"{path}, the code that systemd is to run, can't be written: {exc.strerror}") from exc
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def install_alone(deadline: Deadline) -> None:
        with _ONE_AT_A_TIME:
            install(deadline)

    undo = [Step(do=lambda deadline: None, hidden=True)]
    return Step(do=install_alone, command_lines=[["write", path]], undo=undo, hidden=there)


def sweep_step(base: str) -> Step:
    """Return a step that does nothing, and whose undo sweeps.

    It comes before the record, which keeps a copy from others' sweeps.
    """
    return Step(do=lambda deadline: None, hidden=True, undo=[Step(do=lambda deadline: sweep(base), hidden=True)])


def _write(base: str, name: str, content: bytes) -> None:
    """Write a file that only who runs the task can change, whatever the umask; and so for where its byte code will be."""
    parts = name.split("/")[:-1]
    above = ["/".join([base, *parts[:count]]) for count in range(len(parts) + 1)]
    for path in [*above, f"{above[-1]}/__pycache__"]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    file = os.open(f"{base}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with open(file, "wb") as target:
        target.write(content)


def sweep(base: str) -> None:
    """Remove the copies that no VM beside them uses any more."""
    with _ONE_AT_A_TIME, contextlib.suppress(OSError):
        parent = os.path.dirname(base)
        used = _used(parent)
        for name in os.listdir(base):
            if f"{base}/{name}" not in used:
                shutil.rmtree(f"{base}/{name}", ignore_errors=True)
        os.rmdir(base)


def _used(parent: str) -> Set[str]:
    """Return the copies that records name, be they damaged."""
    found: Set[str] = set()
    for name in os.listdir(parent):
        with contextlib.suppress(OSError), safe_open.regular(f"{parent}/{name}/vm.json") as file:
            found.update(re.findall(r'"code": "([^"]+)"', file.read().decode(errors="replace")))
    return found


def _check_only_root(base: str) -> None:
    """Raise Refusal where another user could put code of theirs in the place of what is run as root, or as who runs the task."""
    path = base
    while path != "/":
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(path)
            sticky = found.st_mode & stat.S_ISVTX and path != base
            if (
                found.st_uid not in (0, os.geteuid())
                or stat.S_ISLNK(found.st_mode)
                or (found.st_mode & 0o022 and not sticky)
            ):
                raise Refusal(
                    f"directory: what starts it with the host would be in {base}, and others than root can write to {path}, or it "
                    "is a symbolic link: choose another directory, or have it started by hand (service=daemon, autostart=false)"
                )
        path = os.path.dirname(path)


def _sources() -> Dict[str, bytes]:
    """Return the files that this process runs from: their paths below a directory that Python looks in, and their contents."""
    loader = getattr(importlib.util.find_spec(f"{_PACKAGE}._vm.boot"), "loader", None)
    archive = getattr(loader, "archive", None)
    sources = getattr(loader, "sources", None)
    found = _in_pack(sources()) if sources else _in_archive(archive) if archive else _in_directory()
    return {**dict(found), "__main__.py": _MAIN.encode()}


def _in_pack(sources: Dict[str, Tuple[bool, str]]) -> Iterator[Tuple[str, bytes]]:
    """Yield what the host keeps of the collection for its tasks: see ``_runner_stub.py``."""
    for module, (package, text) in sources.items():
        if module.startswith(f"{_PACKAGE}.") and not package:
            yield f"{module.replace('.', '/')}.py", text.encode()


def _in_archive(archive: str) -> Iterator[Tuple[str, bytes]]:
    """Yield what a module's payload has: all that the module imports."""
    import zipfile

    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith(f"{_WHERE}/") and name.endswith(".py"):
                yield name, file.read(name)


def _in_directory() -> Iterator[Tuple[str, bytes]]:
    base = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for where, directories, names in os.walk(base):
        directories[:] = [name for name in directories if name != "__pycache__"]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(where, name)
                with open(path, "rb") as file:
                    yield f"{_WHERE}/{os.path.relpath(path, base)}", file.read()


def _digest(files: Dict[str, bytes]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()[:16]


def _holds(path: str, wanted: Dict[str, bytes]) -> bool:
    """Tell whether a copy has all these files as they are."""
    try:
        for name, content in wanted.items():
            with open(f"{path}/{name}", "rb") as file:
                if file.read() != content:
                    return False
    except OSError:
        return False
    return True
