# Copyright (c) 2026 the vmm.qemu contributors
# BSD-2-Clause License (see LICENSES/BSD-2-Clause.txt)
# SPDX-License-Identifier: BSD-2-Clause
"""Makes a pack on the host, of the sources that the controller has sent: see ``_runner_stub.py``. It imports nothing of ours."""
# Private to the collection: may change without notice.

from __future__ import annotations

import ast
import binascii
import marshal
import os
import sys
import time
from importlib import import_module
from typing import Any, Callable, Dict, Tuple

_OURS = "ansible_collections.vmm.qemu."
_ASK = _OURS + "plugins.module_utils._runner_ask"
_VALIDATION = "ansible.module_utils.common.arg_spec"
_MONTH = 30 * 86400
_HOUR = 3600
_KEPT = 3


def install(
    folder: int, name: str, sources: Dict[str, Tuple[bool, str]], bundle: bytes, importer: Callable[..., Any]
) -> None:
    """Put a pack into the directory with that descriptor. It appears when it is whole. Raise OSError.

    First all that a task may import is, by the ``importer`` of a pack: what this Python lacks shows before a task is begun.
    """
    index: Dict[str, Tuple[bool, int, int, int]] = {}
    codes = b""
    for module, (package, text) in {**sources, "": (False, "")}.items():
        made = compile(shortened(text, module), module, "exec", dont_inherit=True)
        code = marshal.dumps(made) if module else bundle  # for what is installed on the host for good
        index[module] = package, len(codes), len(code), binascii.crc32(code)
        codes += code
    sys.meta_path.insert(0, importer(index, lambda place, length: codes[place : place + length]))
    for module in [_VALIDATION, *(module for module in index if module.startswith(_OURS))]:
        import_module(module)
    part = f".{name}.{os.getpid()}-{time.time_ns():x}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            _package, begin, length, _checksum = index[_ASK]
            for data in (codes[begin : begin + length], marshal.dumps(index)):
                file.write(binascii.crc32(data).to_bytes(4, "big") + len(data).to_bytes(4, "big") + data)
            file.write(codes)
            file.flush()
            os.fsync(descriptor)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(part, dir_fd=folder)
        raise
    sweep(folder, name)


def shortened(text: str, module: str) -> Any:
    """Return a file's syntax tree, ours without docstrings and annotations: each task would load them for nothing."""
    tree = ast.parse(text)
    if not module.startswith(_OURS):
        return tree
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node, False) is not None:
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            # a named tuple needs one for each field, and would compile text
            node.annotation = ast.copy_location(ast.Constant(None), node)
    tree.body = [node for node in tree.body if getattr(node, "module", "") != "__future__"]
    return tree


def sweep(folder: int, mine: str) -> None:
    """Remove the packs that no task has used for a month, and all but the three last used, besides ``mine``.

    A task that runs has its own open. What an installation has left that was killed goes with the rest.
    """
    used = {}
    for name in os.listdir(folder):
        try:
            used[name] = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            pass  # another one sweeps, too
    now = time.time()
    parts = [name for name in used if name.startswith(".")]
    packs = sorted({*used} - {*parts, mine}, key=lambda name: -used[name])
    old = [name for name in packs[:_KEPT] if now - used[name] > _MONTH]
    for name in [*packs[_KEPT:], *old, *(name for name in parts if now - used[name] > _HOUR)]:
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            pass
