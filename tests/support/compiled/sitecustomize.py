# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep in .bed/compiled what Ansible compiles and throws away: the code of collections, and of modules, which come as zip files.

Python imports this file by its name where its directory is in PYTHONPATH: in ansible-playbook and in the modules' processes.
What is kept is found by a hash of the text that it was made of, as some of Python's own `.pyc` files are: another text is
compiled anew.
"""

from __future__ import annotations

import marshal
import os
import sys
import zipimport
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, source_hash
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

DIRECTORY = Path(__file__).resolve().parents[3] / ".bed" / "compiled"
FINDER = "ansible.utils.collection_loader._collection_finder"


def kept(source: bytes, name: str, compiled: Callable[[], CodeType]) -> CodeType:
    """Return what `compiled()` does, unless it is there already."""
    path = DIRECTORY / f"{source_hash(source).hex()}-{source_hash(name.encode()).hex()}.{sys.implementation.cache_tag}"
    try:
        code: CodeType = marshal.loads(path.read_bytes())
    except (OSError, EOFError, ValueError, TypeError):
        code = compiled()
        part = path.with_suffix(f".{os.getpid()}")
        try:
            DIRECTORY.mkdir(exist_ok=True)
            part.write_bytes(marshal.dumps(code))
            part.rename(path)
        except OSError:  # this user may not write there
            pass
    return code


def keep_zipped() -> None:
    """Keep what is imported from zip files; where they lie does not count, for they lie elsewhere each time."""
    compile_source: Callable[..., CodeType] = zipimport._compile_source  # type: ignore[attr-defined]

    def compile_or_load(path: str, source: bytes, *further: str) -> CodeType:  # Python 3.15 names the module, too
        return kept(source, path.rpartition(".zip")[2], lambda: compile_source(path, source, *further))

    zipimport._compile_source = compile_or_load  # type: ignore[attr-defined]


def keep_collections(finder: ModuleType) -> None:
    """Keep what Ansible's loader of collections imports."""
    loader = finder._AnsibleCollectionPkgLoaderBase
    get_code: Callable[[Any, str], CodeType] = loader.get_code

    def compile_or_load(self: Any, fullname: str) -> CodeType:
        file = self.get_filename(fullname)
        source = self.get_source(fullname) if file and not self._compiled_code else None
        if source is not None:
            self._compiled_code = kept(os.fsencode(source), file, lambda: get_code(self, fullname))
        return get_code(self, fullname)

    loader.get_code = compile_or_load


class Finder:
    """Waits until that loader is imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != FINDER:
            return None
        sys.meta_path.remove(cls)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_keep(module: ModuleType) -> None:
                execute(module)
                keep_collections(module)

            spec.loader.exec_module = execute_and_keep  # type: ignore[method-assign]
        return spec


if hasattr(zipimport, "_compile_source"):  # Python 3.7 has it in C
    keep_zipped()
sys.meta_path.insert(0, Finder)
