# Copyright (c) 2026 the vmm.qemu contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep in .bed/compiled what Ansible makes and throws away: the code of collections and modules, the zip files of these, and
what YAML files of its own have in them.

Python imports this file by its name where its directory is in PYTHONPATH: in ansible-playbook and in the modules' processes.
What is kept is found by a hash of the text that it was made of, as some of Python's own `.pyc` files are: another text is
compiled anew. The zip files are found by the times of all files that could be in them.
"""

from __future__ import annotations

import gc
import marshal
import os
import shutil
import sys
import zipimport
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, source_hash
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

REPO = Path(__file__).resolve().parents[3]
DIRECTORY = REPO / ".bed" / "compiled"
LONG = 10000


def kept(source: bytes, name: str, compiled: Callable[[], Any]) -> Any:
    """Return what `compiled()` does of the source, unless it is there already: code, or what JSON has."""
    path = DIRECTORY / f"{source_hash(source).hex()}-{source_hash(name.encode()).hex()}.{sys.implementation.cache_tag}"
    try:
        code = marshal.loads(path.read_bytes())
    except (OSError, EOFError, ValueError, TypeError):
        code = compiled()
        part = path.with_suffix(f".{os.getpid()}")
        try:
            DIRECTORY.mkdir(exist_ok=True)
            part.write_bytes(marshal.dumps(code))
            part.rename(path)
        except (OSError, ValueError):  # this user may not write there, or it has a date in it
            pass
    return code


def keep_zipped() -> None:
    """Keep what is imported from zip files; where they lie does not count, for they lie elsewhere each time."""
    compile_source: Callable[..., CodeType] = zipimport._compile_source  # type: ignore[attr-defined]

    def compile_or_load(path: str, source: bytes, *further: str) -> Any:  # Python 3.15 names the module, too
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


def keep_payloads(module_common: ModuleType) -> None:
    """Keep the zip files in which Ansible sends modules, for as long as no file of Ansible's or the collection's is another one."""
    core = Path(str(module_common.__file__)).parents[1]
    folders = [core / "modules", core / "module_utils", REPO / "plugins" / "modules", REPO / "plugins" / "module_utils"]
    state = [core / "release.py", *(path for folder in folders for path in sorted(folder.rglob("*.py")))]
    told = repr([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in state]).encode()
    of_core = f"payloads-{source_hash(os.fsencode(core)).hex()}"
    directory = DIRECTORY / f"{of_core}-{source_hash(told).hex()}"
    for old in DIRECTORY.glob(f"{of_core}-*"):
        if old != directory:
            shutil.rmtree(old, ignore_errors=True)

    class Constants:
        DEFAULT_LOCAL_TMP = str(directory)

        def __getattr__(self, name: str) -> Any:
            return getattr(constants, name)

    constants = module_common.C
    if os.access(DIRECTORY, os.W_OK):
        module_common.C = Constants()  # type: ignore[attr-defined]


def keep_documents(yaml: ModuleType) -> None:
    """Keep what is in YAML files that are as long as Ansible's settings and its routing: each run reads them."""
    load = yaml.load
    plain = [getattr(yaml, name, None) for name in ("CBaseLoader", "CSafeLoader")]

    def load_or_kept(stream: Any, Loader: type) -> Any:
        text = stream if isinstance(stream, (str, bytes)) else stream.read()
        if len(text) < LONG or Loader not in plain:
            return load(text, Loader)
        source = text if isinstance(text, bytes) else os.fsencode(text)
        return kept(source, Loader.__name__, lambda: load(text, Loader))

    yaml.load = load_or_kept  # type: ignore[attr-defined]


HOOKS = {
    "yaml": keep_documents,
    "ansible.utils.collection_loader._collection_finder": keep_collections,
    "ansible.executor.module_common": keep_payloads,
}


class Finder:
    """Waits until those are imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        hook = HOOKS.pop(name, None)
        spec = find_spec(name) if hook else None
        if hook and spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_keep(module: ModuleType) -> None:
                execute(module)
                hook(module)

            spec.loader.exec_module = execute_and_keep  # type: ignore[method-assign]
        return spec


gc.set_threshold(50_000, 20, 100)  # these processes are short: what they would find is not worth the search
if hasattr(zipimport, "_compile_source"):  # Python 3.7 has it in C
    keep_zipped()
sys.meta_path.insert(0, Finder)
